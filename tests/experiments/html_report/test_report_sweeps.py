"""Reports of several runs: the comparison, single runs in short, unfinished ones; and a page in a browser."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from made_up_runs import make_run, make_unfinished
from omegaconf import OmegaConf
from report_pages import CLASSES, ReadPage, log_metrics, make_full, make_test_results, read, save_image, size_of

from experiments.html_report import write_report
from experiments.html_report.curves import plot_groups, read_metrics

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ACCURACIES = {"none": (0.90, 0.93, 0.96), "cutmix": (0.971,)}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two methods with three seeds and one seed, a run that died and one that is running; only read."""
    top = tmp_path_factory.mktemp("runs") / "my_sweep"
    for mix, accuracies in ACCURACIES.items():
        for seed, accuracy in enumerate(accuracies):
            folder = make_run(top / f"{mix}_{seed}", seed=seed, accuracy=accuracy, choices={"mix": mix})
            log_metrics(folder, offset=0.01 * seed)
            save_image(folder / "images.png", size=(1500, 20), seed=seed)
    make_test_results().save(top / "cutmix_0/test_results.json")
    make_unfinished(top / "dead", "mix=mixup", error="Trace\ndied: KeyError: 'a'\n")
    make_unfinished(top / "running", "mix=mixup", "seed=4", log="2026-01-31 12:00:00,123 INFO epoch   1/20  loss 0.1\n")
    OmegaConf.save(OmegaConf.create({"name": "x", "epochs": 20}), top / "running/config.yaml")
    log_metrics(top / "running", epochs=1, tested=False)
    return top


@pytest.fixture(scope="module")
def page(sweep: Path) -> ReadPage:
    """Its report."""
    return read(sweep)


def test_the_comparison_and_all_runs(page: ReadPage) -> None:
    assert page.titles == [
        "my_sweep: 6 runs", "Contents", "Comparison", "Learning curves", "Runs", "Run by run", "Unfinished runs",
    ]  # fmt: skip
    assert "6 runs, 4 of them finished. They differ in mix, seed." in page.text
    assert "2 runs are not finished: dead, running. See below." in page.text
    table = page.tables["4 runs, mean ± standard deviation"]
    assert table.sortable
    assert table.heads[:4] == ["mix", "seeds", "runs", "accuracy %"]
    none = 100 * np.array(ACCURACIES["none"])
    assert [row[:4] for row in table.rows] == [
        ["cutmix", "0", "1", "97.10 ± -"], ["none", "0 1 2", "3", f"{none.mean():.2f} ± {none.std(ddof=1):.2f}"],
    ]  # fmt: skip
    (differences,) = (table for caption, table in page.tables.items() if "Difference to none" in caption)
    assert differences.rows[0][:2] == ["cutmix", "none"]
    assert differences.rows[0][2].split("\n") == ["+7.10", "no interval from 1"]
    runs = page.tables["Every finished run"]
    assert runs.heads[:4] == ["run", "mix", "seed", "accuracy %"]
    assert [row[:4] for row in runs.rows] == [
        ["cutmix_0", "cutmix", "0", "97.10"], ["none_0", "none", "0", "90.00"], ["none_1", "none", "1", "93.00"],
        ["none_2", "none", "2", "96.00"],
    ]  # fmt: skip
    assert len(page.named("Mean and standard deviation of each group")) == 1
    assert len(page.named("Paired differences with their confidence intervals")) == 1


def test_curves_of_groups_are_means_with_a_band(sweep: Path) -> None:
    none, cutmix = (
        [read_metrics(sweep / name / "logs/metrics.csv") for name in names]
        for names in (("none_0", "none_1", "none_2"), ("cutmix_0",))
    )
    plots = list(plot_groups({"none": none, "cutmix": cutmix, "nothing": []}))
    assert [figure.axes[0].get_ylabel() for _, figure in plots] == [
        "validation accuracy", "test accuracy", "training loss", "validation loss", "total seconds an epoch",
    ]  # fmt: skip
    axes = plots[0][1].axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    values = np.array([[0.2 * epoch + 0.01 * seed for epoch in range(4)] for seed in range(3)])
    np.testing.assert_allclose(lines["none"].get_xdata(), [1, 2, 3, 4])
    np.testing.assert_allclose(lines["none"].get_ydata(), values.mean(axis=0))
    np.testing.assert_allclose(lines["cutmix"].get_ydata(), values[0])
    # Of one run there is no deviation.
    band, *_ = axes.collections
    at_second = [y for x, y in band.get_paths()[0].vertices if x == 2]
    assert min(at_second) == pytest.approx(values[:, 1].mean() - values[:, 1].std(ddof=1))
    assert max(at_second) == pytest.approx(values[:, 1].mean() + values[:, 1].std(ddof=1))


