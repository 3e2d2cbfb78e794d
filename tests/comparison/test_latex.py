"""comparison.tex: LaTeX tables in which every name is shown literally."""

import json
import re
import subprocess
from pathlib import Path

import pytest
from support.limits import HANG_SECONDS
from support.studies import HEADS, Head, make_study

from imdbcls.comparison.metrics import METRICS
from imdbcls.comparison.results import Comparison
from imdbcls.comparison.study import read_study
from imdbcls.comparison.summary import compare_study
from imdbcls.comparison.views.latex import Latex, escape, latex_text

NAMES = (
    r"a\input{/etc/passwd}",
    r"$x_1^2$ {a} 50% #1 & ~b",
    '<b>|`q`"w"|</b> [x]',
    "*--- ''x'',, ??`",
    "naïve Größe \u2013 ł…",
    "^^5cinput{x}",
    r"\end{tabular}\csname write18\endcsname",
    "[2em] % \\\\",
)
# Commands that the file may contain: the commands of the template and of escaped characters.
COMMANDS = {
    *("usepackage", "input", "begin", "end", "centering", "small", "caption", "label"),
    *("toprule", "midrule", "bottomrule", "textbf", "char", "textbackslash", "textasciicircum", "textasciitilde"),
    *("textless", "textgreater", "textbar", "textasciigrave", "textendash"),
}
DOCUMENT = r"\documentclass{article}\usepackage{booktabs}\begin{document}\input{comparison.tex}\end{document}"


def study_of(folder: Path, names: tuple[str, ...], seeds: tuple[int, ...] = (0, 1)) -> Path:
    """Make a study whose heads have these names."""
    heads = [Head(f"h{i}", skill=i / 2) for i in range(len(names))]
    study = make_study(folder / "a_study %", heads, seeds, num_documents=200)
    for run in study.glob("h*-s*"):
        result = json.loads((run / "result.json").read_text())
        head = names[int(run.name[1])]
        (run / "result.json").write_text(json.dumps(result | {"head": head}))
    return study


def compared(study: Path, metric: str = "accuracy", margin: float | None = 0.003) -> Comparison:
    return compare_study(read_study(study), METRICS[metric], margin)


def code_of(text: str) -> str:
    """Return the text without comments."""
    return re.sub(r"(?<!\\)%.*", "", text)


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("a_b", r"a\_b"),
        ("100 %", r"100\,\%"),
        ("{x}$y$&#", r"\{x\}\$y\$\&\#"),
        (r"\input{x}", r"\textbackslash{}input\{x\}"),
        ("^^5c", r"\textasciicircum{}\textasciicircum{}5c"),
        ("~<>|`", r"\textasciitilde{}\textless{}\textgreater{}\textbar{}\textasciigrave{}"),
        ("[1]*", "{[}1{]}{*}"),
        ('a"b', r"a{\char34}b"),
        ("a---b ,, ''", "a-{}-{}-b ,{}, '{}'"),
        ("(-0.5 to -0.1", "($-$0.5 to $-$0.1"),
        ("lr=-1 a-1", "lr=-1 a-1"),
        ("\u2013", r"\textendash{}"),
        ("Größe 头", "Größe 头"),
        ("a\nb\x1b", r"a b\textbackslash{}x1b"),
        (Latex(r"\textbf{a}"), r"\textbf{a}"),
    ],
)
def test_escape(text: str, escaped: str) -> None:
    assert escape(text) == escaped


def test_names_cannot_add_commands_cells_or_groups(tmp_path: Path) -> None:
    text = latex_text(compared(study_of(tmp_path, NAMES)))
    code = code_of(text)
    assert set(re.findall(r"\\([a-zA-Z]+)", code)) <= COMMANDS
    assert code.count(r"\begin{tabular}") == code.count(r"\end{tabular}") == 2
    bare = re.sub(r"\\.", "", code)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0 and bare.count("$") % 2 == 0
    assert not re.search(r"[#~^<>|`\"_]", re.sub(r"\\label\{.*\}", "", bare.replace("$< 0.001$", "")))
    groups, pairs = (re.findall(r"^    (.*) \\\\$", table, re.M) for table in code.split(r"\end{table}")[:2])
    assert len(groups) == 1 + len(NAMES) + 1 and len(pairs) == 1 + 28
    assert {len(re.findall(r"(?<!\\)&", row)) for row in groups} == {5}
    assert {len(re.findall(r"(?<!\\)&", row)) for row in pairs} == {4}
    assert r"\label{tab:a-study-accuracy-groups}" in code and r"\label{tab:a-study-accuracy-pairs}" in code


