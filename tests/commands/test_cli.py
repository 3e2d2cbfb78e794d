"""The console script `imdbcls`: its commands run as with `python -m`, and a real bash completes them."""

import ast
import os
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
from support.heads import HEADS
from support.imports import heavy_imports
from support.limits import HANG_SECONDS
from support.processes import TINY
from support.runs import ROOT, Launch

from imdbcls.commands import COMMANDS, module_of
from imdbcls.completion import OVERRIDES
from imdbcls.runtime.command_line import as_typed

NO_COMMANDS = ("__init__", "__main__", "cli")


def run(*arguments: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "imdbcls", *arguments]
    return subprocess.run(
        command, cwd=folder, env=os.environ | environment, capture_output=True, text=True, timeout=HANG_SECONDS
    )


def test_every_module_that_is_a_command_is_listed_and_has_the_functions_of_one() -> None:
    modules = [*(ROOT / "imdbcls").glob("*.py"), *(ROOT / "imdbcls").glob("*/__main__.py")]
    runnable = {
        path.parent.name if path.stem == "__main__" else path.stem
        for path in modules
        if path.stem not in NO_COMMANDS or path.parent.name != "imdbcls"
        if any(
            "__main__" in ast.unparse(node.test)
            for node in ast.parse(path.read_text()).body
            if isinstance(node, ast.If)
        )
    }
    assert runnable == set(COMMANDS)
    for name in COMMANDS:
        module = import_module(module_of(name))
        assert callable(module.command), name
        assert name in OVERRIDES or module.argument_parser().prog == f"python -m imdbcls.{name}"


def test_help_and_version_import_nothing_heavy() -> None:
    for argument in ("--help", "--version"):
        assert heavy_imports("imdbcls", [argument], ROOT) == ("0", "set()")
    found = run("--help")
    assert found.stderr == "" and found.returncode == 0
    lines = [line.split(maxsplit=1) for line in found.stdout.splitlines()]
    assert all([name, summary] in lines for name, summary in COMMANDS.items())
    assert run("--version").stdout.startswith("imdbcls 0.")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["trian", "head=lstm"], "trian is not a command; closest: train, pretrain. "),
        (["quux"], "quux is not a command. `imdbcls --help` lists"),
        (["head=lstm"], "head=lstm is not a command. To train a run: imdbcls train head=lstm"),
        (["train", "lrr=3"], "lrr: there is no such key; closest: lr."),
        ([], "usage: imdbcls COMMAND"),
    ],
)
def test_a_mistake_is_explained_on_stderr(arguments: list[str], sentence: str) -> None:
    found = run(*arguments)
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.removeprefix("imdbcls: ").startswith(sentence)


def test_m_means_multirun_and_both_forms_are_the_same_command(tmp_path: Path, launch: Launch) -> None:
    """`imdbcls train -m` is Hydra's `--multirun`. Afterwards, `python -m imdbcls.train` skips the finished run."""
    sweep = launch(tmp_path, "cli", "train", "-m", "head=mean", *TINY, "epochs=1")
    assert re.search(r"^mean-s0-\w+ +done ", sweep.stderr, re.MULTILINE)
    again = launch(tmp_path, "train", "head=mean", *TINY, "epochs=1")
    assert "is already done" in again.stderr
    (folder,) = tmp_path.glob("runs/default/mean-*")
    launch(tmp_path, "cli", "evaluate", str(folder.relative_to(tmp_path)))
    launch(tmp_path, "cli", "evaluate", "nothing", expect=2)


@pytest.mark.parametrize(("safe_path", "is_first"), [("", True), ("1", False)])
def test_the_users_packages_are_found_in_the_working_directory(safe_path: str, is_first: bool, tmp_path: Path) -> None:
    """Unless PYTHONSAFEPATH is set, the working directory comes first in `sys.path`, as with `python -m`."""
    code = (
        "import sys, imdbcls.doctor, imdbcls.cli\n"
        "imdbcls.doctor.command = lambda: sys.exit(print(sys.path[0], sys.argv[1:], sys.argv[0], sep='|'))\n"
        "sys.argv = ['/bin/imdbcls', 'doctor', '--help']\n"
        "imdbcls.cli.main()"
    )
    environment = {**os.environ, "PYTHONSAFEPATH": safe_path}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    first, arguments, program = done.stdout.strip().split("|")
    assert (first == str(tmp_path)) is is_first
    assert arguments == "['--help']" and program.endswith("imdbcls/doctor.py")


def test_the_recorded_command_line_can_be_pasted() -> None:
    script = ["/env/bin/python3", "/env/bin/imdbcls", "train", "head=lstm"]
    assert as_typed(script) == ["imdbcls", "train", "head=lstm"]
    module = ["python", "-m", "imdbcls.train", "head=lstm"]
    assert as_typed(module) == module


LINES = {
    "tr": "train ",
    "train head=": " ".join(HEADS),
    "train head=cls,ls": "cls,lstm ",
    "train head=lstm head.": "head.bidirectional= head.dropout=",
    "train head=cls,lstm --multirun see": "seed=",
    "train epochs=": "3 ",
    "train lr=": "",  # the default of lr depends on the backbone
    "train --cfg ": "job hydra all",
    "train head=cls --mu": "--multirun ",
    "train data.train_l": "data.train_limit=",
    "study seeds.": "seeds.max= seeds.first= seeds.start=",
    "tune budget.t": "budget.trials=",
    "evaluate --split ": "test validation",
    "evaluate ": "runs/demo/cls-s0-12345678 runs/demo/mean-s0-12345678",
    "predict runs/demo/m": "runs/demo/mean-s0-12345678 ",
    "compare r": "reviews.csv runs/",
}


def test_bash_completes_commands_keys_choices_and_run_folders(tmp_path: Path) -> None:
    for name in ("cls-s0-12345678", "mean-s0-12345678"):
        (tmp_path / "runs" / "demo" / name).mkdir(parents=True)
        (tmp_path / "runs" / "demo" / name / "result.json").touch()
    (tmp_path / "reviews.csv").touch()
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "imdbcls"  # as pip writes it
    script.write_text(f"#!{sys.executable}\nfrom imdbcls.cli import main\nmain()\n")
    script.chmod(0o755)
    ask = """
eval "$(imdbcls completion bash)"
for line in "$@"; do
  COMP_LINE="imdbcls $line" COMP_POINT=$((8 + ${#line})) COMP_TYPE=9 COMPREPLY=()
  _python_argcomplete imdbcls
  (IFS=' '; echo "${COMPREPLY[*]}")
done
"""
    environment = {**os.environ, "PATH": f"{script.parent}:{os.environ['PATH']}"}
    command = ["bash", "-c", ask, "bash", *LINES]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.stderr == ""
    assert dict(zip(LINES, done.stdout.splitlines(), strict=True)) == LINES


def test_each_shell_has_a_script_and_completing_imports_nothing_heavy() -> None:
    assert "#compdef imdbcls" in run("completion", "zsh").stdout
    assert "complete --command imdbcls" in run("completion", "fish").stdout
    found = run("completion", "csh")
    assert found.returncode == 2 and "choose from" in found.stderr
    code = (
        "import sys, imdbcls.completion as c\n"
        "[c.parser_of(name) for name in c.COMMANDS]\n"
        "print({'torch', 'transformers', 'numpy', 'hydra', 'pandas', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"
