"""`python -m experiments.show_mixing` plots what `puzzle_mix` makes of the images with the given options."""

import dataclasses
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import launch, without_other_extras
from matplotlib.figure import Figure
from PIL import Image

import experiments.show_mixing
import lightning_puzzlemix as pm
from experiments.show_mixing import HYPERPARAMETERS, NOT_OPTIONS, build_parser, main
from lightning_puzzlemix.saliency import spectral_saliency

SIDE = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three images of random patches, a.png to c.png."""
    random = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for name in "abc":
        patches = random.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        Image.fromarray(patches).save(tmp_path / "images" / f"{name}.png")
    return tmp_path / "images"


def pixels_of(folder: Path) -> torch.Tensor:
    arrays = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


@pytest.fixture
def plotted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[pm.MixedBatch, dict[str, Any]]]:
    """The arguments of plot_mixes, which is not called."""
    kept: list[tuple[pm.MixedBatch, dict[str, Any]]] = []

    def plot(mixed: pm.MixedBatch, **options: Any) -> Figure:
        kept.append((mixed, options))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(experiments.show_mixing, "plot_mixes", plot)
    return kept


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would be saved."""
    kept: list[Figure] = []
    monkeypatch.setattr(experiments.show_mixing, "save_figure", lambda figure, path, dpi: kept.append(figure))
    return kept


def by_hand(
    images: torch.Tensor, partners: list[int], lam: float = 0.5, blocks: int = 8, **config: Any
) -> pm.MixResult:
    return pm.puzzle_mix(
        images,
        spectral_saliency(images).saliency,
        permutation=torch.tensor(partners),
        lam=lam,
        blocks_per_side=blocks,
        config=pm.PuzzleMixConfig(**config),
    )


