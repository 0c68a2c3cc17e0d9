"""Reports of runs that lack something: unfinished, unreadable, with little in their folder; and the command line."""

import json
import shlex
from pathlib import Path

import pytest
from made_up_runs import make_run, make_unfinished
from omegaconf import OmegaConf
from report_pages import ReadPage, log_metrics, make_full, make_test_results, read, save_image

from experiments.common.errors import UserError
from experiments.html_report import write_report
from experiments.html_report.curves import read_metrics, values_by_epoch
from experiments.report import main
from experiments.sweep_results.runs import find_runs

NASTY = "<script>alert('x')</script> & $\\frac$"


def test_a_test_at_the_end_alone_is_a_point_there(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,train_loss,test_accuracy\n0,9,2.0,\n1,19,1.0,\n2,20,,0.75\n")
    assert values_by_epoch(read_metrics(path), "test_accuracy") == {2.0: 0.75}


def test_the_line_that_is_being_written_and_the_epoch_that_is_running(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,cutmix/ratio,train_loss,lr\n0,9,,2.0,0.2\n1,10,,,0.1\n1,14,0.5,,\n1,19,0.7,,\n1,24,0.9")
    metrics = read_metrics(path)
    assert values_by_epoch(metrics, "train_loss") == {1.0: 2.0}
    assert values_by_epoch(metrics, "lr") == {1.0: 0.2}
    assert metrics["cutmix/ratio"].tolist() == [[2, 14, 0.5], [2, 19, 0.7]]
    path.write_text("epoch,step\n")
    assert read_metrics(path) == read_metrics(tmp_path / "absent.csv") == {}


def test_images_beyond_the_most_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full = make_full(tmp_path / "run")
    monkeypatch.setattr("experiments.html_report.page.MAX_IMAGES", 1)
    page = read(full)
    assert len(page.files()) == 6
    assert f"1 more images are in {full / 'logs/images'}" in page.text


def test_how_to_reproduce_it(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run", settings={"mix.config.beta": 0.4, "data.root": "/a b"}, choices={"mix": "none"})
    page = read(folder)
    command = shlex.split(page.code["Run it again in a new folder"])
    given = ["seed=0", "mix=none", "mix.config.beta=0.4", "data.root=/a b"]
    assert command == ["python", "-m", "experiments.train", *given]
    assert page.code["Settings of the command line"].splitlines() == given
    assert OmegaConf.create(page.code["config.yaml"]) == OmegaConf.load(folder / "config.yaml")
    sweep = make_run(tmp_path / "job", settings={"sweep": "grid", "resume": "auto"})
    again = shlex.split(read(sweep).code["Run it again in a new folder"])
    assert again[3:] == ["seed=0", "sweep=grid", "hydra.mode=RUN"]


def test_whatever_is_missing_is_left_out(tmp_path: Path) -> None:
    page = read(make_run(tmp_path / "run"))
    assert page.titles[1:] == ["Contents", "Reproduce this run"]
    assert not page.attributes("img")
    assert "Versions" not in page.folded


def test_text_of_users_is_only_text(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "a<b>&c", settings={"note": NASTY})
    summary = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps({**summary, "name": NASTY}))
    (folder / "versions.json").write_text(json.dumps({NASTY: NASTY}))
    make_test_results().save(folder / "test_results.json")
    log_metrics(folder)
    page = read(folder, title=f"{NASTY} title")
    assert page.titles[0] == f"{NASTY} title"
    assert page.tables["Versions of Python and packages"].rows == [[NASTY, NASTY]]
    # The page's own, and no other.
    assert len(page.attributes("script")) == 1
    assert not page.attributes("b")
    # A name with dollars is shown as it is, not as a formula.
    assert "a $x_1$ b" in page.plot_texts()
    assert not [key for _, attributes in page.elements for key in attributes if key.startswith("on")]


def test_an_unfinished_run_is_shown_as_far_as_it_has_come(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    make_unfinished(folder, "mix=cutmix", "epochs=30", error="Traceback\ndied: KeyError: '<a>'\n")
    OmegaConf.save(OmegaConf.create({"name": "digits_cutmix", "seed": 3, "epochs": 30}), folder / "config.yaml")
    log_metrics(folder, tested=False)
    save_image(folder / "logs/images/cutmix_step_00000000.png")
    (folder / "summary.json").write_text('{"seed": 3, "na')
    page = read(folder)
    assert page.titles[0] == "digits_cutmix, seed 3"
    assert "This run is not finished" in page.text
    assert "4 of 30 epochs are done. Its summary.json cannot be read." in page.text
    assert page.code["Last message"] == "died: KeyError: '<a>'"
    (unfinished,) = find_runs([folder])[1]
    assert page.code["Resume with"] == unfinished.command
    assert page.titles[2:] == ["Learning curves", "Mixing: puzzlemix", "Images", "Reproduce this run"]
    assert len(page.tables["Metrics of 4 of 4 epochs"].rows) == 4


def test_a_run_that_failed_at_once(tmp_path: Path) -> None:
    make_unfinished(tmp_path / "run", "mix=cutmix")
    OmegaConf.save(OmegaConf.create({"name": "${data}_x", "seed": 5}), tmp_path / "run/.hydra/config.yaml")
    page = read(tmp_path / "run")
    assert page.titles[0] == "run, seed 5"
    assert "0 epochs are done" in page.text
    assert page.code["Last message"] == "(its log is empty)"


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("logs/metrics.csv", "epoch,step,train_loss\n0,1,abc\n"),
        ("test_results.json", '{"class_names": ["a"'),
        ("test_results.json", '{"class_names": ["a"], "confusion": {"true": [5], "predicted": [0], "count": [1]}}'),
        ("versions.json", "[]"),
        ("evaluation/evaluation.json", "{}"),
        ("images.png", "no image"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, file: str, content: str) -> None:
    full = make_full(tmp_path / "run")
    (full / file).write_text(content)
    with pytest.raises(UserError, match=r"for a report without") as caught:
        write_report([full])
    assert str(full / file) in str(caught.value)
    assert not (full / "report.html").exists()


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_run(tmp_path / "runs/[red]1")
    main(["runs/[red]1"])
    assert capsys.readouterr().out == "report  runs/[red]1/report.html\n"
    assert ReadPage(Path("runs/[red]1/report.html").read_text()).titles[0] == "digits_puzzlemix, seed 0"
    main(["runs", "--output", "new/page.html", "--title", "Mine"])
    assert capsys.readouterr().out == "report  new/page.html\n"
    assert ReadPage(Path("new/page.html").read_text()).titles[0] == "Mine"
    (tmp_path / "empty").mkdir()
    for arguments, hint in (
        (["empty"], "No runs found in empty"),
        (["absent"], "DIR must be a folder, got absent"),
        (["runs", "--output", "new"], "--output must be a file, got new"),
    ):
        with pytest.raises(SystemExit, match=r"^1$"):
            main(arguments)
        assert hint in " ".join(capsys.readouterr().out.split())
    with pytest.raises(SystemExit):
        main(["--help"])
    assert "needs no network" in capsys.readouterr().out
