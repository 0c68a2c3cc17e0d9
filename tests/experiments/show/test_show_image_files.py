"""A user's own images are read as they look, whatever their size and mode; compared with arrays made by hand."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layouts import write_image
from PIL import Image

from experiments.common.errors import UserError
from experiments.show import choose_partners, example_images, find_images, read_pixels

RANDOM = np.random.default_rng(0)
# 6 x 8 pixels of random colors, in 8 and in 16 bits.
COLOURS = RANDOM.integers(0, 256, (6, 8, 3)).astype(np.uint8)
GREYS = RANDOM.integers(0, 65536, (6, 8)).astype(np.uint16)
# A gray step of 8 bits, half of which rounding may take.
STEP = 0.51 / 255
ORIENTATION = 0x0112


def read(path: Path, *, height: int = 6, width: int = 8, channels: int = 3) -> np.ndarray:
    """The image as (height, width, channels)."""
    pixels = read_pixels(path, height=height, width=width, channels=channels)
    assert pixels.shape == (channels, height, width)
    assert pixels.dtype == torch.float32
    return pixels.permute(1, 2, 0).numpy()


def test_colors_are_read_as_they_are(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path / "a.png"), COLOURS / 255, atol=1e-6)


def test_color_images_become_luma_for_one_channel(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    # ITU-R BT.601, as every gray image in 8 bits is made.
    luma = COLOURS @ np.array([0.299, 0.587, 0.114]) / 255
    np.testing.assert_allclose(read(tmp_path / "a.png", channels=1)[..., 0], luma, atol=2 * STEP)


@pytest.mark.parametrize(("orientation", "turned"), [(3, np.rot90(COLOURS, 2)), (6, np.rot90(COLOURS, -1)),
                                                     (8, np.rot90(COLOURS)), (2, COLOURS[:, ::-1])])  # fmt: skip
def test_images_are_upright_according_to_exif(orientation: int, turned: np.ndarray, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(COLOURS).save(tmp_path / "a.png", exif=exif)
    height, width = turned.shape[:2]
    np.testing.assert_allclose(read(tmp_path / "a.png", height=height, width=width), turned / 255, atol=1e-6)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_parts_are_white(mode: str, tmp_path: Path) -> None:
    colors = COLOURS if mode == "RGBA" else COLOURS[..., :1]
    alpha = RANDOM.integers(0, 256, (6, 8, 1)).astype(np.uint8)
    alpha[0], alpha[1] = 0, 255
    Image.fromarray(np.concatenate([colors, alpha], axis=2)).save(tmp_path / "a.png")
    share = alpha / 255
    expected = np.broadcast_to(share * colors / 255 + 1 - share, (6, 8, 3))
    np.testing.assert_allclose(read(tmp_path / "a.png"), expected, atol=2.5 * STEP)


def test_palettes_are_looked_up_and_their_transparent_color_is_white(tmp_path: Path) -> None:
    palette = np.array([[255, 0, 0], [0, 128, 64], [10, 20, 30]], np.uint8)
    places = RANDOM.integers(0, 3, (6, 8)).astype(np.uint8)
    image = Image.fromarray(places).convert("P")
    image.putdata(places.flatten().tolist())
    image.putpalette(palette.flatten().tolist())
    image.save(tmp_path / "plain.png")
    image.save(tmp_path / "clear.png", transparency=1)
    np.testing.assert_allclose(read(tmp_path / "plain.png"), palette[places] / 255, atol=1e-6)
    expected = np.where((places == 1)[..., None], 1.0, palette[places] / 255)
    np.testing.assert_allclose(read(tmp_path / "clear.png"), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("channels", [1, 3])
def test_sixteen_bits_keep_their_brightness(suffix: str, channels: int, tmp_path: Path) -> None:
    Image.fromarray(GREYS).save(tmp_path / f"a.{suffix}")
    expected = np.repeat(GREYS[..., None] / 65535, channels, axis=2)
    np.testing.assert_allclose(read(tmp_path / f"a.{suffix}", channels=channels), expected, atol=STEP)


@pytest.mark.parametrize(("values", "expected"), [
    (GREYS / 65535, GREYS / 65535),
    (GREYS - 40000.5, (GREYS - GREYS.min()) / np.ptp(GREYS.astype(float))),
    (np.full((6, 8), -3.0), np.zeros((6, 8))),
])  # fmt: skip
def test_floats_are_shares_or_stretched(values: np.ndarray, expected: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(values.astype(np.float32)).save(tmp_path / "a.tiff")
    np.testing.assert_allclose(read(tmp_path / "a.tiff")[..., 1], expected, atol=STEP)


def test_what_does_not_fit_is_cut_off_on_both_sides(tmp_path: Path) -> None:
    Image.fromarray(COLOURS).save(tmp_path / "a.png")
    np.testing.assert_allclose(read(tmp_path / "a.png", height=6, width=4), COLOURS[:, 2:6] / 255, atol=1e-6)
    np.testing.assert_allclose(read(tmp_path / "a.png", height=2, width=8), COLOURS[2:4] / 255, atol=1e-6)


@pytest.mark.parametrize("factor", [4, 0.5])
def test_images_of_any_size_are_scaled(factor: float, tmp_path: Path) -> None:
    halves = np.zeros((32, 64), np.uint8)
    halves[:, 32:] = 200
    Image.fromarray(halves).save(tmp_path / "a.png")
    height, width = round(32 / factor), round(64 / factor)
    found = read(tmp_path / "a.png", height=height, width=width)[..., 0]
    # Away from the edge, which the filter softens over six pixels of the smaller image.
    away = round(3 * max(1, 1 / factor))
    np.testing.assert_allclose(found[:, : width // 2 - away], 0, atol=STEP)
    np.testing.assert_allclose(found[:, width // 2 + away :], 200 / 255, atol=STEP)


def test_files_come_in_the_order_named_and_folders_sorted_with_all_below(tmp_path: Path) -> None:
    for name in ("z.jpg", "folder/b.JPEG", "folder/a.jpg", "folder/deep/c.jpg"):
        write_image(tmp_path / name, 100)
    (tmp_path / "folder" / "notes.txt").write_text("no image")
    images = find_images([tmp_path / "z.jpg", tmp_path / "folder"])
    assert [path.name for path in images] == ["z.jpg", "a.jpg", "b.JPEG", "c.jpg"]


def test_hidden_files_are_no_images_and_broken_links_are_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", ".ipynb_checkpoints/a-checkpoint.jpg", "._a.jpg"):
        write_image(tmp_path / name, 100)
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    assert [path.name for path in find_images([tmp_path])] == ["a.jpg"]
    assert "gone.jpg" in caplog.text


def test_errors_name_the_empty_folder_or_missing_file(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no images in .*empty"):
        find_images([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"no file or folder .*gone\.png"):
        find_images([tmp_path / "gone.png"])


@pytest.mark.parametrize("content", [b"no image at all", b"", "cut off"])
def test_errors_name_the_file_that_is_no_image(content: bytes | str, tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3)).astype(np.uint8)).save(path)
        path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match=r"broken\.png cannot be read as an image \(.+\)"):
        read(path)


def test_examples_need_no_download() -> None:
    pytest.importorskip("skimage")
    images = example_images()
    assert len({path.stem for path in images}) == len(images) >= 6
    pixels = [read_pixels(path, height=32, width=32, channels=3) for path in images]
    # Photographs have colors and contrast.
    assert min(float(image.std()) for image in pixels) > 0.05
    assert all(bool((image[0] != image[2]).any()) for image in pixels)


@given(st.integers(2, 50), st.integers(0, 2**32))
def test_random_partners_are_a_permutation_without_fixed_points(count: int, seed: int) -> None:
    partners = choose_partners(count, seed)
    assert sorted(partners) == list(range(count))
    assert all(partner != place for place, partner in enumerate(partners))
    assert partners == choose_partners(count, seed)


def test_partners_are_the_next_or_differ_with_the_seed() -> None:
    assert choose_partners(4, None) == [1, 2, 3, 0]
    assert len({tuple(choose_partners(20, seed)) for seed in range(5)}) == 5
    with pytest.raises(UserError, match="at least 2 images, got 1"):
        choose_partners(1, None)
