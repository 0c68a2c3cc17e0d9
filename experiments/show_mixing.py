"""See how Puzzle Mix mixes your own images.

Plots both images of each pair, their saliency, the mask, the moved blocks, and the result. Saliency is the spectral residual of
the images or, with a checkpoint of this study, the gradient of the trained network for the classes that it predicts.

For instance:
  python -m experiments.show_mixing --examples
  python -m experiments.show_mixing cat.jpg dog.png holiday/ --rows 4 --transport false --output mixes.pdf
  python -m experiments.show_mixing cat.jpg dog.png --grid beta=0.4,1.2,4 eta=0,0.2,1
  python -m experiments.show_mixing --examples --checkpoint runs/digits_puzzlemix/2026-01-31_12-00-00 --blocks 4
"""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path

from hydra.errors import InstantiationException
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_string_type

from experiments.common import UserError, print_plain, save_figure, short
from experiments.show import DEFAULT_SIZE, PreparedImages, choose_partners, example_images, find_images, plot_grid
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.monitoring import plot_mixes
from lightning_puzzlemix.saliency import SALIENCY_SOURCES

BLOCKS, ROWS = 8, 6
# Mean and std are those of the checkpoint's data; --lam and --blocks replace what they are drawn from.
NOT_OPTIONS = {"mean", "std", "alpha", "per_sample_lam", "grid_sizes"}
HYPERPARAMETERS = [field.name for field in fields(PuzzleMixConfig) if field.name not in NOT_OPTIONS]
Axis = restricted_string_type("Axis", f"^({'|'.join(['lam', 'blocks', *HYPERPARAMETERS])})=.+$")
Size = restricted_string_type("Size", r"^[1-9]\d*(x[1-9]\d*)?$")
PlotFile = restricted_string_type("PlotFile", r"(?i)^.*\.(png|jpg|webp|pdf|svg)$")


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Types and defaults after every option; the description unchanged."""


def build_parser() -> ArgumentParser:
    """Build the command line: options of its own, and one for each hyperparameter of the mixing."""
    parser = ArgumentParser(
        "python -m experiments.show_mixing", description=__doc__, formatter_class=_HelpFormatter,
        exit_on_error=False, allow_abbrev=False,
    )  # fmt: skip
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="*", help="image files of any size, or folders of them")
    add("--examples", action="store_true", help="use photographs that come with scikit-image and scikit-learn")
    add("--checkpoint", metavar="RUN", help="run folder, or a .ckpt in its checkpoints/: the network for the saliency")
    add("--allow", metavar="NAME", action="append", default=[], help="class that the run may name, if you trust it")
    add("--size", type=Size, metavar="N|HxW", help=f"of the images; default: {DEFAULT_SIZE}, or that of the training")
    add("--saliency", choices=SALIENCY_SOURCES, help="default: gradient with a checkpoint, else spectral")
    add("--lam", type=ClosedUnitInterval, default=0.5, metavar="RATIO", help="target ratio of the first image")
    add("--blocks", type=PositiveInt, metavar="N", help=f"blocks along each side; default: {BLOCKS}, or the pixels")
    add("--seed", type=NonNegativeInt, metavar="N", help="seed of random partners; default: partner is the next image")
    add("--rows", type=PositiveInt, metavar="N", help=f"plot at most so many pairs; default: {ROWS}")
    grid = "plot one pair for every value of one or two settings: lam, blocks, or a hyperparameter below"
    add("--grid", type=Axis, nargs="+", default=[], metavar="KEY=V,V,...", help=grid)
    add("--row", type=PositiveInt, metavar="N", help="plot this pair alone, counted from 1; default with --grid: 1")
    add("--output", type=PlotFile, default="mix.png", metavar="FILE", help="plot to write, PNG, JPG, WebP, PDF or SVG")
    add("--dpi", type=PositiveInt, default=150, metavar="N", help="pixels per inch")
    parser.add_class_arguments(PuzzleMixConfig, skip=NOT_OPTIONS)
    return parser


def show(parser: ArgumentParser, options: Namespace) -> None:
    """Mix, plot and save according to the command line."""
    axes = {key: values.split(",") for key, _, values in (text.partition("=") for text in options.grid)}
    if len(axes) < len(options.grid) or len(axes) > 2:
        raise UserError(f"--grid takes one or two different keys, got {' '.join(options.grid)}")
    if options.rows and (options.row or axes):
        raise UserError("--rows has no effect with --grid or --row, which plot one pair; choose it by --row")
    prepared = prepare_images(options)
    # Every panel is the command line with other values.
    cells = [parser.parse_object(dict(zip(axes, values, strict=True)), options) for values in product(*axes.values())]
    mixes = [prepared.mix(cell.lam, cell.blocks, {name: cell[name] for name in HYPERPARAMETERS}) for cell in cells]
    if axes:
        figure = plot_grid(mixes, prepared.titles, axes, describe_common(options, axes))
    else:
        names, rows = prepared.class_names, len(prepared.images) // 2
        figure = plot_mixes(mixes[0], class_names=names, rows=rows, titles=prepared.titles)
    save_figure(figure, Path(options.output), dpi=options.dpi)


def prepare_images(options: Namespace) -> PreparedImages:
    """Read the pairs and the network; set `options.blocks` where it was not given."""
    paths = [*(example_images() if options.examples else []), *find_images([Path(each) for each in options.images])]
    partners = choose_partners(len(paths), options.seed)
    shown = list(range(min(options.rows or ROWS, len(paths))))
    if options.row or options.grid:
        shown = [(options.row or 1) - 1]
    if shown[-1] >= len(paths):
        raise UserError(f"--row must be from 1 to the number of images, {len(paths)}, got {options.row}")
    chosen = [paths[index] for index in [*shown, *(partners[index] for index in shown)]]
    height, _, width = (options.size or "").partition("x")
    size = (int(height), int(width or height)) if height else None
    prepared = PreparedImages(chosen, options.checkpoint, allow=options.allow, size=size, saliency=options.saliency)
    options.blocks = options.blocks or min(BLOCKS, *prepared.images.shape[2:])
    return prepared


def describe_common(options: Namespace, varied: Collection[str]) -> str:
    """Return what a grid does not vary: lam, blocks, and hyperparameters that do not have their default."""
    default = PuzzleMixConfig()
    names = ["lam", "blocks", *(name for name in HYPERPARAMETERS if options[name] != getattr(default, name))]
    common = [f"{name} {str(options[name]).lower()}" for name in names if name not in varied]
    return ", ".join(common) or "default hyperparameters"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message for what the user can correct."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        show(parser, options)
    except (ValueError, ImportError, InstantiationException, argparse.ArgumentError) as error:
        print_plain(str(error), style="red")
        return 1
    print_plain(f"written  {short(Path(options.output).resolve())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
