"""Parts of `python -m experiments.show_mixing`; the benchmark loads trained networks by them too."""

from experiments.show.grid import plot_grid
from experiments.show.image_files import SourceImage, choose_partners, example_images, find_images
from experiments.show.prepare import PreparedImages, prepare
from experiments.show.saliency_model import SaliencyModel, load_network, load_saliency_model

__all__ = [
    "PreparedImages", "SaliencyModel", "SourceImage", "choose_partners", "example_images", "find_images", "load_network",
    "load_saliency_model", "plot_grid", "prepare",
]  # fmt: skip
