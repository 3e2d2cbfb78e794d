"""`python -m imdbcls.serve` in a real process: the page in Chromium, signals under load, and mistakes."""

import contextlib
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

import pytest
from support.browser import Browser
from support.limits import HANG_SECONDS
from support.runs import Launch, isolated

from imdbcls.serving.server import is_loopback, listen, url_of

SCRIPT = "<script>document.title = 'attacked'</script>"
TEXT = f"A quiet, patient film. {SCRIPT} <b>Bold</b>\nTwo hours & nothing lost."


@dataclass
class Server:
    process: subprocess.Popen[str]
    url: str
    log: Path

    def predict(self, texts: list[str]) -> dict[str, object]:
        body = json.dumps({"texts": texts}).encode()
        with urlopen(
            Request(f"{self.url}/predict", body, {"Content-Type": "application/json"}), timeout=HANG_SECONDS
        ) as answer:
            return json.load(answer)


def start(folder: Path, *arguments: str) -> Server:
    """Start the command, and wait until it has printed its URL."""
    log = folder / "log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "imdbcls.serve", *arguments, "--port", "0"],
            cwd=folder,
            env=isolated(folder / "home"),
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
        )
    assert process.stdout is not None
    url = process.stdout.readline().strip()
    assert url.startswith("http://127.0.0.1:"), log.read_text()
    return Server(process, url, log)


@pytest.fixture(scope="module")
def server(finished: Path, second: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Yield a server of two runs. A test ends it with a signal. If that test fails, the fixture kills it."""
    found = start(tmp_path_factory.mktemp("served"), str(finished), str(second))
    yield found
    found.process.kill()
    found.process.wait()


def wait_for(browser: Browser, expression: str) -> None:
    limit, holds = time.monotonic() + HANG_SECONDS, False
    while not holds:
        assert time.monotonic() < limit, browser.console
        time.sleep(0.05)
        with contextlib.suppress(AssertionError):  # while one page replaces another, neither evaluates expressions
            holds = browser.evaluate(expression)


@pytest.mark.needs("chromium")
@pytest.mark.parametrize(("width", "dark"), [(1200, False), (400, True)])
def test_pasted_text_is_answered_by_both_runs(server: Server, tmp_path: Path, width: int, dark: bool) -> None:
    with Browser(tmp_path / "profile") as browser:
        browser.look(width, dark=dark)
        browser.call("Page.navigate", url=server.url)
        wait_for(browser, "document.readyState === 'complete' && document.activeElement.id === 'text'")
        browser.call("Input.insertText", text=TEXT)
        browser.evaluate("window.isOld = true")
        browser.call(  # Ctrl+Enter
            "Input.dispatchKeyEvent",
            type="rawKeyDown",
            key="Enter",
            code="Enter",
            windowsVirtualKeyCode=13,
            modifiers=2,
        )
        wait_for(browser, "!window.isOld && document.readyState === 'complete'")
        assert browser.evaluate("document.activeElement.id") == "result"
        assert browser.evaluate("document.getElementById('text').value") == TEXT
        assert browser.evaluate("document.title").endswith(": imdbcls")
        answer = server.predict([TEXT])
        percentages = browser.evaluate(
            "[...document.querySelectorAll('article')].map(a => [...a.querySelectorAll('dd')].map(d => d.textContent))"
        )
        runs = answer["runs"]
        assert isinstance(runs, list) and percentages == [
            [f"{100 * value:.1f}\u00a0%" for value in run["predictions"][0]["probabilities"].values()] for run in runs
        ]
        highlighted = browser.evaluate("[...document.querySelectorAll('.words')].map(node => node.textContent)")
        assert highlighted == [TEXT] * 3  # weight_avg also has pooling weights
        assert browser.evaluate("document.querySelectorAll('.words span').length") > 2
        assert (
            browser.evaluate("document.scripts.length") == 1
            and browser.evaluate("document.querySelector('b b')") is None
        )
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
        assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == (
            "rgb(21, 24, 27)" if dark else "rgb(253, 253, 251)"
        )
        assert browser.console == [] and {request.rstrip("/") for request in browser.requests} <= {server.url, "data:,"}


def test_a_signal_under_load_ends_the_server_and_no_answer_is_cut_off(server: Server) -> None:
    """Every request gets a complete answer or none at all. No text is in the log."""
    answered: list[int] = []
    failed: list[Exception] = []
    is_over = threading.Event()

    def ask() -> None:
        while not is_over.is_set():
            try:
                answer = server.predict(["secretword and a film"] * 8)
                assert len(answer["runs"][0]["predictions"]) == 8  # type: ignore[index]
                answered.append(1)
            except HTTPError as error:
                assert error.code == 503 and list(json.load(error)) == ["error"]
            except (URLError, ConnectionError) as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + HANG_SECONDS
    while len(answered) < 16:
        assert time.monotonic() < limit
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(HANG_SECONDS) == 0
    is_over.set()
    for thread in threads:
        thread.join(HANG_SECONDS)
    # A connection that the server had not accepted yet is refused or reset. A connection with a request is answered.
    assert len(failed) <= 8 and not any("IncompleteRead" in repr(error) for error in failed)
    log = server.log.read_text()
    assert "Ready." in log and "secretword" not in log and "Traceback" not in log


def test_mistakes_are_one_sentence(finished: Path, second: Path, launch: Launch, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        cases = {
            (str(finished), "--port", port): f"Cannot listen on 127.0.0.1, port {port}: another program uses this port",
            (str(finished), "--host", "192.0.2.1"): "this machine does not have this address: choose another --host",
            (str(finished), str(finished)): "is given twice: pass different runs.",
            (str(finished), str(second), "third"): "3 runs were given: pass one run, or two to see them side by side.",
            (): "0 runs were given",
            ("--ensemble", str(finished)): "An ensemble needs at least two runs.",
            ("--ensemble", str(finished), str(finished)): "is given twice: pass different runs.",
            (str(finished.parent),): "is a study folder, not a run folder",
            (str(finished), "--port", "70000"): "--port 70000 is too large",
        }
        for arguments, sentence in cases.items():
            done = launch(tmp_path, "serve", *arguments, expect=2)
            assert sentence in done.stderr and "Traceback" not in done.stderr and done.stdout == ""
            assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(("host", "loopback"), [("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)])
def test_loopback_addresses_are_recognised(host: str, loopback: bool) -> None:
    with listen(host, 0) as listener:
        assert is_loopback(listener) == loopback and url_of(listener).startswith("http://")
