"""See how your own pictures are mixed: `python -m experiments.show_mixing IMAGES...`."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hydra.errors import InstantiationException
from matplotlib.figure import Figure

from experiments.common.atomic_files import save_figure
from experiments.common.console import print_plain, short
from experiments.common.errors import UserError
from experiments.show.grid import draw_grid
from experiments.show.image_files import choose_partners, example_pictures, find_pictures
from experiments.show.options import GIVEN_OTHERWISE, Settings, add_options, option_types, read_grid
from experiments.show.prepared_images import PreparedImages, prepare
from experiments.show.saliency_model import DEFAULT_SIZE, SaliencyModel, open_saliency_model
from lightning_puzzlemix import PuzzleMixConfig
from lightning_puzzlemix.monitoring import plot_mixes
from lightning_puzzlemix.saliency.source import SALIENCY_SOURCES

BLOCKS, ROWS = 8, 6
FORMATS = (".png", ".jpg", ".webp", ".pdf", ".svg")
DESCRIPTION = """\
Mixes your own pictures by Puzzle Mix and draws how: both pictures of a pair, where their saliency is, the mask, the
blocks that moved, and the result.

Without a checkpoint, saliency is that of the pictures themselves (the spectral residual). With a run of this study it is
the gradient of the trained network, for the classes that it takes the pictures for."""
EPILOG = f"""\
Not an option here: {", ".join(GIVEN_OTHERWISE)}. Training
draws lam and blocks at random by some of them; here both are given.

examples:
  python -m experiments.show_mixing --examples
  python -m experiments.show_mixing cat.jpg dog.png holiday/ --rows 4 --no-transport --output mixes.pdf
  python -m experiments.show_mixing cat.jpg dog.png --grid beta=0.4,1.2,4 eta=0,0.2,1
  python -m experiments.show_mixing --examples --checkpoint runs/digits_puzzlemix/2026-01-31_12-00-00 --blocks 4
