"""Nothing that is pickled in a checkpoint is run, and what is no checkpoint is refused."""

import os
import pickle
import zipfile
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
import torch
from authors_networks import recorder

from experiments.checkpoints.weights import read_checkpoint
from experiments.common.errors import UserError

FORMATS = pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}], ids=["zip", "legacy"])


class Calls:
    """Pickled as a call of `function` with `args`."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


@FORMATS
@pytest.mark.parametrize("kind", ["system", "eval", "getattr", "file"])
def test_calls_are_not_made(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    hostile = {
        "system": Calls(os.system, f"touch '{sentinel}'"),
        "eval": Calls(eval, f"open({str(sentinel)!r}, 'w')"),
        "getattr": Calls(getattr, torch.Tensor, "tolist"),
        "file": Calls(open, str(sentinel), "w"),
    }[kind]
    named = {"system": "system", "eval": "eval", "getattr": "getattr", "file": "open"}[kind]
    content = {"state_dict": {"linear.weight": torch.ones(2, 2)}, "recorder": hostile}
    torch.save(content, tmp_path / "a.tar", **options)
    with pytest.raises(UserError, match=rf"nothing in it was run: it asks for \S*{named}"):
        read_checkpoint(tmp_path / "a.tar")
    assert not sentinel.exists()
    # The test can fail: the same file, read without care, does it.
    torch.load(tmp_path / "a.tar", weights_only=False)
    assert kind == "getattr" or sentinel.exists()


@FORMATS
def test_a_recorder_that_calls_is_no_recorder(options: dict[str, Any], tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"
    with recorder() as record:
        type(record).__reduce__ = lambda self: (os.system, (f"touch '{sentinel}'",))
        torch.save({"state_dict": {}, "recorder": record}, tmp_path / "a.tar", **options)
    with pytest.raises(UserError, match=r"nothing in it was run: it asks for \w+\.system"):
        read_checkpoint(tmp_path / "a.tar")
    assert not sentinel.exists()


def test_a_recorder_s_own_code_is_not_run(tmp_path: Path) -> None:
    """Even where a module of that name can be imported and its class has a hook for reading."""
    called = []
    with recorder() as record:
        type(record).__setstate__ = lambda self, state: called.append(state)
        torch.save({"state_dict": {}, "recorder": record}, tmp_path / "a.tar")
        assert read_checkpoint(tmp_path / "a.tar").source == "authors"
        assert called == []
        torch.load(tmp_path / "a.tar", weights_only=False)
        assert len(called) == 1


@pytest.mark.parametrize("state", [None, 3, {}, {"epoch_accuracy": 1, "current_epoch": 1}])
def test_the_content_of_a_record_is_ignored(state: Any, tmp_path: Path) -> None:
    with recorder() as record:
        type(record).__getstate__ = lambda self: state
        torch.save({"state_dict": {}, "recorder": record}, tmp_path / "a.tar")
    assert read_checkpoint(tmp_path / "a.tar").results == {}


def test_what_libraries_allow_torch_to_make_is_not_made_here(tmp_path: Path) -> None:
    before = list(torch.serialization.get_safe_globals())
    torch.save({"state_dict": {}, "share": Fraction(1, 3)}, tmp_path / "fraction.tar")
    with recorder() as record:
        torch.save({"state_dict": {}, "recorder": record}, tmp_path / "record.tar")
    torch.serialization.add_safe_globals([Fraction])
    try:
        with pytest.raises(UserError, match=r"it asks for fractions\.Fraction"):
            read_checkpoint(tmp_path / "fraction.tar")
        read_checkpoint(tmp_path / "record.tar")
        # Afterwards torch takes what it took before.
        assert torch.load(tmp_path / "fraction.tar", weights_only=True)["share"] == Fraction(1, 3)
        with pytest.raises((pickle.UnpicklingError, RuntimeError), match="RecorderMeter"):
            torch.load(tmp_path / "record.tar", weights_only=True)
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    with pytest.raises(UserError, match=r"There is no checkpoint .*a\.tar"):
        read_checkpoint(path)
    path.write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match=r"cannot be read as a checkpoint, and nothing in it was run: \w+\.") as caught:
        read_checkpoint(path)
    # torch's own message tells the user how to run it.
    assert "weights_only" not in str(caught.value)
    path.write_bytes(pickle.dumps({"state_dict": {}}, protocol=2))
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    torch.save({"state_dict": {"a": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1, 2], r"must hold a dict with a state_dict"),
        ({"fc.weight": torch.ones(1)}, r"bare weights can be wrapped"),
        (
            {"state_dict": {"fc.weight": torch.ones(1), "fc.bias": 3}},
            r"tensors only, but these are none: fc\.bias",
        ),
    ],
)
def test_what_holds_no_weights_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.tar")
    with pytest.raises(UserError, match=message):
        read_checkpoint(tmp_path / "a.tar")
