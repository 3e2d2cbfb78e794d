"""Test that every YAML file in conf/ composes, validates, builds, and runs a forward pass and training steps."""

import csv
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pyarrow
import pytest
import torch
from hydra import compose, initialize_config_module
from omegaconf import DictConfig
from pyarrow import parquet
from support.heads import FOR_TWO_LAYERS
from support.runs import ROOT
from support.small_models import FAMILIES, make_folder

from imdbcls import build, sections
from imdbcls.config.checking import typed
from imdbcls.config.schema import Config
from imdbcls.data.sample import read_sample
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.signals import StopRequest

# Other files next to config.yaml have the keys of commands, such as `imdbcls.study`.
CHOICES = sorted(str(path.relative_to(ROOT / "conf").with_suffix("")) for path in (ROOT / "conf").glob("*/*.yaml"))
FILES = ["config", *CHOICES]
SLOW = ("experiment/heads", "experiment/original")  # multiruns, in which every job is built
GROUPS = {"backbone", "head", "data", "loss", "optimizer", "schedule", "tracker", "experiment", "debug"}


@pytest.fixture(scope="session")
def model_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return a small local model for each backbone that a run would download from the hub."""
    root = tmp_path_factory.mktemp("models")
    folders = {family: make_folder(root / family, family) for family in set(FAMILIES.values())}
    return {name: folders[family] for name, family in FAMILIES.items()}


@pytest.fixture(scope="session")
def data_folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Return the sample corpus in the formats that the other data choices read."""
    source, root = read_sample(), tmp_path_factory.mktemp("data")
    (root / "parquet").mkdir()
    for name, documents in (("train", source.train), ("test", source.test)):
        assert documents is not None
        columns = {"text": list(documents.texts), "label": documents.labels}
        parquet.write_table(pyarrow.table(columns), root / "parquet" / f"{name}.parquet")
    with (root / "reviews.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(zip(source.train.texts, source.train.labels, strict=True))
    return {"imdb": root / "parquet", "hub": root / "parquet", "files": root / "reviews.csv"}


def compositions(overrides: list[str]) -> Iterator[DictConfig]:
    """Yield the config that the overrides compose, or the config of each job if an experiment is a multirun."""
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        cfg = compose("config", overrides, return_hydra_config=True)
        choices: dict[str, str] = cfg.hydra.sweeper.params or {}
        for values in product(*(str(value).split(",") for value in choices.values())):
            job = [f"{key}={value}" for key, value in zip(choices, values, strict=True)]
            yield compose("config", overrides + job)


def choices_of(file: str) -> list[str]:
    """Return overrides that select a file. Unless the file selects a backbone or data, use `tiny` and `sample`."""
    group, _, name = file.rpartition("/")
    if not group:
        return []
    chosen = {"backbone": "tiny", "data": "sample", group: name}
    if group == "experiment":  # an experiment selects its own backbone and data
        chosen = {"experiment": name}
    return [f"{key}={value}" for key, value in chosen.items()]


def local_places(cfg: DictConfig, models: dict[str, Path], data: dict[str, Path]) -> list[str]:
    """Return overrides that replace downloads with small local files."""
    places = []
    if cfg.backbone.name in models:
        places.append(f"backbone.path={models[cfg.backbone.name]}")
    if cfg.data.name in data:
        places.append(f"data.{'train' if cfg.data.name == 'files' else 'path'}={data[cfg.data.name]}")
    return places


def test_every_group_is_found() -> None:
    assert {file.split("/")[0] for file in FILES} == GROUPS | {"config"}
    assert len(FILES) >= 30


@pytest.mark.parametrize(
    "file", [pytest.param(file, marks=pytest.mark.slow) if file in SLOW else file for file in FILES]
)
def test_file_composes_validates_builds_and_trains(
    file: str, model_folders: dict[str, Path], data_folders: dict[str, Path], tmp_path: Path
) -> None:
    overrides = choices_of(file)
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        cfg = compose("config", overrides)
    overrides += local_places(cfg, model_folders, data_folders)
    if file.startswith("head/"):
        overrides += FOR_TWO_LAYERS.get(cfg.head.name, ())
    overrides += ["data.train_limit=40", "data.validation_limit=8", "data.test_limit=8", f"data.cache_dir={tmp_path}"]
    jobs = list(compositions([*overrides, f"runs_dir={tmp_path / 'runs'}"]))
    assert jobs
    for number, cfg in enumerate(jobs):
        config = typed(cfg)
        take_one_step(config, RunFolder(tmp_path / "runs" / str(number)))


def take_one_step(config: Config, folder: RunFolder) -> None:
    """Build as `train` does, evaluate one batch and train on two, on the CPU in the configured precision."""
    config = config.with_changes(device="cpu")
    run = build.build_run(config, folder, StopRequest())
    trainer, model = run.trainer, run.trainer.model
    for construct in sections.tracker_constructors(config, folder, None).values():
        construct()

    batch = next(iter(run.batches.validation))
    with torch.inference_mode(), run.hardware.forward_pass():
        logits_BC = model.eval()(batch.input_ids_BT, batch.mask_BT)
    assert logits_BC.shape == (len(batch), 2) and logits_BC.dtype == torch.float32
    assert logits_BC.isfinite().all()

    model.train()
    before = [parameter.detach().clone() for parameter in model.parameters()]
    for training_batch, _ in zip(trainer.batches.train.epoch(0), range(2), strict=False):
        trainer.step(training_batch)  # with a warmup, the learning rate of the first step is zero
    assert any(not torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    trainer.metrics_log.close()


def test_groups_interpolate_top_level_keys() -> None:
    """A value that a user sets at the top level applies everywhere."""
    (cfg,) = compositions(["lr=0.125", "max_length=77", "seed=5", "head=weight_avg", "optimizer=sgd"])
    config = typed(cfg)
    assert config.optimizer.arguments["lr"] == 0.125
    assert config.head.arguments["num_positions"] == 77
    assert config.data.order_seed == 5
    (cfg,) = compositions(["seed=5", "data.order_seed=0"])
    assert typed(cfg).data.order_seed == 0


def test_readme_command_composes_as_documented() -> None:
    (cfg,) = compositions(["head=lstm", "lr=3e-5"])
    config = typed(cfg)
    assert (config.backbone.name, config.head.name, config.data.name) == ("roberta-base", "lstm", "imdb")
    assert config.backbone.arguments["path"] == "FacebookAI/roberta-base"
    assert config.data.source.arguments["path"] == "stanfordnlp/imdb"
    assert config.optimizer.target == "torch.optim.AdamW" and config.optimizer.arguments["lr"] == 3e-5
    assert config.schedule.target == "imdbcls.training.optim.linear"
    assert (
        config.tracker.chosen["wandb"].target == "imdbcls.tracking.wandb.WandbTracker" and config.tracker.mode == "auto"
    )


def test_experiment_original_has_the_published_recipe() -> None:
    """The published recipe: Adam, OneCycle, batch 16, lr 3e-5, warmup 0.3, 3 epochs, 512 tokens, four heads."""
    jobs = [typed(cfg) for cfg in compositions(["experiment=original"])]
    assert [job.head.name for job in jobs] == ["cls", "weight_avg_plain", "lstm", "transformer"]
    assert jobs[1].head.arguments["normalize"] is False
    for job in jobs:
        assert job.optimizer.target == "torch.optim.Adam"
        assert job.schedule.target == "imdbcls.training.optim.onecycle"
        keys = ("batch_size", "lr", "warmup", "epochs", "max_length")
        assert [getattr(job, key) for key in keys] == [16, 3e-5, 0.3, 3, 512]
        assert job.backbone.name == "roberta-base" and job.data.name == "imdb"
        assert job.trainer.score_test_each_epoch is True
