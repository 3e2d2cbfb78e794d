"""Test the limits on YAML files from a stranger (`--config-dir`, `hydra.searchpath`)."""

from pathlib import Path

import pytest
from support.processes import TINY, start

from imdbcls.config import overrides
from imdbcls.config.allowed_targets import borrowed_targets, libraries
from imdbcls.config.assignments import Mode
from imdbcls.errors import UserError

GLOBAL = "# @package _global_\n"
PLUGIN = "plugins: [evil]\ndata:\n  source: {_target_: evil.read, text: words}\n"
FROM_FILE = "is refused: it comes from a YAML file"


def examine(folder: Path, *texts: str, mode: Mode = "run") -> list[str]:
    """Return the mistakes in a command with `--config-dir`, including those that `examine` raises immediately."""
    try:
        return overrides.examine([*TINY, *texts], mode, str(folder)).mistakes
    except UserError as error:
        return str(error).splitlines()


def write(folder: Path, name: str, text: str) -> None:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


SWEEP = GLOBAL + "hydra: {mode: MULTIRUN, sweeper: {params: {%s}}}\n"


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        # Packages to import
        (GLOBAL + PLUGIN, f"plugins=evil {FROM_FILE}"),
        (GLOBAL + PLUGIN.replace("[evil]", "['${study}']") + "study: evil\n", f"plugins=evil {FROM_FILE}"),
        (GLOBAL + PLUGIN.replace("[evil]", "${mine}") + "mine: [evil]\n", f"plugins=evil {FROM_FILE}"),
        (GLOBAL + PLUGIN.replace("[evil]", "evil"), f"plugins=evil {FROM_FILE}"),
        (SWEEP % "plugins: '[evil]', data.source._target_: evil.read", f"plugins=evil {FROM_FILE}"),
        # Hydra's own parts
        (GLOBAL + "hydra: {callbacks: {x: {_target_: hydra.Evil}}}", f"callbacks.x._target_=hydra.Evil {FROM_FILE}"),
        (GLOBAL + "hydra: {job_logging: {formatters: {x: {(): os.system}}}}", f"formatters.x.()=os.system {FROM_FILE}"),
        (GLOBAL + "hydra: {sweeper: {_target_: hydra_plugins.evil.X}}", f"=hydra_plugins.evil.X {FROM_FILE}"),
        (GLOBAL + "hydra: {run: {dir: /tmp/elsewhere}}", f"hydra.run.dir=/tmp/elsewhere {FROM_FILE}"),
        (GLOBAL + "hydra: {sweep: {dir: /tmp/elsewhere}}", f"hydra.sweep.dir=/tmp/elsewhere {FROM_FILE}"),
        (GLOBAL + "hydra: {output_subdir: ../conf}", f"hydra.output_subdir=../conf {FROM_FILE}"),
        (GLOBAL + "hydra: {job: {env_set: {OMP_NUM_THREADS: '64'}}}", f"env_set.OMP_NUM_THREADS=64 {FROM_FILE}"),
        (GLOBAL + "hydra: {job: {env_copy: [HOME]}}", f"hydra.job.env_copy=['HOME'] {FROM_FILE}"),
        (GLOBAL + "hydra: {job: {name: ../../log}}", f"hydra.job.name=../../log {FROM_FILE}"),
        (GLOBAL + "hydra: {overrides: {task: ['plugins=[evil]']}}", f"hydra.overrides {FROM_FILE}"),
        (GLOBAL + "hydra: {overrides: {hydra: ['hydra.verbose=true']}}", f"hydra.overrides {FROM_FILE}"),
        (SWEEP % "+hydra.job_logging.formatters.x.class: os.system", f"class=os.system {FROM_FILE}"),
        (SWEEP % "'++hydra.callbacks.x._target_': torch.load", f"_target_=torch.load {FROM_FILE}"),
        (SWEEP % "hydra: '{verbose: true}'", "write one full key without @"),
        (SWEEP % "+head@hydra.job_logging: mean", "write one full key without @"),
        (GLOBAL + "defaults: [/head@hydra.job_logging: mean]", f"job_logging.name=mean {FROM_FILE}"),
        # Environment variables
        (GLOBAL + "study: ${oc.env:SECRET}", f"study=${{oc.env:SECRET}} {FROM_FILE}"),
        (GLOBAL + "study: a-${oc.env:SECRET,b}", f"study=a-${{oc.env:SECRET,b}} {FROM_FILE}"),
        (GLOBAL + "z: nv\nstudy: '${oc.decode:${z}}'", f"study=${{oc.decode:${{z}}}} {FROM_FILE}"),
        (GLOBAL + "optimizer: {betas: [0.9, '${oc.env:SECRET}']}", f"betas[1]=${{oc.env:SECRET}} {FROM_FILE}"),
        (SWEEP % "study: '${oc.env:SECRET}'", f"study=${{oc.env:SECRET}} {FROM_FILE}"),
        # Targets that instantiate would call
        (GLOBAL + "head: {layers: [{_target_: os.system}]}", "head.layers[0]._target_=os.system is refused"),
        (GLOBAL + "head: {a: {b: {_target_: os.system}}}", "head.a.b._target_=os.system is refused"),
        (GLOBAL + "x: !!python/object/apply:os.system [touch made]", "could not determine a constructor"),
        ("a: [1\n", "A YAML file cannot be read"),
    ],
)  # fmt: skip
def test_a_file_may_not_set_unsafe_keys(
    recipe: str, sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "5ecret")
    write(tmp_path, "experiment/recipe.yaml", recipe)
    found = examine(tmp_path, "experiment=recipe")
    assert any(sentence in line for line in found), found
    assert not any("5ecret" in line for line in found)


