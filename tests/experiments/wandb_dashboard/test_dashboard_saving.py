"""Saving the W&B dashboard, at a server that stands in for W&B and with wandb's own client."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest
from dashboard_specs import Spec, walk, write_specs

from experiments.dashboard import main


class StandIn(BaseHTTPRequestHandler):
    """Answers what the dashboard asks of W&B, and keeps what it saves."""

    refusing: ClassVar[bool] = False
    saved: ClassVar[list[dict[str, Any]]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        request = json.loads(body) if self.path == "/graphql" else {"query": ""}
        status, data = self.answer(request["query"], request.get("variables") or {})
        content = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def answer(self, query: str, variables: dict[str, Any]) -> tuple[int, Any]:
        viewer = {
            "id": "1",
            "entity": "me",
            "username": "me",
            "flags": "{}",
            "teams": {"edges": []},
            "email": "a@b.org",
        }
        if "viewer" in query:
            return 200, {"data": {"viewer": viewer}}
        if "models(" in query:
            page = {"__typename": "PageInfo", "endCursor": None, "hasNextPage": False}
            return 200, {"data": {"models": {"pageInfo": page, "edges": []}}}
        if "upsertView(" not in query:
            return 200, {"data": {}}
        if self.refusing:
            return 403, {"errors": [{"message": "permission denied"}]}
        self.saved.append(variables)
        project = {"id": "p", "name": variables["projectName"], "entityName": variables["entityName"]}
        view = {key: variables[key] for key in ("name", "displayName", "description", "spec")}
        return 200, {"data": {"upsertView": {"view": {**view, "id": "some-id", "project": project}, "inserted": True}}}

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    StandIn.saved.clear()
    monkeypatch.setattr(StandIn, "refusing", False)
    with ThreadingHTTPServer(("127.0.0.1", 0), StandIn) as stand_in:
        url = f"http://127.0.0.1:{stand_in.server_port}"
        threading.Thread(target=stand_in.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("WANDB_BASE_URL", url)
        monkeypatch.setenv("WANDB_API_KEY", "a" * 40)
        monkeypatch.setenv("WANDB_MODE", "online")
        monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
        yield url
        stand_in.shutdown()


def without_ids(spec: Spec) -> Spec:
    for node in walk(spec):
        for key in ("id", "__id__", "ref"):
            node.pop(key, None)
    return spec


def test_what_is_saved_is_what_the_dry_run_writes(
    server: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wanted = write_specs(tmp_path, "--project", "study")
    main(["--project", "study"])
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[-2:]] == ["report", "workspace"]
    assert printed.count(f"{server}/me/study") == 2
    assert [view["displayName"] for view in StandIn.saved] == [
        wanted[part]["displayName"] for part in ("report", "workspace")
    ]
    for view, part in zip(StandIn.saved, ("report", "workspace"), strict=True):
        assert (view["entityName"], view["projectName"]) == ("me", "study")
        assert without_ids(json.loads(view["spec"])) == without_ids(wanted[part]["spec"])


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [
        ("WANDB_API_KEY", "", ["wandb login", "WANDB_API_KEY", "--dry-run"]),
        ("WANDB_MODE", "offline", ["WANDB_MODE=offline", "unset", "--dry-run"]),
    ],
)
def test_without_an_account_it_ends_in_a_message(
    server: str,
    setting: str,
    value: str,
    said: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv(setting, value) if value else monkeypatch.delenv(setting)
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert all(word in printed for word in said)
    assert not StandIn.saved


def test_a_refusal_is_told(server: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(StandIn, "refusing", True)
    with pytest.raises(SystemExit) as end:
        main(["--only", "workspace", "--entity", "others"])
    assert end.value.code == 1
    printed = capsys.readouterr().out
    assert "others/puzzlemix" in printed
    assert "permission denied" in printed


def test_output_without_dry_run_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--output", "x.json"])
    assert end.value.code == 2
    assert "--dry-run" in capsys.readouterr().err
