"""The outcome of a test, class by class: counted as scikit-learn and torchmetrics count, kept in a file, and drawn."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from score_oracles import expected_calibration_error
from sklearn.calibration import calibration_curve
from sklearn.metrics import confusion_matrix, recall_score
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics.classification import MulticlassCalibrationError

from experiments.test_results import TestResultCounts, TestResults, plot_calibration, plot_confusion, plot_per_class
from experiments.test_results.results import CalibrationCurve, Confusion, distinct_names
from experiments.training.module import Classifier

EMPTY = CalibrationCurve(np.linspace(0, 1, 3), np.zeros(2, np.int64), np.full(2, np.nan), np.full(2, np.nan))


def predictions(classes: int, images: int, *, lead: float = 2.0) -> tuple[Tensor, Tensor]:
    """Logits (images,classes), those of the true class larger by `lead`, and classes (images,)."""
    generator = torch.Generator().manual_seed(classes)
    targets = torch.randint(classes, (images,), generator=generator)
    logits = 2 * torch.randn(images, classes, generator=generator)
    logits[torch.arange(images), targets] += lead
    # One class is taken for another one often.
    logits[targets == 0, 1] += 2.0
    return logits, targets


def count(logits: Tensor, targets: Tensor, names: list[str] | None = None) -> TestResults:
    counts = TestResultCounts(logits.shape[1])
    for part, classes in zip(logits.split(64), targets.split(64), strict=True):
        counts.update(part, classes)
    return counts.results(names)


@pytest.mark.filterwarnings("ignore")
def test_a_test_of_the_classifier_is_counted_as_scikit_learn_does() -> None:
    logits, targets = predictions(6, 400)
    classifier = Classifier(nn.Identity(), num_classes=6, class_names=list("abcdef"))
    trainer = pl.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False)
    assert classifier.test_results is None
    # Validation must leave it alone, and a second test must not add to the first.
    other = DataLoader(list(zip(*predictions(6, 30), strict=True)), batch_size=7)
    trainer.validate(classifier, [other, other], verbose=False)
    assert classifier.test_results is None
    trainer.test(classifier, other, verbose=False)
    (metrics,) = trainer.test(
        classifier, DataLoader(list(zip(logits, targets, strict=True)), batch_size=7), verbose=False
    )
    outcome = classifier.test_results
    assert outcome is not None
    predicted = logits.argmax(dim=1)
    assert np.array_equal(outcome.confusion, confusion_matrix(targets, predicted))
    assert outcome.class_names == tuple("abcdef")
    assert outcome.images == 400
    assert outcome.accuracy == pytest.approx(metrics["test_accuracy"])
    assert outcome.per_class_accuracy() == pytest.approx(recall_score(targets, predicted, average=None))
    assert np.array_equal(outcome.per_class_count(), np.bincount(targets))
    curve = outcome.calibration
    confidence = logits.softmax(dim=1).amax(dim=1).numpy()
    accuracies, confidences = calibration_curve(targets == predicted, confidence, n_bins=15)
    filled = curve.count > 0
    assert 5 < filled.sum() < 15
    assert curve.accuracy[filled] == pytest.approx(accuracies)
    assert curve.confidence[filled] == pytest.approx(confidences, rel=1e-5)
    assert np.isnan(curve.accuracy[~filled]).all()
    assert np.isnan(curve.confidence[~filled]).all()
    assert np.array_equal(curve.count, np.histogram(confidence, curve.edges)[0])
    assert curve.expected_error == pytest.approx(metrics["test_calibration_error"], rel=1e-5)


@pytest.mark.parametrize("classes", [2, 10, 200])
def test_its_calibration_error_is_that_of_torchmetrics(classes: int) -> None:
    logits, targets = predictions(classes, 1000, lead=4.0)
    expected = MulticlassCalibrationError(classes, n_bins=15, norm="l1")(logits, targets)
    assert 0.01 < expected < 0.9
    assert count(logits, targets).calibration.expected_error == pytest.approx(float(expected), rel=1e-4)


def test_a_confidence_of_one_and_half_precision_stay_in_the_bins() -> None:
    logits, targets = predictions(5, 500)
    logits = logits.bfloat16()
    logits[::3] *= 40
    probabilities = logits.float().softmax(dim=1)
    assert (probabilities == 1).any()
    curve = count(logits, targets).calibration
    assert curve.count.sum() == 500
    expected = expected_calibration_error(probabilities.numpy(), targets.numpy())
    assert curve.expected_error == pytest.approx(expected, rel=1e-4)


def test_classes_without_images_have_no_accuracy() -> None:
    confusion = np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]])
    outcome = TestResults(("a", "b", "c"), confusion, EMPTY)
    assert outcome.per_class_accuracy() == pytest.approx([0.75, np.nan, 0.5], nan_ok=True)
    assert outcome.per_class_count().tolist() == [4, 0, 4]
    assert np.isnan(EMPTY.expected_error)
    nothing = TestResults(("a", "b"), np.zeros((2, 2), np.int64), EMPTY)
    assert np.isnan(nothing.accuracy)
    assert nothing.most_confused(3) == []


def test_the_most_confused_pairs() -> None:
    confusion = np.array([[90, 4, 0, 6], [4, 6, 0, 0], [1, 0, 9, 0], [0, 0, 4, 16]])
    outcome = TestResults(("a", "b", "c", "d"), confusion, EMPTY)
    # By images; of those with 4 the one of the smallest class first.
    expected = [
        Confusion("a", "d", 6, 0.06), Confusion("b", "a", 4, 0.4), Confusion("d", "c", 4, 0.2),
        Confusion("a", "b", 4, 0.04), Confusion("c", "a", 1, 0.1),
    ]  # fmt: skip
    assert outcome.most_confused(10) == expected
    assert outcome.most_confused(2) == expected[:2]


def test_classes_of_one_name_are_told_apart() -> None:
    assert distinct_names(["crane", "ox", "crane"]) == ("crane (0)", "ox", "crane (2)")
    logits, targets = predictions(3, 20)
    assert count(logits, targets, ["crane", "ox", "crane"]).class_names == ("crane (0)", "ox", "crane (2)")
    assert count(logits, targets).class_names == ("0", "1", "2")


def test_the_file_gives_back_what_was_saved(tmp_path: Path) -> None:
    outcome = count(*predictions(12, 300))
    path = tmp_path / "outcome.json"
    outcome.save(path)
    loaded = TestResults.load(path)
    assert loaded.class_names == outcome.class_names
    assert np.array_equal(loaded.confusion, outcome.confusion)
    for name in ("edges", "count", "confidence", "accuracy"):
        np.testing.assert_array_equal(getattr(loaded.calibration, name), getattr(outcome.calibration, name))
    assert np.isnan(loaded.calibration.accuracy).any()
    # Strict JSON: no NaN, which other readers refuse.
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))


def test_the_file_stays_small_with_a_thousand_classes(tmp_path: Path) -> None:
    outcome = count(*predictions(1000, 20_000, lead=6.0), [f"a class with the number {label}" for label in range(1000)])
    path = tmp_path / "outcome.json"
    outcome.save(path)
    assert outcome.accuracy < 0.9
    assert path.stat().st_size < 250_000
    assert np.array_equal(TestResults.load(path).confusion, outcome.confusion)


def label_boxes(figure: Figure) -> list[list[Bbox]]:
    """Where the labels of each axis end up on the picture, axis by axis."""
    renderer = FigureCanvasAgg(figure).get_renderer()
    figure.draw(renderer)
    boxes = []
    for axis in (axis for axes in figure.axes for axis in (axes.xaxis, axes.yaxis)):
        low, high = sorted(axis.get_view_interval())
        # Matplotlib keeps labels beyond the ends, which it does not draw.
        ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and tick.label1.get_visible()]
        boxes.append([tick.label1.get_window_extent(renderer) for tick in ticks if tick.label1.get_text()])
    return boxes


@pytest.mark.parametrize(
    ("draw", "classes"),
    [
        *((plot_confusion, classes) for classes in (2, 10, 50, 200, 1000)),
        *((plot_per_class, classes) for classes in (2, 50, 1000)),
        (plot_calibration, 10),
    ],
)
def test_labels_do_not_overlap_and_stay_inside(draw: Callable[[TestResults], Figure], classes: int) -> None:
    names = [f"class {label} of a long name" for label in range(classes)]
    figure = draw(count(*predictions(classes, 5 * classes + 100), names))
    for boxes in label_boxes(figure):
        # A hair of overlap is the space around the letters.
        shrunk = [box.expanded(0.9, 0.8) for box in boxes]
        assert not any(box.overlaps(other) for box, other in itertools.pairwise(shrunk))
        assert all(figure.bbox.x0 <= box.x0 and box.x1 <= figure.bbox.x1 for box in boxes)
    assert max(figure.get_size_inches()) < 18


def test_the_matrix_shows_the_shares_and_the_counts() -> None:
    outcome = TestResults(("a", "b", "c"), np.array([[3, 1, 0], [0, 0, 0], [0, 2, 2]]), EMPTY)
    matrix = plot_confusion(outcome).axes[0]
    shown = np.ma.filled(matrix.images[0].get_array(), np.nan)
    np.testing.assert_allclose(shown, [[0.75, 0.25, 0], [np.nan] * 3, [0, 0.5, 0.5]])
    texts = {text.get_position()[::-1]: text.get_text() for text in matrix.texts}
    assert texts == {(0, 0): "3", (0, 1): "1", (2, 1): "2", (2, 2): "2"}


def test_many_classes_share_cells_that_show_their_largest_share() -> None:
    outcome = count(*predictions(404, 3000, lead=6.0))
    shown = np.ma.filled(plot_confusion(outcome).axes[0].images[0].get_array(), np.nan)
    shares = outcome.confusion / np.maximum(1, outcome.confusion.sum(axis=1, keepdims=True))
    expected = [
        [shares[row : row + 3, column : column + 3].max() for column in range(0, 404, 3)] for row in range(0, 404, 3)
    ]
    np.testing.assert_allclose(np.nan_to_num(shown), expected)


def test_the_curve_is_drawn_where_it_is() -> None:
    outcome = count(*predictions(10, 500))
    curve, filled = outcome.calibration, outcome.calibration.count > 0
    upper, lower = plot_calibration(outcome).axes
    (line,) = (line for line in upper.lines if line.get_label() == "model")
    np.testing.assert_allclose(line.get_xydata(), np.stack([curve.confidence, curve.accuracy], axis=1)[filled])
    assert [bar.get_height() for bar in lower.patches] == pytest.approx(curve.count / 500)
    assert f"{curve.expected_error:.2%}" in upper.get_title()
    excess = np.nansum((curve.confidence - curve.accuracy) * curve.count)
    assert upper.get_title().endswith("overconfident" if excess > 0 else "underconfident")


@pytest.mark.parametrize(("classes", "bars"), [(10, 10), (80, 20)])
def test_classes_are_drawn_from_the_worst_to_the_best(classes: int, bars: int) -> None:
    outcome = count(*predictions(classes, 40 * classes, lead=3.0))
    ordered = sorted(outcome.per_class_accuracy())
    axes = plot_per_class(outcome).axes
    expected = ordered if classes == bars else ordered[:10] + ordered[-10:]
    assert [bar.get_width() for bar in axes[-1].patches] == pytest.approx(expected)
    if classes != bars:
        assert axes[0].lines[0].get_ydata().tolist() == pytest.approx(ordered)
