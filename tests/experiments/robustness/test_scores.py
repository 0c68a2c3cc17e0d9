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
from experiments.data import PUBLISHED
from experiments.robustness import AttackScores, CleanScores, CorruptionScores, EvaluationResults, plot_evaluation
from experiments.robustness.evaluator import score, subsample
from experiments.robustness.reporting import scalars
from experiments.training.module import classification_metrics


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
        scores = CleanScores(**score(Fixed(), batches, classification_metrics(7)))
        assert scores.images == 101
        assert scores.accuracy == pytest.approx(float((probabilities.argmax(axis=1) == targets.numpy()).mean()))
        assert scores.top5 == pytest.approx(top_k_accuracy_score(targets, probabilities, k=5, labels=range(7)))
        assert scores.nll == pytest.approx(log_loss(targets, probabilities, labels=range(7)))
        assert scores.calibration_error == pytest.approx(
            expected_calibration_error(probabilities, targets.numpy()), abs=1e-6
        )


def test_five_classes_have_no_top_5() -> None:
    batches = [(torch.eye(5), torch.arange(5))]
    assert CleanScores(**score(Fixed(), batches, classification_metrics(5))).top5 is None


def test_nan_and_a_wrong_number_of_logits_are_errors() -> None:
    with pytest.raises(UserError, match="NaN for 5 of 5 images: its weights have diverged"):
        score(Fixed(), [(torch.eye(5) * torch.nan, torch.arange(5))])
    with pytest.raises(UserError, match=r"logits have shape \(5, 5\), not \(batch size, 4\)"):
        score(Fixed(), [(torch.eye(5), torch.arange(5))], classification_metrics(4))


@pytest.mark.parametrize("limit", [1, 7, 99, 100, 1000, None])
def test_a_limit_spreads_over_the_images(limit: int | None) -> None:
    images = torch.utils.data.TensorDataset(torch.arange(100), torch.arange(100))
    chosen = torch.stack([first for first, _ in subsample(images, limit)])
    assert len(chosen.unique()) == len(chosen) == min(limit or 100, 100)
    assert len(set(chosen.diff().tolist())) <= 2


def test_plot_and_tables_show_every_number() -> None:
    results = EvaluationResults(facts={})
    results.clean = CleanScores(accuracy=0.875, top5=None, calibration_error=0.0625, nll=1.5, images=48, seconds=1.0)
    results.attacks["mine"] = AttackScores(eps=8 / 255, accuracy=0.375, images=48, seconds=1.0)
    spatter, fog = ({severity: each * severity for severity in range(1, 6)} for each in (0.11, -0.1))
    accuracy = {"spatter": spatter, "fog": {severity: 0.9 + value for severity, value in fog.items()}}
    results.corruptions = CorruptionScores(root="somewhere", images=48, accuracy=accuracy)
    bars, grid = plot_evaluation(results, "a title").axes
    widths = [patch.get_width() for patch in bars.patches]
    assert widths == pytest.approx([0.875, 0.375, 0.6])
    assert [label.get_text() for label in bars.get_yticklabels()] == [
        "accuracy, 48 images", "accuracy under mine, eps 8/255", "accuracy on corrupted images, 1 of 15 types",
    ]  # fmt: skip
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
        "spatter (not one of the 15) 11.0 22.0 33.0 44.0 55.0 33.0",
    ):
        assert line in lines
    assert not any(line.startswith("top-5") for line in lines)


def test_results_are_on_disk_after_every_part(tmp_path: Path) -> None:
    """The file is valid JSON at any time and tells whether it is complete."""
    results = EvaluationResults(facts={"checkpoint": "c"})
    path = tmp_path / "evaluation.json"
    results.save(path)
    assert json.loads(path.read_text())["complete"] is False
    results.attacks["mine"] = AttackScores(kind="fgsm", eps=0.5, accuracy=0.25, images=8, seconds=2.0)
    spatter = {"spatter": dict.fromkeys(range(1, 6), 0.5)}
    results.corruptions = CorruptionScores(root="r", images=8, accuracy=spatter, seconds=5.0)
    results.save(path)
    content = json.loads(path.read_text())
    assert content["attacks"]["mine"] == {"kind": "fgsm", "eps": 0.5, "accuracy": 0.25, "images": 8, "seconds": 2.0}
    assert content["corruptions"]["accuracy"] == {"spatter": dict.fromkeys("12345", 0.5)}
    assert content["corruptions"]["mean"] is None
    assert content["seconds"] == pytest.approx(7)
    assert list(tmp_path.iterdir()) == [path]
    loaded = EvaluationResults.load(path)
    assert (loaded.attacks, loaded.corruptions) == (results.attacks, results.corruptions)


def test_the_mean_of_19_types_stands_beside_that_of_15(tmp_path: Path) -> None:
    accuracy = {name: dict.fromkeys(range(1, 6), 0.5) for name in PUBLISHED}
    others = ("speckle_noise", "gaussian_blur", "spatter", "saturate")
    accuracy |= {name: dict.fromkeys(range(1, 6), 0.88) for name in others}
    complete = EvaluationResults(facts={}, corruptions=CorruptionScores(root="r", accuracy=accuracy))
    assert complete.accuracies() == {
        "accuracy on corrupted images, 15 of 15 types": pytest.approx(0.5),
        "accuracy on corrupted images, all 19 types": pytest.approx(0.58),
    }
    assert scalars(complete)["robustness/corrupted"] == pytest.approx(0.5)
    assert scalars(complete)["robustness/corrupted_19_types"] == pytest.approx(0.58)
    complete.save(tmp_path / "evaluation.json")
    saved = json.loads((tmp_path / "evaluation.json").read_text())["corruptions"]
    assert (saved["mean"], saved["mean_of_19_types"]) == (pytest.approx(0.5), pytest.approx(0.58))
    # Without one of the four there is no such mean.
    del accuracy["saturate"]
    partial = CorruptionScores(root="r", accuracy=accuracy)
    assert (partial.mean, partial.mean_of_19_types) == (pytest.approx(0.5), None)
