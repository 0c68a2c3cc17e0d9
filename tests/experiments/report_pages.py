"""Runs with all that a report may show, and a reader of the page."""

import base64
import io
import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from made_up_runs import make_run
from PIL import Image
from pytorch_lightning.loggers import CSVLogger

from experiments.html_report import write_report
from experiments.robustness.results import CorruptionScores
from experiments.runs.summary import AccuracyByEpoch
from experiments.test_results.results import CalibrationCurve, TestResults

# Names that would be markup, a formula, or a script.
CLASSES = ("<b>cat</b> & dog", "a $x_1$ b", "</script><script>alert(1)</script>", "plain")
CONFUSION = np.array([[7, 3, 0, 0], [1, 8, 0, 1], [0, 0, 5, 0], [0, 0, 0, 0]])
VOID = {"meta", "link", "img", "br", "hr", "input"}


def log_metrics(folder: Path, *, epochs: int = 4, batches: int = 5, offset: float = 0.0, tested: bool = True) -> None:
    """What the study logs, by Lightning's own logger: metrics of two steps an epoch, of the epochs, and of the test."""
    logger = CSVLogger(folder, name="logs", version="", flush_logs_every_n_steps=1)
    for epoch in range(epochs):
        for batch in (1, 3):
            step = epoch * batches + batch
            mixing = {"ratio": 0.1 * epoch + 0.01 * batch, "mask_entropy": 0.5, "moved_blocks": 0.25}
            mixing |= {"retained_saliency": 0.8, "retained_saliency_cutmix": 0.5, "saliency_seconds": 0.2}
            named = {f"puzzlemix/{name}": value for name, value in mixing.items()}
            logger.log_metrics({**named, "epoch": epoch}, step=step)
        end = {"train_loss": 2.0 / (epoch + 1), "train_accuracy": 0.1 * epoch, "val_accuracy": 0.2 * epoch + offset}
        end |= {"val_nll": 1.0 + epoch, "test_accuracy": 0.15 * epoch, "lr": 0.1, "epoch_seconds": 3.0 + epoch}
        logger.log_metrics({**end, "epoch": epoch}, step=(epoch + 1) * batches - 1)
    if tested:
        logger.log_metrics({"test_accuracy": 0.99, "test_top5": 0.995, "epoch": epochs}, step=epochs * batches)
    logger.save()


def make_test_results() -> TestResults:
    """Four classes, of which the last has no images."""
    nan = float("nan")
    curve = CalibrationCurve(
        edges=np.linspace(0, 1, 4), count=np.array([0, 10, 15]), confidence=np.array([nan, 0.6, 0.9]),
        accuracy=np.array([nan, 0.5, 1.0]),
    )  # fmt: skip
    return TestResults(CLASSES, CONFUSION, curve)


