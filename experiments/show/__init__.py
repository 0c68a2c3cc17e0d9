"""Parts of `python -m experiments.show_mixing`; the benchmark loads trained networks by them too."""

from experiments.show.grid import plot_grid
from experiments.show.image_files import choose_partners, example_images, find_images, read_pixels
from experiments.show.prepare import DEFAULT_SIZE, PreparedImages, load_network

__all__ = [
    "DEFAULT_SIZE", "PreparedImages", "choose_partners", "example_images", "find_images", "load_network", "plot_grid",
    "read_pixels",
]  # fmt: skip
