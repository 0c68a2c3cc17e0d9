"""Soft targets against a manual loop."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lightning_puzzlemix import mix_targets


@given(seed=st.integers(0, 10**6), batch=st.integers(1, 6), classes=st.integers(1, 6), soft=st.booleans())
def test_by_loop(seed: int, batch: int, classes: int, soft: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    indices = torch.randint(classes, (batch,), generator=generator)
    probabilities = torch.rand(batch, classes, generator=generator)
    permutation = torch.randint(batch, (batch,), generator=generator)
    ratio = torch.rand(batch, generator=generator)
    mixed = mix_targets(probabilities if soft else indices, permutation=permutation, ratio=ratio, num_classes=classes)
    assert mixed.dtype == torch.float32
    for s in range(batch):
        mate, share = int(permutation[s]), float(ratio[s])
        for label in range(classes):
            if soft:
                expected = share * float(probabilities[s, label]) + (1 - share) * float(probabilities[mate, label])
            else:
                expected = share * (int(indices[s]) == label) + (1 - share) * (int(indices[mate]) == label)
            assert float(mixed[s, label]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_ends(ratio: float) -> None:
    mixed = mix_targets(
        torch.tensor([0, 2]), permutation=torch.tensor([1, 0]), ratio=torch.full((2,), ratio), num_classes=3
    )
    first, second = [1.0, 0, 0], [0, 0, 1.0]
    assert mixed.tolist() == ([first, second] if ratio else [second, first])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_dtype_of_probabilities(dtype: torch.dtype) -> None:
    targets = torch.softmax(torch.randn(3, 4), 1).to(dtype)
    mixed = mix_targets(targets, permutation=torch.tensor([1, 2, 0]), ratio=torch.rand(3), num_classes=4)
    assert mixed.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(mixed.sum(1).float(), torch.ones(3), atol=1e-2, rtol=0)


def test_inputs_stay_as_they_are() -> None:
    targets, permutation, ratio = torch.eye(3), torch.tensor([1, 2, 0]), torch.tensor([0.2, 0.5, 1.0])
    copies = targets.clone(), permutation.clone(), ratio.clone()
    mixed = mix_targets(targets, permutation=permutation, ratio=ratio, num_classes=3)
    mixed.zero_()
    for each, copy in zip((targets, permutation, ratio), copies, strict=True):
        assert torch.equal(each, copy)


GOOD: dict[str, Any] = {
    "targets": torch.tensor([0, 1, 2]),
    "permutation": torch.tensor([1, 2, 0]),
    "ratio": torch.rand(3),
    "num_classes": 3,
}


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("targets", torch.tensor([0, 1, 3]), ValueError, r"targets must be classes in \[0, 2\], got 0 to 3"),
        ("targets", torch.tensor([0, -1, 1]), ValueError, r"targets.*got -1 to 1"),
        ("targets", torch.rand(3, 4), ValueError, r"targets.*\(3, 3\) float.*\(3, 4\)"),
        ("targets", torch.rand(3), ValueError, r"targets.*probabilities.*shape \(3,\)"),
        ("targets", torch.zeros(3, 3, dtype=torch.long), ValueError, r"targets.*class indices.*\(3, 3\)"),
        ("targets", torch.full((3, 3), float("nan")), ValueError, "targets.*nan"),
        ("targets", torch.full((3, 3), -0.5), ValueError, "targets.*-0.5"),
        ("targets", torch.tensor(1), ValueError, r"targets.*shape \(\)"),
        ("targets", torch.ones(3, dtype=torch.complex64), TypeError, "targets.*complex64"),
        ("targets", [0, 1, 2], TypeError, "targets must be a tensor.*list"),
        ("targets", torch.zeros(0, dtype=torch.long), ValueError, r"targets|permutation"),
        ("permutation", torch.tensor([0, 1]), ValueError, r"permutation.*\(3,\).*\(2,\)"),
        ("permutation", torch.tensor([0, 1, 3]), ValueError, r"permutation must lie in \[0, 2\].*0 to 3"),
        ("permutation", torch.tensor([0, 1, -1]), ValueError, r"permutation must lie in \[0, 2\].*-1 to 1"),
        ("permutation", torch.tensor([0.0, 1, 2]), TypeError, "permutation.*float32"),
        ("permutation", [0, 1, 2], TypeError, "permutation.*list"),
        ("ratio", torch.rand(2), ValueError, r"ratio.*\(3,\).*\(2,\)"),
        ("ratio", 0.5, ValueError, r"ratio.*\(3,\), got 0.5"),
        ("ratio", torch.ones(3, dtype=torch.long), ValueError, "ratio.*int64"),
        ("ratio", torch.tensor([0.5, 1.5, 0]), ValueError, r"ratio must lie in \[0, 1\], got 0 to 1.5"),
        ("ratio", torch.tensor([0.5, float("nan"), 0]), ValueError, r"ratio must lie in \[0, 1\].*nan"),
        ("num_classes", 0, ValueError, "num_classes.*got 0"),
        ("num_classes", 2.0, ValueError, "num_classes.*got 2.0"),
        ("num_classes", True, ValueError, "num_classes.*got True"),
    ],
)
def test_errors_name_the_argument_and_its_value(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mix_targets(**(GOOD | {name: value}))