def config_of(*arguments: str) -> pm.PuzzleMixConfig:
    options = build_parser().parse_args(arguments)
    return pm.PuzzleMixConfig(**{name: options[name] for name in HYPERPARAMETERS})


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_images_are_mixed_with_the_next_by_the_options(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    options = "--size 32 --lam 0.3 --blocks 4 --beta 0.5 --gamma 0 --eta 0.1 --num_labels 2 --transport_cost 0.05"
    assert run(folder, *options.split(), "--output", tmp_path / "made" / "mix.png") == 0
    mixed, plot_options = plotted[0]
    settings = {"beta": 0.5, "gamma": 0.0, "eta": 0.1, "num_labels": 2, "transport_cost": 0.05}
    expected = by_hand(pixels_of(folder), [1, 2, 0], 0.3, 4, **settings)
    assert torch.equal(mixed.originals, pixels_of(folder)[[0, 1, 2, 1, 2, 0]])
    assert torch.equal(mixed.images[:3], expected.images)
    assert torch.equal(mixed.mask[:3], expected.mask)
    assert 0 < float(expected.ratio.mean()) < 1
    # Each image has a class of its own, mixed by the ratio.
    ratio, classes = expected.ratio[:, None], torch.eye(6)
    torch.testing.assert_close(mixed.targets[:3], ratio * classes[:3] + (1 - ratio) * classes[3:])
    assert (plot_options["class_names"], plot_options["rows"]) == (list("abcbca"), 3)
    assert mixed.mean is None
    assert (tmp_path / "made" / "mix.png").is_file()


def test_only_the_plotted_rows_are_read(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    (folder / "c.png").write_text("not an image")
    assert run(folder, "--size", SIDE, "--rows", 1, "--output", tmp_path / "mix.png") == 0
    mixed, options = plotted[0]
    assert options["rows"] == 1
    assert mixed.draw.permutation.tolist()[0] == 1
    (folder / "c.png").unlink()
    assert torch.equal(mixed.images[0], by_hand(pixels_of(folder), [1, 0]).images[0])


def test_one_pair_can_be_chosen(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    assert run(folder, "--size", SIDE, "--row", 3, "--output", tmp_path / "mix.png") == 0
    mixed, options = plotted[0]
    assert (options["rows"], options["titles"]) == (1, ["c", "a"])
    assert torch.equal(mixed.images[0], by_hand(pixels_of(folder), [2, 2, 0]).images[2])


def test_random_pairs_are_determined_by_the_seed(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    for seed in (0, 0, 1, 2, 3):
        assert run(folder, "--size", SIDE, "--seed", seed, "--output", tmp_path / "mix.png") == 0
    partners = ["".join(options["titles"][3:]) for _, options in plotted]
    assert partners[0] == partners[1]
    assert set(partners) == {"bca", "cab"}


def test_height_and_width_may_differ(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    assert run(folder, "--size", "20x30", "--output", tmp_path / "mix.png") == 0
    assert plotted[0][0].images.shape == (6, 3, 20, 30)


def test_every_hyperparameter_is_an_option_with_the_default_and_the_text_of_the_config() -> None:
    assert {*HYPERPARAMETERS, *NOT_OPTIONS} == {field.name for field in dataclasses.fields(pm.PuzzleMixConfig)}
    assert config_of("--examples") == pm.PuzzleMixConfig()
    text = " ".join(build_parser().format_help().split())
    for name in HYPERPARAMETERS:
        assert f"--{name} " in text
    assert "Price of moving a block across the image, in [0, 1e6], in units of saliency" in text


def test_options_reach_the_config() -> None:
    given = "--num_labels 5 --beta 2 --gamma 0.25 --eta 0 --neighborhood_size 2 --transport false --transport_size 7"
    given += " --transport_cost 1.5 --solver gco --threads 2"
    found = config_of("--examples", *given.split())
    assert found == pm.PuzzleMixConfig(
        num_labels=5, beta=2.0, gamma=0.25, eta=0.0, neighborhood_size=2, transport=False, transport_size=7,
        transport_cost=1.5, solver="gco", threads=2,
    )  # fmt: skip
    assert type(found.num_labels) is int
    assert config_of("--transport_size", "null").transport_size is None


def test_blocks_are_lowered_to_small_images(folder: Path, tmp_path: Path, plotted: list[Any]) -> None:
    assert run(folder, "--size", "5x9", "--output", tmp_path / "mix.png") == 0
    assert plotted[0][0].mask.shape == (6, 5, 5)


def run_grid(folder: Path, figures: list[Figure], *options: str) -> tuple[Figure, list[Any], list[np.ndarray]]:
    """Plot a grid of images b and c; return the figure, its mixes and their masks, row by row."""
    assert run(folder, "--size", SIDE, "--row", 2, "--blocks", 4, *options) == 0
    mixes = figures[-1].axes[4:]
    assert all(-mix.get_position().y0 <= -after.get_position().y0 for mix, after in pairwise(mixes))
    return figures[-1], mixes, [np.asarray(axes.child_axes[0].images[0].get_array()) for axes in mixes]


def test_a_grid_of_two_keys_has_the_first_in_rows_and_the_second_in_columns(
    folder: Path, figures: list[Figure]
) -> None:
    options = ("--num_labels", "2", "--beta", "0.4", "--grid", "lam=0.3,0.7", "transport_cost=0,0.1,5")
    figure, mixes, masks = run_grid(folder, figures, *options)
    images = pixels_of(folder)[1:]
    combinations = [(lam, cost) for lam in (0.3, 0.7) for cost in (0.0, 0.1, 5.0)]
    for mix, mask, (lam, cost) in zip(mixes, masks, combinations, strict=True):
        expected = by_hand(images, [1, 0], lam, 4, transport_cost=cost, num_labels=2, beta=0.4)
        np.testing.assert_array_equal(mix.images[0].get_array(), expected.images[0].permute(1, 2, 0))
        np.testing.assert_array_equal(mask, expected.mask[0])
        assert mix.get_xlabel().startswith(f"{float(expected.ratio[0]):.0%} of the first")
    # No two rows and no two costs look the same, or the order would not have been tested.
    assert len({np.asarray(mix.images[0].get_array()).tobytes() for mix in mixes}) == 6
    left = [mix.get_position().x0 for mix in mixes]
    assert left[:3] == pytest.approx(left[3:])
    assert left[:3] == sorted(left[:3])
    assert [mix.get_title() for mix in mixes[:3]] == [f"transport_cost = {cost}" for cost in ("0", "0.1", "5")]
    assert [mix.get_ylabel() for mix in mixes[::3]] == ["lam = 0.3", "lam = 0.7"]
    (legend,) = (text.get_text() for text in figure.texts)
    assert legend.endswith("All with blocks 4, num_labels 2, beta 0.4.")


def test_retained_saliency_is_that_of_the_visible_blocks(folder: Path, figures: list[Figure]) -> None:
    options = ("--transport", "false", "--num_labels", "2", "--grid", "eta=0,0.2")
    _, mixes, _ = run_grid(folder, figures, *options)
    images = pixels_of(folder)[1:]
    for mix, eta in zip(mixes, (0.0, 0.2), strict=True):
        expected = by_hand(images, [1, 0], 0.5, 4, transport=False, num_labels=2, eta=eta)
        # Without transport each image's saliency stays where the mask shows the image.
        shown = expected.mask[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
        first, second = (each / each.sum() for each in spectral_saliency(images).saliency)
        retained = float(((first * shown).sum() + (second * (1 - shown)).sum()) / 2)
        label = re.search(r"\n(\d+)% of the saliency", mix.get_xlabel())
        assert label is not None
        assert abs(int(label[1]) - 100 * retained) <= 0.51
        assert "moved" not in mix.get_xlabel()


def test_above_a_grid_are_the_two_images_and_their_saliency(folder: Path, figures: list[Figure]) -> None:
    figure, mixes, masks = run_grid(folder, figures, "--grid", "blocks=2,4,8", "transport=true,false")
    images = pixels_of(folder)[1:]
    found = [axes.images[0].get_array() for axes in figure.axes[:4]]
    for which in range(2):
        np.testing.assert_array_equal(found[2 * which], images[which].permute(1, 2, 0))
        np.testing.assert_allclose(found[2 * which + 1], spectral_saliency(images).saliency[which])
    assert [axes.get_title() for axes in figure.axes[:4:2]] == ["first: b", "second: c"]
    assert [mask.shape for mask in masks][::2] == [(2, 2), (4, 4), (8, 8)]
    assert ["moved" in axes.get_xlabel() for axes in mixes] == 3 * [True, False]


def test_a_grid_plots_the_chosen_pair(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "grid.svg"
    assert run(folder, "--size", SIDE, "--grid", "beta=0.4,1.2", "--row", 3, "--output", output) == 0
    assert "first: c" in output.read_text()
    assert "second: a" in output.read_text()


@pytest.mark.parametrize(("arguments", "facts"), [
    ("", "at least 2 images, got 0; name IMAGES, a folder of them, or --examples"),
    ("gone.png a.png", "no file or folder"),
    ("a.png", "at least 2 images, got 1"),
    ("a.png b.png --grid betta=1", "grid betta=1 lam|blocks|num_labels|beta"),
    ("a.png b.png --grid alpha=1", "grid alpha=1 lam|blocks"),
    ("a.png b.png --grid beta=high", "beta float high"),
    ("a.png b.png --grid beta=1,", "beta float"),
    ("a.png b.png --grid num_labels=2.5", "num_labels int 2.5"),
    ("a.png b.png --grid transport=maybe", "transport bool maybe"),
    ("a.png b.png --grid transport_size=big", "transport_size int None big"),
    ("a.png b.png --grid solver=magic", "solver 'exact' 'gco' 'magic'"),
    ("a.png b.png --grid gamma=0.5,2", "gamma must be finite and in [0, 1], got 2.0"),
    ("a.png b.png --grid lam=0.5,1.5", "lam 1.5 v>=0 and v<=1"),
    ("a.png b.png --grid blocks=4,33", "--blocks must be at most the shorter image side 32, got 33"),
    ("a.png b.png --grid beta=1,2 eta=0 gamma=0", "--grid takes one or two different keys, got beta=1,2 eta=0 gamma=0"),
    ("a.png --grid beta=1,2 b.png", "grid element b.png"),
    ("a.png b.png --grid beta=1 beta=2", "--grid takes one or two different keys"),
    ("a.png b.png --grid beta=1 --row 3", "--row must be from 1 to the number of images, 2, got 3"),
    ("a.png b.png --grid beta=1 --rows 3", "choose it by --row"),
    ("a.png b.png --row 2 --rows 3", "choose it by --row"),
    ("a.png b.png --rows 0", "rows 0 v>0"),
    ("a.png b.png --seed -1", "seed -1 v>=0"),
    ("a.png b.png --beta -1", "beta must be finite and >= 0, got -1.0"),
    ("a.png b.png --bata 1", "--bata"),
    ("a.png b.png --blocks 0", "blocks 0 v>0"),
    ("a.png b.png --blocks 40", "--blocks at most 32, got 40; enlarge --size"),
    ("a.png b.png --saliency gradient", "--saliency gradient needs a network: add a --checkpoint"),
    ("a.png b.png --checkpoint gone", "there is no"),
    ("a.png b.png --output mix.doc", "output mix.doc png"),
    ("a.png b.png --output a.png/mix.png", "cannot be written"),
])  # fmt: skip
def test_mistakes_end_in_a_message(
    arguments: str, facts: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(*arguments.split(), "--size", SIDE) == 1
    printed = capsys.readouterr().out
    assert facts in printed or all(word in printed for word in facts.split())
    assert "Traceback" not in printed
    assert {path.name for path in folder.iterdir()} == {"a.png", "b.png", "c.png"}


def test_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    blocked = without_other_extras(tmp_path / "blocked")
    output = ("--output", str(tmp_path / "mix.png"))
    done = launch("show_mixing", "--examples", "--size", "64", "--rows", "2", *output, **blocked)
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "mix.png") in done.stdout
    with Image.open(tmp_path / "mix.png") as picture:
        assert min(picture.size) > 400
