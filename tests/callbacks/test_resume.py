"""Killed or failed, within an epoch and at its end, on one and two ranks: a resumed run continues bit by bit."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
import torch
from distributed_cases import BATCHES, EPOCHS, KILLED_AT, launch
from platforms import needs_posix


@needs_posix
@pytest.mark.parametrize("processes", [1, 2])
def test_a_resumed_run_continues_bit_by_bit(processes: int, tmp_path: Path) -> None:
    """The resumed callbacks have no seed of their own: theirs is in the checkpoint."""
    launch("killed", tmp_path, processes=processes, expect=-signal.SIGKILL)
    reports = launch("resumed", tmp_path, processes=processes)
    assert len(reports) == processes
    done = BATCHES * KILLED_AT[0] + KILLED_AT[1]
    left = {
        "mid-epoch": BATCHES * EPOCHS - done,
        "epoch end": BATCHES * (EPOCHS - 1),
        "exception": BATCHES * EPOCHS - done,
    }
    for report in reports:
        full = report.pop("full")
        assert [row[:2] for row in full["seen"]] == [(epoch, i) for epoch in range(EPOCHS) for i in range(BATCHES)]
        for name, run in report.items():
            assert run["seed"] == 11, name
            assert run["seen"] == full["seen"][-left[name] :], name
            for key, value in run["weights"].items():
                assert torch.equal(value, full["weights"][key]), (name, key)
        assert {row[2] for row in full["seen"]} == {True, False}, "some batches must be mixed and some not"
