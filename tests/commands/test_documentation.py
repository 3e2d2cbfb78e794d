"""README, CONTRIBUTING and docs/ are true: commands compose, links and paths exist, and the example head works."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from configparser import ConfigParser
from functools import cache
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from support.limits import HANG_SECONDS
from support.processes import TINY
from support.runs import ROOT, Launch
from support.small_models import make_folder

import imdbcls
from imdbcls.completion import OVERRIDES, parser_of
from imdbcls.config import overrides

PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs" / "pages").glob("*.md"))]
TEXTS = {str(page.relative_to(ROOT)): page.read_text(encoding="utf-8") for page in PAGES}
COMMAND = re.compile(r"^(?:\$ )?python -m (imdbcls\.\w+)(.*(?:(?<=\\)\n.*)*)$", re.MULTILINE)
# Each command as (module, arguments), without comments. A command may continue on further lines.
ALL_COMMANDS = [
    (module, shlex.split(arguments.replace("\\\n", " "), comments=True))
    for text in TEXTS.values()
    for module, arguments in COMMAND.findall(text)
]
# Commands that take the keys of a run. Other tests cover two kinds: `tests/sweeps/test_search.py` runs the command with
# the Optuna sweeper, and `test_the_experiment_file_of_the_tutorial_composes` composes the experiment of `--config-dir`.
COMMANDS = [
    arguments
    for module, arguments in ALL_COMMANDS
    if module in ("imdbcls.train", "imdbcls.data", "imdbcls.study")
    and "hydra/sweeper=optuna" not in arguments
    and not any(each.startswith("--config-dir") for each in arguments)
]
# Files that a reader would create.
EXAMPLES = {"imdbcls/heads/first_last.py", "conf/head/first_last.yaml", "imdbcls/data/mine.py", "conf/data/mine.yaml"}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_training_command_composes(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For a multirun, use the first value of each key. The files that the commands name are created first."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    Path("my_package.py").write_text(
        "class MyHead:\n    def __init__(self, *, hidden_size, num_labels, width): pass\n", encoding="utf-8"
    )
    Path("aclImdb_v1.tar.gz").touch()
    (header,) = re.findall(r"\$ head -1 reviews.csv\n(.*)\n", TEXTS["docs/pages/own-data.md"])
    Path("reviews.csv").write_text(f"{header}\n")
    Path("my.csv").write_text("text,label\n")
    Path("pairs.csv").write_text("premise,hypothesis,label\n")
    choices = [word.split(",")[0] for word in command if not word.startswith(("-", "seeds.")) and word != "job"]
    overrides.compose(choices)


def test_the_pages_contain_commands() -> None:
    assert len(COMMANDS) >= 20 and len(ALL_COMMANDS) >= 40


def test_the_options_of_commands_exist() -> None:
    """Each option with two dashes belongs to the command that uses it, or to Hydra."""
    hydra = {"--multirun", "--cfg", "--config-dir", "--help", "--hydra-help", "--plan", "--dry-run"}
    for module, arguments in ALL_COMMANDS:
        allowed = hydra | options_of(module.removeprefix("imdbcls."))
        for option in {each.partition("=")[0] for each in arguments if each.startswith("--") and each != "--"}:
            assert option in allowed, f"{module} {option}"


@cache
def options_of(command: str) -> set[str]:
    if command in OVERRIDES:
        return set(OVERRIDES[command][1:])
    return {option for action in parser_of(command)._actions for option in action.option_strings}


def test_the_experiment_file_of_the_tutorial_composes(tmp_path: Path, launch: Launch) -> None:
    text = TEXTS["docs/pages/own-data.md"]
    ((name, content),) = re.findall(r"`my_conf/(experiment/\w+\.yaml)`:\n\n```yaml\n(.*?)```", text, re.DOTALL)
    (header,) = re.findall(r"\$ head -1 reviews.csv\n(.*)\n", text)
    (tmp_path / "my_conf/experiment").mkdir(parents=True)
    (tmp_path / "my_conf" / name).write_text(content)
    (tmp_path / "reviews.csv").write_text(f"{header}\n")
    shown = launch(tmp_path, "train", "--config-dir=my_conf", "experiment=reviews", "--cfg", "job", fresh=True).stdout
    composed = yaml.safe_load(shown)
    assert composed["data"]["group_column"] == "film" and composed["backbone"]["name"] == "minilm"


@pytest.mark.parametrize("page", TEXTS)
def test_links_and_paths_exist(page: str) -> None:
    text, folder = TEXTS[page], (ROOT / page).parent
    for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", text):
        assert "://" not in link and (folder / link).exists(), link
    for path in set(re.findall(r"`((?:imdbcls|conf|tests|experiments|docs)/[\w./-]*)`", text)) - EXAMPLES:
        assert (ROOT / path).exists(), path
    for path in re.findall(r"`((?:config|data|models|training|runs|sweeps|heads)/\w+\.py)`", text):
        assert (ROOT / "imdbcls" / path).exists(), path


@pytest.mark.parametrize("page", TEXTS)
def test_an_anchor_names_a_heading(page: str) -> None:
    for path, anchor in re.findall(r"\]\(([^)#\s]*)#([^)]*)\)", TEXTS[page]):
        target = (ROOT / page).parent / path if path else ROOT / page
        headings = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
        assert anchor in [re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings]


def pages_of(entries: list) -> list[str]:
    """Return the pages of MkDocs' nested navigation."""
    found: list[str] = []
    for entry in entries:
        value = entry if isinstance(entry, str) else next(iter(entry.values()))
        found += [value] if isinstance(value, str) else pages_of(value)
    return found


