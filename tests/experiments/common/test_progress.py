"""Progress bars: shown in a terminal, not in a log."""

import io

import pytest
from rich.console import Console

from experiments.common import with_progress


@pytest.mark.parametrize("terminal", [True, False])
def test_a_terminal_shows_the_description_and_a_log_stays_empty(
    terminal: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=terminal, width=80)
    monkeypatch.setattr("rich._console", console)
    assert list(with_progress(iter("abc"), "reading", total=3)) == ["a", "b", "c"]
    assert ("reading" in output.getvalue()) is terminal
    assert terminal or output.getvalue() == ""
