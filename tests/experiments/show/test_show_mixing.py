"""What `python -m experiments.show_mixing` shows is what `puzzle_mix` makes of the pictures with the options given."""

import dataclasses
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import launch
from matplotlib.figure import Figure
from PIL import Image

import experiments.show_mixing
import lightning_puzzlemix as pm
from experiments.show.grid import draw_grid
from experiments.show.image_files import Picture
from experiments.show.options import GIVEN_OTHERWISE, Settings, option_types, read_grid
from experiments.show.prepared_images import PreparedImages, prepare
from experiments.show.saliency_model import SaliencyModel
from experiments.show_mixing import build_parser, choose_settings, main
from lightning_puzzlemix.saliency.spectral import spectral_saliency

SIDE = 32


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures of random patches, a.png to c.png."""
    random = np.random.default_rng(0)
    for name in "abc":
        patches = random.integers(0, 256, (8, 8, 3)).astype(np.uint8).repeat(4, axis=0).repeat(4, axis=1)
        (tmp_path / "pictures").mkdir(exist_ok=True)
        Image.fromarray(patches).save(tmp_path / "pictures" / f"{name}.png")
    return tmp_path / "pictures"


def pixels_of(folder: Path) -> torch.Tensor:
    arrays = [np.asarray(Image.open(path)) for path in sorted(folder.iterdir())]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2) / 255


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[pm.MixedBatch, dict[str, Any]]]:
    """What the command line hands over to be drawn."""
    kept: list[tuple[pm.MixedBatch, dict[str, Any]]] = []

    def draw(mixed: pm.MixedBatch, **options: Any) -> Figure:
        kept.append((mixed, options))
        return Figure(figsize=(1, 1))

    monkeypatch.setattr(experiments.show_mixing, "plot_mixes", draw)
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


def run(*arguments: object) -> int:
    return main([str(each) for each in arguments])


def test_pictures_are_mixed_with_the_next_by_the_options(folder: Path, tmp_path: Path, drawn: list[Any]) -> None:
    options = "--size 32 --lam 0.3 --blocks 4 --beta 0.5 --gamma 0 --eta 0.1 --num-labels 2 --transport-cost 0.05"
    assert run(folder, *options.split(), "--output", tmp_path / "made" / "mix.png") == 0
    mixed, told = drawn[0]
    settings = {"beta": 0.5, "gamma": 0.0, "eta": 0.1, "num_labels": 2, "transport_cost": 0.05}
    expected = by_hand(pixels_of(folder), [1, 2, 0], 0.3, 4, **settings)
    assert torch.equal(mixed.originals, pixels_of(folder))
    assert torch.equal(mixed.images, expected.images)
    assert torch.equal(mixed.mask, expected.mask)
    assert 0 < float(expected.ratio.mean()) < 1
    # A class a picture, mixed by the ratio.
    ratio, classes = expected.ratio[:, None], torch.eye(3)
    torch.testing.assert_close(mixed.targets, ratio * classes + (1 - ratio) * classes[[1, 2, 0]])
    assert (told["class_names"], told["rows"], told["targets"].tolist()) == (("a", "b", "c"), 3, [0, 1, 2])
    assert told["mean"] is None
    assert (tmp_path / "made" / "mix.png").is_file()


def test_only_the_rows_that_are_drawn_are_read(folder: Path, tmp_path: Path, drawn: list[Any]) -> None:
    (folder / "c.png").write_text("never looked at")
    assert run(folder, "--size", SIDE, "--rows", 1, "--output", tmp_path / "mix.png") == 0
    mixed, told = drawn[0]
    assert told["rows"] == 1
    assert mixed.draw.permutation.tolist()[0] == 1
    (folder / "c.png").unlink()
    assert torch.equal(mixed.images[0], by_hand(pixels_of(folder), [1, 1]).images[0])


def test_random_pairs_are_fixed_by_the_seed(folder: Path, tmp_path: Path, drawn: list[Any]) -> None:
    for seed in (0, 0, 1, 2, 3):
        more = ("--pairs", "random", "--seed", seed, "--output", tmp_path / "mix.png")
        assert run(folder, "--size", SIDE, *more) == 0
    partners = [mixed.draw.permutation.tolist() for mixed, _ in drawn]
    assert partners[0] == partners[1]
    assert {tuple(each) for each in partners} == {(1, 2, 0), (2, 0, 1)}


def test_height_and_width_may_differ(folder: Path, tmp_path: Path, drawn: list[Any]) -> None:
    assert run(folder, "--size", "20x30", "--output", tmp_path / "mix.png") == 0
    assert drawn[0][0].images.shape == (3, 3, 20, 30)


def test_every_hyperparameter_is_an_option_with_the_default_and_the_words_of_the_config() -> None:
    names = {field.name for field in dataclasses.fields(pm.PuzzleMixConfig)}
    assert {*option_types(), *GIVEN_OTHERWISE} == names
    parser = build_parser()
    options = parser.parse_args(["--examples"])
    assert choose_settings(options, SaliencyModel()) == Settings(pm.PuzzleMixConfig(), 0.5, 8)
    text = " ".join(parser.format_help().split())
    for name in option_types():
        assert f"--{name.replace('_', '-')}" in text
    assert "Price of moving a block across the image, in [0, 1e6], in units of saliency" in text
    helps = [action.help or "" for action in parser._actions]
    assert min(map(len, helps)) > 20
    assert "Raises" not in text


def test_options_reach_the_config() -> None:
    given = "--num-labels 5 --beta 2 --gamma 0.25 --eta 0 --neighborhood-size 2 --no-transport --transport-size 7"
    given += " --transport-cost 1.5 --solver gco --threads 2 --lam 0.25 --blocks 16"
    found = choose_settings(build_parser().parse_args(["--examples", *given.split()]), SaliencyModel())
    expected = pm.PuzzleMixConfig(
        num_labels=5, beta=2.0, gamma=0.25, eta=0.0, neighborhood_size=2, transport=False, transport_size=7,
        transport_cost=1.5, solver="gco", threads=2,
    )  # fmt: skip
    assert found == Settings(expected, 0.25, 16)
    assert type(found.config.num_labels) is int
    none = build_parser().parse_args(["--examples", "--transport-size", "none"])
    assert choose_settings(none, SaliencyModel()).config.transport_size is None


def test_blocks_are_lowered_to_small_pictures(folder: Path, tmp_path: Path, drawn: list[Any], caplog: Any) -> None:
    assert run(folder, "--size", "5x9", "--output", tmp_path / "mix.png") == 0
    assert drawn[0][0].mask.shape == (3, 5, 5)
    assert "--blocks is 5 instead of 8" in caplog.text


def scene_of(folder: Path) -> PreparedImages:
    pictures = [Picture(path.stem, path) for path in sorted(folder.iterdir())]
    return prepare(pictures, [1], [1, 2, 0], viewer=SaliencyModel(height=SIDE, width=SIDE), saliency=None)


def panels(figure: Figure) -> tuple[list[Any], list[Any]]:
    """Panels of the grid and the small masks, in the order of reading: rows from above, columns from the left."""
    rest = figure.axes[4:]
    masks = [axes for axes in rest if axes.get_position().width < 0.5 * rest[0].get_position().width]
    mixes = [axes for axes in rest if axes not in masks]

    def place(axes: Any) -> tuple[float, float]:
        box = axes.get_position()
        return -round(box.y0, 3), round(box.x0, 3)

    return sorted(mixes, key=place), sorted(masks, key=place)


def test_a_grid_of_two_keys_has_the_first_in_rows_and_the_second_in_columns(folder: Path) -> None:
    axes = read_grid(["lam=0.3,0.7", "transport-cost=0,0.1,5"])
    settings = Settings(pm.PuzzleMixConfig(num_labels=2, beta=0.4), lam=0.5, blocks=4)
    figure = draw_grid(scene_of(folder), settings, axes)
    mixes, masks = panels(figure)
    assert len(mixes) == len(masks) == 6
    images = pixels_of(folder)[1:]
    combinations = [(lam, cost) for lam in (0.3, 0.7) for cost in (0.0, 0.1, 5.0)]
    for mix, mask, (lam, cost) in zip(mixes, masks, combinations, strict=True):
        expected = by_hand(images, [1, 0], lam, 4, transport_cost=cost, num_labels=2, beta=0.4)
        np.testing.assert_array_equal(mix.images[0].get_array(), expected.images[0].permute(1, 2, 0))
        np.testing.assert_array_equal(mask.images[0].get_array(), expected.mask[0])
        assert mix.get_title().startswith(f"{float(expected.ratio[0]):.0%} of the first")
    # No two rows and no two costs look the same, or the order would not have been tested.
    assert len({np.asarray(mix.images[0].get_array()).tobytes() for mix in mixes}) == 6
    titles = [text.get_text() for text in figure.texts]
    labels = {text.get_text(): text.get_position() for text in figure.texts}
    assert titles[:5] == ["transport_cost = 0", "transport_cost = 0.1", "transport_cost = 5", "lam = 0.3", "lam = 0.7"]
    assert labels["transport_cost = 0"][0] < labels["transport_cost = 0.1"][0] < labels["transport_cost = 5"][0]
    assert labels["lam = 0.3"][1] > labels["lam = 0.7"][1]
    assert "4 x 4 blocks, num_labels 2, beta 0.4" in titles[5]
    assert "lam" not in titles[5]


def test_saliency_that_stays_is_what_the_shown_blocks_hold(folder: Path) -> None:
    scene = scene_of(folder)
    settings = Settings(pm.PuzzleMixConfig(transport=False, num_labels=2), lam=0.5, blocks=4)
    mixes, _ = panels(draw_grid(scene, settings, read_grid(["eta=0,0.2"])))
    images = pixels_of(folder)[1:]
    for mix, eta in zip(mixes, (0.0, 0.2), strict=True):
        expected = by_hand(images, [1, 0], 0.5, 4, transport=False, num_labels=2, eta=eta)
        # Without transport each image's saliency stays where the mask shows the image.
        shown = expected.mask[0].repeat_interleave(8, 0).repeat_interleave(8, 1)
        first, second = (each / each.sum() for each in spectral_saliency(images).saliency)
        stays = float(((first * shown).sum() + (second * (1 - shown)).sum()) / 2)
        said = re.search(r"\n(\d+)% of the saliency", mix.get_title())
        assert said is not None
        assert abs(int(said[1]) - 100 * stays) <= 0.51
        assert "moved" not in mix.get_title()


def test_above_a_grid_are_the_two_pictures_and_their_saliency(folder: Path) -> None:
    settings = Settings(pm.PuzzleMixConfig(), lam=0.5, blocks=4)
    figure = draw_grid(scene_of(folder), settings, read_grid(["blocks=2,4,8", "transport=true,false"]))
    images = pixels_of(folder)[1:]
    found = [axes.images[0].get_array() for axes in figure.axes[:4]]
    for which in range(2):
        np.testing.assert_array_equal(found[2 * which], images[which].permute(1, 2, 0))
        np.testing.assert_allclose(found[2 * which + 1], spectral_saliency(images).saliency[which])
    assert [axes.get_title() for axes in figure.axes[:4:2]] == ["first: b", "second: c"]
    mixes, masks = panels(figure)
    assert [axes.images[0].get_array().shape for axes in masks][::2] == [(2, 2), (4, 4), (8, 8)]
    assert ["moved" in axes.get_title() for axes in mixes] == 3 * [True, False]


def test_a_grid_draws_the_pair_that_is_asked_for(folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "grid.svg"
    assert run(folder, "--size", SIDE, "--grid", "beta=0.4,1.2", "--row", 3, "--output", output) == 0
    assert "first: c" in output.read_text()
    assert "second: a" in output.read_text()


@pytest.mark.parametrize(("arguments", "message"), [
    ("", "name IMAGES, files or folders, or give --examples"),
    ("a.png --examples", "--examples and IMAGES exclude each other"),
    ("gone.png a.png", "no file or folder"),
    ("a.png", "at least 2 pictures, got 1"),
    ("a.png b.png --grid betta=1", "there is no betta; it must be one of lam, blocks, num_labels, beta"),
    ("a.png b.png --grid alpha=1", "alpha is what training draws lam by; here lam is given"),
    ("a.png b.png --grid beta=high", "beta must be a number, got 'high'"),
    ("a.png b.png --grid beta=1,", "beta must be a number, got ''"),
    ("a.png b.png --grid num_labels=2.5", "num_labels must be a whole number, got '2.5'"),
    ("a.png b.png --grid transport=maybe", "transport must be true or false, got 'maybe'"),
    ("a.png b.png --grid transport_size=big", "transport_size must be a whole number or none, got 'big'"),
    ("a.png b.png --grid solver=magic", "solver must be one of ('exact', 'gco'), got 'magic'"),
    ("a.png b.png --grid gamma=0.5,2", "gamma must be finite and in [0, 1], got 2.0"),
    ("a.png b.png --grid lam=0.5,1.5", "lam must be finite and in [0, 1], got 1.5"),
    ("a.png b.png --grid blocks=4,33", "blocks must be from 1 to the shorter side of the pictures, 32, got 33"),
    ("a.png b.png --grid beta=1,2 eta=0 gamma=0", "--grid takes one or two keys, got 3"),
    ("a.png --grid beta=1,2 b.png", "--grid takes KEY=VALUE,VALUE,..., got b.png; name IMAGES before"),
    ("a.png b.png --grid beta=1 beta=2", "--grid names beta twice"),
    ("a.png b.png --grid blocks=1,2,3,4,5,6,7,8,9,10,11,12,13", "blocks has 13 values; the picture has room for 12"),
    ("a.png b.png --grid beta=1 --row 3", "--row must be from 1 to the number of pictures, 2, got 3"),
    ("a.png b.png --grid beta=1 --rows 3", "choose it by --row"),
    ("a.png b.png --row 2", "without one, give --rows"),
    ("a.png b.png --rows 0", "--rows must be at least 1, got 0"),
    ("a.png b.png --seed 3", "--seed 3 has no use with --pairs next"),
    ("a.png b.png --beta -1", "beta must be finite and >= 0, got -1.0"),
    ("a.png b.png --blocks 0", "blocks must be from 1 to"),
    ("a.png b.png --blocks 40", "fewer --blocks, or a larger --size"),
    ("a.png b.png --saliency gradient", "--saliency gradient is that of a network; give a --checkpoint"),
    ("a.png b.png --checkpoint gone", "there is no"),
    ("a.png b.png --output mix.doc", "--output must end in one of .png"),
    ("a.png b.png --output a.png/mix.png", "cannot be written"),
])  # fmt: skip
def test_mistakes_end_in_a_message(
    arguments: str, message: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folder)
    assert run(*arguments.split(), "--size", SIDE) == 1
    said = capsys.readouterr().out
    assert message in said
    assert "Traceback" not in said
    assert {path.name for path in folder.iterdir()} == {"a.png", "b.png", "c.png"}


def test_from_the_command_line(tmp_path: Path) -> None:
    pytest.importorskip("skimage")
    done = launch("show_mixing", "--examples", "--size", "64", "--rows", "2", "--output", str(tmp_path / "mix.png"))
    assert done.returncode == 0, done.stderr
    assert str(tmp_path / "mix.png") in done.stdout
    with Image.open(tmp_path / "mix.png") as picture:
        assert min(picture.size) > 400