def test_a_small_file_that_expands_is_refused(tmp_path: Path) -> None:
    """Nested aliases, nine at each level, expand 700 bytes to 43 million values."""
    levels = [f"  a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 9)}]" for level in range(1, 8)]
    write(tmp_path, "experiment/aliases.yaml", GLOBAL + "\n".join(["z:", "  a0: &a0 [1,1,1,1,1,1,1,1,1]", *levels]))
    write(tmp_path, "experiment/deep.yaml", GLOBAL + f"z: {'[' * 500}{']' * 500}\n")
    write(tmp_path, "experiment/large.yaml", GLOBAL + "".join(f"z{index}: 1\n" for index in range(9_000)))
    write(tmp_path, "experiment/fine.yaml", GLOBAL + "optimizer: {betas: &b [0.9, 0.99]}\nlr: &lr 1e-4\n")
    for name, sentence in (("aliases", "has more than 10,000 values"), ("deep", "nested"), ("large", "bytes; at most")):
        (found,) = examine(tmp_path, f"experiment={name}")
        assert sentence in found
    assert examine(tmp_path, "experiment=fine") == []


def test_a_file_may_not_name_the_wandb_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_ENTITY", raising=False)
    write(tmp_path, "experiment/mine.yaml", GLOBAL + "tracker: {entity: someone}\n")
    given = ("tracker=wandb", "experiment=mine")
    (found,) = examine(tmp_path, *given)
    assert f"tracker.entity=someone {FROM_FILE}" in found and "tracker.entity=someone to" in found
    assert examine(tmp_path, *given, "tracker.entity=someone") == []
    monkeypatch.setenv("WANDB_ENTITY", "someone")
    assert examine(tmp_path, *given) == []


def test_files_cannot_replace_hydras_own_parts(tmp_path: Path) -> None:
    """Unchecked files could replace a launcher or sweeper, because Hydra searches the user's folders before its own."""
    write(tmp_path, "hydra/launcher/basic.yaml", "_target_: hydra_plugins.evil.Launcher\n")
    with pytest.warns(UserWarning, match="validated against ConfigStore schema"):
        assert f"hydra.launcher._target_=hydra_plugins.evil.Launcher {FROM_FILE}" in examine(tmp_path)[0]
    (tmp_path / "hydra/launcher/basic.yaml").rename(tmp_path / "hydra/launcher/mine.yaml")
    (found,) = examine(tmp_path, "hydra/launcher=mine")
    assert found.startswith("hydra/launcher=mine is not installed: choose one of basic")


def test_every_choice_of_a_sweep_is_checked(tmp_path: Path) -> None:
    write(tmp_path, "experiment/good.yaml", GLOBAL + "lr: 1e-4\n")
    write(tmp_path, "experiment/bad.yaml", GLOBAL + PLUGIN)
    assert examine(tmp_path, "experiment=good") == []
    (found,) = examine(tmp_path, "experiment=good,bad", mode="multirun")
    assert f"plugins=evil {FROM_FILE}" in found


def test_settings_that_the_command_repeats_are_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIMIT", "9")
    write(tmp_path, "experiment/mine.yaml", GLOBAL + "plugins: [my_heads]\ndata: {train_limit: '${oc.env:LIMIT}'}\n")
    assert len(examine(tmp_path, "experiment=mine")) == 2
    given = ("plugins=[my_heads]", "data.train_limit=${oc.env:LIMIT}")
    assert examine(tmp_path, "experiment=mine", *given) == []
    composed = overrides.examine([*TINY, "experiment=mine", *given], "run", str(tmp_path)).config
    assert composed is not None
    assert composed.plugins == ["my_heads"] and composed.data.train_limit == 9


def test_a_file_hidden_by_a_shipped_file_is_refused(tmp_path: Path) -> None:
    """Hydra finds the shipped file of the same name first and would ignore the user's file."""
    shipped = "_target_: imdbcls.heads.cls.ClsHead\nname: cls\ndropout: 0.1  # the same\n"
    write(tmp_path, "head/cls.yaml", shipped)
    assert examine(tmp_path, "head=cls") == []
    write(tmp_path, "head/cls.yaml", shipped.replace("0.1", "0.5"))
    assert examine(tmp_path, "head=mean") == []
    (found,) = examine(tmp_path, "head=cls")
    assert found == f"{tmp_path}/head/cls.yaml has no effect: imdbcls has its own head/cls.yaml. " + (
        "Rename your file."
    )
    with pytest.raises(UserError, match="has no effect"):
        overrides.compose([*TINY, f"hydra.searchpath=['file://{tmp_path}']", "head=cls"])
    write(tmp_path, "config.yaml", "lr: 3\n")
    assert "config.yaml has no effect" in examine(tmp_path)[0]