def test_each_run_in_short(page: ReadPage) -> None:
    assert page.folded[:4] == [
        "cutmix_0: test accuracy 97.10%", "none_0: test accuracy 90.00%", "none_1: test accuracy 93.00%",
        "none_2: test accuracy 96.00%",
    ]  # fmt: skip
    links = [each["href"].removeprefix("#") for each in page.attributes("a") if each["href"].startswith("#run-")]
    links.remove("run-by-run")
    ids = [each.get("id") for each in page.attributes("details")]
    assert links == ids[:4]
    # One image a run, made smaller.
    assert [size_of(content) for content in page.files()] == [(1100, 15)] * 4
    assert page.tables["Most confused pairs"].rows[0] == [CLASSES[0], CLASSES[1], "3", "30.0"]
    assert page.text.count("python -m experiments.train seed=1 mix=none") == 1


def test_unfinished_runs_have_their_last_message_and_the_command_that_resumes_them(sweep: Path, page: ReadPage) -> None:
    assert page.folded[4:] == ["dead", "running"]
    for text in ("died: KeyError: 'a'", "epoch   1/20  loss 0.1", "1 of 20 epochs are done."):
        assert text in page.text
    assert f"mix=mixup resume=auto hydra.run.dir={sweep / 'dead'} hydra.mode=RUN" in page.text


def test_nothing_but_unfinished_runs(tmp_path: Path) -> None:
    make_unfinished(tmp_path / "top/1", "seed=1")
    make_unfinished(tmp_path / "top/2", "seed=2")
    assert read(tmp_path / "top").titles == ["top: 2 runs", "Contents", "Unfinished runs"]


def test_several_folders_are_one_page_in_the_first(tmp_path: Path) -> None:
    make_run(tmp_path / "a/1", settings={"mix.config.beta": 0.4})
    make_run(tmp_path / "b/1", settings={"mix.config.beta": 1.2})
    path = write_report([tmp_path / "b", tmp_path / "a", tmp_path / "a/1"])
    assert path == tmp_path / "b/report.html"
    rows = ReadPage(path.read_text()).tables["Every finished run"].rows
    assert [row[1] for row in rows] == ["0.4", "1.2"]


def test_of_very_many_runs_the_first_ones_are_shown(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("experiments.html_report.page.MAX_DETAILED", 2)
    page = read(sweep)
    assert page.folded == ["cutmix_0: test accuracy 97.10%", "none_0: test accuracy 90.00%", "dead", "running"]
    assert "Details of the first 2 runs" in page.text
    # No link without a place that it leads to.
    ids = {each.get("id") for _, each in page.elements}
    assert {each["href"].removeprefix("#") for each in page.attributes("a")} <= ids
    assert len(page.tables["Every finished run"].rows) == 4


# Sorts by the accuracy, twice, then by the name; notes what was asked for from elsewhere, and what the policy forbade.
PROBE = """
<script>
  const told = document.documentElement.dataset;
  document.addEventListener("securitypolicyviolation", (event) => { told.violation = event.blockedURI; });
  const tables = [...document.querySelectorAll("table.sortable")];
  const table = tables.find((each) => each.caption.textContent === "Every finished run");
  const buttons = table.querySelectorAll("thead button");
  const first = (column) => [...table.tBodies[0].rows].map((row) => row.cells[column].textContent).join(" ");
  buttons[3].click();
  told.ascending = first(3);
  told.direction = buttons[3].parentElement.getAttribute("aria-sort");
  buttons[3].click();
  told.descending = first(3);
  buttons[0].click();
  told.names = first(0);
  told.buttons = buttons.length;
  location.hash = "#run-3";
  addEventListener("load", () => setTimeout(() => {
    told.open = document.getElementById("run-3").open;
    told.images = [...document.images].filter((image) => image.naturalWidth > 0).length;
    told.requests = performance.getEntriesByType("resource").filter((each) => !each.name.startsWith("data:")).length;
    told.wide = document.documentElement.scrollWidth > innerWidth;
  }, 100));
</script>
"""


@pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on the PATH")
def test_in_a_browser(sweep: Path, tmp_path: Path) -> None:
    """The script sorts, links open what is folded, images show, and nothing is asked for from elsewhere."""
    make_full(tmp_path / "runs/with a test")
    written = write_report([sweep, tmp_path / "runs"], tmp_path / "plain.html").read_text()
    plain, probed = ReadPage(written), tmp_path / "probed.html"
    probed.write_text(written.replace("</body>", f"{PROBE}</body>"))
    command = [
        str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={tmp_path / 'browser'}", "--enable-logging=stderr", "--v=0", "--virtual-time-budget=5000",
        "--dump-dom", probed.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert "CONSOLE" not in done.stderr
    (told,) = ReadPage(done.stdout).attributes("html")
    assert told["data-script"] == "done"
    # Numbers, not text: 90.00, 91.23 (the run with everything), 93.00, ...
    ascending = ["90.00", "91.23", "93.00", "96.00", "97.10"]
    assert told["data-ascending"].split() == ascending
    assert told["data-descending"].split() == ascending[::-1]
    assert told["data-direction"] == "ascending"
    assert told["data-names"] == "cutmix_0 none_0 none_1 none_2 with a test"
    assert told["data-buttons"] == str(len(plain.tables["Every finished run"].heads))
    assert told["data-open"] == "true"
    assert told["data-images"] == str(len(plain.attributes("img")))
    assert (told["data-requests"], told["data-wide"]) == ("0", "false")
    assert "data-violation" not in told
