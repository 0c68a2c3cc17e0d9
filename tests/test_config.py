"""Hyperparameters: defaults, what is accepted, and errors that name the argument and its value."""

from __future__ import annotations

import dataclasses
import pickle
from typing import Any

import numpy as np
import pytest
import torch

from lightning_puzzlemix import PuzzleMix, PuzzleMixCallback, PuzzleMixConfig

NAN, INF = float("nan"), float("inf")


def test_defaults_are_those_of_the_paper() -> None:
    expected = {
        "mean": None, "std": None, "alpha": 1.0, "grid_sizes": (2, 4, 8, 16), "num_labels": 3, "beta": 1.2, "gamma": 0.5,
        "eta": 0.2, "neighborhood_size": 4, "transport": True, "transport_size": None, "transport_cost": 0.8,
        "solver": "exact", "solve_on": "auto", "threads": None, "per_sample_lam": False,
    }  # fmt: skip
    assert dataclasses.asdict(PuzzleMixConfig()) == expected


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("alpha", 0, ValueError, "alpha must be finite and > 0, got 0"),
        ("alpha", -1.0, ValueError, "alpha.*got -1.0"),
        ("alpha", INF, ValueError, "alpha.*got inf"),
        ("alpha", NAN, ValueError, "alpha.*got nan"),
        ("alpha", "1", TypeError, "alpha must be a number, got '1'"),
        ("alpha", True, TypeError, "alpha must be a number, got True"),
        ("beta", -0.1, ValueError, "beta.*>= 0, got -0.1"),
        ("beta", NAN, ValueError, "beta.*got nan"),
        ("beta", None, TypeError, "beta must be a number, got None"),
        ("gamma", 1.01, ValueError, r"gamma.*in \[0, 1\], got 1.01"),
        ("gamma", -0.1, ValueError, r"gamma.*in \[0, 1\], got -0.1"),
        ("eta", -1, ValueError, "eta.*>= 0, got -1"),
        ("transport_cost", -1e-9, ValueError, "transport_cost.*>= 0, got -1e-09"),
        ("transport_cost", INF, ValueError, "transport_cost.*got inf"),
        ("per_sample_lam", 1, TypeError, "per_sample_lam must be True or False, got 1"),
        ("num_labels", 1, ValueError, "num_labels must be at least 2, got 1"),
        ("num_labels", 3.0, TypeError, "num_labels must be an integer, got 3.0"),
        ("num_labels", True, TypeError, "num_labels must be an integer, got True"),
        ("neighborhood_size", 0, ValueError, "neighborhood_size must be at least 1, got 0"),
        ("neighborhood_size", None, TypeError, "neighborhood_size.*got None"),
        ("transport", 1, TypeError, "transport must be True or False, got 1"),
        ("transport", None, TypeError, "transport must be True or False, got None"),
        ("transport_size", 0, ValueError, "transport_size must be at least 1, got 0.*None"),
        ("transport_size", -1, ValueError, "transport_size must be at least 1, got -1.*None"),
        ("transport_size", 2.5, TypeError, "transport_size must be an integer, got 2.5"),
        ("threads", 0, ValueError, "threads must be at least 1, got 0.*None"),
        ("threads", "2", TypeError, "threads must be an integer, got '2'"),
        ("solver", "graphcut", ValueError, r"solver must be one of \('exact', 'gco'\), got 'graphcut'"),
        ("solver", None, ValueError, "solver.*got None"),
        ("grid_sizes", (), ValueError, r"grid_sizes.*got \(\)"),
        ("grid_sizes", 4, TypeError, "grid_sizes must be a sequence.*got 4"),
        ("grid_sizes", "24", TypeError, "grid_sizes must be a sequence.*got '24'"),
        ("grid_sizes", (2, 0), ValueError, r"grid_sizes must be at least 1, got 0 in \(2, 0\)"),
        ("grid_sizes", (2, 4.0), TypeError, r"grid_sizes must be an integer, got 4.0 in \(2, 4.0\)"),
        ("mean", (0.5,), ValueError, r"std is missing while mean=\(0.5,\)"),
        ("std", (0.5,), ValueError, r"mean is missing while std=\(0.5,\)"),
    ],
)
def test_errors(name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        PuzzleMixConfig(**{name: value})


@pytest.mark.parametrize(
    ("mean", "std", "error", "message"),
    [
        ((0.5, 0.5), (0.5,), ValueError, r"mean and std must be equally long, got 2 and 1.*\(0.5, 0.5\)"),
        ((0.5,), (0.0,), ValueError, r"std must be > 0.*\(0.0,\)"),
        ((0.5, 0.5), (0.5, -0.1), ValueError, r"std must be > 0.*\(0.5, -0.1\)"),
        ((NAN,), (0.5,), ValueError, r"mean.*finite.*\(nan,\)"),
        ((0.5,), (INF,), ValueError, r"std.*finite.*\(inf,\)"),
        ((), (), ValueError, r"mean must hold.*\(\)"),
        (0.5, 0.5, TypeError, "mean must be a sequence.*got 0.5"),
        ("0.5", "0.5", TypeError, "mean must be a sequence.*got '0.5'"),
        (("a",), (0.5,), (TypeError, ValueError), "mean.*'a'"),
        ((None,), (0.5,), (TypeError, ValueError), "mean.*None"),
        (torch.tensor(0.5), torch.tensor(0.5), TypeError, "mean must be a sequence"),
    ],
)
def test_errors_of_the_normalization(mean: Any, std: Any, error: Any, message: str) -> None:
    with pytest.raises(error, match=message):
        PuzzleMixConfig(mean=mean, std=std)


@pytest.mark.parametrize("values", [[0.5, 0.25], (0.5, 0.25), np.array([0.5, 0.25]), torch.tensor([0.5, 0.25])])
def test_mean_and_std_from_any_sequence(values: Any) -> None:
    config = PuzzleMixConfig(mean=values, std=values)
    assert config.mean == config.std == (0.5, 0.25)
    assert hash(config) == hash(PuzzleMixConfig(mean=(0.5, 0.25), std=(0.5, 0.25)))


@pytest.mark.parametrize("sizes", [[2, 3], range(2, 4), np.array([2, 3])])
def test_grid_sizes_from_any_sequence(sizes: Any) -> None:
    assert PuzzleMixConfig(grid_sizes=sizes).grid_sizes == (2, 3)


def test_ends_of_the_ranges_are_allowed() -> None:
    config = PuzzleMixConfig(
        beta=0, gamma=1, eta=0, transport_cost=0, num_labels=2, neighborhood_size=1, threads=1, transport_size=1
    )
    assert config.gamma == 1


def test_frozen_keyword_only_and_picklable() -> None:
    config = PuzzleMixConfig(mean=[0.5], std=[0.5], threads=3)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.beta = 2.0  # type: ignore[misc]
    with pytest.raises(TypeError):
        PuzzleMixConfig((0.5,), (0.5,))  # type: ignore[misc]
    with pytest.raises(TypeError, match="betta"):
        PuzzleMixConfig(betta=2.0)  # type: ignore[call-arg]
    assert pickle.loads(pickle.dumps(config)) == config
    assert dataclasses.replace(config, beta=0.5).mean == (0.5,)


@pytest.mark.parametrize("make", [PuzzleMix, PuzzleMixCallback])
@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("clean_weight", -0.1, ValueError, "clean_weight.*>= 0, got -0.1"),
        ("clean_weight", INF, ValueError, "clean_weight.*got inf"),
        ("clean_weight", "1", TypeError, "clean_weight.*got '1'"),
        ("adversarial_prob", 1.5, ValueError, r"adversarial_prob.*\[0, 1\], got 1.5"),
        ("adversarial_prob", None, TypeError, "adversarial_prob.*got None"),
        ("adversarial_eps", 10, ValueError, r"adversarial_eps.*\[0, 1\], got 10"),
        ("adversarial_eps", -0.1, ValueError, "adversarial_eps.*got -0.1"),
        ("config", {"beta": 1.2}, TypeError, r"config must be a PuzzleMixConfig, got \{'beta': 1.2\}"),
    ],
)
def test_errors_of_the_mixer(make: Any, name: str, value: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make(**{name: value})
