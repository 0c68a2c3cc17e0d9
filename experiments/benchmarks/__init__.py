"""Measurements of `python -m experiments.benchmark`, one function for each subcommand."""

from experiments.benchmarks.logging_cost import measure_logging_cost
from experiments.benchmarks.mixing import measure_mixing
from experiments.benchmarks.saliency import measure_saliency
from experiments.benchmarks.setup import describe_machine
from experiments.benchmarks.steps import measure_steps

__all__ = ["describe_machine", "measure_logging_cost", "measure_mixing", "measure_saliency", "measure_steps"]
