"""A run that was killed or stopped and then resumed gives the same bits as an uninterrupted run."""

import json
import random
import shutil
import signal
import threading
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from support.limits import HANG_SECONDS
from support.processes import (
    EVERY_STEP,
    TINY,
    digest,
    fingerprint,
    kill_at,
    points,
    run,
    run_folder,
    saved_step,
    start,
    wait_before_result,
    wait_before_step,
    wait_for,
)
from support.trainers import make

from imdbcls.data.batch import Batch
from imdbcls.errors import UserError
from imdbcls.tracking import Trackers
from imdbcls.training import checkpoint, optim
from imdbcls.training.meter import StepMeter
from imdbcls.training.state import Saver, TrainState
from imdbcls.training.trainer import Trainer

NUM_STEPS = 24  # two epochs of 96 documents, 8 per step
WINDOWS = ("data.truncation=windows", "max_length=24")
HEADS = ("cls", "weight_avg", "lstm", "transformer", "attention", "mean", "max", "scalar_mix")


def resume(folder: Path, *arguments: str, kills: list[tuple[int, float]]) -> None:
    """Start and kill the command at each step in `kills`, after the step's delay. Then run the command to its end."""
    for step, delay in kills:
        kill_at(folder, *arguments, step=step, delay=delay)
    run(folder, *arguments)


def places(tmp_path: Path) -> tuple[Path, Path]:
    for name in ("uninterrupted", "killed"):
        (tmp_path / name).mkdir()
    return tmp_path / "uninterrupted", tmp_path / "killed"


