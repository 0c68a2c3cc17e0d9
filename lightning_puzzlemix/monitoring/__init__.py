"""Metrics and plots of what a mix did. Matplotlib is imported only when something is plotted."""

from lightning_puzzlemix.monitoring.image_logger import MixImageLogger, render_mixes
from lightning_puzzlemix.monitoring.metrics import (
    expected_cutmix_saliency,
    mix_metrics,
    retained_saliency,
    visible_moves,
)
from lightning_puzzlemix.monitoring.plots import frame, plot_mixes, show_image, show_saliency

__all__ = [
    "MixImageLogger",
    "expected_cutmix_saliency",
    "frame",
    "mix_metrics",
    "plot_mixes",
    "render_mixes",
    "retained_saliency",
    "show_image",
    "show_saliency",
    "visible_moves",
]
