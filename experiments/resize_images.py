"""Smaller copies of a folder of images, for training that starts small: `python -m experiments.resize_images`."""

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

from experiments.common import UserError, print_plain, replacing, with_progress
from experiments.data import UnreadableImageError, list_images, read_image

# Images per message to a worker: messages would otherwise cost as much as small images.
CHUNK = 16
# An image and its copy, relative to their folders.
Names = tuple[str, str]


def resize_image(names: Names, options: argparse.Namespace) -> str | None:
    """Write copies of one image, RGB, as JPEG; existing ones are kept, and no image is enlarged.

    Returns:
        None, or what is wrong with the image.
    """
    copies = {size: options.target / str(size) / names[1] for size in options.size}
    missing = [size for size, copy in copies.items() if not copy.exists()]
    if not missing:
        return None
    try:
        # The JPEG decoder leaves out most of what would be discarded; twice the size keeps the copy sharp.
        image = read_image(options.source / names[0], least_side=2 * max(missing))
    except UnreadableImageError as error:
        return str(error)
    for size in missing:
        scale = min(1.0, size / min(image.size))
        sides = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        copy = image.resize(sides, Image.Resampling.LANCZOS, reducing_gap=3.0) if scale < 1 else image
        # Not flushed to the disk one by one: there are a million of them.
        with replacing(copies[size], durable=False) as draft:
            copy.save(draft, format="JPEG", quality=options.quality)
    return None


def list_copies(source: Path) -> list[Names]:
    """All images below a folder, sorted, and the names of their copies. Hidden ones are left out.

    Copies end in .JPEG; where two images would share a name, like a.jpg and a.png, theirs are a.jpg.JPEG and a.png.JPEG.
    """
    images = sorted(list_images(source))
    stems = [image.rpartition(".")[0] for image in images]
    times = Counter(stems)
    return [(image, f"{stem if times[stem] == 1 else image}.JPEG") for image, stem in zip(images, stems, strict=True)]


def _run(work: Callable[[Names], str | None], images: list[Names], workers: int) -> Iterator[str | None]:
    if workers == 1:
        yield from map(work, images)
        return
    # Ctrl-C reaches every process, and only this one handles it.
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
        "Existing copies are kept, so the command can be stopped and repeated. Images that cannot be read are listed "
        "at the end, and the exit code is 1.",
        epilog="The three-phase ImageNet recipe wants --size 160 352.",
    )
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder that holds train/ and val/")
    add("target", type=Path, metavar="TARGET", help="folder for the copies, outside SOURCE")
    add(
        "--size",
        type=int,
        nargs="+",
        required=True,
        metavar="N",
        help="shorter side in pixels; several make several copies",
    )
    workers = "processes (default: one per core, %(default)s)"
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help=workers)
    add("--quality", type=int, default=95, metavar="Q", help="JPEG quality, 1 to 100 (default: %(default)s)")
    options = parser.parse_args(arguments)
    if min(options.size) < 1 or options.workers < 1 or not 1 <= options.quality <= 100:
        given = f"{options.size}, {options.workers}, {options.quality}"
        parser.error(f"--size and --workers must be at least 1 and --quality in 1 to 100, got {given}")
    if not options.source.is_dir():
        parser.error(f"SOURCE must be a folder of images, got {options.source}")
    if options.target.resolve().is_relative_to(options.source.resolve()):
        parser.error(f"TARGET must be outside SOURCE, got {options.target} in {options.source}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the copies; return 1 if some could not be made or written, 130 if stopped by Ctrl-C, else 0."""
    options = parse(arguments)
    tell = partial(print_plain, console=Console(stderr=True))
    broken: list[str] = []
    try:
        images = list_copies(options.source)
        if not images:
            raise UserError(f"There are no images below {options.source.absolute()}")
        results = _run(partial(resize_image, options=options), images, options.workers)
        broken += filter(None, with_progress(results, "images", total=len(images)))
    except KeyboardInterrupt:
        tell("Stopped. Run the same command again to resume.")
        return 128 + signal.SIGINT
    except UserError as error:
        tell(str(error), style="red")
        return 1
    places = ", ".join(str(options.target / str(size)) for size in options.size)
    tell(f"{len(images) - len(broken)} images are in {places}")
    for complaint in broken:
        tell(f"left out: {complaint}", style="red")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
