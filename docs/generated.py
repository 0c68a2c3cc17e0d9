"""Tables of the documentation that are generated from the files that they describe, so that each fact has one home."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

# Placed into a message where the source has a value.
GAP = "…"
_COMMAND = re.compile(r"python -m experiments\.\w+.*")
_SHOWING_CALLS = (
    "warnings.warn",
    "warn_caller",
    "rank_zero_warn",
    "log.warning",
    "parser.error",
    "exit_with_error",
    "super().__init__",
)


def leading_comment(text: str) -> list[str]:
    """Return the lines of the comment at the start of a YAML file, without comment signs and Hydra's directive."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line[1:].removeprefix(" "))
    return [line for line in lines if not line.startswith("@package")]


def settings_of(values: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the values that a YAML file sets, as dotted keys and values in the form of the command line."""
    for key, value in (values or {}).items():
        if key == "defaults":
            yield from _chosen(value)
        elif isinstance(value, dict) and value:
            yield from settings_of(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", _written(value)


def _chosen(defaults: list[Any]) -> Iterator[tuple[str, str]]:
    for entry in defaults:
        if isinstance(entry, str):
            yield "starts from", entry
            continue
        for group, option in entry.items():
            yield group.removeprefix("override ").removeprefix("/"), _written(option)


def _written(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return yaml.safe_dump(value, default_flow_style=True, width=1000).removesuffix("\n...\n").strip()


def options(folder: Path) -> str:
    """Make the table of a config group: each option with the comment of its file and the values that it sets."""
    rows = []
    for path in sorted(folder.rglob("*.yaml")):
        text = path.read_text("utf-8")
        name = path.relative_to(folder).with_suffix("").as_posix()
        choice = f"{folder.name}={name}" if folder.name != "recipe" else name
        sets = "<br>".join(_code(f"{key}: {value}") for key, value in settings_of(yaml.safe_load(text)))
        rows.append([_describe(choice, leading_comment(text)), sets or "nothing"])
    return _table(["option", "sets"], rows)


def experiments(folder: Path) -> str:
    """Make the list of the experiments with their comments, which describe the row of the paper."""
    paths = sorted(folder.glob("*.yaml"))
    rows = [[_describe(f"experiment={path.stem}", leading_comment(path.read_text("utf-8")))] for path in paths]
    return _table(["experiment"], rows)


def _describe(choice: str, lines: list[str]) -> str:
    """Return an option with its comment: prose, and commands as code unless they name the option alone."""
    parts = [f"<strong>{_code(choice)}</strong>"]
    if lines[0] != f"python -m experiments.train {choice}":
        parts.append(_code(lines[0]))
    prose: list[str] = []
    for line in lines[1:]:
        command = _COMMAND.search(line)
        if command is None:
            prose.append(line)
            continue
        parts += [_prose(prose), _code(command[0])]
        prose = []
    return "<br>".join(part for part in [*parts, _prose(prose)] if part)


def _prose(lines: list[str]) -> str:
    text = html.escape(" ".join(line.strip() for line in lines), quote=False)
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", text)


def _code(text: str) -> str:
    return f"<code>{html.escape(text, quote=False)}</code>"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    # As HTML and in one paragraph, so that Markdown leaves dollars, stars and bars inside alone.
    head = "".join(f"<th>{title}</th>" for title in titles)
    body = "\n".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>\n"


def file(path: Path) -> str:
    """Show a YAML file as it is."""
    return f"```yaml\n{path.read_text('utf-8').rstrip()}\n```\n"


def messages(package: Path) -> str:
    """List every message of a package by file, with a gap for each value."""
    rows = []
    for path in sorted(package.rglob("*.py")):
        for message in messages_in(path):
            rows.append([_code(path.relative_to(package).as_posix()), html.escape(message, quote=False)])
    return _table(["file", "message"], rows)


def messages_in(path: Path) -> list[str]:
    """Return the messages of a source file's errors, warnings and exits, each once and in order."""
    tree = ast.parse(path.read_text("utf-8"))
    constants = {
        target.id: message
        for node in tree.body
        if isinstance(node, ast.Assign) and (message := _message(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    found: list[str] = []
    for node in ast.walk(tree):
        for argument in _shown_arguments(node):
            named = constants.get(argument.id) if isinstance(argument, ast.Name) else None
            message = named or _message(argument)
            if message and " " in message and message not in found:
                found.append(message)
    return found


def _shown_arguments(node: ast.AST) -> list[ast.expr]:
    """Return the arguments that a user may be shown of a raised exception or a call that warns."""
    if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
        return node.exc.args
    if not isinstance(node, ast.Call):
        return []
    name = ast.unparse(node.func)
    # An error may be returned to be raised elsewhere.
    return node.args if name in _SHOWING_CALLS or name.endswith("Error") else []


def _message(node: ast.expr) -> str | None:
    """Return a string's text with a gap for each value in it; ``None`` for what is no string."""
    if isinstance(node, ast.Constant):
        return node.value if isinstance(node.value, str) else None
    if not isinstance(node, ast.JoinedStr):
        return None
    return "".join(str(part.value) if isinstance(part, ast.Constant) else GAP for part in node.values)


MAKERS: dict[str, Callable[[Path], str]] = {
    "options": options, "experiments": experiments, "file": file, "messages": messages,
}  # fmt: skip