def test_values_and_verdicts(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", (*HEADS[1:3], HEADS[4]), num_documents=2_000)
    comparison = compared(study)
    text = latex_text(comparison)
    assert comparison.short_list is not None and 1 <= len(comparison.short_list) < 3
    for group in comparison.groups:
        name = rf"\textbf{{{group.name}}}" if group.name in comparison.short_list else group.name
        primary = group.primary
        row = f"    {name} & {100 * primary.mean:.2f} & {100 * primary.low:.2f} to {100 * primary.high:.2f} & 3 & "
        assert f"{row}{100 * group.ensemble['test/accuracy']:.2f} & {group.cost['head_parameters']:,.0f} " in text
    for pair in comparison.pairs:
        row = re.search(rf"^    {pair.a} \$-\$ {pair.b} & (.*) \\\\$", text, re.M)
        assert row is not None
        difference, interval, p, outcome = row[1].replace("$", "").split(" & ")
        assert difference == f"{100 * pair.difference:+.2f}" and outcome == pair.outcome
        assert interval == f"{100 * pair.simultaneous_low:.2f} to {100 * pair.simultaneous_high:.2f}"
        assert pair.p_holm is not None and (p == "< 0.001") == (pair.p_holm < 0.001)
    caption = "Bold: models that may be the best (95\\,\\% confidence; Hsu, 1996)."
    assert caption in text and "for all 3 pairs together" in text
    assert f"% We compare 3 models, {comparison.groups[0].name}" in text


@pytest.mark.parametrize("metric", ["loss", "brier"])
def test_lower_is_better_is_said(metric: str, tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", [Head("a", 2.0), Head("b")], num_documents=500)
    text = latex_text(compared(study, metric, None))
    assert "Lower is better." in text and "points" not in text and "quivalent" not in code_of(text)
    assert re.search(r"^    a \$-\$ b & \$-0\.\d{4}\$ & \$-0\.\d{4}\$ to \$-0\.\d{4}\$ & .* & better", text, re.M)


def test_one_seed_and_one_group(tmp_path: Path) -> None:
    text = latex_text(compared(make_study(tmp_path / "one", HEADS[:2], seeds=[0], num_documents=100)))
    assert "Ensemble" not in text and "each trained once" in text and "tested over documents." in text
    text = latex_text(compared(make_study(tmp_path / "single", HEADS[:1], num_documents=100)))
    assert text.count(r"\begin{table}") == 1 and "1 model, trained with 3 seeds, on 100 test documents" in text


def test_other_scripts_need_another_engine(tmp_path: Path) -> None:
    assert "lualatex" in latex_text(compared(study_of(tmp_path / "a", ("头", "b"))))
    assert "lualatex" not in latex_text(compared(study_of(tmp_path / "b", ("naïve \u2013 ł", "b"))))


@pytest.mark.slow
@pytest.mark.needs("pdflatex")
def test_file_compiles_and_reads_no_other_file(tmp_path: Path) -> None:
    text = latex_text(compared(study_of(tmp_path, NAMES)))
    (tmp_path / "comparison.tex").write_text(text, encoding="utf-8")
    (tmp_path / "document.tex").write_text(DOCUMENT)
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "-recorder", "document.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=HANG_SECONDS)
    assert done.returncode == 0, done.stdout[-2_000:]
    assert "Missing character" not in (tmp_path / "document.log").read_text(errors="replace")
    assert "passwd" not in (tmp_path / "document.fls").read_text()