"""

log = logging.getLogger(__name__)


def show(options: argparse.Namespace) -> Path:
    """Mix and draw as the command line says; return the picture.

    Raises:
        UserError: If an option is wrong or a picture cannot be read, see also `open_saliency_model`.
    """
    _check(options)
    axes = [] if options.grid is None else read_grid(options.grid)
    pictures = example_pictures() if options.examples else find_pictures(options.images)
    partners = choose_partners(len(pictures), (options.seed or 0) if options.pairs == "random" else None)
    viewer = open_saliency_model(options.checkpoint, allow=options.allow)
    if options.size is not None:
        viewer = replace(viewer, height=options.size[0], width=options.size[1])
    settings = choose_settings(options, viewer)
    scene = prepare(pictures, choose_rows(options, len(pictures)), partners, viewer=viewer, saliency=options.saliency)
    figure = draw_grid(scene, settings, axes) if axes else draw_pairs(scene, settings)
    try:
        save_figure(figure, options.output, dpi=options.dpi)
    except OSError as error:
        raise UserError(f"--output {error}") from error
    return options.output


def draw_pairs(scene: PreparedImages, settings: Settings) -> Figure:
    """Draw every pair of a scene, one a row."""
    return plot_mixes(
        scene.mix(settings),
        mean=scene.viewer.mean,
        std=scene.viewer.std,
        class_names=scene.class_names,
        rows=scene.pairs,
        targets=scene.targets,
        titles=[scene.describe(place) for place in range(len(scene.names))],
    )


def choose_settings(options: argparse.Namespace, viewer: SaliencyModel) -> Settings:
    """The settings of the mixing; blocks that were not asked for are at most as many as the pictures have pixels.

    Raises:
        UserError: If one is outside its range.
    """
    side = min(viewer.height, viewer.width)
    blocks = options.blocks
    if blocks is None:
        blocks = min(BLOCKS, side)
        if blocks < BLOCKS:
            log.warning(f"--blocks is {blocks} instead of {BLOCKS}: the pictures have no more pixels along a side")
    chosen = {name: getattr(options, name) for name in option_types()}
    return Settings(PuzzleMixConfig(), lam=0.5, blocks=blocks).changed(lam=options.lam, **chosen)


def choose_rows(options: argparse.Namespace, count: int) -> list[int]:
    """The pictures that are shown with their partners: the first ones, for a grid a single one.

    Raises:
        UserError: If there is no such picture.
    """
    if options.grid is None:
        return list(range(min(ROWS if options.rows is None else options.rows, count)))
    row = 1 if options.row is None else options.row
    if not 1 <= row <= count:
        raise UserError(f"--row must be from 1 to the number of pictures, {count}, got {row}")
    return [row - 1]


def _check(options: argparse.Namespace) -> None:
    """Refuse what can be known to be wrong before anything is read."""
    if options.examples and options.images:
        raise UserError(f"--examples and IMAGES exclude each other, got {' '.join(map(str, options.images))}; drop one")
    if not options.examples and not options.images:
        raise UserError("There is nothing to mix; name IMAGES, files or folders, or give --examples")
    if options.grid is not None and options.rows is not None:
        raise UserError("--rows has no use with --grid, which draws one pair; choose it by --row")
    if options.grid is None and options.row is not None:
        raise UserError("--row chooses the pair of a --grid; without one, give --rows")
    if options.seed is not None and options.pairs != "random":
        raise UserError(f"--seed {options.seed} has no use with --pairs {options.pairs}; add --pairs random")
    for name in ("rows", "dpi"):
        if getattr(options, name) is not None and getattr(options, name) < 1:
            raise UserError(f"--{name} must be at least 1, got {getattr(options, name)}")
    if options.output.suffix.lower() not in FORMATS:
        raise UserError(f"--output must end in one of {', '.join(FORMATS)}, got {options.output}")
    if options.output.is_dir():
        raise UserError(f"--output must be a file, got the folder {options.output}; add a name such as mix.png")


def read_size(text: str) -> tuple[int, int]:
    """Height and width in pixels, from "224" or "300x200".

    Raises:
        ArgumentTypeError: If it is neither.
    """
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise argparse.ArgumentTypeError(f"must be pixels such as 224, or height x width such as 300x200, got {text!r}")
    return int(parts[0]), int(parts[-1])


def build_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.show_mixing",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("images", metavar="IMAGES", nargs="*", type=Path, help="pictures of any size and kind, or folders of them")
    add("--examples", action="store_true", help="take photographs that come with scikit-image and scikit-learn instead")
    add("--checkpoint", metavar="RUN", help="run folder, or a .ckpt in its checkpoints/: the network that looks")
    allow = "classes beside this study's that the run may name as its network or data, if you know and trust them"
    add("--allow", metavar="NAME", action="append", default=[], help=allow)
    size = (
        f"pixels; pictures are scaled and cut to it (default: {DEFAULT_SIZE}, with a checkpoint what it was trained on)"
    )
    add("--size", metavar="N|HxW", type=read_size, help=size)
    saliency = "where saliency comes from (default: gradient with a checkpoint, else spectral)"
    add("--saliency", choices=SALIENCY_SOURCES, help=saliency)
    add(
        "--lam",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="wished share of the first picture (default: %(default)s)",
    )
    blocks = f"blocks along each side of the mask (default: {BLOCKS}, or as many as there are pixels)"
    add("--blocks", type=int, metavar="N", help=blocks)
    pairs = "partner of each picture: the next one, of the last the first, or a random one (default: next)"
    add("--pairs", choices=("next", "random"), default="next", help=pairs)
    add("--seed", type=int, metavar="N", help="fixes the random pairs (default: 0)")
    add("--rows", type=int, metavar="N", help=f"draw at most so many pairs (default: {ROWS})")
    grid = "draw one pair for every value of one or two keys: lam, blocks, or a hyperparameter below, with _ or -"
    add("--grid", nargs="+", metavar="KEY=V,V,...", help=grid)
    add("--row", type=int, metavar="N", help="the pair that --grid draws, counted from 1 (default: 1)")
    output = f"picture to write, in {', '.join(FORMATS)} (default: %(default)s)"
    add("--output", type=Path, default=Path("mix.png"), metavar="FILE", help=output)
    add("--dpi", type=int, default=150, metavar="N", help="pixels an inch (default: %(default)s)")
    add_options(parser)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code: 1 with a message for what a user can put right."""
    options = build_parser().parse_args(arguments)
    try:
        picture = show(options)
    except (UserError, InstantiationException) as error:
        print_plain(str(error), style="red")
        return 1
    print_plain(f"picture  {short(picture.resolve())}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
