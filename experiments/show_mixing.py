"""See how your own images are mixed: `python -m experiments.show_mixing IMAGES...`."""

import argparse
from collections.abc import Collection, Sequence
from dataclasses import fields, replace
from itertools import product
from pathlib import Path

from hydra.errors import InstantiationException
from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace
from jsonargparse.typing import ClosedUnitInterval, NonNegativeInt, PositiveInt, restricted_string_type

from experiments.common import UserError, print_plain, save_figure, short
from experiments.show import (
    PreparedImages,
    choose_partners,
    example_images,
    find_images,
    load_saliency_model,
    plot_grid,
    prepare,
)
from experiments.show.saliency_model import DEFAULT_SIZE
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.monitoring import plot_mixes
from lightning_puzzlemix.saliency import SALIENCY_SOURCES

BLOCKS, ROWS = 8, 6
# Mean and std are those of the checkpoint's data; --lam and --blocks replace what they are drawn from.
NOT_OPTIONS = {"mean", "std", "alpha", "per_sample_lam", "grid_sizes"}
HYPERPARAMETERS = [field.name for field in fields(PuzzleMixConfig) if field.name not in NOT_OPTIONS]
GRID_KEYS = ["lam", "blocks", *HYPERPARAMETERS]
Size = restricted_string_type("Size", r"^[1-9]\d*(x[1-9]\d*)?$", docstring="Pixels: 224, or 300x200 (HxW).")
PlotFile = restricted_string_type(
    "PlotFile", r"(?i)^.*\.(png|jpg|webp|pdf|svg)$", docstring="PNG, JPG, WebP, PDF or SVG."
)
DESCRIPTION = """\
Mixes your own images by Puzzle Mix and plots both images of each pair, their saliency, the mask, the moved blocks, and the
result. Saliency is the spectral residual of the images or, with a checkpoint of this study, the gradient of the trained
network for the classes that it predicts."""
EPILOG = """\
examples:
  python -m experiments.show_mixing --examples
  python -m experiments.show_mixing cat.jpg dog.png holiday/ --rows 4 --transport false --output mixes.pdf
  python -m experiments.show_mixing cat.jpg dog.png --grid beta=0.4,1.2,4 eta=0,0.2,1
  python -m experiments.show_mixing --examples --checkpoint runs/digits_puzzlemix/2026-01-31_12-00-00 --blocks 4
"""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Types and defaults after every option; description and examples unchanged."""


def build_parser() -> ArgumentParser:
    """Build the command line: options of its own, and one for each hyperparameter of the mixing."""
    parser = ArgumentParser(
        prog="python -m experiments.show_mixing",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=_HelpFormatter,
        allow_abbrev=False,
        exit_on_error=False,
    )
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="*", help="image files of any size, or folders of them")
    add("--examples", action="store_true", help="use photographs that come with scikit-image and scikit-learn")
    add("--checkpoint", metavar="RUN", help="run folder, or a .ckpt in its checkpoints/: the network for the saliency")
    allow = "class outside this study that the run may name as its network or data, if you trust it"
    add("--allow", metavar="NAME", action="append", default=[], help=allow)
    size = (
        f"scale and crop images to N or HxW pixels; default: {DEFAULT_SIZE}, with a checkpoint what it was trained on"
    )
    add("--size", type=Size, metavar="N|HxW", help=size)
    saliency = "source of the saliency; default: gradient with a checkpoint, else spectral"
    add("--saliency", choices=SALIENCY_SOURCES, help=saliency)
    add("--lam", type=ClosedUnitInterval, default=0.5, metavar="RATIO", help="target ratio of the first image")
    blocks = f"blocks along each side of the mask; default: {BLOCKS}, or as many as there are pixels"
    add("--blocks", type=PositiveInt, metavar="N", help=blocks)
    add("--seed", type=NonNegativeInt, metavar="N", help="seed of random partners; default: partner is the next image")
    add("--rows", type=PositiveInt, metavar="N", help=f"plot at most so many pairs; default: {ROWS}")
    grid = "plot one pair for every value of one or two settings: lam, blocks, or a hyperparameter below"
    add("--grid", nargs="+", metavar="KEY=V,V,...", help=grid)
    add("--row", type=PositiveInt, metavar="N", help="the pair that --grid plots, counted from 1; default: 1")
    add("--output", type=PlotFile, default="mix.png", metavar="FILE", help="plot to write, PNG, JPG, WebP, PDF or SVG")
    add("--dpi", type=PositiveInt, default=150, metavar="N", help="pixels per inch")
    parser.add_class_arguments(PuzzleMixConfig, skip=NOT_OPTIONS)
    return parser


def read_grid(texts: Sequence[str]) -> dict[str, list[str]]:
    """Return the values of each key of a grid, from texts `KEY=VALUE,VALUE,...`.

    Raises:
        UserError: If there are more than two, or a key is unknown or given twice.
    """
    axes: dict[str, list[str]] = {}
    for text in texts:
        key, equals, listed = text.partition("=")
        if not equals:
            raise UserError(f"--grid takes KEY=VALUE,VALUE,..., got {text}; name IMAGES before --grid")
        if key not in GRID_KEYS:
            raise UserError(f"--grid {text}: there is no {key}; it must be one of {', '.join(GRID_KEYS)}")
        axes[key] = listed.split(",")
    if len(axes) < len(texts) or len(axes) > 2:
        raise UserError(f"--grid takes one or two different keys, got {' '.join(texts)}")
    return axes


def show(parser: ArgumentParser, options: Namespace) -> None:
    """Mix, plot and save according to the command line.

    Raises:
        UserError: If an option is wrong or an image cannot be read, see also `load_network`.
    """
    if options.examples == bool(options.images):
        raise UserError("Give either --examples or IMAGES, files or folders")
    if options.grid and options.rows:
        raise UserError("--rows has no effect with --grid, which plots one pair; choose it by --row")
    if options.row and not options.grid:
        raise UserError("--row chooses the pair of a --grid; without one, give --rows")
    axes = read_grid(options.grid or [])
    prepared, rows = prepare_images(options)
    # Every panel is the command line with other values.
    cells = [parser.parse_object(dict(zip(axes, values, strict=True)), options) for values in product(*axes.values())]
    mixes = [prepared.mix(cell.lam, cell.blocks, {name: cell[name] for name in HYPERPARAMETERS}) for cell in cells]
    if axes:
        figure = plot_grid(mixes, prepared.titles, axes, describe_common(options, axes))
    else:
        figure = plot_mixes(mixes[0], class_names=prepared.class_names, rows=rows, titles=prepared.titles)
    save_figure(figure, Path(options.output), dpi=options.dpi)


def prepare_images(options: Namespace) -> tuple[PreparedImages, int]:
    """Read the images and the network, and count the pairs to plot; set `options.blocks` where it was not given."""
    images = example_images() if options.examples else find_images([Path(each) for each in options.images])
    partners = choose_partners(len(images), options.seed)
    rows = [(options.row or 1) - 1] if options.grid else list(range(min(options.rows or ROWS, len(images))))
    if rows[-1] >= len(images):
        raise UserError(f"--row must be from 1 to the number of images, {len(images)}, got {options.row}")
    model = load_saliency_model(options.checkpoint, allow=options.allow)
    if options.size is not None:
        height, _, width = options.size.partition("x")
        model = replace(model, height=int(height), width=int(width or height))
    options.blocks = options.blocks or min(BLOCKS, model.height, model.width)
    return prepare(images, rows, partners, model, options.saliency), len(rows)


def describe_common(options: Namespace, varied: Collection[str]) -> str:
    """Return what a grid does not vary: lam, blocks, and hyperparameters that do not have their default."""
    common = {"lam": f"lam {options.lam:g}", "blocks": f"{options.blocks} x {options.blocks} blocks"}
    default = PuzzleMixConfig()
    changed = [name for name in HYPERPARAMETERS if options[name] != getattr(default, name)]
    common |= {name: f"{name} {str(options[name]).lower()}" for name in changed}
    return ", ".join(text for name, text in common.items() if name not in varied) or "default hyperparameters"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message for what the user can correct."""
    parser = build_parser()
    try:
        options = parser.parse_args(arguments)
        show(parser, options)
    except (UserError, InstantiationException, argparse.ArgumentError) as error:
        print_plain(str(error), style="red")
        return 1
    print_plain(f"written  {short(Path(options.output).resolve())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
