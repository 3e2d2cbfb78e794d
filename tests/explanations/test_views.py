"""An explanation as coloured text, as a table, as JSON and as a page, with hostile texts."""

import io
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.browser import Browser
from support.runs import TINY, Launch
from support.terminals import on_terminal

import imdbcls
from imdbcls.explain import explain_disagreement, explain_texts, parse, precision_note
from imdbcls.explanations import Explanation, explain
from imdbcls.explanations.disagreement import correct_note, disagreements
from imdbcls.explanations.html import Section, Side, explanation_html, page_html, words_html
from imdbcls.explanations.terminal import print_coloured, table_text
from imdbcls.explanations.wording import facts, level_of

pytestmark = pytest.mark.slow

HOSTILE = "It was <script>document.title='run'</script> & \u202egood\x1b[31m, really."


@pytest.fixture(scope="module")
def run(finished: Path) -> imdbcls.FinishedRun:
    return imdbcls.load_run(finished)


@pytest.fixture(scope="module")
def hostile(run: imdbcls.FinishedRun) -> Explanation:
    """Return a real explanation of a hostile text, with a hostile class name and invented pooling weights."""
    found = explain(run, HOSTILE)
    weights = tuple(1 / len(found.words) for _ in found.words)
    end = len(HOSTILE)
    return replace(
        found, text=f"{HOSTILE}more", unread=((end, end + 4),), target="<b>", pooling=weights, special_pooling=0.1
    )


def test_levels() -> None:
    assert [level_of(value, 2.0, 4) for value in (2.0, -2.0, 0.9, -0.3, 0.2, 0.0)] == [4, -4, 2, -1, 0, 0]
    assert level_of(0.0, 0.0, 4) == 0


def test_text_is_escaped_and_complete(hostile: Explanation) -> None:
    html = words_html(hostile)
    assert "<script" not in html and "&lt;" in html and "&amp;" in html
    assert "\x1b" not in html and "\u202e" not in html and r"\x1b" in html and r"\u202e" in html
    bare = re.sub(r"</?span[^>]*>", "", html)
    assert bare.replace("&lt;", "<").replace("&gt;", ">").replace("&#39;", "'").replace("&amp;", "&") == (
        f"{HOSTILE}more".replace("\x1b", r"\x1b").replace("\u202e", r"\u202e")
    )
    assert html.count('class="unread"') == 1
    page = page_html("<i>", "<i>", "<i>", [Section("<i>", "<i>", [Side("<i>", hostile)])])
    assert "<script" not in page and "<i>" not in page and "<b>" not in page


def test_page_in_a_browser(hostile: Explanation, tmp_path: Path) -> None:
    """The page shows the text, with coloured words in light and dark mode. No script in the text runs."""
    path = tmp_path / "page.html"
    path.write_text(page_html("Title", "Headline", "About", [Section("One", "", [Side("run", hostile)] * 2)]))
    colour = "getComputedStyle(document.querySelector('.words [class$=\"8\"]')).backgroundColor"
    colours = set()
    with Browser(tmp_path / "profile") as browser:
        for width, dark in ((1200, False), (1200, True), (400, False)):
            browser.look(width, dark=dark)
            browser.open(path)
            assert browser.evaluate("document.title") == "Title"
            assert "<script>document.title='run'</script>" in browser.evaluate("document.body.innerText")
            assert browser.evaluate("document.documentElement.scrollWidth") <= width
            colours.add(browser.evaluate(colour))
        assert not browser.console and all(url.startswith("file:") for url in browser.requests)
    assert len(colours) == 2 and "rgba(0, 0, 0, 0)" not in colours


def test_piped_table_and_json(finished: Path, run: imdbcls.FinishedRun, launch: Launch, tmp_path: Path) -> None:
    (tmp_path / "reviews.csv").write_text("id,text\na,Not this.\nb,A quiet film.\n")
    page = tmp_path / "page.html"
    arguments = (str(finished), "--file", "reviews.csv", "--row", "3", "--id-column", "id", "--output", str(page))
    done = launch(tmp_path, "explain", *arguments)
    expected = explain(run, "A quiet film.")
    assert done.stdout == table_text(expected) + "\n" and "\x1b" not in done.stdout
    assert f"Wrote {page}" in done.stderr
    assert "Text b" in page.read_text() and "Not this" not in page.read_text()

    out = io.StringIO()
    explain_texts(parse([str(finished), "--json"]), io.StringIO("A quiet film.\n\nNot bad.\n"), out)
    first, second = map(json.loads, out.getvalue().splitlines())
    assert (first["number"], second["number"]) == (1, 3)
    assert [entry["word"] for entry in first["words"]] == list(expected.words)
    assert [entry["score"] for entry in first["words"]] == list(expected.scores)
    assert first["probabilities"] == expected.probabilities and first["target"] == expected.target


@pytest.mark.parametrize("columns", [80, 120])
def test_coloured_text_fits_the_terminal(run: imdbcls.FinishedRun, columns: int) -> None:
    text = "A quiet, patient film that I liked far more than I had expected to like it. " * 5
    out = io.StringIO()
    print_coloured(explain(run, text.strip()), out, columns)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).rstrip() for line in out.getvalue().splitlines()]
    assert all(len(line) <= columns for line in lines) and max(map(len, lines)) > columns - 10
    assert " ".join(text.split()) in " ".join(lines) and "not read" in out.getvalue()
    styles = {code for codes in re.findall(r"\x1b\[([0-9;]*)m", out.getvalue()) for code in codes.split(";")}
    assert {"1", "2", "4", "7"} <= styles  # bold, dim, underline, reverse
    header = next(number for number, line in enumerate(lines) if line.startswith("word") and "score for" in line)
    assert all(re.search(r"[+-]\d\.\d{3}$", line) for line in lines[header + 2 : header + 12])


