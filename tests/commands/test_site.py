"""The documentation site builds strictly, its reference is complete, and it works from the disk without a network."""

import re
import runpy
import subprocess
import sys
import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from support.browser import Browser
from support.limits import HANG_SECONDS
from support.runs import ROOT

import imdbcls
from imdbcls.commands import COMMANDS
from imdbcls.config.options import config_keys, groups


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [
        sys.executable,
        "-m",
        "mkdocs",
        "build",
        "--quiet",
        "--strict",
        "-f",
        "docs/mkdocs.yml",
        "-d",
        str(folder),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def text_of(page: Path) -> str:
    return unescape(re.sub(r"<[^>]+>", "", page.read_text(encoding="utf-8")))


def test_the_reference_lists_every_key_and_choice(site: Path) -> None:
    page = (site / "configuration.html").read_text(encoding="utf-8")
    files = ("config.yaml", "pretrain.yaml", "study.yaml", "tune.yaml")
    keys = [each.key for file in files for each in config_keys(file) if not each.is_section]
    choices = [f"{group}={choice}" for group, names in groups().items() for choice in names]
    assert len(keys) > 50 and len(choices) > 30
    assert [name for name in keys + choices if f"<code>{name}</code>" not in page] == []
    assert "number > 0" in text_of(site / "configuration.html")
    assert "imdbcls completion fish | source" in text_of(site / "commands.html")


def test_the_reference_lists_every_command_and_public_name(site: Path) -> None:
    commands = text_of(site / "commands.html")
    assert [name for name in COMMANDS if f"python -m imdbcls.{name}" not in commands] == []
    python = (site / "python.html").read_text(encoding="utf-8")
    assert [name for name in imdbcls.__all__ if f".{name}" not in python] == []


def test_no_page_loads_anything_from_the_web(site: Path) -> None:
    pages = [page for page in site.rglob("*.html") if page.parent.name != "gallery"]
    assert len(pages) > 25
    for page in pages:
        tags = re.findall(r"<(?:link|script|img|iframe)\b[^>]*>", page.read_text("utf-8"))
        assert tags and not [tag for tag in tags if re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag)], page
    assert not re.search(
        r"url\([\"']?(?:https?:)?//", "".join(sheet.read_text("utf-8") for sheet in site.rglob("*.css"))
    )


@pytest.mark.needs("chromium")
def test_the_site_needs_no_network_and_no_server(site: Path, browser: Browser) -> None:
    for name in ("index", "statistics", "python"):
        browser.open(site / f"{name}.html")
    assert {url.partition(":")[0] for url in browser.requests} <= {"file", "data", "blob"}
    assert browser.console == []


@pytest.mark.needs("chromium")
def test_the_search_works_from_the_disk(site: Path, browser: Browser) -> None:
    browser.open(site / "index.html")
    browser.evaluate("document.querySelector('[data-md-toggle=search]').click()")
    browser.evaluate("document.querySelector('.md-search__input').focus()")
    browser.call("Input.insertText", text="temperature")
    found, end = None, time.monotonic() + HANG_SECONDS
    while not found and time.monotonic() < end:
        browser.press("Shift", 16)  # the page reads its search field when a key is released
        time.sleep(0.2)
        found = browser.evaluate("document.querySelector('.md-search-result__link')?.getAttribute('href')")
    assert found is not None and ".html" in found


def test_the_pictures_are_those_that_the_script_draws() -> None:
    script = runpy.run_path(str(ROOT / "docs/pictures.py"))
    drawn = {f"{name}.svg": draw() for name, draw in script["PICTURE_BY_NAME"].items()}
    assert drawn == {path.name: path.read_text("utf-8") for path in (ROOT / "docs/pages/pictures").iterdir()}
