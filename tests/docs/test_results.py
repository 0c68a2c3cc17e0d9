"""The results that the documentation states are those of the runs that are stored with it."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_rel

REPOSITORY = Path(__file__).resolve().parents[2]
STORED = REPOSITORY / "experiments" / "results"
PAGE = (REPOSITORY / "docs" / "results.md").read_text()
README = (REPOSITORY / "README.md").read_text()


def scores(study: str, method: str, metric: str, prefix: str = "") -> np.ndarray:
    """By seed, in per cent where the metric is a share."""
    files = sorted((STORED / study).glob(f"{prefix}mix-{method}_seed-*/summary.json"))
    values = np.array([json.loads(file.read_text())["test"][metric] for file in files])
    return values if metric == "nll" else 100 * values


def row(text: str, label: str) -> list[str]:
    """The cells of a table's row."""
    (line,) = [line for line in text.splitlines() if line.startswith(f"| {label} |")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


@pytest.mark.parametrize(("label", "method"), [("without mixing", "none"), ("Puzzle Mix", "puzzlemix")])
def test_digits(label: str, method: str) -> None:
    expected = []
    for metric, digits in (("accuracy", 2), ("top5", 2), ("calibration_error", 2), ("nll", 3)):
        found = scores("digits_few", method, metric)
        assert len(found) == 5
        expected.append(f"{found.mean():.{digits}f} ± {found.std(ddof=1):.{digits}f}")
    assert row(PAGE.split("## Which parts")[0], label) == expected
    assert expected[0] in README


def test_the_difference_on_digits() -> None:
    for metric in ("accuracy", "calibration_error"):
        pairs = [scores("digits_few", method, metric) for method in ("puzzlemix", "none")]
        interval = ttest_rel(*pairs).confidence_interval(0.95)
        mean, low, high = (f"{value:+.2f}" for value in (np.mean(pairs[0] - pairs[1]), interval.low, interval.high))
        assert f"[{low}, {high}]" in PAGE
        assert mean in PAGE


@pytest.mark.parametrize("name", sorted(path.stem for path in (REPOSITORY / "conf" / "ablation").glob("*.yaml")))
def test_ablations(name: str) -> None:
    expected = []
    for metric in ("accuracy", "calibration_error"):
        own, whole = (scores("digits_ablations", "puzzlemix", metric, f"ablation-{each}_") for each in (name, "none"))
        assert len(own) == len(whole) == 5
        interval = ttest_rel(own, whole).confidence_interval(0.95)
        difference = f"{np.mean(own - whole):+.2f} [{interval.low:+.2f}, {interval.high:+.2f}]"
        shown = f"**{difference}**" if interval.low * interval.high > 0 else difference
        expected += [f"{own.mean():.2f} ± {own.std(ddof=1):.2f}", "" if name == "none" else shown]
    section = PAGE.split("## Which parts")[1].split("## CIFAR-100")[0]
    key = "| all of Puzzle Mix |" if name == "none" else f"(`{name}`) |"
    (line,) = [line for line in section.splitlines() if key in line]
    assert [cell.strip() for cell in line.strip("|").split("|")][1:] == expected


CIFAR100 = {
    "without mixing": "none",
    "MixUp": "mixup",
    "Manifold mixup": "manifold",
    "CutMix": "cutmix",
    "Puzzle Mix": "puzzlemix",
}
SEEDS = 5


def attacked(method: str) -> np.ndarray:
    """Accuracy of the last checkpoints under FGSM, by seed, in per cent."""
    files = sorted((STORED / "cifar100_small").glob(f"mix-{method}_seed-*/evaluation_last/evaluation.json"))
    return 100 * np.array([json.loads(file.read_text())["attacks"]["fgsm_4"]["accuracy"] for file in files])


def cifar100_scores(method: str) -> list[tuple[np.ndarray, int]]:
    """Of each column of the page, the values by seed and the digits shown."""
    shown = {"accuracy": 2, "top5": 2, "calibration_error": 2, "nll": 3}
    found = [(scores("cifar100_small", method, metric), digits) for metric, digits in shown.items()]
    return [*found, (attacked(method), 2)]


@pytest.mark.parametrize(("label", "method"), CIFAR100.items())
def test_cifar100(label: str, method: str) -> None:
    runs = sorted(path.name for path in (STORED / "cifar100_small").glob(f"mix-{method}_*"))
    assert runs == [f"mix-{method}_seed-{seed}" for seed in range(SEEDS)]
    columns = cifar100_scores(method)
    assert {len(values) for values, _ in columns} == {SEEDS}
    expected = [f"{values.mean():.{digits}f} ± {values.std(ddof=1):.{digits}f}" for values, digits in columns]
    assert row(PAGE.split("## CIFAR-100")[1].split("Differences to Puzzle Mix")[0], label) == expected
    assert expected[0] in README
    if method in ("none", "puzzlemix"):
        assert f"{columns[2][0].mean():.2f} %" in README


@pytest.mark.parametrize("label", [label for label in CIFAR100 if label != "Puzzle Mix"])
def test_the_differences_on_cifar100(label: str) -> None:
    expected = []
    top1, _, *others = zip(cifar100_scores(CIFAR100[label]), cifar100_scores("puzzlemix"), strict=True)
    for (other, digits), (own, _) in (top1, *others):
        interval = ttest_rel(other, own).confidence_interval(0.95)
        mean, low, high = (f"{value:+.{digits}f}" for value in (np.mean(other - own), interval.low, interval.high))
        difference = f"{mean} [{low}, {high}]"
        expected.append(f"**{difference}**" if interval.low * interval.high > 0 else difference)
    table = PAGE.split("## CIFAR-100")[1].split("Differences to Puzzle Mix")[1].split("| published")[0]
    assert row(table, label) == expected
    mean, low, high = (abs(float(number)) for number in re.findall(r"[-+][\d.]+", expected[0]))
    gains = {
        "without mixing": "no mixing by {} points",
        "MixUp": "MixUp by {}",
        "Manifold mixup": "manifold mixup by {}",
    }
    if label in gains:
        assert f"{gains[label].format(f'{mean:.2f}')} [{high:.2f}, {low:.2f}]" in README


def test_the_calibration_of_the_others_on_cifar100() -> None:
    errors = sorted(
        scores("cifar100_small", each, "calibration_error").mean() for each in ("mixup", "manifold", "cutmix")
    )
    assert f"by the other methods ({errors[0]:.2f} to {errors[-1]:.2f} %)" in README


COSTS = {
    "MixUp": "MixUp",
    "CutMix": "CutMix",
    "Manifold mixup behind the first stage": "manifold mixup, stages.0",
    "Puzzle Mix": "gradient",
    "Puzzle Mix, masks by the authors' approximate solver": "gradient, gco",
    "Puzzle Mix without transport": "gradient, no transport",
    "Puzzle Mix with two labels": "gradient, two labels",
    "Puzzle Mix, saliency in bfloat16": "gradient, bf16",
    "Puzzle Mix, saliency of a feature map": "feature, default",
    "Puzzle Mix, saliency of the images alone": "spectral",
}


@pytest.mark.parametrize(("label", "name"), COSTS.items())
def test_costs(label: str, name: str) -> None:
    measured = json.loads((STORED / "benchmark_steps.json").read_text())["steps"][name]
    section = PAGE.split("## What it costs")[1].split("## CIFAR-100")[0]
    assert row(section, label) == [f"{measured[key]:.2f}" for key in ("seconds", "plain", "ratio")]
    assert section.count("\n| ") == len(COSTS) + 1


def test_stored_runs_name_no_place_of_the_machine_that_trained_them() -> None:
    files = [file for kind in ("json", "yaml") for file in STORED.glob(f"*/*mix-*/**/*.{kind}")]
    assert len(files) > 40
    for file in files:
        assert "data.root=/" not in file.read_text()
        assert "runs: /" not in file.read_text()
