"""The chapters of one run."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from experiments.common.console import short
from experiments.html_report.curves import HOW_TO_READ, callbacks, learning_panels, mixing_panels
from experiments.html_report.embedding import Embedder, is_broad
from experiments.html_report.metrics import Metrics
from experiments.html_report.panels import Panel
from experiments.html_report.parts import Code, Drawing, Drawings, Folded, Part, Section, Table, Text, from_rich
from experiments.html_report.run_contents import EVALUATION, Evaluation, RunFolder, step_of
from experiments.runs.run_folder import SUMMARY
from experiments.runs.summary import summary_table
from experiments.test_results.plots import plot_calibration, plot_confusion, plot_per_class
from experiments.test_results.results import TestResults

# Rows that a reader can take in.
PAIRS, EPOCH_ROWS = 15, 60
TABULATED = (
    ("train_loss", "training loss", 1.0, 4),
    ("train_accuracy", "training accuracy %", 100.0, 2),
    ("val_accuracy", "validation accuracy %", 100.0, 2),
    ("val_nll", "validation nll", 1.0, 4),
    ("val_calibration_error", "validation calibration error %", 100.0, 2),
    ("test_accuracy", "test accuracy %", 100.0, 2),
    ("lr", "learning rate", 1.0, 5),
    ("epoch_seconds", "seconds", 1.0, 2),
)


def run_lead(run: RunFolder) -> list[Part]:
    """What was trained, and how it came out; of an unfinished run that it is not finished, and how to go on."""
    parts: list[Part] = []
    if run.unfinished is not None:
        parts += unfinished_notice(run)
    facts = _facts(run)
    if facts:
        parts.append(Table("What was trained", [], facts, numeric=2))
    if run.summary is not None:
        parts.append(from_rich(summary_table(run.summary), caption="How it came out"))
    return parts


def unfinished_notice(run: RunFolder) -> list[Part]:
    """That there is no outcome, how far the run came, its last words, and the command that goes on with it."""
    if run.unfinished is None:
        return []
    done = run.metrics.epochs if run.metrics else 0
    of = f" of {run.planned_epochs}" if run.planned_epochs else ""
    torn = f" Its {SUMMARY} cannot be read." if (run.path / SUMMARY).exists() else ""
    said = run.unfinished.last_words or "(its log is empty)"
    return [
        Text(f"This run is not finished: it is running, was stopped, or died. {done}{of} epochs are over.{torn}", True),
        Code("Its last words", said),
        Code("To go on with it", run.unfinished.command),
    ]


def _facts(run: RunFolder) -> list[tuple[str, str]]:
    summary = run.summary
    shown = {
        "data": ("data set", f", {summary.train_images} training images" if summary else ""),
        "model": ("network", f", {summary.parameters} trainable numbers" if summary else ""),
        "mix": ("mixing", ""),
        "optimizer": ("optimizer", ""),
        "strategy": ("strategy", ""),
        "experiment": ("experiment", ""),
    }
    facts = [(label, f"{run.choices[group]}{more}") for group, (label, more) in shown.items() if run.choices.get(group)]
    if run.planned_epochs is not None:
        facts.append(("epochs", str(run.planned_epochs)))
    if run.seed is not None:
        facts.append(("seed", str(run.seed)))
    facts.append(("folder", str(short(run.path))))
    return facts


def run_sections(run: RunFolder, embed: Embedder) -> list[Section]:
    """All chapters that the run has something for."""
    sections = []
    if run.metrics is not None:
        drawings = embed_panels(embed, learning_panels(run.metrics))
        if drawings:
            folded = Folded("The same as numbers", [epoch_table(run.metrics)])
            sections.append(Section("Learning curves", [Drawings(drawings), folded]))
        for callback in callbacks(run.metrics):
            drawings = embed_panels(embed, mixing_panels(run.metrics, callback))
            sections.append(Section(f"What {callback} did", [Text(HOW_TO_READ), Drawings(drawings)]))
    if run.images is not None or run.pictures:
        sections.append(Section("Pictures", _pictures(run, embed)))
    if run.outcome is not None:
        sections.append(Section("Test, class by class", _outcome_parts(run.outcome, embed)))
    if run.evaluations:
        parts = [part for each in run.evaluations for part in _evaluation_parts(each, embed)]
        sections.append(Section("Robustness", parts))
    sections.append(Section("How to repeat it", recipe(run)))
    return sections


def embed_panels(embed: Embedder, panels: Sequence[tuple[Panel, Figure]]) -> list[Drawing]:
    """Panels as parts of a page."""
    return [
        Drawing(embed.svg(figure, f"{panel.axis} over epochs: {', '.join(line.label for line in panel.lines)}"), panel.caption)
        for panel, figure in panels
    ]  # fmt: skip


def epoch_table(metrics: Metrics) -> Table:
    """The figures of the epochs; of many epochs every so many, and the last."""
    columns = [
        (head, dict(zip(metrics.by_epoch[name].x, factor * metrics.by_epoch[name].y, strict=True)), digits)
        for name, head, factor, digits in TABULATED
        if name in metrics.by_epoch
    ]
    epochs = sorted({epoch for _, values, _ in columns for epoch in values})
    every = -(-len(epochs) // EPOCH_ROWS)
    # Counted from the last one, which is the one that matters.
    shown = epochs[::-1][::every][::-1]
    rows = [
        [
            f"{epoch:.0f}",
            *(f"{values[epoch]:.{digits}f}" if epoch in values else "-" for _, values, digits in columns),
        ]
        for epoch in shown
    ]
    caption = "Figures of the epochs" if every == 1 else f"Figures of the epochs, {len(shown)} of {len(epochs)}"
    return Table(caption, ["epoch", *(head for head, _, _ in columns)], rows, sortable=True)


def _pictures(run: RunFolder, embed: Embedder) -> list[Part]:
    parts: list[Part] = []
    mixed = bool(run.choices.get("mix")) and run.choices.get("mix") != "none"
    if run.images is not None:
        what = "mixed by the trained model" if mixed else "not mixed"
        parts += _embed_pictures([(run.images, f"Training images, {what}")], embed)
    captions = [(path, _caption(path)) for path in run.pictures]
    chosen = {0, len(captions) // 2, len(captions) - 1} if captions else set()
    parts += _embed_pictures([captions[index] for index in sorted(chosen)], embed)
    others = _embed_pictures([each for index, each in enumerate(captions) if index not in chosen], embed)
    if others:
        parts.append(Folded(f"{len(captions) - len(chosen)} more pictures", others))
    return parts


def _caption(picture: Path) -> str:
    step = step_of(picture)
    name = picture.stem.partition("_step_")[0]
    return f"{name}, a batch of training" if step < 0 else f"{name}, a batch of training after {step} optimizer steps"


def _embed_pictures(pictures: Sequence[tuple[Path, str]], embed: Embedder) -> list[Part]:
    """The pictures, as many as the page has room for, and where the others lie."""
    drawings: list[Drawing] = []
    for path, caption in pictures:
        markup = embed.picture(path, caption)
        if markup is None:
            left = len(pictures) - len(drawings)
            note = f"{left} more pictures would make this page too large; see {short(path.parent)}."
            return [*([Drawings(drawings, wide=True)] if drawings else []), Text(note)]
        drawings.append(Drawing(markup, caption))
    return [Drawings(drawings, wide=True)] if drawings else []


def _outcome_parts(outcome: TestResults, embed: Embedder) -> list[Part]:
    classes = len(outcome.class_names)
    drawn = (
        (plot_confusion(outcome), f"Confusion matrix of {classes} classes", "Which classes were taken for which."),
        (plot_per_class(outcome), "Accuracy of each class", "Accuracy of each class, worst first."),
        (plot_calibration(outcome), "Accuracy over confidence", "How far the model's confidence can be trusted."),
    )
    parts: list[Part] = []
    for broad in (True, False):
        chosen = [each for each in drawn if is_broad(each[0]) == broad]
        drawings = [Drawing(embed.svg(figure, label), caption) for figure, label, caption in chosen]
        if drawings:
            parts.append(Drawings(drawings, wide=broad))
    pairs = outcome.most_confused(PAIRS)
    if pairs:
        rows = [[pair.true, pair.predicted, str(pair.count), f"{100 * pair.share:.1f}"] for pair in pairs]
        heads = ["true class", "taken for", "images", "% of the class"]
        parts.append(Table("Most confused pairs", heads, rows, numeric=2, sortable=True))
    return [*parts, Folded("Accuracy of each class as numbers", [_class_table(outcome)])]


def _class_table(outcome: TestResults) -> Table:
    accuracy, count = outcome.per_class_accuracy(), outcome.per_class_count()
    rows = [
        [name, "-" if np.isnan(share) else f"{100 * share:.2f}", str(images)]
        for name, share, images in zip(outcome.class_names, accuracy, count, strict=True)
    ]
    return Table("Accuracy of each class", ["class", "accuracy %", "test images"], rows, sortable=True)


def _evaluation_parts(evaluation: Evaluation, embed: Embedder) -> list[Part]:
    report = evaluation.report
    parts: list[Part] = []
    if not report.complete:
        parts.append(
            Text(f"{evaluation.folder}/{EVALUATION} is not complete: the evaluation is running or died.", True)
        )
    checkpoint, epoch = report.facts.get("checkpoint"), report.facts.get("epoch")
    of = f"Of {checkpoint}" if checkpoint else "Of an unknown checkpoint"
    parts.append(Text(of + (f", after {epoch} epochs." if epoch is not None else ".")))
    tables = [from_rich(table) for table in report.tables(evaluation.folder)]
    parts += [table for table in tables if table.rows]
    if evaluation.picture is not None:
        parts += _embed_pictures([(evaluation.picture, f"{evaluation.folder}: accuracies")], embed)
    return parts


def recipe(run: RunFolder) -> list[Part]:
    """The command, the settings and the versions."""
    parts: list[Part] = [Code("To run it again, in a new folder", run.command)]
    given = [str(each) for each in run.overrides]
    parts.append(
        Code("What the command line set", "\n".join(given))
        if given
        else Text("The command line set nothing: all defaults.")
    )
    if run.config:
        parts.append(Folded("All settings", [Code("config.yaml", run.config)]))
    if run.versions:
        rows = [(name, "-" if version is None else str(version)) for name, version in run.versions.items()]
        parts.append(Folded("Versions", [Table("What it was made with", [], rows, numeric=2)]))
    return parts
