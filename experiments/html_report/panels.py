"""Which figures of a run are drawn together, and how they are to be read."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """A figure in a panel: its name among the metrics, its label, a color of SERIES and how it is dashed."""

    name: str
    label: str
    color: int
    dash: str = "-"


@dataclass(frozen=True)
class Panel:
    """Figures that share their axes.

    Args:
        lines: The figures; those that a run does not have are left out.
        axis: What the vertical axis shows, with its unit.
        caption: How to read it.
        factor: From the logged unit to that of the axis.
        limits: Bounds of the vertical axis; None: where the values are.
        may_be_log: Whether the axis is logarithmic where the values span orders of magnitude.
    """

    lines: Sequence[Line]
    axis: str
    caption: str
    factor: float = 1.0
    limits: tuple[float | None, float | None] | None = None
    may_be_log: bool = False


ACCURACY = Panel(
    (Line("train_accuracy", "train", 1, "--"), Line("val_accuracy", "validation", 0), Line("test_accuracy", "test", 2)),
    "accuracy in %",
    "Accuracy at the end of each epoch. While training it is that on the images as the network saw them: on mixed ones it "
    "counts the class that makes up most of an image, and stays low.",
    100.0,
)
LOSS = Panel(
    (Line("train_loss", "train", 1, "--"), Line("val_nll", "validation", 0), Line("test_nll", "test", 2)),
    "loss in nats",
    "Training loss on the images as the network saw them, and negative log-likelihood on the unmixed ones.",
    1.0,
    (0, None),
    may_be_log=True,
)
LEARNING = (
    ACCURACY,
    LOSS,
    Panel(
        (Line("val_calibration_error", "validation", 0), Line("test_calibration_error", "test", 2)),
        "calibration error in %",
        "Mean distance between the model's confidence and its accuracy, 15 bins.",
        100.0,
        (0, None),
    ),
    Panel((Line("lr", "learning rate", 0),), "learning rate", "Learning rate at the start of each epoch.", 1.0, (0, None)),
    Panel(
        (
            Line("epoch_seconds", "in all", 0),
            Line("saliency_seconds", "saliency", 1, "--"),
            Line("mixing_seconds", "mixing", 2, ":"),
        ),
        "seconds an epoch",
        "Time of each training epoch without validation.",
        1.0,
        (0, None),
    ),
)  # fmt: skip

# Names without the callback's, which stands before them.
MIXING = (
    Panel(
        (Line("ratio", "share of the first image", 0),),
        "share of the first image",
        "How much of a mix is its first image.",
        1.0,
        (0, 1),
    ),
    Panel(
        (Line("mask_entropy", "mask entropy", 0),),
        "mask entropy in bits",
        "Binary entropy of the mask: 0 where every block shows one image alone, 1 where each shows both by half.",
        1.0,
        (0, 1),
    ),
    Panel(
        (Line("moved_blocks", "moved blocks", 0),),
        "share of moved blocks",
        "Share of the visible blocks that come from elsewhere in their image.",
        1.0,
        (0, 1),
    ),
    Panel(
        (
            Line("retained_saliency", "this mixing", 0),
            Line("retained_saliency_cutmix", "a CutMix box of that area", 1, "--"),
        ),
        "share of visible saliency",
        "Share of each image's saliency that stays visible, mean over both images of all pairs; and what a CutMix box of the "
        "same area, at a random place, would keep.",
        1.0,
        (0, 1),
    ),
    Panel(
        (Line("saliency_seconds", "saliency", 1, "--"), Line("mixing_seconds", "mixing", 2)),
        "seconds a batch",
        "What the callback adds to a training step.",
        1.0,
        (0, None),
    ),
)
