"""`imdbcls.pretrain` with an experiment for `imdbcls.train` uses its documents and its encoder, not its recipe."""

from collections.abc import Callable
from pathlib import Path

import pytest

from imdbcls.config.overrides import compose
from imdbcls.errors import UserError
from imdbcls.pretrain import Command, read_command
from imdbcls.runs.identity import config_hash, split_choices_hash

ROOT = Path(__file__).resolve().parents[2]
Read = Callable[..., Command]
EXPERIMENT = """\
# @package _global_
defaults:
  - override /backbone: tiny
  - override /data: files
  - override /head: lstm
  - override /optimizer: lion

study: messages
lr: 1e-3
epochs: 8
max_length: 64
metric: f1
backbone:
  freeze: true
  dropout: 0.2
head:
  bidirectional: true
data:
  train: messages.csv
  text_column: message
  label_column: topic
  delimiter: semicolon
  test_limit: 20
trainer:
  patience: 2
  head_first_epochs: 0
hydra:
  mode: MULTIRUN
  sweeper:
    params:
      head: cls,lstm
"""


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    monkeypatch.chdir(tmp_path)
    Path("conf/experiment").mkdir(parents=True)
    Path("conf/experiment/messages.yaml").write_text(EXPERIMENT)
    Path("messages.csv").write_text("message;topic\none;a\ntwo;b\n")
    Path("more.csv").write_text("message\nthree\n")
    return lambda *overrides: read_command(["--config-dir=conf", "experiment=messages", *overrides])


def test_documents_and_encoder_of_an_experiment_are_used(read: Read) -> None:
    found = read("data.unlabelled=more.csv", "trainer.patience=3")
    data = ("backbone=tiny", "backbone.dropout=0.2", "max_length=64", "data.unlabelled=more.csv", "data=files")
    data += ("data.train=messages.csv", "data.text_column=message", "data.label_column=topic")
    written = read_command([*data, "data.delimiter=semicolon", "trainer.patience=3"])
    assert found.config.plain() == {**written.config.plain(), "seed": 0}
    assert found.settings == written.settings and written.note is None
    assert config_hash(found.config) == config_hash(written.config)
    assert found.note == (
        "experiment=messages: pretraining ignores backbone.freeze, data.test_limit, epochs, head, hydra, lr, metric, "
        "optimizer, study, trainer of this experiment."
    )


def test_a_list_of_experiments_gives_the_same_run(read: Read) -> None:
    """The note and `max_length` of the experiment are not lost."""
    expected, found = read(), read_command(["--config-dir=conf", "experiment=[messages]"])
    assert (found.config, found.settings, found.note) == (expected.config, expected.settings, expected.note)


def test_the_command_line_changes_an_experiment(read: Read) -> None:
    found = read("max_length=32", "optimizer=sgd", "optimizer.momentum=0.5", "lr=2e-3", "study=mine", "seed=4")
    config = found.config
    assert (config.max_length, config.lr, config.study, config.seed) == (32, 2e-3, "mine", 4)
    assert config.optimizer.arguments["momentum"] == 0.5 and config.optimizer.arguments["lr"] == 2e-3
    assert config.data.order_seed == 4
    with pytest.raises(UserError) as error:
        read("head=cls", "trainer.patiense=2", "backbone.freeze=true", "data.text_colum=x")
    sentences = str(error.value).splitlines()
    assert len(sentences) == 3 and "trainer.patience" in str(error.value), sentences


def test_a_run_of_the_experiment_has_the_splits_of_its_pretraining(tmp_path: Path) -> None:
    found = read_command(["experiment=quickstart"]).config
    assert split_choices_hash(found) == split_choices_hash(compose(["experiment=quickstart"]))
    assert found.max_length == 128 and found.epochs == 3


@pytest.mark.parametrize("name", sorted(path.stem for path in (ROOT / "conf/experiment").glob("*.yaml")))
def test_every_shipped_experiment_can_be_pretrained(name: str) -> None:
    found = read_command([f"experiment={name}", "backbone=tiny", "data=sample", "max_length=64"])
    assert found.note is not None and "study" in found.note
    assert found.config.study == "pretrain" and found.config.lr == 1e-4
