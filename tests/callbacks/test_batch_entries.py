"""Several views of one image and several forms of one label, mixed by the same draw."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from callback_cases import Cached, Recorder, trainer
from torch import Tensor, nn

import lightning_puzzlemix as pm

GENERATOR = torch.Generator().manual_seed(5)
IMAGES = torch.rand(6, 3, 8, 8, generator=GENERATOR)
CLASSES = torch.arange(6) % 5
CONFIG = pm.PuzzleMixConfig(grid_sizes=(2, 4))


class Views(Recorder):
    """Takes any batch, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[Any] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self.batches.append(batch)
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        return self.net(images).sum()


def fit(callback: pm.MixCallback, batch: Any) -> Any:
    module = Views()
    trainer(callback).fit(module, Cached(batch))
    return module.batches[0]


MAKERS = [
    lambda **options: pm.PuzzleMixCallback(CONFIG, seed=1, **options),
    lambda **options: pm.PuzzleMixCallback(pm.PuzzleMixConfig(grid_sizes=(2, 4), transport=False), seed=1, **options),
    lambda **options: pm.MixUpCallback(seed=1, **options),
    lambda **options: pm.MixUpCallback(seed=1, per_sample=True, **options),
    lambda **options: pm.CutMixCallback(seed=1, **options),
    lambda **options: pm.CutMixCallback(seed=1, per_sample=True, **options),
    lambda **options: pm.ManifoldMixCallback(seed=1, layers=["input"], **options),
]


@pytest.mark.parametrize("make", MAKERS)
def test_a_view_equal_to_the_image_is_mixed_equally(make: Any) -> None:
    callback = make(image_key=["image", "views.1"], target_key=["label", "onehot", "soft"])
    one_hot, smooth = F.one_hot(CLASSES, 5).float(), torch.softmax(torch.randn(6, 5), 1)
    batch = {
        "image": IMAGES,
        "views": [IMAGES + 5, IMAGES.clone()],
        "label": CLASSES,
        "onehot": one_hot,
        "soft": smooth,
    }
    seen = fit(callback, batch)
    assert not torch.equal(seen["image"], IMAGES)
    assert torch.equal(seen["views"][1], seen["image"])
    assert seen["views"][0] is batch["views"][0]
    assert torch.equal(seen["label"], seen["onehot"])
    ratio, partner = callback.last.ratio[:, None], callback.last.draw.permutation
    torch.testing.assert_close(seen["soft"], ratio * smooth + (1 - ratio) * smooth[partner])


@pytest.mark.parametrize("make", MAKERS)
def test_a_view_of_another_size_has_the_same_ratio(make: Any) -> None:
    """Each view is of one color an image: what the mixed one shows of it is the share in its mean."""
    colors = torch.arange(6.0)
    larger = colors[:, None, None, None].expand(6, 1, 20, 12).contiguous()
    callback = make(image_key=[0, 1])
    seen = fit(callback, (IMAGES, larger, CLASSES))
    ratio, partner = callback.last.ratio, callback.last.draw.permutation
    assert seen[1].shape == larger.shape
    torch.testing.assert_close(seen[1].mean((1, 2, 3)), ratio * colors + (1 - ratio) * colors[partner])