@pytest.mark.slow
@pytest.mark.parametrize(("head", "precision"), (("cls", "bf16"), ("lstm", "fp32")))
def test_ten_kills_do_not_change_the_result(head: str, precision: str, tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    arguments = (*TINY, f"head={head}", f"precision={precision}", EVERY_STEP)
    run(uninterrupted, *arguments)
    draw = random.Random(f"{head} {precision}")
    kills = [(step, draw.uniform(0, 0.1)) for step in sorted(draw.sample(range(NUM_STEPS - 1), 10))]
    resume(killed, *arguments, kills=kills)
    assert fingerprint(killed) == fingerprint(uninterrupted)
    steps = [point["step"] for point in points(run_folder(killed))]
    assert steps == sorted(set(steps)) and steps[-1] == NUM_STEPS


@pytest.mark.slow
@pytest.mark.parametrize("head", [head for head in HEADS if head not in ("cls", "lstm")])
def test_every_head_resumes_exactly(head: str, tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    arguments = (*TINY, f"head={head}", EVERY_STEP, "trainer.micro_batch_size=3", "data.train_limit=50")
    run(uninterrupted, *arguments)
    resume(killed, *arguments, kills=[(4, 0.01), (9, 0.05)])
    assert fingerprint(killed) == fingerprint(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    (
        ("schedule=onecycle", "optimizer=adam", "warmup=0.3", "trainer.micro_batch_size=5", "backbone.freeze=1"),
        (
            *("optimizer=sgd", "schedule=cosine", "lr=0.1", "precision=bf16"),
            *("head=lstm", "head.bidirectional=true", *WINDOWS),
        ),
        ("head=weight_avg", "head.normalize=false", "backbone.fast=false", "schedule=constant", "data.train_limit=93"),
        (
            "trainer.ema_decay=0.9",
            "optimizer=lion",
            "lr=1e-4",
            "loss=focal",
            "loss.class_weights=auto",
            "loss.r_drop=1",
        ),
        ("backbone.lora_rank=4", "trainer.ema_decay=0.5", "optimizer.head_lr=5", "optimizer.layer_decay=0.7"),
        ("trainer.score_test_each_epoch=true", "trainer.max_grad_norm=null", "backbone.attention_dropout=0.1"),
        (
            *("precision=bf16", "trainer.micro_batch_size=3", "backbone.freeze=true", "head=attention", "lr=1e-9"),
            *("epochs=4", "trainer.patience=1"),  # early stopping after two epochs
        ),
        ("metric=brier", "epochs=4", "head=attention", "lr=0.02", "schedule=constant"),
        ("trainer.swa_start=0.3", "schedule=constant", "lr=0.01"),
        ("trainer.greedy_soup=true", "epochs=3", "head=attention", "lr=2e-3", "schedule=constant"),
        ("trainer.head_first_epochs=1", "head=cls", "trainer.ema_decay=0.9", "schedule=onecycle"),
    ),
    ids=(
        "onecycle",
        "sgd and windows",
        "plain weights",
        "average",
        "adapters",
        "watched test",
        "frozen and stopped early",
        "another metric",
        "mean of the last steps",
        "soup",
        "head first",
    ),
)
def test_other_options_resume_exactly(options: tuple[str, ...], tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    arguments = (*TINY, EVERY_STEP, *options)
    run(uninterrupted, *arguments)
    resume(killed, *arguments, kills=[(5, 0.02), (12, 0.0), (17, 0.03)])
    assert fingerprint(killed) == fingerprint(uninterrupted)


@pytest.mark.slow
def test_run_without_timed_checkpoints_repeats_the_interrupted_epoch(tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    run(uninterrupted, *TINY)
    command = start(killed, *TINY, prepare=wait_before_result)
    assert wait_for(lambda: has_evaluated(killed), command)
    command.kill()  # during the second epoch, or while the first epoch's checkpoints are saved
    run(killed, *TINY)
    assert fingerprint(killed) == fingerprint(uninterrupted)


def has_evaluated(folder: Path) -> bool:
    return any(b"val/loss" in log.read_bytes() for log in folder.glob("runs/*/*/metrics.jsonl"))


@pytest.mark.slow
def test_kill_during_test_evaluation(tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    run(uninterrupted, *TINY)
    command = start(killed, *TINY, prepare=wait_before_result)
    assert wait_for(lambda: bool(list(killed.glob("runs/*/*/predictions"))), command)
    command.kill()
    assert f"Continuing at step {NUM_STEPS}" in run(killed, *TINY).output
    assert fingerprint(killed) == fingerprint(uninterrupted)


@pytest.mark.slow
def test_resume_with_changed_keys_that_do_not_affect_the_result(tmp_path: Path) -> None:
    uninterrupted, killed = places(tmp_path)
    run(uninterrupted, *TINY)
    kill_at(killed, *TINY, EVERY_STEP, "progress=plain", step=7)
    again = run(killed, *TINY, "checkpoint.every_minutes=null", "data.cache_dir=elsewhere")
    assert "Continuing at step" in again.output
    assert fingerprint(killed) == fingerprint(uninterrupted)


@pytest.mark.slow
def test_changed_learning_rate_is_a_new_run_and_moved_checkpoint_is_rejected(tmp_path: Path) -> None:
    kill_at(tmp_path, *TINY, EVERY_STEP, step=7)
    first = run_folder(tmp_path)
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    second = kill_at(tmp_path, *TINY, EVERY_STEP, "lr=2e-3", step=9)
    assert "Continuing" not in second.output
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    (other,) = [path for path in tmp_path.glob("runs/*/*") if path != first]
    for part in ("checkpoints", "metrics.jsonl"):
        (other / part).rename(other / f"{part}.own")
        (first / part).rename(other / part)
    refused = start(tmp_path, *TINY, EVERY_STEP, "lr=2e-3")
    assert refused.wait() == 2
    message = refused.output.splitlines()[-1]
    assert "configuration.lr is 0.001 in the checkpoint and 0.002 in this run" in message
    assert "configuration.optimizer.lr is 0.001 in the checkpoint and 0.002 in this run" in message
    assert "Traceback" not in refused.output and "seed" not in message
    result = json.loads((other / "result.json").read_text())
    assert result["status"] == "failed" and "configuration.lr" in result["error"]


@pytest.mark.slow
def test_changed_documents_are_a_new_run(tmp_path: Path) -> None:
    """Editing the data file starts a new run, and the checkpoints of the first run do not fit it."""
    texts = [f"{index},word{index} {'good fine' if index % 2 else 'bad dull'} film,{index % 2}" for index in range(80)]
    (tmp_path / "train.csv").write_text("\n".join(["id,text,label", *texts]) + "\n")
    arguments = (*TINY, "data=files", "data.train=train.csv", "data.train_limit=null", EVERY_STEP)
    kill_at(tmp_path, *arguments, step=3)
    (first,) = tmp_path.glob("runs/*/*")
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    (tmp_path / "train.csv").write_text("\n".join(["id,text,label", *texts[::-1], "99,one more film,1"]) + "\n")
    second = start(tmp_path, *arguments)
    assert second.wait() == 0 and "Continuing" not in second.output
    assert before == {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}

    (other,) = [path for path in tmp_path.glob("runs/*/*") if path != first]
    (other / "result.json").unlink()
    for part in ("checkpoints", "metrics.jsonl"):
        (other / part).rename(other / f"{part}.own")
        (first / part).rename(other / part)
    refused = start(tmp_path, *arguments)
    assert refused.wait() == 2
    assert "split_hash is" in refused.output.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_with_one_seed_give_the_same_bits(tmp_path: Path) -> None:
    first, second = places(tmp_path)
    for folder in (first, second):
        run(folder, *TINY, "precision=bf16", "head=transformer")
    assert fingerprint(first) == fingerprint(second)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uninterrupted")
    run(folder, *TINY, EVERY_STEP)
    return folder


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a working directory with a run that was stopped in its second epoch."""
    folder = tmp_path_factory.mktemp("stopped")
    command = start(folder, *TINY, EVERY_STEP, prepare=partial(wait_before_step, 19))
    assert wait_for(lambda: saved_step(folder) >= 15, command)
    command.signal(signal.SIGTERM)
    assert command.wait() == 128 + signal.SIGTERM
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("how", ("flipped", "truncated", "deleted"))
@pytest.mark.parametrize(
    "file",
    (
        *(f"last/{name}" for name in ("manifest.json", "model.safetensors", "optimizer.safetensors", "state.json")),
        *(f"best/{name}" for name in ("manifest.json", "model.safetensors", "state.json")),
    ),
)
def test_damaged_file_is_named_or_the_run_resumes_exactly(
    file: str, how: str, stopped: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    path = run_folder(tmp_path) / "checkpoints" / file
    if how == "deleted":
        path.unlink()
    else:
        content = bytearray(path.read_bytes())
        content[len(content) // 3] ^= 4
        path.write_bytes(content if how == "flipped" else content[: len(content) // 3])
    command = start(tmp_path, *TINY, EVERY_STEP)
    code = command.wait()
    assert "Traceback" not in command.output
    assert path.relative_to(tmp_path).as_posix() in command.output
    if file.startswith("last/"):  # the previous checkpoint exists
        assert code == 0 and "Skipping damaged checkpoint:" in command.output and "Continuing at step" in command.output
        assert fingerprint(tmp_path) == fingerprint(uninterrupted)
    else:
        assert code == 2
        assert "does not contain the best weights" in command.output or "can be used" in command.output


@pytest.mark.slow
def test_environment_changes_during_an_interruption_are_logged_and_recorded(stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    again = run(tmp_path, *TINY, EVERY_STEP, environment={"THREADS": "2"})
    change = "hardware CPU, 1 thread, fp32 → CPU, 2 threads, fp32"
    assert f"warning: {change}: the last bits of the result may differ" in again.output
    (recorded,) = json.loads((run_folder(tmp_path) / "result.json").read_text())["changes"]
    assert recorded.startswith("after step 1") and recorded.endswith(change)


@pytest.mark.slow
def test_moved_run_folder_with_truncated_result_and_old_attempt(
    stopped: Path, uninterrupted: Path, tmp_path: Path
) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    (tmp_path / "runs").rename(tmp_path / "elsewhere")
    (before,) = tmp_path.glob("elsewhere/*/*-s0-*")
    (before / "result.json").write_text('{"status": "do')
    (before / "checkpoints/last.new").mkdir()
    (before / "checkpoints/last.new/model.safetensors").write_bytes(b"half")
    again = run(tmp_path, *TINY, EVERY_STEP, "runs_dir=elsewhere")
    assert "Skipping damaged checkpoint:" in again.output and "Continuing at step" in again.output
    (tmp_path / "elsewhere").rename(tmp_path / "runs")
    assert fingerprint(tmp_path) == fingerprint(uninterrupted)


@pytest.mark.slow
@pytest.mark.parametrize("place", ("metrics.jsonl", "checkpoints/last", ".lock"))
def test_nothing_is_written_through_links(place: str, stopped: Path, tmp_path: Path) -> None:
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    path, outside = run_folder(tmp_path) / place, tmp_path / "outside"
    path.rename(outside)
    path.symlink_to(outside)
    before = digest(outside) if outside.is_file() else sorted(file.name for file in outside.iterdir())
    command = start(tmp_path, *TINY, EVERY_STEP)
    assert command.wait() == 2
    assert "Traceback" not in command.output and str(path.relative_to(tmp_path)) in command.output
    assert before == (digest(outside) if outside.is_file() else sorted(file.name for file in outside.iterdir()))


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    """Return a trainer that has saved a checkpoint after a few steps, in this process."""
    trainer = make(tmp_path_factory.mktemp("begun"), "trainer.log_every=2")
    for batch in list(trainer.batches.train.epoch(0))[:3]:
        trainer.step(batch)
        trainer.count(batch)
        trainer.fetch_metrics()
        trainer.count_time(0.1)
        trainer.log(Trackers(), trainer.pop_train_metrics())
    trainer.saver.save(trainer.state, trainer.meter)
    trainer.saver.wait()
    return trainer


def forge(saver: Saver, place: str, value: object) -> None:
    """Change or remove one value of the saved state, and update the manifest."""
    path = saver.last / "state.json"
    state = json.loads(path.read_text())
    *parents, last = place.split("/")
    node = state
    for parent in parents:
        node = node[parent]
    if value is None:
        del node[last]
    else:
        node[last] = value
    path.write_text(json.dumps(state))
    manifest = json.loads((saver.last / "manifest.json").read_text())
    manifest["files"]["state.json"] = {"bytes": path.stat().st_size, "sha256": digest(path)}
    (saver.last / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "value"),
    (
        *((f"train/{name}", None) for name in ("step", "best_loss", "log_sha256", "changes")),
        *((place, None) for place in ("schedule/last_epoch", "optimizer/param_groups", "meter", "environment")),
        *((f"train/{name}", value) for name, value in (("step", 2.5), ("step", "3"), ("step", 10**9), ("epoch", -1))),
        *((f"train/{name}", value) for name, value in (("patience_left", 3), ("log_bytes", -1), ("log_bytes", 2**60))),
        *(("train/log_sha256", "0" * 64), ("meter/losses", ["x"]), ("meter/losses", {"a": 1}), ("meter/tokens", [])),
        *(("schedule/step", 1), ("schedule/base_lrs", [1.0]), ("schedule/_step_count", "os.system")),
        *(("optimizer/param_groups", []), ("optimizer/scalars", {"99/step": 1}), ("optimizer/scalars", [1])),
        *(("environment", ["torch"]), ("environment/torch", 2.13)),
        *(("later", {"a": 1}), ("train", []), ("train/documents", "many"), ("train/changes", "none")),
    ),
    ids=lambda value: str(value)[:30],
)
def test_state_with_another_structure_is_rejected_and_kept(place: str, value: object, begun: Trainer) -> None:
    saver, log = begun.saver, begun.saver.last.parents[1] / "metrics.jsonl"
    before, logged = {path: path.read_bytes() for path in saver.last.iterdir()}, log.read_bytes()
    forge(saver, place, value)
    with pytest.raises(UserError) as refused:
        saver.restore(begun.batches.train.steps_per_epoch, begun.settings.epochs)
    assert "\n" not in str(refused.value) and str(saver.last.parents[1]) in str(refused.value)
    assert log.read_bytes() == logged
    for path, content in before.items():
        path.write_bytes(content)
    restored = saver.restore(begun.batches.train.steps_per_epoch, begun.settings.epochs)
    assert restored is not None and restored[0].step == 3


@pytest.mark.slow
def test_checkpoint_from_before_the_key_metric_is_restored(begun: Trainer) -> None:
    saver = begun.saver
    before = {path: path.read_bytes() for path in saver.last.iterdir()}
    forge(saver, "train/best_value", None)
    forge(saver, "train/best_accuracy", 0.75)
    restored = saver.restore(begun.batches.train.steps_per_epoch, begun.settings.epochs)
    for path, content in before.items():
        path.write_bytes(content)
    assert restored is not None and restored[0].best_value == 0.75


@pytest.mark.slow
def test_optimizer_tensors_must_match_their_parameters(begun: Trainer) -> None:
    tensors, rest = optim.state_of(begun.optimizer)
    cases = (
        ({"0/exp_avg": torch.zeros(3, 7, 1)}, r"0/exp_avg has shape \(3, 7, 1\) for a parameter of shape"),
        ({"0/exp_avg": torch.zeros(1, 3)}, r"0/exp_avg has shape \(1, 3\) for a parameter of shape"),
        ({"9999/step": torch.zeros(())}, "no parameter for 9999/step"),
        ({"x": torch.zeros(1)}, "not enough values to unpack"),
    )
    for changed, sentence in cases:
        with pytest.raises(ValueError, match=sentence):
            optim.load_state(begun.optimizer, {**tensors, **changed}, rest)


@pytest.mark.slow
def test_checkpoints_are_saved_every_few_minutes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake clock, a step takes a minute; an epoch has four steps."""
    trainer, now, saved = make(tmp_path, "checkpoint.every_minutes=2.5", "trainer.log_every=1"), [0.0], []
    monkeypatch.setattr("imdbcls.training.trainer.time.monotonic", lambda: now[0])
    step, save = trainer.step, trainer.saver.save

    def slow_step(batch: Batch) -> object:
        now[0] += 60
        return step(batch)

    def noted_save(state: TrainState, meter: StepMeter) -> None:
        saved.append(state.step)
        save(state, meter)

    monkeypatch.setattr(trainer, "step", slow_step)
    monkeypatch.setattr(trainer.saver, "save", noted_save)
    trainer.fit(Trackers())
    assert saved == [3, 4, 7, 8]


@pytest.mark.slow
def test_checkpoint_contains_the_state_at_the_time_of_the_save(begun: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    saver, save, disk = begun.saver, checkpoint.save, threading.Event()

    def slow_save(*arguments: Any) -> None:
        assert disk.wait(HANG_SECONDS)
        save(*arguments)

    monkeypatch.setattr(checkpoint, "save", slow_save)
    before = {name: tensor.clone() for name, tensor in begun.model.state_dict().items()}
    moments = optim.state_of(begun.optimizer)[0]["0/exp_avg"].clone()
    rate = begun.optimizer.param_groups[0]["lr"]
    saver.save(begun.state, begun.meter)  # returns immediately
    with torch.no_grad():
        for tensor in begun.model.state_dict().values():
            tensor.add_(1)
        optim.state_of(begun.optimizer)[0]["0/exp_avg"].add_(1)
        begun.optimizer.param_groups[0]["lr"] = 7.0
    disk.set()
    saver.wait()
    saver.restore(begun.batches.train.steps_per_epoch, begun.settings.epochs)
    assert all(torch.equal(tensor, before[name]) for name, tensor in begun.model.state_dict().items())
    assert torch.equal(optim.state_of(begun.optimizer)[0]["0/exp_avg"], moments)
    assert begun.optimizer.param_groups[0]["lr"] == rate


@pytest.mark.slow
def test_nothing_is_written_after_a_write_error(begun: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """If `last` were written after the error, it would refer to best weights that do not exist."""
    saver, save = begun.saver, checkpoint.save
    before = (saver.last / "manifest.json").read_bytes()

    def save_on_full_disk(folder: Path, *arguments: Any) -> None:
        if folder == saver.best:
            raise OSError(28, "No space left on device")
        save(folder, *arguments)

    monkeypatch.setattr(checkpoint, "save", save_on_full_disk)
    saver.save_best({"epoch": 1})
    saver.save(begun.state, begun.meter)
    with pytest.raises(OSError, match="No space"):
        saver.wait()
    with pytest.raises(OSError, match="No space"):
        saver.wait()
    saver.wait()
    assert (saver.last / "manifest.json").read_bytes() == before


@pytest.mark.slow
def test_previous_best_weights_are_kept_until_last_is_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second epoch's `best` is written, but the disk is full before its `last` is written.

    The run then repeats the epoch. On CUDA or with other software, the repeated epoch may be worse than the first time,
    so the previous best weights must still exist.
    """
    begun = make(tmp_path)
    saver, save = begun.saver, checkpoint.save
    for batch in begun.batches.train.epoch(0):
        begun.step(batch)
        begun.count(batch)
    begun.fetch_metrics()
    begun.state.epoch = begun.state.best_epoch = 1
    saver.save_best({"epoch": 1})
    wanted = {name: tensor.clone() for name, tensor in begun.model.state_dict().items()}
    saver.save(begun.state, begun.meter)
    saver.wait()

    def save_on_full_disk(folder: Path, *arguments: Any) -> None:
        if folder == saver.last:
            raise OSError(28, "No space left on device")
        save(folder, *arguments)

    monkeypatch.setattr(checkpoint, "save", save_on_full_disk)
    with torch.no_grad():
        for tensor in begun.model.state_dict().values():
            tensor.add_(1)
    saver.save_best({"epoch": 2})
    saver.save(begun.state, begun.meter)
    with pytest.raises(OSError, match="No space"):
        saver.wait()
    monkeypatch.undo()

    again = Saver(
        folder=saver.last.parent,
        resume_key=saver.resume_key,
        environment=saver.environment,
        evaluation_model=begun.evaluation_model,
        phases=begun.phases,
        metrics_log=begun.metrics_log,
    )
    again.restore(begun.batches.train.steps_per_epoch, begun.settings.epochs)
    again.load_best(begun.state)
    assert all(torch.equal(tensor, wanted[name]) for name, tensor in begun.model.state_dict().items())
    assert {path.name for path in saver.best.parent.iterdir()} == {"best", "last"}
