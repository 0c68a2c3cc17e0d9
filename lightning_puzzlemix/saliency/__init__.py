"""The sources of saliency, and passes over a model that restore it."""

from lightning_puzzlemix.saliency.class_count import PerModel, count_classes
from lightning_puzzlemix.saliency.feature import feature_saliency, find_default_layer
from lightning_puzzlemix.saliency.gradient import gradient_saliency
from lightning_puzzlemix.saliency.logits import logits_of
from lightning_puzzlemix.saliency.objective import ForwardContext, ModelLoss, SaliencyLoss
from lightning_puzzlemix.saliency.result import SaliencyPass
from lightning_puzzlemix.saliency.source import SALIENCY_SOURCES, SaliencyCallable, SaliencySource
from lightning_puzzlemix.saliency.spectral import spectral_saliency

__all__ = [
    "SALIENCY_SOURCES",
    "ForwardContext",
    "ModelLoss",
    "PerModel",
    "SaliencyCallable",
    "SaliencyLoss",
    "SaliencyPass",
    "SaliencySource",
    "count_classes",
    "feature_saliency",
    "find_default_layer",
    "gradient_saliency",
    "logits_of",
    "spectral_saliency",
]