@pytest.mark.parametrize("make", MAKERS)
def test_masks_and_depth_lie_where_their_pixels_go(make: Any) -> None:
    """Every map is a function of the image, so it must be that function of the mixed image wherever nothing is blended."""
    where = torch.arange(6.0 * 64).view(6, 1, 8, 8)
    images = where.expand(6, 3, 8, 8) / 384
    mask = F.one_hot((where[:, 0] % 3).long(), 3).movedim(-1, 1).float()
    batch = {
        "image": images,
        "mask": mask,
        "depth": where[:, 0].double(),
        "half": where[..., ::2, ::2],
        "label": CLASSES,
    }
    callback = make(image_key=["image", "mask", "depth", "half"], target_key="label")
    seen = fit(callback, batch)
    assert not torch.equal(seen["image"], images)
    depth = seen["image"][:, 0] * 384
    torch.testing.assert_close(seen["depth"].float(), depth)
    assert seen["depth"].dtype == torch.float64
    assert seen["half"].shape == (6, 1, 4, 4)
    torch.testing.assert_close(seen["mask"].sum(1), torch.ones(6, 8, 8))
    share = callback.last.ratio
    if callback.last.boxes is not None:
        torch.testing.assert_close(seen["mask"].argmax(1), depth.round().long() % 3)
    elif callback.name != "puzzlemix":
        partner = mask[callback.last.draw.permutation]
        torch.testing.assert_close(seen["mask"], mask.lerp(partner, (1 - share).view(-1, 1, 1, 1)))
    elif callback.last.plan is not None:
        whole = callback.last.mask.repeat_interleave(8 // len(callback.last.mask[0]), 1)
        whole = whole.repeat_interleave(8 // len(callback.last.mask[0]), 2)
        shown = (whole == 0) | (whole == 1)
        assert shown.any()
        assert torch.equal(seen["mask"].argmax(1)[shown], (depth.round().long() % 3)[shown])


def test_masks_of_classes_are_refused_with_the_way_out() -> None:
    batch = {"image": IMAGES, "mask": torch.zeros(6, 8, 8, dtype=torch.long), "label": CLASSES}
    with pytest.raises(TypeError, match=r"the view 'mask' cannot be mixed.*int64.*one_hot\(classes, num_classes\)"):
        fit(pm.PuzzleMixCallback(CONFIG, image_key=["image", "mask"], target_key="label"), batch)
    for mask in (torch.zeros(6, 8), torch.zeros(5, 8, 8)):
        with pytest.raises(ValueError, match=r"image_key: 'mask' must be 6 images.*or 6 maps \(B, ..., H, W\), got"):
            fit(pm.CutMixCallback(image_key=["image", "mask"], target_key="label"), batch | {"mask": mask})
    with pytest.raises(ValueError, match="image_key='depth' is not in the batch"):
        fit(pm.CutMixCallback(image_key=["image", "depth"], target_key="label"), batch)


def test_boxes_are_scaled_pixel_by_pixel() -> None:
    mixer = pm.CutMix()
    draw = pm.BaselineDraw(torch.arange(6).roll(1), 0.5, boxes=torch.tensor([[1, 5, 2, 8]]).numpy())
    mixed = mixer(nn.Identity(), IMAGES, F.one_hot(CLASSES, 5).float(), draw)
    view = torch.rand(6, 2, 16, 4)
    expected = view.clone()
    expected[:, :, 2:10, 1:4] = view.roll(1, 0)[:, :, 2:10, 1:4]
    assert torch.equal(pm.apply_mix(view, mixed), expected)


def test_pairs_of_every_form() -> None:
    callback = pm.MixUpCallback(seed=1, targets="pair", image_key=[0, 1], target_key=[2, 3])
    _, _, classes, soft = fit(callback, (IMAGES, IMAGES, CLASSES, F.one_hot(CLASSES, 5).float()))
    partner = callback.last.draw.permutation
    assert torch.equal(classes.second, CLASSES[partner])
    assert torch.equal(soft.second, F.one_hot(CLASSES[partner], 5).float())
    assert torch.equal(classes.ratio, soft.ratio)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: pm.ManifoldMixCallback(layers=["input", "net.0"], image_key=[0, 1]),
            r"image_key=\[0, 1\] names several views.*layers=\['input'\]",
        ),
        (
            lambda: pm.PuzzleMixCallback(adversarial_prob=0.5, image_key=[0, 1]),
            r"adversarial_prob=0.5.*image_key=\[0, 1\].*adversarial_prob=0",
        ),
        (lambda: pm.MixUpCallback(image_key=[]), r"image_key must name at least one entry, and each once, got \[\]"),
        (lambda: pm.MixUpCallback(target_key=[1, 1]), r"target_key must name at least one entry, and each once"),
        (lambda: pm.MixUpCallback(target_key=1.5), r"target_key must be a name, a position, a path, or a list.*1.5"),
    ],
)
def test_refuses_views_that_cannot_be_mixed_alike(make: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        make()


@pytest.mark.parametrize(
    ("view", "options", "message"),
    [
        (
            torch.rand(6, 3, 3, 3),
            {"grid_sizes": (4,)},
            r"the view 1 cannot be mixed like the first: 3 x 3 pixels.*4 x 4 blocks",
        ),
        (
            torch.rand(6, 3, 3, 8),
            {"transport_size": 2},
            r"the view 1 cannot be mixed.*4 x 4 blocks.*transport_size=None",
        ),
        (
            (IMAGES * 255).byte(),
            {},
            r"the view 1 cannot be mixed like the first: values must be floating point, got torch.uint8: pass images as",
        ),
    ],
)
def test_views_whose_blocks_differ_are_refused(view: Tensor, options: dict[str, Any], message: str) -> None:
    config = pm.PuzzleMixConfig(**{"grid_sizes": (2,)} | options)
    with pytest.raises((TypeError, ValueError), match=message):
        fit(pm.PuzzleMixCallback(config, image_key=[0, 1]), (IMAGES, view, CLASSES))
