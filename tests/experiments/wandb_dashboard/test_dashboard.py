"""The W&B dashboard against what the study logs, and against W&B's own reader of such specs."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import wandb
import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws
import yaml
from dashboard_specs import Spec, panels, walk, write_specs
from omegaconf import DictConfig
from wandb_workspaces.reports.v2.interface import UnknownBlock, UnknownPanel
from wandb_workspaces.reports.v2.internal import ReportViewspec
from wandb_workspaces.workspaces.internal import View

import lightning_puzzlemix as pm
from experiments.dashboard import main
from experiments.loggers import build_wandb_logger, ended_wandb_run
from experiments.loggers import results as logged_results
from experiments.robustness import AttackScores, CorruptionScores, EvaluationResults, reporting
from experiments.test_results.results import CalibrationCurve, TestResults
from experiments.train import run
from experiments.training import choices
from experiments.wandb_dashboard.panels import GROUP, METHODS, STEP, SWEPT

REPOSITORY = Path(__file__).resolve().parents[3]
Compose = Callable[..., DictConfig]


def pixel_count(grid: list[dict[str, int]]) -> int:
    return len(
        {(x, y) for at in grid for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
    )


# --- The names ------------------------------------------------------------------------------------------------------------


def test_metrics_and_images_are_those_that_runs_log(compose_train: Compose, tmp_path: Path) -> None:
    """Trains for two batches, and reads the files that are left behind."""
    logged: set[str] = set()
    images: set[str] = set()
    for mix in ("puzzlemix", "manifold"):
        summary = run(
            compose_train(
                f"mix={mix}",
                "epochs=1",
                "model.width=4",
                "trainer=cpu",
                "trainer.limit_train_batches=2",
                "trainer.limit_val_batches=1",
                "trainer.limit_test_batches=1",
                "trainer.log_every_n_steps=1",
            )
        )
        logs = (tmp_path / "run").rename(tmp_path / mix) / "logs"
        logged |= set((logs / "metrics.csv").read_text().splitlines()[0].split(","))
        images |= {f"{path.name.split('_step_')[0]}/mix" for path in (logs / "images").glob("*.png")}
        logged |= set(logged_results.summary_scores(summary))
    # The other two log as manifold mixup does, under names of their own.
    for baseline in (pm.MixUpCallback.name, pm.CutMixCallback.name):
        logged |= {name.replace("manifoldmix/", f"{baseline}/") for name in logged}
        images |= {name.replace("manifoldmix/", f"{baseline}/") for name in images}
    specs = write_specs(tmp_path)
    shown = panels(specs, "Run History Line Plot") + panels(specs, "Bar Chart")
    curves_and_bars = {metric for panel in shown for metric in panel["metrics"]}
    axes = {panel["xAxis"] for panel in panels(specs, "Run History Line Plot")}
    assert axes == {"epoch", STEP}
    known = logged | set(reporting.scalars(evaluation()))
    assert curves_and_bars <= known
    # And nothing of the mixing was forgotten.
    assert {name for name in logged if name.split("/")[0] in METHODS} <= curves_and_bars
    scatters = {panel["yAxis"] for panel in panels(specs, "Scatter Plot")}
    assert scatters == {"summary:val_accuracy"}
    assert {panel["targetKey"] for panel in panels(specs, "Parameter Importance")} == {"val_accuracy"}
    assert "val_accuracy" in logged
    assert {key for key in image_keys(specs) if key.endswith("/mix")} == images


@pytest.mark.usefixtures("offline_wandb")
def test_runs_log_their_steps_under_the_axis_of_the_plots(tmp_path: Path) -> None:
    with ended_wandb_run():
        logger = build_wandb_logger(str(tmp_path / "run"), project="p", name="n")
        logger.log_metrics({"puzzlemix/ratio": 0.5}, step=7)
        logged = dict(logger.experiment.summary)
    curves = panels(write_specs(tmp_path), "Run History Line Plot")
    axes = [panel["xAxis"] for panel in curves if "puzzlemix/ratio" in panel["metrics"]]
    assert axes
    assert [logged[axis] for axis in axes] == [7] * len(axes)


def test_charts_and_tables_are_those_that_are_logged(tmp_path: Path) -> None:
    few, many = (logged_results.wandb_charts(outcome(classes)) for classes in (3, 51))
    logged = {**few, **reporting.wandb_charts(evaluation())}
    for spec in write_specs(tmp_path).values():
        charts = panels(spec, "Vega2")
        assert len(charts) == 5
        for panel in charts:
            key = table_of(panel).removesuffix("_table")
            logged[key].set_key(key)
            wanted = logged[key].spec.config_value["panel_config"]
            assert table_of(panel) == table_of(wanted) == logged[key].spec.table_key
            assert panel["panelDefId"] == wanted["panelDefId"]
            assert panel["fieldSettings"] == wanted["fieldSettings"]
            assert panel["stringSettings"].keys() == wanted["stringSettings"].keys()
            assert panel["stringSettings"].get("xname") == wanted["stringSettings"].get("xname")
            assert set(panel["fieldSettings"].values()) <= set(logged[key].table.columns)
        names = {name for name in image_keys(spec) if not name.endswith("/mix")}
        assert names - {reporting.PLOT} == {name for name, value in many.items() if isinstance(value, wandb.Image)}
        for table in ("test/most_confused", "test/classes"):
            assert isinstance(logged[table], wandb.Table)
            assert json.dumps(spec).count(f'"{table}"') == 1


def image_keys(specs: Any) -> set[str]:
    return {name for panel in panels(specs, "Media Browser") for name in panel["mediaKeys"]}


def table_of(panel: dict[str, Any]) -> str:
    (key,) = {node["value"] for node in walk(panel) if node.get("name") == "tableKey"}
    return key


def outcome(classes: int) -> TestResults:
    bins = CalibrationCurve(
        np.array([0.0, 0.5, 1.0]), np.array([0, 9]), np.array([np.nan, 0.7]), np.array([np.nan, 0.6])
    )
    confusion = np.arange(classes**2, dtype=np.int64).reshape(classes, classes) % 4
    return TestResults(tuple(f"c{index}" for index in range(classes)), confusion, bins)


def evaluation() -> EvaluationResults:
    scores = AttackScores(eps=0.1, accuracy=0.5, images=2, seconds=1.0)
    corruptions = CorruptionScores(root="c", accuracy={"fog": dict.fromkeys(range(1, 6), 0.5)})
    attacks = ("fgsm_4", "fgsm_8", "pgd_20")
    return EvaluationResults(facts={}, attacks=dict.fromkeys(attacks, scores), corruptions=corruptions)


def test_the_attacks_are_among_the_defaults_of_evaluate(tmp_path: Path) -> None:
    defaults = yaml.safe_load((REPOSITORY / "conf" / "evaluate.yaml").read_text())["attacks"]
    shown = {metric for panel in panels(write_specs(tmp_path), "Bar Chart") for metric in panel["metrics"]}
    attacks = {name for name in shown if name.startswith("robustness/")} - {"robustness/corrupted"}
    assert len(attacks) == 2
    assert attacks <= {f"robustness/{name}" for name in defaults}


def test_settings_are_those_of_the_run_config(compose_train: Compose) -> None:
    given = [f"{key}=0.5" for key in SWEPT]
    logged: list[Spec] = []
    # A logger of neither of the kinds that get something else.
    logged_results.log_settings(
        [SimpleNamespace(log_hyperparams=logged.append)],  # type: ignore[list-item]
        compose_train("mix=puzzlemix", *given),
        choices(),
    )
    for key in (*GROUP, *SWEPT):
        value: Any = logged[0]
        for part in key.split("."):
            value = value[part]
        assert value is not None, key
        assert key not in SWEPT or value == 0.5, key


def test_every_setting_that_a_sweep_changes_has_a_plot(tmp_path: Path) -> None:
    swept: set[str] = set()
    for path in (REPOSITORY / "conf" / "sweep").glob("*.yaml"):
        swept |= set(yaml.safe_load(path.read_text())["hydra"].get("sweeper", {}).get("params", {}))
    searched = yaml.safe_load((REPOSITORY / "conf" / "sweep" / "optuna.yaml").read_text())["hydra"]["sweeper"]["params"]
    report = write_specs(tmp_path)["report"]
    plotted = {panel["xAxis"] for panel in panels(report, "Scatter Plot")}
    # W&B keeps a setting under "value" after its first name.
    assert {f"config:{key.replace('.', '.value.', 1)}" for key in swept - {"seed", "mix", "ablation"}} <= plotted
    (parallel,) = panels(report, "Parallel Coordinates Plot")
    columns = [column["accessor"] for column in parallel["columns"]]
    assert columns == [*(f"config:{key.replace('.', '.value.', 1)}" for key in searched), "summary:val_accuracy"]


# --- The spec -------------------------------------------------------------------------------------------------------------


def test_wandb_reads_the_specs_back(tmp_path: Path) -> None:
    specs = write_specs(tmp_path, "--entity", "me", "--project", "p", "--name", "view")
    workspace = ws.Workspace._from_model(View.model_validate(specs["workspace"]))
    report = wr.Report._from_model(ReportViewspec.model_validate(specs["report"]))
    assert [section.name for section in workspace.sections] == [
        "Accuracy",
        "Calibration",
        "Mixing",
        "Test in detail",
        "Robustness",
    ]
    assert (workspace.entity, workspace.project, workspace.name) == ("me", "p", "view")
    assert (report.entity, report.project) == ("me", "p")
    grids = [block for block in report.blocks if isinstance(block, wr.PanelGrid)]
    everything = [panel for part in (*workspace.sections, *grids) for panel in part.panels]
    assert len(everything) == sum("viewType" in node for node in walk(specs))
    assert not any(isinstance(panel, (UnknownPanel, UnknownBlock)) for panel in [*everything, *report.blocks])
    assert isinstance(report.blocks[0], wr.TableOfContents)
    for block, following in zip(report.blocks, report.blocks[1:], strict=False):
        assert not (isinstance(block, wr.H2) and isinstance(following, wr.H2)), block.text


def test_panels_lie_beside_each_other(tmp_path: Path) -> None:
    groups = [
        node["panels"]
        for node in walk(write_specs(tmp_path))
        if isinstance(node.get("panels"), list) and node["panels"]
    ]
    assert len(groups) > 10
    for group in groups:
        layouts = [panel["layout"] for panel in group]
        assert pixel_count(layouts) == sum(layout["w"] * layout["h"] for layout in layouts)
        assert max(layout["x"] + layout["w"] for layout in layouts) <= 24


def test_means_and_deviations_over_the_seeds_of_each_group(tmp_path: Path) -> None:
    specs = write_specs(tmp_path, "--data", "cifar100")
    for panel in panels(specs, "Run History Line Plot") + panels(specs, "Bar Chart"):
        assert (panel["groupAgg"], panel["groupArea"]) == ("mean", "stddev")
    groups = [{"section": "config", "name": f"choices.value.{key}"} for key in ("data", "model", "mix", "ablation")]
    runsets = [runset for node in walk(specs) for runset in node.get("runSets", [])]
    assert [runset["grouping"] for runset in runsets if runset["name"] == "Run set"] == [groups]
    assert len({runset["id"] for runset in runsets}) == len(runsets)
    for node in walk(specs["report"]):
        for runset in node.get("runSets", []):
            filters = [(each["key"]["name"], each["op"], each["value"]) for each in runset["filters"]["filters"]]
            assert filters[0] == ("choices.value.data", "=", "cifar100")
            bars = panels(node, "Bar Chart")
            assert filters[1:] == ([("state", "=", "finished")] if bars else [])
            assert runset["grouping"] == groups or (runset["name"] == "Single runs" and not bars)


def test_dry_run_writes_a_file_each_or_one_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(["--dry-run", "--name", "[b]view[/b]"])
    printed = capsys.readouterr().out
    names = {"workspace": "[b]view[/b]", "report": "Puzzle Mix: mixing methods compared"}
    for part, name in names.items():
        assert f"dashboard_{part}.json" in printed
        spec = json.loads((tmp_path / f"dashboard_{part}.json").read_text())
        assert spec["displayName"] == name
        assert len([node for node in walk(spec) if "viewType" in node]) > 30
    main(["--dry-run", "--only", "report", "--output", "folder/both.json"])
    assert json.loads((tmp_path / "folder" / "both.json").read_text()).keys() == {"report"}
