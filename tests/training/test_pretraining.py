"""`imdbcls.pretrain` through its command: exact resume, use of the encoder, and one sentence for each mistake."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from support.float64 import Float64OnCpuOnly
from support.processes import EVERY_STEP, digest, kill_at, points, run, run_folder
from support.runs import Launch
from support.small_models import make_folder

from imdbcls import pretraining
from imdbcls.errors import UserError
from imdbcls.models.backbone import load_backbone
from imdbcls.models.masked_lm import masked_language_model
from imdbcls.pretrain import Command, read_command
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.signals import StopRequest
from imdbcls.tracking import Trackers

PRETRAIN = "imdbcls.pretrain"
TINY = (
    *("backbone=tiny", "data=sample", "tracker=none", "max_length=48", "batch_size=8", "epochs=2", "lr=1e-3"),
    *("data.train_limit=96", "data.validation_limit=20", "device=cpu", "progress=none", "trainer.log_every=3"),
)
TIMES = ("seconds", "per_second", "peak_memory_mb", "finished_at", "git_commit", "command")


def result_of(folder: Path) -> dict[str, Any]:
    result = json.loads((run_folder(folder) / "result.json").read_text())
    return {key: value for key, value in result.items() if not key.endswith(TIMES)}


def fingerprint(folder: Path) -> dict[str, Any]:
    checkpoints = run_folder(folder) / "checkpoints"
    files = ("best/model", "last/model", "last/optimizer")
    hashes = {name: digest(checkpoints / f"{name}.safetensors") for name in files}
    return {"files": hashes, "points": points(run_folder(folder)), "result": result_of(folder)}


def make(folder: Path, *overrides: str) -> Any:
    asked: Command = read_command([*TINY, "precision=fp32", *overrides])
    return pretraining.build_pretraining(asked.config, asked.settings, RunFolder(folder), StopRequest())


@pytest.mark.slow
def test_killed_run_continues_to_the_same_bits_and_its_encoder_is_fine_tuned(tmp_path: Path, launch: Launch) -> None:
    uninterrupted, killed = tmp_path / "uninterrupted", tmp_path / "killed"
    for folder in (uninterrupted, killed):
        folder.mkdir()
    arguments = (*TINY, "precision=bf16", EVERY_STEP, "trainer.ema_decay=0.9")
    run(uninterrupted, *arguments, command=PRETRAIN)
    for step in (4, 15):
        kill_at(killed, *arguments, step=step, command=PRETRAIN)
    resumed = run(killed, *arguments, command=PRETRAIN)
    assert fingerprint(killed) == fingerprint(uninterrupted)

    found, pretrained = result_of(killed), run_folder(killed)
    assert f"train ... backbone=minilm backbone.path={pretrained.relative_to(killed)}" in resumed.output
    assert found["status"] == "pretrained" and found["head"] == "mlm" and found["study"] == "pretrain"
    assert found["val/loss"] < found["before/loss"] and found["val/perplexity"] < found["before/perplexity"]
    steps = [point["step"] for point in points(pretrained)]
    assert steps[0] == 0 and steps == sorted(set(steps)) and steps[-1] == 24
    config = pretrained / "config.yaml"  # as if the process had been killed before it removed checkpoints/last
    config.write_text(config.read_text().replace("  keep: all", "  keep: best"))
    again = run(killed, *arguments, command=PRETRAIN)
    assert f"is already done: masked loss {found['val/loss']:.4f}" in again.output
    assert [path.name for path in pretrained.glob("checkpoints/*")] == ["best"]

    # Pretraining that starts from the run continues with the run's head.
    backbone = load_backbone(
        name="mine", path=str(pretrained), pretrained=True, dropout=None, attention_dropout=None, fast=True
    )
    head = masked_language_model(backbone, pretrained).head.state_dict()
    saved = load_file(pretrained / "checkpoints/best/model.safetensors")
    assert len(head) == 5 and all(torch.equal(head[name], saved[f"head.{name}"]) for name in head)

    # A run that starts from the pretrained encoder gets the weights of its best epoch.
    train = ("backbone=minilm", *(each for each in TINY if not each.startswith(("backbone=", "lr="))), "epochs=1")
    path = f"backbone.path={pretrained.relative_to(killed)}"
    trained = run(killed, *train, path, "lr=1e-12", "study=tuned")
    assert "minilm" in trained.output and "may have been trained" not in trained.output
    (finetuned,) = killed.glob("runs/tuned/*/checkpoints/best/model.safetensors")
    weights, expected = load_file(finetuned), load_file(pretrained / "checkpoints/best/model.safetensors")
    encoder = [name for name in weights if name.startswith("encoder.")]
    assert len(encoder) > 20 and {*encoder} == {name for name in expected if name.startswith("encoder.")}
    assert all(torch.allclose(weights[name], expected[name], atol=1e-6) for name in encoder)

    # With other splits, the encoder may have been trained on held-out documents.
    other = run(killed, *train, path, "data.split_seed=1", "study=other")
    assert (
        f"backbone.path: the run {pretrained.name} held out other documents (other values of data.split_seed)"
        in " ".join(other.output.split())
    )
    sources = [
        json.loads(next(killed.glob(f"runs/{study}/*/result.json")).read_text())["encoder_source"]
        for study in ("tuned", "other")
    ]
    assert sources == [{"run": pretrained.name, "same_splits": same} for same in (True, False)]

    assert "pretrained" in launch(killed, "compare", "runs/pretrain", expect=2).stderr
    refused = launch(killed, "evaluate", str(pretrained.relative_to(killed)), expect=2).stderr
    assert "is a pretrained encoder without a head for classification. Fine-tune it first" in refused


def test_micro_batches_and_windows_give_the_gradient_of_the_whole_batch(tmp_path: Path) -> None:
    options = ("backbone.dropout=0", "data.truncation=windows", "max_length=24", f"data.cache_dir={tmp_path}")
    gradients = []
    for size in (8, 3):
        trainer = make(tmp_path / str(size), *options, f"trainer.micro_batch_size={size}").trainer
        trainer.model.train()
        batch = next(trainer.batches.train.epoch(0))
        assert batch.documents_W is not None and len(batch.masked) > 8
        trainer.accumulate_gradient(batch)
        gradients.append([weight.grad for weight in trainer.parameters])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_documents_without_tokens_give_a_loss_of_zero(tmp_path: Path) -> None:
    trainer = make(tmp_path, f"data.cache_dir={tmp_path}").trainer
    batch = next(trainer.batches.train.epoch(0))
    empty = replace(batch, masked=batch.masked.of_rows(0, 0))
    loss, grad_norm = trainer.step(empty)
    assert float(loss) == float(grad_norm) == 0


def test_scores_of_documents_are_independent_of_the_batch(tmp_path: Path) -> None:
    metrics = []
    for size in (1, 40):
        run = make(tmp_path / str(size), f"eval_batch_size={size}", f"data.cache_dir={tmp_path}")
        with Float64OnCpuOnly() as watched:
            scores_N3 = run.trainer.evaluator.scores("validation", run.batches.validation)
        assert watched.num_conversions > 0
        assert scores_N3.shape == (20, 3) and (scores_N3[:, 2] >= 1).all()
        metrics.append(run.trainer.evaluator.metrics("val", run.batches.validation, scores_N3))
    assert metrics[0] == pytest.approx(metrics[1], rel=1e-5)
    assert metrics[0]["val/loss"] > 5  # close to the loss of guessing among 2,000 tokens


def test_the_result_lists_the_epochs_of_a_soup(tmp_path: Path) -> None:
    run = make(tmp_path, "trainer.greedy_soup=true", "data.train_limit=16", f"data.cache_dir={tmp_path}")
    run.trainer.evaluate_before_training(Trackers())
    run.trainer.fit(Trackers())
    result = pretraining.result_of(run)
    assert result["soup_epochs"] == list(run.trainer.soup_epochs) and result["soup_epochs"][0] == result["best_epoch"]
    assert result["status"] == "pretrained" and result["val/loss"] < result["before/loss"]
    assert "label_names" not in result


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    (
        ("head=lstm", "head=lstm cannot be used in pretraining. Leave it out."),
        ("data.test_limit=5", "data.test_limit=5 cannot be used in pretraining."),
        ("masking.probability=1.5", "masking.probability=1.5 is not a number above 0 and below 1."),
        ("masking.whole_word=2", "masking.whole_word=2: there is no such key; closest: masking.whole_words."),
        ("data.unlabelled=none.csv", "data.unlabelled=none.csv"),
        ("data.unlabelled_limit=-1", "data.unlabelled_limit=-1 is not"),
        ("lr=1e-4,1e-3", "lr=1e-4,1e-3 has several values: set one value."),
        ("seed=0,1", "seed=0,1 has several values: set one value"),
        ("backbone.freeze=true", "backbone.freeze=true: pretraining trains the encoder."),
        ("backbone.lora_rank=4", "backbone.lora_rank=4: pretraining does not support LoRA."),
        ("checkpoint.keep=none", "checkpoint.keep=none would remove the pretrained weights. Use all or best."),
        ("trainer.head_first_epochs=1", "trainer.head_first_epochs=1: pretraining trains the encoder in every epoch."),
        ("lrr=1", "lrr: there is no such key; closest: lr."),
        ("max_length=4096", "max_length=4096 is more than the 512 tokens that backbone=tiny accepts."),
    ),
)
def test_a_mistake_is_reported_before_anything_is_loaded(overrides: str, sentence: str) -> None:
    kept = [each for each in TINY if each.partition("=")[0] != overrides.partition("=")[0]]
    with pytest.raises(UserError) as error:
        read_command([*kept, overrides])
    assert sentence in str(error.value)


def test_all_mistakes_are_reported_together() -> None:
    with pytest.raises(UserError) as error:
        read_command(["backbone=tiny", "data=sample", "head=cls", "masking.whole_words=2", "--multirun", "epoch=3"])
    assert len(str(error.value).splitlines()) == 4, error.value


def test_pairs_of_texts_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "pairs.csv"
    file.write_text("text,second,label\na,b,yes\nc,d,no\n")
    with pytest.raises(UserError, match="pair_column cannot be used in pretraining, which reads single texts") as error:
        read_command(["backbone=tiny", "data=files", f"data.train={file}", "data.pair_column=second"])
    assert len(str(error.value).splitlines()) == 1


def test_settings_of_pretraining_and_unlabelled_files_identify_the_run(tmp_path: Path) -> None:
    file = tmp_path / "more.csv"
    file.write_text("text\none\n")
    data = ("backbone=tiny", "data=sample", f"data.unlabelled={file}")

    def name(*overrides: str) -> str:
        return read_command([*data, *overrides]).config.folder.name

    names = {
        name(),
        name("masking.whole_words=false"),
        name("masking.probability=0.2"),
        name("seed=1"),
        name("lr=5e-5"),
    }
    assert len(names) == 5 and name() == name("lr=1e-4")
    assert all(each.startswith(("mlm-s0-", "mlm-s1-")) for each in names)
    before = name()
    file.write_text("text\ntwo\n")
    assert name() != before


def test_a_file_named_auto_does_not_change_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = read_command(["backbone=tiny", "data=sample"]).config.folder.name
    Path("auto").write_text("text\none\n")
    assert read_command(["backbone=tiny", "data=sample"]).config.folder.name == before


def test_encoders_that_cannot_predict_masked_tokens_are_refused_by_name(tmp_path: Path, launch: Launch) -> None:
    from transformers import AutoTokenizer, GPT2Config, GPT2Model

    folder = make_folder(tmp_path / "model", "roberta")
    size = len(AutoTokenizer.from_pretrained(folder))
    (folder / "config.json").unlink()
    GPT2Model(GPT2Config(vocab_size=size, n_embd=32, n_layer=1, n_head=2)).save_pretrained(folder)
    arguments = ("backbone=bert-base", f"backbone.path={folder}", *TINY[1:])
    refused = launch(tmp_path, "pretrain", *arguments, "backbone.name=mine", expect=2)
    assert "backbone=mine cannot be pretrained with masked tokens: it is a decoder-only model" in refused.stderr
    assert not (tmp_path / "runs").exists()
