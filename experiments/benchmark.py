"""Measure mixing, saliency sources, training steps and logging: `python -m experiments.benchmark mixing`.

Candidates run in turns in one process, on crops of scikit-learn's two photographs; tables and JSON hold medians and ratios.
"""

import os
from pathlib import Path

from jsonargparse import ArgumentParser

from experiments.benchmarks.mixing import measure_mixing
from experiments.benchmarks.setup import CORES
from experiments.benchmarks.training import measure_logging_cost, measure_saliency, measure_steps
from experiments.common import UserError, exit_with_error, print_plain, write_json
from experiments.common.versions import gather_versions

COMMANDS = {
    "mixing": measure_mixing, "saliency": measure_saliency, "steps": measure_steps, "logging-cost": measure_logging_cost,
}  # fmt: skip


def build_parser() -> ArgumentParser:
    """Build the command line: a subcommand for each measurement, whose options are the arguments of its function."""
    parser = ArgumentParser(prog="python -m experiments.benchmark", description=__doc__)
    subcommands = parser.add_subcommands(dest="command")
    for name, measure in COMMANDS.items():
        summary = str(measure.__doc__).splitlines()[0]
        subparser = ArgumentParser(description=summary)
        subparser.add_function_arguments(measure)
        default = Path(f"experiments/results/benchmark_{name.replace('-', '_')}.json")
        subparser.add_argument("--output", type=Path, default=default, help="where the metrics are written")
        subcommands.add_subcommand(name, subparser, help=summary)
    return parser


def main() -> None:
    """Measure, and write the metrics."""
    arguments = build_parser().parse_args()
    options = arguments[arguments.command].as_dict()
    output = options.pop("output")
    machine = {"cores": CORES, "load": os.getloadavg()[0] if hasattr(os, "getloadavg") else None, **gather_versions()}
    print_plain(", ".join(f"{name}: {value}" for name, value in machine.items()))
    try:
        write_json(output, {"machine": machine, **COMMANDS[arguments.command](**options)})
    except UserError as error:
        exit_with_error(str(error))
    print_plain(f"Metrics written to {output}")


if __name__ == "__main__":
    main()
