"""Smaller copies of a folder of images, for training that begins small: `python -m experiments.resize_images`."""

import argparse
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from PIL import Image
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from experiments.common.atomic_files import UnwritableError, replacing
from experiments.common.console import print_plain
from experiments.common.errors import UserError
from experiments.data.errors import UnreadableImageError
from experiments.data.image_reading import read_image
from experiments.data.listing import IMAGE_SUFFIXES, list_files

# So many images go to a worker at a time: messages between processes would otherwise cost as much as small images.
CHUNK = 16
INTERRUPTED = 128 + signal.SIGINT


class RateColumn(ProgressColumn):
    """Images a second."""

    def render(self, task: Task) -> Text:
        """The rate of late, once it is known."""
        speed = task.finished_speed or task.speed
        return Text("" if speed is None else f"{speed:.0f} images/s")


def resize_image(
    names: tuple[str, str], *, source: Path, target: Path, sizes: Sequence[int], quality: int
) -> str | None:
    """Write copies of one image, RGB, as JPEG; those that exist are left alone.

    Args:
        names: The image, relative to `source`, and its copies, relative to `target/<size>`.
        source: Folder of the images.
        target: Folder of the copies.
        sizes: Shorter sides of the copies in pixels; an image is never enlarged.
        quality: Of the JPEG, 1 to 100.

    Returns:
        None, or what is wrong with the image.
    """
    path, copy = source / names[0], names[1]
    missing = [size for size in sizes if not (target / str(size) / copy).exists()]
    if not missing:
        return None
    try:
        # Has the JPEG decoder leave out what would be thrown away, but not below twice the size, to keep it sharp.
        image = read_image(path, least_side=2 * max(missing))
    except UnreadableImageError as error:
        return str(error)
    for size in missing:
        _save(_shrink(image, size), target / str(size) / copy, quality)
    return None


def _shrink(image: Image.Image, size: int) -> Image.Image:
    shorter = min(image.size)
    if shorter <= size:
        return image
    width, height = (max(1, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=3.0)


def _save(image: Image.Image, path: Path, quality: int) -> None:
    # A run that is stopped leaves no half image behind that would be taken for done. There are a million of them.
    try:
        with replacing(path, durable=False) as draft:
            image.save(draft, format="JPEG", quality=quality)
    except UnwritableError as error:
        # What tells a full disk from an image that cannot be saved.
        raise error.__cause__ or error from None


def list_images(source: Path) -> list[tuple[str, str]]:
    """All images below a folder, sorted, and what their copies are called; both relative. Hidden ones are left out.

    Copies end in .JPEG whatever the image was, as readers go by the ending. Where two images would share a name, like
    a.jpg and a.png, theirs is put behind the whole name: a.png.JPEG. Links that lead nowhere are among them, so that they
    are complained about as other images that cannot be read.

    Raises:
        UserError: If a folder cannot be listed.
    """
    listing = list_files(source)
    images = sorted(listing.files + [name for name in listing.broken if name.lower().endswith(IMAGE_SUFFIXES)])
    stems = [image.rpartition(".")[0] for image in images]
    times = Counter(stems)
    return [(image, f"{stem if times[stem] == 1 else image}.JPEG") for image, stem in zip(images, stems, strict=True)]


def resize_all(
    images: Sequence[tuple[str, str]], work: Callable[[tuple[str, str]], str | None], *, workers: int, console: Console
) -> list[str]:
    """Make all copies, with a bar; return what is wrong with the images that could not be copied."""
    broken: list[str] = []
    columns = (BarColumn(bar_width=None), MofNCompleteColumn(), RateColumn(), TimeRemainingColumn())
    with Progress(TextColumn("images"), *columns, console=console, transient=True) as progress:
        task = progress.add_task("images", total=len(images))
        for complaint in _results(images, work, workers):
            progress.advance(task)
            if complaint is not None:
                broken.append(complaint)
    return broken


def _results(
    images: Sequence[tuple[str, str]], work: Callable[[tuple[str, str]], str | None], workers: int
) -> Iterator[str | None]:
    if workers == 1:
        yield from map(work, images)
        return
    # Ctrl-C reaches every process; only this one is to act on it.
    with ProcessPoolExecutor(workers, initializer=signal.signal, initargs=(signal.SIGINT, signal.SIG_IGN)) as pool:
        try:
            yield from pool.map(work, images, chunksize=CHUNK)
        finally:
            pool.shutdown(cancel_futures=True)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.resize_images",
        description="Make copies of a folder of images in which the shorter side has --size pixels, in TARGET/SIZE/... with "
        "the folders of SOURCE (train/<class>/, val/<class>/). The proportion is kept; small images stay as large as they are. "
        "Existing copies are left alone, so the command can be stopped and repeated. Images that cannot be read are listed "
        "at the end, and the exit code is 1.",
        epilog="The three-phase ImageNet recipe wants --size 160 352.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder that holds train/ and val/")
    add("target", type=Path, metavar="TARGET", help="folder for the copies, outside SOURCE")
    sizes = "shorter side in pixels; several make several copies"
    add("--size", type=int, nargs="+", required=True, metavar="N", help=sizes)
    workers = "processes (default: one a core, %(default)s)"
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help=workers)
    add("--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (default: %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.size) < 1 or options.workers < 1 or not 1 <= options.quality <= 100:
        given = f"{options.size}, {options.workers}, {options.quality}"
        parser.error(f"--size and --workers must be at least 1 and --quality in 1 to 100, got {given}")
    if not options.source.is_dir():
        parser.error(f"SOURCE must be a folder of images, got {options.source}")
    if options.target.resolve().is_relative_to(options.source.resolve()):
        parser.error(
            f"TARGET must be outside SOURCE, or copies would be copied again; got {options.target} in {options.source}"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the copies; return 1 if some could not be made or written, 130 if it was stopped by Ctrl-C, else 0."""
    options = parse(arguments)
    console = Console(stderr=True)
    tell = partial(print_plain, console=console)
    try:
        images = list_images(options.source)
    except UserError as error:
        tell(str(error), style="red")
        return 1
    if not images:
        tell(f"There are no images below {options.source.absolute()}", style="red")
        return 1
    work = partial(
        resize_image, source=options.source, target=options.target, sizes=options.size, quality=options.quality
    )
    try:
        broken = resize_all(images, work, workers=options.workers, console=console)
    except KeyboardInterrupt:
        tell("Stopped. The same command goes on from here.")
        return INTERRUPTED
    except OSError as error:
        tell(f"A copy cannot be written: {error}. The same command goes on from here.", style="red")
        return 1
    places = ", ".join(str(options.target / str(size)) for size in options.size)
    tell(f"{len(images) - len(broken)} images are in {places}")
    for complaint in broken:
        tell(f"left out: {complaint}", style="red")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
