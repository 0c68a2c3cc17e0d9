"""The documentation builds without a warning, loads nothing from elsewhere, and holds what it is made from."""

import html
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import documents
import pytest

import lightning_puzzlemix as pm

REPOSITORY = documents.REPOSITORY


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    for package in ("mkdocs", "material", "mkdocstrings", "latex2mathml"):
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -e '.[docs]'")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)],
        cwd=REPOSITORY,
        # Without Material's notice about the future of MkDocs.
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr + done.stdout
    return folder


@pytest.fixture(scope="module")
def site(built: Path) -> dict[str, str]:
    """The built pages by name."""
    return {path.stem: path.read_text() for path in built.glob("*.html")}


def test_every_page_is_built(site: dict[str, str]) -> None:
    assert site.keys() - {"404"} == {page.stem for page in documents.PAGES} - {"README"}


def test_pages_load_nothing_from_the_network(site: dict[str, str], built: Path) -> None:
    loading = re.compile(
        r"<(?:script|img|iframe|source|audio|video|embed|link)\b[^>]*?\s(?:src|href)=[\"']?([^\"'\s>]+)"
    )
    for name, page in site.items():
        found = loading.findall(page)
        assert found, f"{name} loads nothing, not even its style"
        assert not [address for address in found if re.match(r"(?:https?:)?//", address)], name
    styles = {path.name: path.read_text() for path in built.rglob("*.css")}
    assert "extra.css" in styles
    for name, text in (site | styles).items():
        assert not re.search(r"url\(\s*[\"']?(?:https?:)?//|@import\s*[\"'](?:https?:)?//", text), name


def test_formulas_are_mathml(site: dict[str, str]) -> None:
    for name in ("method", "solver"):
        assert site[name].count("<math") > 20
        text = re.sub(r"<pre.*?</pre>|<code.*?</code>|<script.*?</script>", "", site[name], flags=re.DOTALL)
        assert not re.search(r"\$|\\(?:frac|sum|text)\b", text), name


@pytest.mark.parametrize("name", [*pm.__all__, "monitoring.plot_mixes"])
def test_api_has_every_public_name(name: str, site: dict[str, str]) -> None:
    assert f'id="lightning_puzzlemix.{name}"' in site["api"]


def test_api_shows_no_markup_of_another_kind(site: dict[str, str]) -> None:
    assert not re.search(r":(?:class|func|meth|mod):", site["api"])


def test_configuration_has_every_option(site: dict[str, str]) -> None:
    yaml = pytest.importorskip("yaml")
    page = html.unescape(site["configuration"])
    conf = REPOSITORY / "conf"
    files = [path for path in conf.rglob("*.yaml") if path.parent != conf]
    groups = {path.relative_to(conf).parts[0] for path in files}
    assert set(re.findall(r'<h2 id="[^"]*">(\w+)<', page)) >= groups
    for path in files:
        group, *rest = path.relative_to(conf).with_suffix("").parts
        choice = "/".join(rest) if group == "recipe" else f"{group}={'/'.join(rest)}"
        assert f"<strong><code>{choice}</code></strong>" in page, choice
        described = next(line for line in path.read_text().splitlines()[1:] if not line.startswith("# python"))
        assert described.removeprefix("# ").split(" `")[0] in page, path
        target = yaml.safe_load(path.read_text()).get("_target_")
        assert target is None or f"<code>_target_: {target}</code>" in page, path


def test_troubleshooting_has_every_message(site: dict[str, str]) -> None:
    page = documents.normalized(html.unescape(site["troubleshooting"]))
    # Each in another file and another kind of call: raised, raised by name, warned of, by an argument parser, and returned.
    for message in (
        "grid_sizes must be at most the shorter image side …",
        "the model's output does not depend on the images through autograd",
        "images un-normalized with mean=…, std=… span",
        "--output belongs to --dry-run",
        "… was not found. Searched paths",
    ):
        assert f"<td>{message}" in page, message
