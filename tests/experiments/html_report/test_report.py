"""The page about one run that has everything: every number against the files, and nothing from elsewhere."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from report_pages import CLASSES, ReadPage, make_full, read, save_evaluation, save_image, size_of

from experiments.html_report import write_report
from experiments.html_report.curves import LEARNING, MIXING, plot_metrics, read_metrics


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with everything; only read."""
    return make_full(tmp_path_factory.mktemp("full") / "run")


@pytest.fixture(scope="module")
def page(full: Path) -> ReadPage:
    """Its report."""
    return read(full)


def test_settings_and_results(full: Path, page: ReadPage) -> None:
    assert page.titles[0] == "digits_puzzlemix, seed 0"
    summary = json.loads((full / "summary.json").read_text())
    settings = dict(page.tables["Settings"].rows)
    assert (settings["data set"], settings["training images"]) == ("digits", str(summary["train_images"]))
    assert (settings["model"], settings["trainable parameters"]) == ("small", str(summary["parameters"]))
    assert (settings["mixing"], settings["epochs"], settings["seed"]) == ("puzzlemix", "20", "0")
    results = dict(page.tables["Results"].rows)
    for words, value in (
        ("128 images, last epoch", "91.23%"), ("median", "92.22%"), ("best epoch", "93.71%"), ("calibration", "3.17%"),
        ("per epoch", "1.50"),
    ):  # fmt: skip
        assert [shown for name, shown in results.items() if words in name] == [value]
    assert "not finished" not in page.text
    assert page.titles[1:] == [
        "Contents", "Learning curves", "Mixing: puzzlemix", "Images", "Per-class test results", "Robustness",
        "Reproduce this run",
    ]  # fmt: skip


def test_contents_link_to_every_section_and_ids_are_unique(page: ReadPage) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    targets = [each["href"] for each in page.attributes("a")]
    assert len(targets) == 6
    assert {each.removeprefix("#") for each in targets} <= set(ids)