def save_image(path: Path, *, size: tuple[int, int] = (60, 40), seed: int = 0) -> None:
    """A PNG of noise, which no compression makes small."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def save_evaluation(folder: Path, **changes: Any) -> None:
    """An `evaluation.json` with an attack and corrupted images, as `experiments.evaluate` writes it."""
    folder.mkdir(parents=True)
    corrupted = {
        "mine": dict.fromkeys(range(1, 6), 0.5),
        "gaussian_noise": {severity: 0.9 - 0.1 * severity for severity in range(1, 6)},
    }
    content = {
        "checkpoint": "/runs/x/checkpoints/<best>.ckpt", "epoch": 4, "versions": {}, "complete": True, "images": 50,
        "seconds": 3.0, "clean": {
            "accuracy": 0.8125, "top5": None, "calibration_error": 0.0321, "nll": 0.4567, "images": 50, "seconds": 1.0,
        },
        "attacks": {"fgsm_8": {"kind": "fgsm", "eps": 8 / 255, "accuracy": 0.2468, "images": 50, "seconds": 1.0}},
        "corruptions": CorruptionScores(root="/data", images=50, accuracy=corrupted).model_dump(),
        **changes,
    }  # fmt: skip
    (folder / "evaluation.json").write_text(json.dumps(content))


def make_full(folder: Path) -> Path:
    """A run with everything that a run can leave."""
    by_epoch = AccuracyByEpoch(best=0.9371, last=0.9123, median_last_10=0.9222)
    make_run(folder, accuracy=0.9123, by_epoch=by_epoch, calibration_error=0.0317, top5=0.99)
    log_metrics(folder)
    make_test_results().save(folder / "test_results.json")
    save_evaluation(folder / "evaluation")
    save_image(folder / "evaluation" / "evaluation.png", size=(70, 30))
    save_image(folder / "images.png", size=(80, 50))
    for step in (0, 9, 100, 20, 30):
        save_image(folder / f"logs/images/puzzlemix_step_{step:08d}.png", size=(40 + step, 40), seed=step)
    versions = {"python": "3.11.7", "torch": "2.14.1", "cuda": None, "commit": "abc+"}
    (folder / "versions.json").write_text(json.dumps(versions))
    return folder


@dataclass
class ReadTable:
    """A table as it is shown."""

    heads: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)
    sortable: bool = False


class ReadPage(HTMLParser):
    """Everything on a page that a test may ask for; elements that are not closed in order are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = ""
        self.tables: dict[str, ReadTable] = {}
        self.code: dict[str, str] = {}
        self.titles: list[str] = []
        self.captions: list[str] = []
        self.folded: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self._open: list[str] = []
        self._heard: dict[str, str] = {}
        self._table = ReadTable()
        self._caption = ""
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = {key: value or "" for key, value in attrs}
        self.elements.append((tag, attributes))
        if tag not in VOID:
            self._open.append(tag)
        self._heard[tag] = ""
        if tag == "table":
            self._table = ReadTable(sortable="sortable" in attributes.get("class", ""))
        elif tag == "tr":
            self._table.rows.append([])

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_data(self, data: str) -> None:
        if "script" not in self._open and "style" not in self._open:
            self.text += data
        for tag in self._open:
            self._heard[tag] = self._heard.get(tag, "") + data

    def handle_endtag(self, tag: str) -> None:
        heard = self._heard[tag].strip()
        assert self._open.pop() == tag
        if tag == "caption":
            self.tables[heard] = self._table
        elif tag in ("th", "td"):
            self._table.rows[-1].append(heard)
        elif tag == "thead":
            (self._table.heads,) = self._table.rows
            self._table.rows.clear()
        elif tag in ("h1", "h2"):
            self.titles.append(heard)
        elif tag == "summary":
            self.folded.append(heard)
        elif tag == "figcaption":
            self.captions.append(heard)
            self._caption = heard
        elif tag == "pre":
            self.code[self._caption] = heard

    def attributes(self, tag: str) -> list[dict[str, str]]:
        """The attributes of all elements of a kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def files(self) -> list[bytes]:
        """The contents of all images that are no plots."""
        return [_decode(each) for each in self.attributes("img") if "image/svg" not in each["src"]]

    def plot_texts(self) -> list[str]:
        """All texts in plots."""
        plots = [_decode(each) for each in self.attributes("img") if "image/svg" in each["src"]]
        elements = (element for plot in plots for element in ElementTree.fromstring(plot).iter())
        return [element.text or "" for element in elements if element.tag.endswith("}text")]

    def named(self, caption: str) -> list[dict[str, str]]:
        """The attributes of all images whose text alternative has these words."""
        return [each for each in self.attributes("img") if caption in each["alt"]]


def _decode(image: dict[str, str]) -> bytes:
    return base64.b64decode(image["src"].split("base64,")[1])


def size_of(content: bytes) -> tuple[int, int]:
    """Width and height of an image file."""
    with Image.open(io.BytesIO(content)) as image:
        return image.size


def read(folder: Path, **settings: str) -> ReadPage:
    """The report of a folder."""
    return ReadPage(write_report([folder], **settings).read_text(encoding="utf-8"))
