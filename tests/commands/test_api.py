"""The Python interface is typed and gives the same results as the commands. Heads may come from a user's package."""

import inspect
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from omegaconf import OmegaConf
from support.api import TINY
from support.predictions_files import predictions_frame
from support.processes import run_module
from support.runs import ROOT
from support.studies import HEADS, make_study

import imdbcls
from imdbcls.compare import main as compare_command
from imdbcls.runtime.signals import SIGNALS
from imdbcls.training.trainer import Trainer

HEAD = """
from torch import Tensor, nn

class MyHead(nn.Module):
    def __init__(self, *, hidden_size: int, num_labels: int, dropout: float) -> None:
        super().__init__()
        self.output = nn.Linear(hidden_size, num_labels)

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor) -> Tensor:
        return self.output(hidden_BTD[:, 0])
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> imdbcls.FinishedRun:
    return imdbcls.run(imdbcls.compose(*TINY, "head=mean", f"runs_dir={tmp_path_factory.mktemp('runs')}"))


def test_signal_stops_a_run_and_handlers_are_restored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    config = imdbcls.compose(*TINY, f"runs_dir={tmp_path}")
    step = Trainer.step

    def interrupted(*arguments: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return step(*arguments)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt, match="The same call resumes it"):
        patch.setattr(Trainer, "step", interrupted)
        imdbcls.run(config)
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert imdbcls.run(config).result["status"] == "done"


def test_importing_the_package_imports_nothing() -> None:
    code = (
        "import sys, imdbcls\n"
        "assert set(imdbcls.__all__) <= set(dir(imdbcls))\n"
        "print([name for name in sys.modules if name.startswith(('imdbcls.', 'hydra', 'torch', 'numpy'))])\n"
        "imdbcls.compose('head=lstm')\n"
        "print('torch' in sys.modules)\n"
        "import imdbcls.train\n"
        "print(type(imdbcls.train).__name__, callable(imdbcls.run))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout.splitlines() == ["[]", "False", "module True"]


def test_public_names_do_not_shadow_modules() -> None:
    modules = {path.stem for path in (ROOT / "imdbcls").iterdir()}
    assert not modules & set(imdbcls.__all__)


def test_help_describes_the_public_names() -> None:
    for name in imdbcls.__all__:
        assert len(inspect.getdoc(getattr(imdbcls, name)) or "") > 60, name
    answer = subprocess.run(
        [sys.executable, "-c", "import imdbcls; help(imdbcls)"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for line in ("compose(*choices", "run(config: ", "load_run(folder", "predict(self, texts"):
        assert line in answer.stdout


def test_compose_gives_the_config_of_the_command() -> None:
    choices = ["experiment=original", "head=lstm", "head.bidirectional=true", "lr=1e-5"]
    config = imdbcls.compose(*choices)
    shown = subprocess.run(
        [sys.executable, "-m", "imdbcls.train", *choices, "--cfg", "job", "--resolve"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert config.plain() == OmegaConf.to_container(OmegaConf.create(shown.stdout))
    assert config.head.arguments["bidirectional"] is True and config.folder.parent == Path("runs/original")
    with pytest.raises(AttributeError, match="nothing"):
        _ = config.head.nothing  # type: ignore[attr-defined]
    with pytest.raises(imdbcls.UserError, match="lrr: there is no such key; closest: lr"):
        imdbcls.compose("lrr=1")


def test_compose_reads_a_folder_of_config_files(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment/mine.yaml").write_text("# @package _global_\nlr: 2e-4\nstudy: mine\n")
    config = imdbcls.compose(*TINY, "experiment=mine", config_dir=tmp_path)
    assert config.study == "mine" and config.lr == 2e-4
    (tmp_path / "experiment/other.yaml").write_text("# @package _global_\nplugins: [other_package]\n")
    with pytest.raises(imdbcls.UserError, match="plugins=other_package is refused: it comes from a YAML file"):
        imdbcls.compose(*TINY, "experiment=other", config_dir=str(tmp_path))
    with pytest.raises(imdbcls.UserError, match=r"config_dir=nowhere is not a folder\."):
        imdbcls.compose(*TINY, config_dir="nowhere")


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("--config-dir=my_conf", r"In Python, write compose\(\.\.\., config_dir='my_conf'\)\.$"),
        ("--multirun", "--multirun is an option of the command. compose takes choices and keys, such as head=lstm"),
        ("head=cls,lstm", r"^head=cls,lstm has several values: set one value\.$"),
        ("tracker.notes=a, b", "set one value, or write .* or 'tracker.notes=\"a, b\"' for one string"),
    ],
)
def test_advice_of_compose_is_python(choice: str, sentence: str) -> None:
    with pytest.raises(imdbcls.UserError, match=sentence) as error:
        imdbcls.compose(*TINY, choice)
    assert len(str(error.value).splitlines()) == 1


def test_compose_and_run_reject_wrong_types() -> None:
    for choices in (["head=cls"], None, 3, b"head=cls"):
        with pytest.raises(imdbcls.UserError, match="compose expects one string"):
            imdbcls.compose(choices)  # type: ignore[arg-type]
    for config in (imdbcls.compose("data=sample", "backbone=tiny").plain(), None):
        with pytest.raises(imdbcls.UserError, match="run expects a config"):
            imdbcls.run(config)  # type: ignore[arg-type]


def test_a_run_is_recorded_and_returned(run: imdbcls.FinishedRun) -> None:
    assert run.folder == run.config.folder
    assert run.result == json.loads((run.folder / "result.json").read_text())
    for split, prefix, size in (("test", "test", 24), ("validation", "val", 16)):
        predictions = run.predictions(split)
        assert len(predictions.ids) == size and predictions.probabilities.shape == (size, 2)
        assert predictions.labels is not None
        assert (predictions.predicted == predictions.labels).mean() == run.result[f"{prefix}/accuracy"]
    with pytest.raises(imdbcls.UserError, match="split='train' is not one of test, validation"):
        run.predictions("train")


def test_finished_run_is_not_trained_again(run: imdbcls.FinishedRun, capsys: pytest.CaptureFixture[str]) -> None:
    written = (run.folder / "result.json").stat().st_mtime_ns
    assert imdbcls.run(run.config) == run
    assert "Nothing was run" in capsys.readouterr().err
    assert (run.folder / "result.json").stat().st_mtime_ns == written


def test_predicting_the_test_texts_gives_the_recorded_probabilities(run: imdbcls.FinishedRun) -> None:
    from imdbcls.construction import build_corpus

    texts = build_corpus(run.config.data).test.texts
    loaded = imdbcls.load_run(str(run.folder))
    recorded, predicted = loaded.predictions(), loaded.predict(texts, calibrated=False)
    np.testing.assert_array_equal(predicted.probabilities, recorded.probabilities)
    np.testing.assert_array_equal(predicted.tokens, recorded.tokens)
    assert predicted.labels is None and predicted.ids[:2].tolist() == ["0", "1"]
    alone = loaded.predict(texts[:1], calibrated=False)
    np.testing.assert_allclose(alone.probabilities[0], recorded.probabilities[0], atol=1e-6)
    assert alone.names == [recorded.names[0]] and set(recorded.names) <= {"negative", "positive"}
    again = loaded.predict(np.array(texts), calibrated=False)
    np.testing.assert_array_equal(again.probabilities, predicted.probabilities)
    for shown in (loaded, loaded.config, predicted):
        assert len(repr(shown)) < 250, "a notebook shows the repr at the end of a cell"


def test_each_run_reads_its_files_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    hashes = []
    for words in ("plain", "other"):
        rows = [f"{words} {row} film,{'good' if row % 3 else 'bad'}" for row in range(60)]
        Path("my.csv").write_text("\n".join(["text,label", *rows]))
        choices = ("data=files", "data.train=my.csv", f"study={words}", *(c for c in TINY if not c.startswith("data")))
        hashes.append(imdbcls.run(imdbcls.compose(*choices)).result["split_hash"])
    assert hashes[0] != hashes[1]


def test_unpaired_surrogate_is_rejected(run: imdbcls.FinishedRun) -> None:
    with pytest.raises(imdbcls.UserError, match="predict: the string at index 1 contains U\\+D83D, which is half"):
        run.predict(["good", "\ud83d"])


@pytest.mark.parametrize("texts", ["a film", [], ["good", ""], ["good", None]])
def test_predict_rejects_anything_but_texts(run: imdbcls.FinishedRun, texts: object) -> None:
    with pytest.raises(imdbcls.UserError, match="predict expects a list of non-empty strings"):
        run.predict(texts)  # type: ignore[arg-type]


@pytest.mark.parametrize("of_columns", [dict, pd.DataFrame, pa.table])
def test_predict_refuses_a_table(run: imdbcls.FinishedRun, of_columns: Callable[[object], Any]) -> None:
    table = of_columns({"text": ["A quiet film.", "Two hours, lost."]})
    for model in (run, imdbcls.Ensemble((run, replace(run, folder=Path("copy"))))):
        with pytest.raises(
            imdbcls.UserError, match=r'given a table \(\w+\)\. Pass only its texts, .*\(frame\["text"\]\)'
        ):
            model.predict(table)


def test_a_folder_without_a_finished_run(tmp_path: Path) -> None:
    with pytest.raises(imdbcls.UserError, match=r"config\.yaml is missing"):
        imdbcls.load_run(tmp_path)


def test_head_in_the_users_own_package(tmp_path: Path) -> None:
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text(HEAD)
    choices = [*TINY, "head._target_=my_package.MyHead", "head.name=mine", f"runs_dir={tmp_path / 'runs'}"]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}

    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        return run_module(tmp_path, *arguments, environment=environment)

    refused = command("imdbcls.train", *choices)
    assert refused.returncode == 2
    assert "head._target_=my_package.MyHead is refused" in refused.stderr and "plugins=[...]" in refused.stderr

    done = command("imdbcls.train", *choices, "plugins=[my_package]")
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").glob("*/mine-*")
    assert folder.name.startswith("mine-s0-")

    # A run folder cannot choose which packages are imported, because it may be untrusted.
    assert "plugins:\n- my_package\n" in (folder / "config.yaml").read_text()
    again = command("imdbcls.evaluate", str(folder))
    assert again.returncode == 2 and "head._target_=my_package.MyHead is refused" in again.stderr
    again = command("imdbcls.evaluate", str(folder), "--plugins", "my_package")
    assert again.returncode == 0 and "The metrics equal the recorded ones" in again.stderr


def test_compare_runs_gives_the_results_of_the_command(tmp_path: Path) -> None:
    study = make_study(tmp_path / "heads", HEADS[:2], seeds=[0, 1], num_documents=80)
    predictions_frame(num_documents=60).to_csv(tmp_path / "rows.csv", index=False)
    for path, folder in ((study, study), (tmp_path / "rows.csv", tmp_path / "rows_comparison")):
        found = imdbcls.compare_runs(str(path), metric="f1", margin=1)
        assert compare_command([str(path), "--metric", "f1", "--margin", "1"]) == 0
        recorded = json.loads((folder / "comparison.json").read_text())
        assert [group.name for group in found.groups] == [group["name"] for group in recorded["groups"]]
        assert [(pair.p_holm, pair.outcome) for pair in found.pairs] == [
            (pair["p_holm"], pair["outcome"]) for pair in recorded["pairs"]
        ]
        assert found.margin == recorded["margin"] == 0.01
    assert imdbcls.compare_runs(tmp_path / "rows.csv", metric="loss").margin is None
    for arguments, message in (
        ({"metric": "recall"}, "metric='recall' is not one of accuracy, f1, auroc, brier, loss"),
        ({"margin": -1}, "-1 is out of range"),
    ):
        with pytest.raises(imdbcls.UserError, match=message):
            imdbcls.compare_runs(study, **arguments)
    with pytest.raises(imdbcls.UserError, match="is neither a folder nor a file"):
        imdbcls.compare_runs(tmp_path / "nothing")


def test_compare_runs_and_the_module_compare_coexist() -> None:
    code = (
        "import imdbcls\n"
        "function = imdbcls.compare_runs\n"
        "import imdbcls.compare\n"
        "assert imdbcls.compare_runs is function and callable(function)\n"
        "print(type(imdbcls.compare).__name__, callable(imdbcls.compare.main))\n"
    )
    answer = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert answer.stdout == "module True\n"