def test_every_page_is_in_the_navigation_once() -> None:
    listed = pages_of(yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8"))["nav"])
    notebooks = [f"notebooks/{path.stem}.md" for path in (ROOT / "docs/pages/notebooks").glob("*.ipynb")]
    pages = [page.name for page in PAGES if page.parent.name == "pages"]
    assert notebooks and sorted(listed) == sorted([*pages, *notebooks])


def test_the_groups_in_readme_are_those_of_conf() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (`.*) \|$", TEXTS["README.md"], re.MULTILINE)
    listed = {group: set(re.findall(r"`([^`]+)`", choices)) for group, choices in rows}
    shipped = {
        folder.name: {path.stem for path in folder.glob("*.yaml")}
        for folder in (ROOT / "conf").iterdir()
        if folder.is_dir() and folder.name in listed
    }
    assert listed == shipped and len(listed) == 9


def test_the_licence_of_every_dependency_is_listed() -> None:
    listed = set(re.findall(r"^\| `([\w.-]+)` \| \S", TEXTS["docs/pages/licences.md"], re.MULTILINE))
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg")
    requirements = [setup["options"]["install_requires"], *setup["options.extras_require"].values()]
    required = {re.split(r"[<>=!~; \[]", line)[0] for text in requirements for line in text.split("\n") if line}
    assert "torch" in required and listed == required


# Words that slow a reader down. The texts of earlier versions used them. CONTRIBUTING.md describes the style.
UNUSUAL = re.compile(r"\b(anew|beside|likewise|hence|whence|told|for ever|of no account|goes on|mind that)\b", re.I)


def test_texts_use_plain_words() -> None:
    files = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
    for folder, suffixes in (
        ("imdbcls", (".py", ".c", ".h", ".md", ".html", ".js")),
        ("conf", (".yaml",)),
        ("docs", (".md",)),
        ("experiments", (".py", ".md")),
        ("tests", (".py",)),
    ):
        files += [path for path in (ROOT / folder).rglob("*") if path.suffix in suffixes and path != Path(__file__)]
    assert len(files) > 300
    lines = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if UNUSUAL.search(line)
    ]
    assert not lines, "\n".join(lines)


def test_the_citation_names_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version("imdbcls")
    assert citation["license"] == "Apache-2.0" and citation["authors"]


@pytest.mark.slow
def test_a_head_is_one_module_and_one_yaml(tmp_path: Path, launch: Launch) -> None:
    """Train the example head of docs/pages/heads.md in a copy of the project."""
    section = TEXTS["docs/pages/heads.md"].partition("## Add a head")[2]
    (module,) = re.findall(r"`(imdbcls/heads/\w+\.py)`:\n\n```python\n(.*?)```", section, re.DOTALL)
    (choice,) = re.findall(r"`conf/(head/\w+\.yaml)`:\n\n```yaml\n(.*?)```", section, re.DOTALL)
    shutil.copytree(ROOT / "imdbcls", tmp_path / "imdbcls", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "imdbcls" / "conf")
    for path, text in ((tmp_path / module[0], module[1]), (tmp_path / "imdbcls" / "conf" / choice[0], choice[1])):
        assert not path.exists()
        path.write_text(text, encoding="utf-8")
    launch(tmp_path, "train", "head=first_last", *TINY, "epochs=1", fresh=True)  # imports the copy
    (run,) = (tmp_path / "runs").glob("default/first_last-s0-*")
    assert (run / "result.json").exists()
    assert "first_last" in launch(tmp_path, "train", "--help", fresh=True).stdout


def recipe(title: str) -> str:
    """Return the Python code under a heading of docs/pages/any-tool.md."""
    section = TEXTS["docs/pages/any-tool.md"].partition(f"## {title}\n")[2].partition("\n#")[0]
    (code,) = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    return code


def write_documents(folder: Path) -> None:
    for split, start, count in (("train", 0, 60), ("test", 60, 30)):
        rows = [
            f"{i},{'a fine and quiet film' if i % 2 else 'a dull and loud film'} {i % 7},{'pos' if i % 2 else 'neg'}"
            for i in range(start, start + count)
        ]
        (folder / f"{split}.csv").write_text("\n".join(["id,text,label", *rows]))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("title", "file", "systems"),
    [
        ("scikit-learn", "predictions.csv", {"words": 3, "word pairs": 3}),
        ("Hugging Face Trainer", "predictions.parquet", {"distilbert": 3}),
        ("Runs of this project", "predictions.csv", {"cls": 2, "mean": 2}),
    ],
)
def test_a_recipe_writes_predictions_that_compare_reads(
    title: str, file: str, systems: dict[str, int], tmp_path: Path, launch: Launch
) -> None:
    code = recipe(title)
    write_documents(tmp_path)
    if title == "Hugging Face Trainer":  # the recipe's encoder is on the hub
        encoder = make_folder(tmp_path / "encoder", "bert")
        code = code.replace("distilbert/distilbert-base-uncased", str(encoder))
        code = code.replace('"trainer", seed', '"trainer", use_cpu=True, seed')
        assert str(encoder) in code and "use_cpu" in code
    if title == "Runs of this project":
        launch(tmp_path, "train", "--multirun", "head=cls,mean", "seed=0,1", *TINY, "epochs=1", "study=heads")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, timeout=HANG_SECONDS)
    found = imdbcls.compare_runs(tmp_path / file)
    assert {group.name: len(group.seeds) for group in found.groups} == systems
    assert all("test/auroc" in group.metrics for group in found.groups)
    assert not any("highest probability" in note for note in found.notes)