def test_metrics_by_epoch_are_those_of_the_file(full: Path, page: ReadPage) -> None:
    table = page.tables["Metrics of 4 of 4 epochs"]
    with (full / "logs/metrics.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if line["train_loss"]]
    assert [row[0] for row in table.rows] == ["1", "2", "3", "4"]
    for head, key in (
        ("training loss", "train_loss"), ("validation accuracy", "val_accuracy"), ("learning rate", "lr"),
        ("total seconds an epoch", "epoch_seconds"), ("validation loss", "val_nll"), ("test accuracy", "test_accuracy"),
    ):  # fmt: skip
        shown = [float(row[table.heads.index(head)]) for row in table.rows]
        assert shown == pytest.approx([float(line[key]) for line in lines], abs=5e-5), head


def test_curves_hold_the_logged_values_at_their_epochs(full: Path) -> None:
    metrics = read_metrics(full / "logs/metrics.csv")
    accuracy, loss, *_ = (figure.axes[0] for _, figure in plot_metrics(metrics, LEARNING))
    mixing = [figure.axes[0] for _, figure in plot_metrics(metrics, MIXING, "puzzlemix")]
    lines = {line.get_label(): line for line in accuracy.lines}
    np.testing.assert_allclose(lines["validation"].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(lines["validation"].get_ydata(), [0, 0.2, 0.4, 0.6])
    # The test at the end, after 4 epochs, is no fifth one.
    np.testing.assert_allclose(lines["test"].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(lines["test"].get_ydata(), [0, 0.15, 0.3, 0.45])
    (train,) = (line for line in loss.lines if line.get_label() == "training")
    np.testing.assert_allclose(train.get_ydata(), [2, 1, 2 / 3, 0.5])
    assert [axes.get_ylabel() for axes in mixing] == list(MIXING)
    # Two of five batches are logged, at steps 1 and 3 of each epoch.
    mean, points = mixing[0].lines
    np.testing.assert_allclose(points.get_xdata(), [1, 3, 6, 8, 11, 13, 16, 18])
    np.testing.assert_allclose(points.get_ydata(), [0.01, 0.03, 0.11, 0.13, 0.21, 0.23, 0.31, 0.33])
    np.testing.assert_allclose(mean.get_xdata(), [2, 7, 12, 17])
    np.testing.assert_allclose(mean.get_ydata(), [0.02, 0.12, 0.22, 0.32])


def test_all_images_are_shown_the_first_middle_and_last_mix_at_once(tmp_path: Path) -> None:
    full = make_full(tmp_path / "run")
    save_image(full / "images.png", size=(1400, 28))
    page = read(full)
    # A wide one is made smaller.
    sizes = [(1100, 22), *((40 + step, 40) for step in (0, 20, 100, 9, 30)), (70, 30)]
    assert [size_of(each) for each in page.files()] == sizes
    assert "More images" in page.folded
    assert len(page.named("Training images, mixed by the trained model")) == 1
    for step, width in ((0, "40"), (100, "140")):
        assert [each["width"] for each in page.named(f"after {step} optimizer steps")] == [width]


def test_per_class_test_results(page: ReadPage) -> None:
    pairs = page.tables["Most confused pairs"]
    # 3 of 10, 1 of 10, 1 of 10; counted by hand in the confusion matrix.
    assert pairs.rows == [
        [CLASSES[0], CLASSES[1], "3", "30.0"], [CLASSES[1], CLASSES[0], "1", "10.0"], [CLASSES[1], CLASSES[3], "1", "10.0"],
    ]  # fmt: skip
    assert pairs.sortable
    assert page.tables["Accuracy of each class"].rows == [
        [CLASSES[0], "70.00", "10"], [CLASSES[1], "80.00", "10"], [CLASSES[2], "100.00", "5"], [CLASSES[3], "-", "0"],
    ]  # fmt: skip
    for caption in ("Confusion matrix", "Accuracy of each class", "Reliability diagram"):
        assert len(page.named(caption)) == 1


def test_evaluations(tmp_path: Path) -> None:
    full = make_full(tmp_path / "run")
    save_evaluation(full / "evaluation_last", complete=False, clean=None, attacks={}, corruptions=None)
    page = read(full)
    scores = dict(page.tables["evaluation"].rows)
    assert scores["accuracy, 50 images"] == "81.25%"
    assert scores["calibration error, 15 bins"] == "3.21%"
    assert scores["negative log-likelihood, nats"] == "0.4567"
    assert scores["accuracy under fgsm_8, eps 8/255"] == "24.68%"
    # 80, 70, 60, 50, 40.
    assert scores["accuracy on corrupted images, 1 of 15 types"] == "60.00%"
    assert page.tables["Accuracy in %, 50 images each"].rows == [
        ["gaussian_noise", "80.0", "70.0", "60.0", "50.0", "40.0", "60.0"],
        ["mine (not one of the 15)", *["50.0"] * 6],
    ]
    assert "/runs/x/checkpoints/<best>.ckpt, after 4 epochs" in page.text
    assert "evaluation_last/evaluation.json is not complete" in page.text
    assert "evaluation_last" not in page.tables
    assert len(page.named("evaluation")) == 1


def test_versions(page: ReadPage) -> None:
    assert page.tables["Versions of Python and packages"].rows == [
        ["python", "3.11.7"], ["torch", "2.14.1"], ["cuda", "-"], ["commit", "abc+"],
    ]  # fmt: skip


def test_nothing_comes_from_elsewhere(full: Path) -> None:
    text = write_report([full]).read_text(encoding="utf-8")
    page = ReadPage(text)
    (policy,) = (each["content"] for each in page.attributes("meta") if each.get("http-equiv"))
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
    assert "http:" not in text
    assert "https:" not in text
    assert "@import" not in text
    sources = [
        value for _, each in page.elements for key, value in each.items() if key in ("src", "srcset", "data", "action")
    ]
    links = [each["href"] for _, each in page.elements if "href" in each]
    assert sources
    assert all(each.startswith("data:") for each in sources)
    assert all(each.startswith(("#", "data:")) for each in links)


def test_a_reader_without_eyes_or_script(page: ReadPage) -> None:
    assert all(each.get("alt") for each in page.attributes("img"))
    assert all(each.get("scope") in ("col", "row") for each in page.attributes("th"))
    assert page.attributes("html") == [{"lang": "en"}]
    assert not page.attributes("button")
    # A caption for each figure, code included.
    assert len(page.captions) == len(page.attributes("figure"))


def test_the_same_run_gives_the_same_page(full: Path) -> None:
    assert write_report([full]).read_bytes() == write_report([full], full / "again/x.html").read_bytes()