@pytest.mark.parametrize("recipe", ["defaults: [endless]\n", "z: &z [*z]\n"])
def test_a_file_that_refers_to_itself_is_refused(recipe: str, tmp_path: Path) -> None:
    write(tmp_path, "experiment/endless.yaml", GLOBAL + recipe)
    (found,) = examine(tmp_path, "experiment=endless")
    assert "refers to itself" in found and len(found) < 200


def test_a_source_reads_keys_of_the_data_section(tmp_path: Path) -> None:
    """An interpolation may read a key as a value or as a part of a string; keys that are never read are mistakes."""
    rows = "text,label\ngood,1\nbad,0\n"
    write(tmp_path, "documents/train.csv", rows)
    columns = "text_column: text, label_column: label, id_column: null, group_column: null"
    source = (
        "source: {_target_: imdbcls.data.files.read_files, train: '${data.folder}/train.csv', validation: null, "
        f"test: null, {columns}}}\n"
    )
    write(tmp_path, "data/mine.yaml", f"name: mine\nfolder: {tmp_path}/documents\n{source}")
    assert examine(tmp_path, "data=mine") == []
    (found,) = examine(tmp_path, "data=mine", "data.folder=nowhere")
    assert found == "data.train=nowhere/train.csv does not exist or is not a regular file."
    write(tmp_path, "data/mine.yaml", f"name: mine\nfolder: {tmp_path}/documents\nfoldr: null\n{source}")
    (found,) = examine(tmp_path, "data=mine")
    assert found.startswith("data.foldr=null: nothing reads this key; closest: data.folder")


def test_a_file_may_define_a_sweep_and_references(tmp_path: Path) -> None:
    sweep = "hydra: {mode: MULTIRUN, sweeper: {params: {seed: '0,1', head: 'cls,mean'}}}\n"
    write(
        tmp_path,
        "experiment/mine.yaml",
        GLOBAL + sweep + "data: {order_seed: '${seed}', split_seed: '${.order_seed}'}\n",
    )
    assert examine(tmp_path, "experiment=mine", "study=at-${now:%Y}") == []


def test_compose_refuses_the_same_files(tmp_path: Path) -> None:
    write(tmp_path, "experiment/recipe.yaml", GLOBAL + PLUGIN)
    with pytest.raises(UserError, match=f"plugins=evil {FROM_FILE}"):
        overrides.compose([*TINY, f"hydra.searchpath=['file://{tmp_path}']", "experiment=recipe"])


@pytest.mark.slow
def test_a_package_named_only_by_a_file_is_not_imported(tmp_path: Path) -> None:
    (tmp_path / "evil.py").write_text("open('made', 'w')\ndef read(text): ...\n")
    write(tmp_path, "given/experiment/recipe.yaml", GLOBAL + PLUGIN)
    environment = {"PYTHONPATH": str(tmp_path)}
    command = start(tmp_path, *TINY, "--config-dir", "given", "experiment=recipe", environment=environment)
    assert command.wait() == 2 and "Traceback" not in command.output
    assert command.output.startswith(f"imdbcls: plugins=evil {FROM_FILE}")
    assert command.output.rstrip().endswith("add 'plugins=[evil]' to the command.")
    assert not (tmp_path / "made").exists() and not (tmp_path / "runs").exists()


def test_libraries_are_not_plugins() -> None:
    assert {"os", "sympy", "dill", "fsspec", "cloudpickle", "torch", "imdbcls", "yaml"} <= libraries()
    assert not {"my_heads", "plugins"} & libraries()


def test_a_plugin_provides_only_its_own_definitions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    write(tmp_path, "lending/__init__.py", "import os\nfrom lending.heads import Head\nfrom os import system\n")
    write(tmp_path, "lending/heads.py", "class Head:\n    @classmethod\n    def small(cls): ...\n")
    for target in ("lending.Head", "lending.heads.Head", "lending.heads.Head.small", "torch.optim.AdamW"):
        assert not list(borrowed_targets({"_target_": target})), target
    for target in (
        *("lending.os.system", "lending.system", "lending.os", "lending.Head.__init__", "lending.Head.mro"),
        *("torch.optim.lr_scheduler.Counter", "torch.optim.lr_scheduler.Any"),
    ):
        (sentence,) = borrowed_targets({"layers": [{"_target_": target}]})
        assert sentence.startswith(f"_target_={target} is refused")
    with pytest.raises(UserError, match="cannot be imported"):
        list(borrowed_targets({"_target_": "lending.nothing"}))
