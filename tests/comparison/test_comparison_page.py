"""The HTML page: self-contained, safe for hostile texts, free of browser errors, and usable by keyboard."""

import html
import html.parser
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from support.browser import Browser
from support.studies import HEADS, Head, make_study, rendered_study, review_texts

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.extent import shown_pairs
from imdbcls.comparison.views.figures import figures_of
from imdbcls.comparison.views.markdown import markdown_text
from imdbcls.comparison.views.page import page_html
from imdbcls.comparison.views.reading_list import reading_list
from imdbcls.comparison.views.svg import standalone
from imdbcls.comparison.views.svg_figures import drawings_of
from imdbcls.comparison.views.tables import tables_of
from imdbcls.comparison.views.terminal import terminal_text
from imdbcls.comparison.views.terms import TERMS
from imdbcls.comparison.views.wording import headline

HOSTILE = "</script><script>document.title='hacked'</script><img src=x onerror=alert(1)> <!-- $study & \u2028 needle"
MAX_LOAD_SECONDS = 2.0  # CPU time


def compared(study_folder: Path) -> Comparison:
    return compare_study(read_study(study_folder), METRICS["accuracy"], 0.003)


def write_page(study_folder: Path, page: Path, hostile: bool = False) -> None:
    study = read_study(study_folder)
    comparison = compare_study(study, METRICS["accuracy"], 0.003)
    texts = review_texts(study.groups[0].ids.tolist())
    if hostile:
        texts = {id_: HOSTILE if i % 2 == 0 else text for i, (id_, text) in enumerate(texts.items())}
    reading = reading_list(study, comparison, texts)
    page.write_text(page_html(comparison, drawings_of(figures_of(comparison)), reading), encoding="utf-8")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write a small page with hostile texts and names, and a page of a large study (25,000 documents)."""
    folder = tmp_path_factory.mktemp("pages")
    small = make_study(folder / "<b>small", heads=HEADS[:3], num_documents=600)
    for file in small.glob("lstm-*/result.json"):
        result = json.loads(file.read_text()) | {
            "head": "<script>alert(1)</script>",
            "label_names": ["<i>neg</i>", "pos"],
        }
        file.write_text(json.dumps(result))
    for file in [*small.glob("transformer-*/result.json"), *small.glob("cls-*/result.json")]:
        file.write_text(json.dumps(json.loads(file.read_text()) | {"label_names": ["<i>neg</i>", "pos"]}))
    large = make_study(folder / "heads", seeds=range(5), num_documents=25_000)
    (small / "<img src=x onerror=alert(2)>").mkdir()  # a note says that this run is left out
    (small / "<img src=x onerror=alert(2)>/result.json").write_text("{}")
    write_page(small, folder / "small.html", hostile=True)
    started = time.process_time()
    write_page(large, folder / "large.html")
    assert time.process_time() - started < 60
    return {"small": folder / "small.html", "large": folder / "large.html"}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


class Elements(html.parser.HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_page_loads_nothing_and_contains_no_markup_from_data(pages: dict[str, Path]) -> None:
    text = pages["small"].read_text(encoding="utf-8")
    elements = Elements(text).found
    assert [attributes.get("id") for tag, attributes in elements if tag == "script"] == ["documents", None]
    assert "&lt;img src=x onerror=alert(2)&gt; is left out" in text
    assert not [tag for tag, _ in elements if tag in {"img", "iframe", "object", "i", "form"}]
    assert not [name for _, attributes in elements for name in attributes if name.startswith("on") or name == "style"]
    assert not re.findall(r'(?:src|href)="(?!#|data:,)', text)
    assert "@import" not in text and "url(" not in text
    policy = next(a["content"] for tag, a in elements if a.get("http-equiv") == "Content-Security-Policy")
    assert policy is not None and "default-src 'none'" in policy and "unsafe" not in policy


def test_macro_f1_keeps_its_capital_letter(tmp_path: Path) -> None:
    study = read_study(make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=60))
    comparison = compare_study(study, METRICS["f1"], 0.003)
    page = page_html(comparison, drawings_of(figures_of(comparison)), reading_list(study, comparison, {}))
    assert "Macro F1 on the test documents." in page


def test_every_figure_has_a_text_alternative(pages: dict[str, Path]) -> None:
    elements = Elements(pages["large"].read_text(encoding="utf-8")).found
    figures = [
        attributes for tag, attributes in elements if tag == "svg" and "figure" in (attributes.get("class") or "")
    ]
    assert len(figures) == 17
    assert all(figure["role"] == "img" and len(figure["aria-label"] or "") > 30 for figure in figures)


def test_large_page_is_below_two_megabytes(pages: dict[str, Path]) -> None:
    assert pages["large"].stat().st_size < 2_000_000


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.needs("chromium")
def test_large_page_loads_fast_and_fits_without_errors(
    browser: Browser, pages: dict[str, Path], width: int, dark: bool, tmp_path: Path
) -> None:
    browser.console.clear()
    browser.requests.clear()
    browser.look(width, dark=dark)
    before = browser.cpu_seconds()
    browser.open(pages["large"])
    seconds = browser.cpu_seconds() - before
    print(f"{width} px, dark {dark}: {seconds:.2f} s of CPU time")
    assert seconds < MAX_LOAD_SECONDS
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.console == [] and len(browser.requests) == 1
    drawn = browser.evaluate(
        "[...document.querySelectorAll('svg.figure')].filter(f => getComputedStyle(f).display !== 'none')"
        ".map(f => { const b = f.getBoundingClientRect(); "
        "return [b.width, b.height, f.querySelectorAll('path,circle,line').length] })"
    )
    assert len(drawn) == 14
    assert all(w > 100 and h > 100 and marks > 5 for w, h, marks in drawn)
    browser.screenshot(tmp_path / "page.png")
    assert (tmp_path / "page.png").stat().st_size > 100_000


@pytest.mark.needs("chromium")
def test_colours_follow_light_dark_and_print(browser: Browser, pages: dict[str, Path]) -> None:
    backgrounds = {}
    for name, dark, media in (("light", False, "screen"), ("dark", True, "screen"), ("print", True, "print")):
        browser.look(1280, dark=dark, media=media)
        browser.open(pages["small"])
        backgrounds[name] = browser.evaluate("getComputedStyle(document.body).backgroundColor")
    assert backgrounds == {"light": "rgb(253, 253, 251)", "dark": "rgb(21, 24, 27)", "print": "rgb(255, 255, 255)"}


@pytest.mark.needs("chromium")
def test_hostile_texts_and_names_are_shown_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    browser.console.clear()
    browser.look(1280)
    browser.open(pages["small"])
    assert browser.evaluate("document.title") == "<b>small: which head is better?"
    assert "<script>alert(1)</script>" in browser.evaluate("document.querySelector('#ranking table').innerText")
    assert "<i>neg</i>" in browser.evaluate("document.querySelector('#reading').innerText")
    type_in_search(browser, "onerror=alert")
    assert browser.evaluate("document.querySelector('article .text').textContent") == HOSTILE
    assert browser.evaluate("document.querySelector('article mark').textContent") == "onerror=alert"
    assert browser.evaluate("document.images.length") == 0 and browser.console == []


def type_in_search(browser: Browser, text: str) -> None:
    browser.evaluate("document.getElementById('search').focus()")
    browser.call("Input.insertText", text=text)


@pytest.mark.needs("chromium")
def test_mistakes_are_filtered_by_search_and_reason(browser: Browser, pages: dict[str, Path]) -> None:
    browser.look(1280)
    browser.open(pages["small"])
    everything = int(str(browser.evaluate("document.getElementById('count').textContent")).split("of ")[1].rstrip("."))
    type_in_search(browser, "NEEDLE")
    found = browser.evaluate("document.getElementById('count').textContent")
    assert 0 < int(found.split("of ")[1].rstrip(".")) < everything
    type_in_search(browser, "nowhere to be found")
    assert browser.evaluate("document.getElementById('count').textContent") == "No document matches."
    browser.evaluate("document.getElementById('search').value = ''")
    browser.evaluate(
        "const r = document.getElementById('reason'); r.value = 'label'; r.dispatchEvent(new Event('change'))"
    )
    reasons = browser.evaluate("[...document.querySelectorAll('article .why')].map(n => n.textContent)")
    assert reasons and all("suspected label error" in reason for reason in reasons)


@pytest.mark.needs("chromium")
def test_page_controls_are_reached_by_keyboard(browser: Browser, pages: dict[str, Path]) -> None:
    browser.look(1280)
    browser.open(pages["large"])
    browser.press("Tab", 9)
    assert browser.evaluate("document.activeElement.className") == "skip"
    reached = set()
    for _ in range(80):
        browser.press("Tab", 9)
        reached.add(browser.evaluate("document.activeElement.tagName + '#' + document.activeElement.id"))
    assert {"A#", "DIV#", "SUMMARY#", "INPUT#search", "SELECT#reason", "BUTTON#more"} <= reached


@pytest.mark.needs("chromium")
def test_figure_file_opens_without_page(browser: Browser, pages: dict[str, Path], tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:2], num_documents=300)
    figure = tmp_path / "differences.svg"
    drawing = drawings_of(figures_of(compare_study(read_study(study), METRICS["accuracy"], 0.003)))["differences"]
    figure.write_text(standalone(drawing), encoding="utf-8")
    browser.console.clear()
    browser.open(figure)
    assert browser.evaluate("document.documentElement.tagName") == "svg" and browser.console == []


def test_study_of_many_groups_shows_only_the_best(tmp_path: Path) -> None:
    """30 groups have 435 pairs. The views show 29 pairs, and comparison.json contains all pairs."""
    heads = [Head(f"h{i:02d}", skill=i / 30) for i in range(30)]
    study = make_study(tmp_path / "many", heads=heads, seeds=(0, 1), num_documents=120)
    found = read_study(study)
    comparison = compare_study(found, METRICS["accuracy"], 0.003)
    figures, reading = drawings_of(figures_of(comparison)), reading_list(found, comparison, {})
    assert len(comparison.pairs) == 435 and len(headline(comparison)) < 600
    assert " others" in headline(comparison)
    best = comparison.groups[0].name
    shown = shown_pairs(comparison)
    assert len(shown) == 29 and all(best in (pair.a, pair.b) for pair in shown)
    tables = {table.key: table for table in tables_of(comparison)}
    assert len(tables["differences"].rows) == len(tables["flips"].rows) == 29
    assert len(tables["ranking"].rows) == 30 + 1 and len(tables["length"].header) == 2 + 20
    note = "The p-values are corrected for all tested pairs. comparison.json contains all 435 pairs."
    page, terminal = page_html(comparison, figures, reading), terminal_text(comparison)
    for text in (page, terminal.replace("\n", " "), markdown_text(comparison)):
        assert note in text.replace("\\", "")
        assert "best 20 of 30 groups" in text
    assert sum(name.startswith("reliability_") for name in figures) == 20
    assert len(reading.documents[0].predictions) == 20
    assert len(page) < 1_000_000 and len(terminal.splitlines()) < 400


def test_names_of_groups_do_not_change_the_explanations(tmp_path: Path) -> None:
    """Two groups are named like parts of a figure that this page does not have: a reference line and a curve."""
    heads = [Head("largest class", skill=2.0), Head("training", skill=1.9)]
    study = make_study(tmp_path / "heads", heads=heads, seeds=[0, 1], num_documents=3_000)
    for log in study.glob("*/metrics.jsonl"):
        log.write_text("".join(line + "\n" for line in log.read_text().splitlines() if "train/loss" not in line))
    write_page(study, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "(outside the figure)" in page and "(the dashed line)" not in page
    assert "dashed training loss" not in page


def test_page_says_what_was_compared_and_lists_all_runs(pages: dict[str, Path]) -> None:
    text = html.unescape(re.sub(r"<[^>]+>", " ", pages["large"].read_text(encoding="utf-8").split("<script")[0]))
    assert "5 groups, 25 runs. Encoder: minilm" in text and "25,000 test documents; at most 256 tokens" in text
    for name in ("transformer-s0", "mean-s4", "Which settings do all groups share?", "head._target_"):
        assert name in text
    assert "underconfident: it is right more often than its probabilities say" in text
    assert "We compare 5 models" in text and "clusters" not in text.split("Method")[0].split("A paragraph")[0]


def test_runs_link_to_wandb_unless_the_url_is_unsafe(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", heads=HEADS[:2], num_documents=300)
    links = {
        "cls-s0": {"wandb": "https://wandb.ai/team/imdbcls/runs/cls-s0-1a2b3c4d?a=1&b=2"},
        "cls-s1": {"wandb": "javascript:alert(1)"},
        "cls-s2": {"wandb": 'https://wandb.ai/"><script>\n'},
        "transformer-s0": {"wandb": ["https://wandb.ai"]},
        "transformer-s1": "https://wandb.ai",
    }
    for name, found in links.items():
        path = study / name / "result.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"links": found}))
    write_page(study, tmp_path / "page.html")
    page = Elements((tmp_path / "page.html").read_text("utf-8"))
    hrefs = [attributes["href"] for tag, attributes in page.found if tag == "a" and attributes.get("rel") == "noopener"]
    assert hrefs == [links["cls-s0"]["wandb"]]
    runs = {run.name: run.url for group in compared(study).groups for run in group.runs}
    assert {name for name, url in runs.items() if url is not None} == {"cls-s0"}


def test_terms_link_to_their_definitions(pages: dict[str, Path]) -> None:
    elements = Elements(pages["large"].read_text(encoding="utf-8")).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    terms = [attributes for tag, attributes in elements if tag == "a" and attributes.get("class") == "term"]
    assert len(terms) > 10 and {term["title"] for term in terms if "title" in term}
    links = [a["href"] or "" for tag, a in elements if tag == "a"]
    assert {link[1:] for link in links} <= ids, "every link has its target"
    assert {f"term-{term.anchor}" for term in TERMS.values()} <= ids | {"term-equivalent"}


@pytest.mark.needs("chromium")
def test_mistakes_name_the_predicted_class_and_start_with_five(browser: Browser, pages: dict[str, Path]) -> None:
    browser.look(1280)
    browser.open(pages["small"])
    assert browser.evaluate("document.querySelectorAll('article').length") == 5
    chips = browser.evaluate("[...document.querySelectorAll('article')].map(a => a.innerText)")
    for text in chips:
        label = text.split("label: ")[1].split("\n")[0]
        other = "pos" if label == "<i>neg</i>" else "<i>neg</i>"
        assert f": {other} (label 0." in text and f": {label} (label" not in text
    reasons = browser.evaluate("[...document.querySelectorAll('article .why')].map(n => n.textContent.split(' · ')[1])")
    assert len(set(reasons)) >= 4, "different kinds of mistakes come first"
    browser.evaluate("document.getElementById('more').click()")
    assert browser.evaluate("document.querySelectorAll('article').length") == 25


@pytest.mark.needs("chromium")
def test_navigation_stays_visible_and_wide_tables_say_that_they_scroll(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.look(390)
    browser.open(pages["large"])
    assert browser.evaluate("document.querySelector('#ranking .scroll').classList.contains('wider')")
    browser.evaluate("document.documentElement.style.scrollBehavior = 'auto'; window.scrollTo(0, 4000)")
    assert browser.evaluate("document.querySelector('nav').getBoundingClientRect().top") == 0
    assert browser.evaluate("document.querySelector('nav a').hash") == "#top"


@pytest.mark.needs("chromium")
def test_figures_are_saved_with_their_styles(browser: Browser, pages: dict[str, Path]) -> None:
    browser.console.clear()
    browser.look(1280)
    browser.open(pages["small"])
    browser.evaluate(
        "URL.createObjectURL = blob => { window.saving = blob.text(); return '#saved' };"
        "HTMLAnchorElement.prototype.click = function () { window.savedAs = this.download };"
        "document.querySelector('figure[data-name=accuracy] button.save').click()"
    )
    answer = browser.call("Runtime.evaluate", expression="window.saving", awaitPromise=True, returnByValue=True)
    saved = answer["result"]["value"]
    assert browser.evaluate("window.savedAs") == "accuracy.svg" and browser.console == []
    assert saved.startswith("<svg") and ".figure .seed" in saved and ".headline" not in saved


@pytest.mark.parametrize("removed", ["config", "history", "cost"])
def test_page_copes_with_missing_data(removed: str, tmp_path: Path) -> None:
    study = make_study(tmp_path / "runs", heads=HEADS[:2], num_documents=120)
    for run in study.glob("*-s*"):
        if removed == "config":
            (run / "config.yaml").write_text("{}")
        elif removed == "history":
            (run / "metrics.jsonl").unlink()
        else:
            kept = ("format_version", "status", "head", "seed", "config_hash", "group_hash", "split_hash")
            result = json.loads((run / "result.json").read_text())
            (run / "result.json").write_text(json.dumps({key: result[key] for key in kept}))
    write_page(study, tmp_path / "page.html")
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8")).found
    ids = {attributes["id"] for _, attributes in elements if "id" in attributes}
    missing = {"config": "", "history": "curves", "cost": "costs"}[removed]
    assert {"ranking", "differences", "classes", "mistakes"} <= ids and missing not in ids
    assert {(a["href"] or "")[1:] for tag, a in elements if tag == "a"} <= ids


def test_page_of_one_group_has_no_cost_planes(tmp_path: Path) -> None:
    write_page(make_study(tmp_path / "runs", heads=HEADS[:1], num_documents=120), tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert 'data-name="cost_' not in text and "There is only one group" in text and 'id="costs"' in text


@pytest.mark.needs("chromium")
def test_confusion_matrix_of_five_classes_fits_without_scrolling(browser: Browser, tmp_path: Path) -> None:
    write_page(make_study(tmp_path / "runs", HEADS[:3], num_documents=200, num_classes=5), tmp_path / "page.html")
    browser.look(1280)
    browser.open(tmp_path / "page.html")
    widths = browser.evaluate(
        "[...document.querySelectorAll('.matrices .scroll')].map(b => b.scrollWidth - b.clientWidth)"
    )
    assert widths == [0, 0, 0]


def test_the_page_names_an_explain_command_only_for_runs_that_can_be_explained(tmp_path: Path) -> None:
    study = make_study(tmp_path / "study", heads=HEADS[:2], seeds=(0, 1), num_documents=200)
    best = [group.head for group in compared(study).groups]
    assert "imdbcls.explain" not in rendered_study(study).page  # no run has weights

    for head, seeds in zip(best, [(0, 1), (1,)], strict=True):
        for seed in seeds:
            (study / f"{head}-s{seed}" / "checkpoints" / "best").mkdir(parents=True)
            (study / f"{head}-s{seed}" / "checkpoints" / "best" / "model.safetensors").touch()
    runs = f"{study / best[0]}-s0 {study / best[1]}-s1"
    assert f"imdbcls.explain --disagreement {runs}</code>" in rendered_study(study).page

    for file in study.glob("*/config.yaml"):
        config = yaml.safe_load(file.read_text())
        config["data"]["source"] = {"_target_": "imdbcls.data.files.read_files", "pair_column": "hypothesis"}
        file.write_text(yaml.safe_dump(config))
    assert "imdbcls.explain" not in rendered_study(study).page
    (study / "disagreement-a-b.html").touch()
    page = rendered_study(study).page
    assert 'href="disagreement-a-b.html"' in page and "imdbcls.explain" not in page