def test_another_precision_of_predict_is_noted() -> None:
    notes = [precision_note(imdbcls.compose(*TINY, "device=cpu", f"precision={name}")) for name in ("fp32", "bf16")]
    assert notes[0] is None and notes[1] is not None and "float32 and predict in bf16" in notes[1]


def test_command_uses_colours_only_on_a_terminal(finished: Path) -> None:
    shown = on_terminal([sys.executable, "-m", "imdbcls.explain", str(finished), "A quiet film."], 80)
    assert "\x1b[" in shown and "for " in shown and "strongest: ±" in shown


def test_all_views_show_the_probabilities_of_the_baseline(hostile: Explanation) -> None:
    other = next(name for name in hostile.probabilities if name != hostile.label)
    same = replace(hostile, baseline="[MASK]", baseline_probabilities={hostile.label: 0.75, other: 0.25})
    changed = replace(same, baseline_probabilities={hostile.label: 0.25, other: 0.75})
    for found, first, is_same in ((same, hostile.label, True), (changed, other, False)):
        out = io.StringIO()
        print_coloured(found, out, 80)
        for shown in (table_text(found), out.getvalue(), str(explanation_html(found))):
            words = " ".join(re.sub(r"\x1b\[[0-9;]*m", "", shown).split())
            assert f"Baseline ([MASK] replaces every word): {first} 75.0 %" in words
            assert ("even without the words of the text" in words) == is_same


def test_facts(hostile: Explanation) -> None:
    wrong = replace(hostile, completeness_error=0.5, tolerance=0.01, num_windows=2, num_tokens=9, num_read=7)
    warning, error, windows, unread, special = facts(wrong)
    assert warning.startswith("Warning: the error of these scores is larger") and "The error is 0.5 with" in error
    assert "2 windows" in windows and "did not read 2 of the 9 tokens" in unread and "10.0 %" in special
    assert len(facts(replace(hostile, special_pooling=None, num_read=hostile.num_tokens))) == 1


def test_disagreement_of_two_runs(finished: Path, run: imdbcls.FinishedRun, launch: Launch, tmp_path: Path) -> None:
    """The page has the documents that differ most. `compare` names the command, and links to the page if it exists."""
    study = tmp_path / "runs" / "demo"
    shutil.copytree(finished.parent, study)
    launch(
        tmp_path,
        "train",
        *TINY,
        "epochs=1",
        "data.train_limit=32",
        "tracker=none",
        "head=cls",
        "runs_dir=runs",
        "study=demo",
    )
    first, second = sorted(study.glob("*-s0-*"))
    launch(tmp_path, "compare", "runs/demo", "--output", "out")
    groups = json.loads((tmp_path / "out" / "comparison.json").read_text())["groups"]
    ranked = [group["runs"][0]["name"] for group in groups]
    command = f"python -m imdbcls.explain --disagreement runs/demo/{ranked[0]} runs/demo/{ranked[1]}"
    assert command in (text := (tmp_path / "out" / "comparison.html").read_text())
    name = f"disagreement-{first.name}-{second.name}.html"
    assert name not in text
    launch(tmp_path, "explain", "--disagreement", str(first), str(second), "--count", "2")
    launch(tmp_path, "compare", "runs/demo")
    assert f'href="{name}"' in (study / "comparison.html").read_text()

    runs = (imdbcls.load_run(first), imdbcls.load_run(second))
    found = disagreements(runs, 3)
    page = (study / name).read_text()
    assert [document.id in page for document in found] == [True, True, False]
    notes = [correct_note(names) for names in ([first.name], [second.name], [], [first.name, second.name])]
    assert notes[0] == f"Only {first.name} is correct." and notes[2:] == ["Both are wrong.", "Both are correct."]
    assert sum(page.count(note) for note in notes) == 2
    predicted = [each.predict([document.text for document in found]).known_probabilities for each in runs]
    gaps = abs(predicted[0][:, 0] - predicted[1][:, 0])
    assert [document.difference for document in found] == pytest.approx(list(gaps), abs=0.02)  # tolerance for bf16
    assert sorted(gaps, reverse=True) == pytest.approx(list(gaps), abs=0.02) and found[0].difference > 0


def test_disagreement_reads_a_local_dataset_only_if_the_user_names_it(launch: Launch, tmp_path: Path) -> None:
    """With `data=hub`, a folder can name remote files. So the path in a run's config is not enough."""
    news = tmp_path / "news"
    news.mkdir()
    for split, num_rows in (("train", 40), ("test", 8)):
        rows = [f"{split} text {row},{'ab'[row % 2]}" for row in range(num_rows)]
        (news / f"{split}.csv").write_text("\n".join(["text,label", *rows]))
    launch(tmp_path, "train", *TINY, "epochs=1", "data=hub", f"data.path={news}", "tracker=none", "runs_dir=runs")
    (run,) = (tmp_path / "runs").glob("*/*-s0-*")
    shutil.copytree(run, other := run.with_name("other"))
    arguments = ["--disagreement", str(run), str(other), "--count", "1"]
    with pytest.raises(imdbcls.UserError, match=r"news is a local path, not a hub id.* with --data PATH"):
        explain_disagreement(parse(arguments))
    launch(tmp_path, "explain", *arguments, "--data", "news")
    assert " · label: " in (run.parent / f"disagreement-{run.name}-other.html").read_text()
    with (news / "test.csv").open("a") as file:
        file.write("\none more,a")
    with pytest.raises(imdbcls.UserError, match=r"the split hash is different\.$"):
        explain_disagreement(parse([*arguments, "--data", str(news)]))
