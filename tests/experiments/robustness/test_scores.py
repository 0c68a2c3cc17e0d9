"""Clean scores against scikit-learn and by hand; file, plot and tables."""

import io
import json
import re
from pathlib import Path

import pytest
import torch
from rich.console import Console
from score_oracles import expected_calibration_error
from sklearn.metrics import log_loss, top_k_accuracy_score
from torch import Tensor, nn

from experiments.common.errors import UserError
from experiments.robustness import Accuracy, CleanScores, CorruptionScores, EvaluationResults, plot_evaluation
from experiments.robustness.evaluator import score_clean, subsample


class Fixed(nn.Module):
    """Gives the logits that it is fed."""

    def forward(self, images: Tensor) -> Tensor:
        return images


def test_clean_scores_do_not_depend_on_the_batch_size() -> None:
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(101, 7, generator=generator) * 2
    targets = torch.randint(7, (101,), generator=generator)
    probabilities = logits.double().softmax(dim=1).numpy()
    for size in (101, 20):
        batches = zip(logits.split(size), targets.split(size), strict=True)
        scores = score_clean(Fixed(), batches, num_classes=7)
        assert scores.images == 101
        assert scores.accuracy == pytest.approx(float((probabilities.argmax(axis=1) == targets.numpy()).mean()))
        assert scores.top5 == pytest.approx(top_k_accuracy_score(targets, probabilities, k=5, labels=range(7)))
        assert scores.nll == pytest.approx(log_loss(targets, probabilities, labels=range(7)))
        assert scores.calibration_error == pytest.approx(
            expected_calibration_error(probabilities, targets.numpy()), abs=1e-6
        )


def test_five_classes_have_no_top_5() -> None:
    batches = [(torch.eye(5), torch.arange(5))]
    assert score_clean(Fixed(), batches, num_classes=5).top5 is None


def test_nan_and_a_wrong_number_of_logits_are_errors() -> None:
    with pytest.raises(UserError, match="NaN"):
        score_clean(Fixed(), [(torch.eye(5) * torch.nan, torch.arange(5))], num_classes=5)
    with pytest.raises(UserError, match="gives 5 logits, the data has 4 classes"):
        score_clean(Fixed(), [(torch.eye(5), torch.arange(5))], num_classes=4)


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 1000, None])
def test_a_limit_spreads_over_the_images(limit: int | None) -> None:
    images = torch.utils.data.TensorDataset(torch.arange(100), torch.arange(100))
    chosen = torch.stack([first for first, _ in subsample(images, limit)])
    assert len(chosen.unique()) == len(chosen) == min(limit or 100, 100)
    assert len(set(chosen.diff().tolist())) <= 2
    with pytest.raises(UserError, match="limit must be null or at least 1, got 0"):
        subsample(images, 0)


def test_plot_and_tables_show_every_number() -> None:
    results = EvaluationResults(facts={}, attack_settings={"mine": {"kind": "fgsm", "eps": 8 / 255}})
    results.clean = CleanScores(accuracy=0.875, top5=None, calibration_error=0.0625, nll=1.5, images=48, seconds=1.0)
    results.attacks["mine"] = Accuracy(accuracy=0.375, images=48, seconds=1.0)
    results.corruptions = CorruptionScores(root="somewhere")
    for severity in range(1, 6):
        results.corruptions.add("fog", severity, Accuracy(accuracy=0.9 - 0.1 * severity, images=48, seconds=1.0))
        results.corruptions.add("spatter", severity, Accuracy(accuracy=0.11 * severity, images=48, seconds=1.0))
    bars, grid = plot_evaluation(results, "a title").axes
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == pytest.approx([87.5, 37.5, 60.0])
    assert [label.get_text() for label in bars.get_yticklabels()] == ["clean", "mine (ε = 8/255)", "corrupted, mean"]
    cells = [text.get_text() for text in grid.texts]
    assert cells == ["80.0", "70.0", "60.0", "50.0", "40.0", "60.0", "11.0", "22.0", "33.0", "44.0", "55.0", "33.0"]
    assert [label.get_text() for label in grid.get_yticklabels()] == ["fog", "spatter *"]
    console = Console(file=io.StringIO(), width=100)
    console.print(*results.tables("a title"))
    lines = [" ".join(re.sub("[^ -~]", " ", line).split()) for line in console.file.getvalue().splitlines()]
    for line in (
        "accuracy, 48 images 87.50%",
        "calibration error, 15 bins 6.25%",
        "accuracy under mine, eps 8/255 37.50%",
        "accuracy on corrupted images, 1 of 15 types 60.00%",
        "fog 80.0 70.0 60.0 50.0 40.0 60.0",
        "spatter (not in the mean) 11.0 22.0 33.0 44.0 55.0 33.0",
    ):
        assert line in lines
    assert not any(line.startswith("top-5") for line in lines)


def test_results_are_on_disk_after_every_part(tmp_path: Path) -> None:
    """The file is valid JSON at any time and tells whether it is complete."""
    results = EvaluationResults(facts={"checkpoint": "c"}, attack_settings={"mine": {"kind": "fgsm", "eps": 0.5}})
    path = tmp_path / "evaluation.json"
    results.save(path)
    assert json.loads(path.read_text())["complete"] is False
    results.attacks["mine"] = Accuracy(accuracy=0.25, images=8, seconds=2.0)
    results.corruptions = CorruptionScores(root="r")
    for severity in range(1, 6):
        results.corruptions.add("spatter", severity, Accuracy(accuracy=0.5, images=8, seconds=1.0))
    results.save(path)
    content = json.loads(path.read_text())
    assert content["attacks"]["mine"] == {"kind": "fgsm", "eps": 0.5, "accuracy": 0.25, "images": 8, "seconds": 2.0}
    assert content["corruptions"]["accuracy"] == {"spatter": dict.fromkeys("12345", 0.5)}
    assert content["corruptions"]["mean"] is None
    assert content["seconds"] == pytest.approx(7)
    assert list(tmp_path.iterdir()) == [path]
