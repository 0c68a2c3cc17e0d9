"""Make copies of a folder of images in which the shorter side has --size pixels, for training that starts small.

They lie in TARGET/SIZE/..., with the folders of SOURCE (train/<class>/, val/<class>/). The proportion is kept, and small images
stay as large as they are. Existing copies are kept, so the command can be stopped and repeated. Images that cannot be read are
listed at the end, and the exit code is 1. The three-phase ImageNet recipe wants --size 160 352.
"""

import argparse
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import joblib
from jsonargparse.typing import PositiveInt
from PIL import Image
from rich.console import Console

from experiments.common import UserError, print_plain, replacing, with_progress
from experiments.data import IMAGE_SUFFIXES, UnreadableImageError, find_files, read_image


def resize_image(name: str, copy_name: str, options: argparse.Namespace) -> str | None:
    """Write the missing copies of one image, RGB, as JPEG, none of them larger; return what is wrong with the image."""
    copies = {size: options.target / str(size) / copy_name for size in options.size}
    missing = [size for size, copy in copies.items() if not copy.exists()]
    if not missing:
        return None
    try:
        # The JPEG decoder leaves out most of what would be discarded; twice the size keeps the copy sharp.
        image = read_image(options.source / name, least_side=2 * max(missing))
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


def list_copies(source: Path) -> list[tuple[str, str]]:
    """All images below a folder, sorted, and the names of their copies. Hidden ones are left out, broken links are not.

    Copies end in .JPEG; where two images would share a name, like a.jpg and a.png, theirs are a.jpg.JPEG and a.png.JPEG.
    """
    files, broken = find_files(source)
    images = sorted(files + [name for name in broken if name.lower().endswith(IMAGE_SUFFIXES)])
    stems = [image.rpartition(".")[0] for image in images]
    times = Counter(stems)
    return [(image, f"{stem if times[stem] == 1 else image}.JPEG") for image, stem in zip(images, stems, strict=True)]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    parser = argparse.ArgumentParser("python -m experiments.resize_images", description=__doc__)
    add = parser.add_argument
    add("source", type=Path, metavar="SOURCE", help="folder that holds train/ and val/")
    add("target", type=Path, metavar="TARGET", help="folder for the copies, outside SOURCE")
    add("--size", type=PositiveInt, nargs="+", required=True, metavar="N", help="shorter side in pixels, or several")
    add("--workers", type=PositiveInt, default=joblib.cpu_count(), metavar="N", help="processes (default: %(default)s)")
    quality = "JPEG quality, 1 to 100 (default: %(default)s)"
    add("--quality", type=int, choices=range(1, 101), default=95, metavar="Q", help=quality)
    options = parser.parse_args(arguments)
    if not options.source.is_dir():
        parser.error(f"SOURCE must be a folder of images, got {options.source}")
    if options.target.resolve().is_relative_to(options.source.resolve()):
        parser.error(f"TARGET must be outside SOURCE, got {options.target} in {options.source}")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Make the copies; return 1 if some could not be made or written, 130 if stopped by Ctrl-C, else 0."""
    options = parse(arguments)
    tell = partial(print_plain, console=Console(stderr=True))
    try:
        images = list_copies(options.source)
        if not images:
            raise UserError(f"There are no images below {options.source.absolute()}")
        tasks = (joblib.delayed(resize_image)(*names, options) for names in images)
        results = joblib.Parallel(options.workers, return_as="generator")(tasks)
        broken = list(filter(None, with_progress(results, "images", total=len(images))))
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
