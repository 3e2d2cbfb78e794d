"""Hostile run folders and config folders are refused in one sentence, before anything in them is built or run."""

import hashlib
import json
import math
import os
import re
import shutil
import signal
import struct
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.processes import TINY, run, run_folder, start

from imdbcls.api import load_run
from imdbcls.config.checking import require_valid
from imdbcls.data.sample import read_sample
from imdbcls.errors import UserError
from imdbcls.models.backbone import locate
from imdbcls.reevaluation import evaluate
from imdbcls.runs.untrusted import tensor_shapes

TARGETS = (
    "torch.load",
    "torch.hub.load",
    "pandas.read_pickle",
    "builtins.exec",
    "builtins.eval",
    "os.system",
    "subprocess.run",
    "imdbcls.runs.folder.os.system",
    "imdbcls.runtime.atomic.write_atomically",
    "imdbcls.train.train",
    "imdbcls.training.checkpoint.shutil.rmtree",
    "imdbcls.heads.cls.nn.Linear",
    "torch.optim.adam.torch.load",
    "torch.optim.lr_scheduler.warnings",
    "hydra.utils.call",
    "",
    ["os.system"],
    7,
)
KEY_PATHS = (
    "backbone",
    "head",
    "data.source",
    "loss",
    "optimizer",
    "schedule",
    "tracker",
    "tracker.wandb",
    "head.inner",
    "trainer",
    "data",
    "extra",
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("finished")
    run(folder, *TINY, "epochs=1", "data.train_limit=32")
    return run_folder(folder)


@pytest.fixture
def untrusted_run(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a copy of a finished run that a test can make hostile. The working directory is another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IMDBCLS_CACHE", str(finished.parents[2] / "cache"))
    return Path(shutil.copytree(finished, tmp_path / "untrusted_run"))


@pytest.fixture(autouse=True)
def quickly() -> Iterator[None]:
    """Limit the CPU time of each test. A decompression bomb exceeds it. Waiting on a busy machine does not count."""

    def late(*_: object) -> None:
        raise TimeoutError("the test used more than a minute of CPU time")

    signal.signal(signal.SIGVTALRM, late)
    signal.setitimer(signal.ITIMER_VIRTUAL, 60)
    yield
    signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def refusal(untrusted_run: Path) -> str:
    with pytest.raises(UserError) as refused:
        evaluate(untrusted_run, "test")
    sentence = str(refused.value)
    assert len(sentence) < 1500
    return sentence


def with_config(untrusted_run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    config = yaml.safe_load((untrusted_run / "config.yaml").read_text())
    change(config)
    (untrusted_run / "config.yaml").write_text(yaml.safe_dump(config))


def put(config: dict[str, Any], key_path: str, value: object) -> None:
    *parents, last = key_path.split(".")
    for parent in parents:
        config = config.setdefault(parent, {})
    config[last] = value


@pytest.fixture(scope="module")
def config(finished: Path) -> dict[str, Any]:
    return yaml.safe_load((finished / "config.yaml").read_text())


@pytest.mark.slow
def test_unchanged_copy_is_evaluated_as_before(untrusted_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evaluate(untrusted_run, "test")
    assert "The metrics equal the recorded ones to the last digit." in capsys.readouterr().err


# Targets and paths in a config


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS, ids=str)
def test_a_foreign_target_is_refused_anywhere(target: object, config: dict[str, Any]) -> None:
    for key_path in KEY_PATHS:
        changed = json.loads(json.dumps(config))
        put(changed, f"{key_path}._target_", target)
        with pytest.raises(UserError, match="is refused"):
            require_valid(changed)
    for nested in ({"a": [{"_target_": target}]}, [[{"_target_": target}]]):
        with pytest.raises(UserError, match="is refused"):
            require_valid({**config, "anything": nested})


@pytest.mark.slow
def test_nothing_is_called_before_the_config_is_refused(untrusted_run: Path) -> None:
    with_config(untrusted_run, lambda config: config["head"].update(_target_="os.mkdir", path="made"))
    assert "head._target_=os.mkdir is refused" in refusal(untrusted_run)
    assert not Path("made").exists()


@pytest.mark.slow
def test_run_folder_cannot_allow_its_own_code(untrusted_run: Path, config: dict[str, Any]) -> None:
    (untrusted_run / "evil.py").write_text("open('made', 'w')")
    with_config(untrusted_run, lambda config: config.update(plugins=["evil", "os"]))
    with_config(untrusted_run, lambda config: config["head"].update(_target_="evil.Head"))
    assert "evil.Head is refused" in refusal(untrusted_run)
    with pytest.raises(UserError, match="plugins=os is refused"):
        require_valid({**config, "plugins": ["os"]})


@pytest.mark.slow
@pytest.mark.parametrize(
    "override",
    (
        "+hydra.callbacks.x._target_=torch.load",
        "+hydra.callbacks.x={_target_: pandas.read_pickle, filepath_or_buffer: a}",
        "hydra.launcher._target_=os.system",
        "hydra.sweeper._target_='torch.hub.load'",
        "head._target_=torch.hub.load",
        "+head.dropout={_target_: builtins.exec}",
        "data.source._target_=pandas.read_pickle",
        "+hydra.job_logging.handlers.x={class: ctypes.CDLL, name: made.so}",
        "+hydra.job_logging.formatters.x={class: os.system, format: touch made}",
        "+hydra.job_logging.handlers.x={class: logging.os.system}",
        "+hydra.hydra_logging.handlers.console.stream=ext://os.system",
        "+hydra.job.env_set.LD_PRELOAD=made.so",
    ),
)
def test_overrides_with_foreign_targets_are_refused(override: str, tmp_path: Path) -> None:
    command = start(tmp_path, *TINY, override)
    assert command.wait() == 2
    assert "Traceback" not in command.output
    assert "is refused" in command.output
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_hydra_targets_in_a_config_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "given/experiment").mkdir(parents=True)
    callback = {"hydra": {"callbacks": {"x": {"_target_": "torch.hub.load", "repo_or_dir": "a"}}}}
    (tmp_path / "given/experiment/best.yaml").write_text("# @package _global_\n" + yaml.safe_dump(callback))
    command = start(tmp_path, *TINY, "--config-dir", "given", "experiment=best")
    assert command.wait() == 2
    assert "hydra.callbacks.x._target_=torch.hub.load is refused" in command.output
    other = start(tmp_path, *TINY, "--config-path", str(tmp_path / "given"))
    assert other.wait() == 2 and "--experimental-rerun are not supported" in other.output


@pytest.mark.parametrize(
    "path",
    (
        "package:evil.inner/x",
        "package:evil/../..",
        "package:evil//etc",
        "package:/x",
        "package:sys/x",
        "package:__main__",
    ),
)
def test_package_is_located_without_importing_it(path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil/__init__.py").write_text("open('made', 'w')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr("imdbcls.models.backbone.download", lambda path: pytest.fail("looked up on the hub"))
    with pytest.raises(UserError, match=r"backbone\.path=package:"):
        locate(path)
    assert locate("package:evil/") == tmp_path / "evil"
    assert not Path("made").exists()


@pytest.fixture
def foreign_documents(untrusted_run: Path, tmp_path: Path) -> Path:
    """Write files that no run has read, and make the run's config name them. Return the folder of the files."""
    sample, folder = read_sample(), tmp_path / "private"
    folder.mkdir()
    for name, split in (("train", sample.train), ("test", sample.test)):
        assert split is not None
        rows = zip(split.ids, split.texts, split.labels, split.clusters or [], strict=True)
        keys = ("id", "text", "label", "film")
        lines = [
            json.dumps(dict(zip(keys, (i, text, sample.label_names[label], group), strict=True)))
            for i, text, label, group in rows
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(lines), encoding="utf-8")
    columns = {"text_column": "text", "label_column": "label", "id_column": "id", "group_column": "film"}
    places = {"train": str(folder / "train.jsonl"), "validation": None, "test": str(folder / "test.jsonl")}
    source = {"_target_": "imdbcls.data.files.read_files", **places, **columns}
    with_config(untrusted_run, lambda config: config["data"].update(name="files", source=source))
    return folder


@pytest.mark.slow
def test_documents_are_read_only_with_user_permission(
    foreign_documents: Path, untrusted_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    read = "imdbcls.data.files.read_table"
    with monkeypatch.context() as patched:
        patched.setattr(read, lambda path, key: pytest.fail(f"{path} was opened"))
        assert f"data.train={foreign_documents}/train.jsonl" in (sentence := refusal(untrusted_run))
        assert "--trust-source" in sentence and "--data PATH" in sentence
        load_run(untrusted_run).predict(["A quiet, patient film."])  # prediction needs no documents
    evaluate(untrusted_run, "validation", trust_source=True)
    foreign_documents.rename(foreign_documents.with_name("copy"))
    evaluate(untrusted_run, "validation", data=str(foreign_documents.with_name("copy")))
    assert capsys.readouterr().err.count("The metrics equal the recorded ones to the last digit.") == 2


# Invalid config files


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "reason"),
    (
        ("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "YAML anchor or alias"),
        ("a: !!python/object/apply:os.system [touch made]\n", "YAML tag"),
        ("a: !!binary aGVsbG8=\n", "YAML tag"),
        ("a: ${oc.env:HOME}\n", "interpolation"),
        ('a: "\\x24{oc.env:HOME}"\n', "interpolation"),
        ("${oc.env:HOME}: 1\n", "interpolation"),
        ("a: " + "[" * 500 + "]" * 500, "levels deep"),
        ("a: " + "{b: " * 500 + "1" + "}" * 500, "levels deep"),
        ("a: " + "[" * 60_000, "levels deep"),
        ("a: " + "9" * 5000, "cannot be read"),
        ("- 1\n- 2\n", "does not contain a config"),
        ("3", "does not contain a config"),
        ("just words", "is missing"),
        ("", "is missing"),
        ("a: [1\n", "cannot be read"),
        ("a: 1\na: 2\n", "cannot be read"),
        ("a: \x00\n", "cannot be read"),
        ("x" * 70_000, "at most"),
    ),
    ids=lambda value: value[:24],
)
def test_invalid_config_file_is_refused(text: str, reason: str, untrusted_run: Path) -> None:
    (untrusted_run / "config.yaml").write_text(text)
    assert reason in refusal(untrusted_run)
    assert not Path("made").exists()


@pytest.mark.slow
def test_binary_config_file_is_refused(untrusted_run: Path) -> None:
    (untrusted_run / "config.yaml").write_bytes(b"\xff\xfe\x00a: 1")
    assert "cannot be read" in refusal(untrusted_run)


def leaves(node: Any, path: str = "") -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield f"{path}.{key}" if path else key
            yield from leaves(value, f"{path}.{key}" if path else key)


WRONG = ([1, {"a": 2}], {"a": {"b": 1}}, "words", -1, 1e300, True, None, float("nan"), 10**300, "")


@pytest.mark.slow
def test_wrong_type_of_any_key_gives_an_error_or_a_result(untrusted_run: Path, config: dict[str, Any]) -> None:
    """Keys that evaluation does not need may have any value. No exception other than UserError may be raised."""
    text, refused = (untrusted_run / "config.yaml").read_text(), 0
    keys = list(leaves(config))
    assert len(keys) >= 50
    for number, key in enumerate(keys):
        changed = json.loads(json.dumps(config))
        for wrong in (WRONG[number % len(WRONG)], WRONG[(number * 3 + 1) % len(WRONG)]):
            put(changed, key, wrong)
            (untrusted_run / "config.yaml").write_text(yaml.safe_dump(changed))
            try:
                evaluate(untrusted_run, "validation")
            except UserError as error:
                refused += 1
                assert str(error)
    assert refused > len(keys)
    for key in keys:
        (untrusted_run / "config.yaml").write_text(text)
        with_config(untrusted_run, lambda config, key=key: remove(config, key))
        try:
            evaluate(untrusted_run, "validation")
        except UserError:
            continue


@pytest.mark.slow
@pytest.mark.parametrize("key", ("_args_", "_partial_", "_convert_", "_recursive_", "_unknown_"))
@pytest.mark.parametrize("key_path", ("head", "data.source"))
def test_hydra_special_keys_give_an_error_or_a_result(key_path: str, key: str, untrusted_run: Path) -> None:
    for wrong in ([1, 2], True, "words", {"a": 1}):
        with_config(untrusted_run, lambda config, wrong=wrong: put(config, f"{key_path}.{key}", wrong))
        try:
            evaluate(untrusted_run, "validation")
        except UserError as error:
            assert str(error)


def remove(config: dict[str, Any], key_path: str) -> None:
    *parents, last = key_path.split(".")
    for parent in parents:
        config = config[parent]
    del config[last]


# Other files in the run folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    (
        "[" * 100_000,
        '{"status": ' + '{"a":' * 50_000,
        '{"format_version": 1, "status": "done", "split_hash": ' + "9" * 5000 + "}",
        '{"format_version": 1, "status": "done"}',
        '{"format_version": 1, "status": ["done"]}',
        '{"format_version": 1, "status": "done", "split_hash": NaN}',
        '{"format_version": 1, "status": "done", "split_hash": {"a": 1}}',
        "[]",
        "null",
        '"done"',
        "",
        "\x00",
    ),
    ids=lambda text: text[:24] or "empty",
)
def test_a_hostile_result_is_refused(text: str, untrusted_run: Path) -> None:
    (untrusted_run / "result.json").write_text(text)
    assert "does not contain a finished run" in refusal(untrusted_run) or "split hash" in refusal(untrusted_run)


@pytest.mark.slow
def test_huge_result_file_is_refused(untrusted_run: Path) -> None:
    with (untrusted_run / "result.json").open("wb") as file:
        file.truncate(2**33)
    assert "does not contain a finished run" in refusal(untrusted_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    (
        "checkpoints/best/model.safetensors",
        "checkpoints",
        "backbone/config.json",
        "config.yaml",
        "result.json",
        "extra",
    ),
)
def test_link_out_of_the_run_folder_is_refused(name: str, untrusted_run: Path, tmp_path: Path) -> None:
    path = untrusted_run / name
    if path.exists():
        path.rename(tmp_path / "outside")
    else:
        (tmp_path / "outside").write_text("secret")
    path.symlink_to(tmp_path / "outside")
    assert "is a symbolic link" in refusal(untrusted_run)


@pytest.mark.slow
def test_pipe_is_refused_without_waiting(untrusted_run: Path) -> None:
    (untrusted_run / "result.json").unlink()
    os.mkfifo(untrusted_run / "result.json")
    assert "neither a file nor a folder" in refusal(untrusted_run)


TENSORS = {
    "a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]},
    "b": {"dtype": "F32", "shape": [1], "data_offsets": [8, 12]},
}
HEADER = json.dumps(TENSORS).encode()
TENSOR_FILES = {
    "empty": b"",
    "cut within the length": b"abc",
    "cut within the header": struct.pack("<Q", len(HEADER)) + HEADER[:30],
    "cut within a tensor": struct.pack("<Q", len(HEADER)) + HEADER + bytes(11),
    "more than its tensors": struct.pack("<Q", len(HEADER)) + HEADER + bytes(13),
    "a list": struct.pack("<Q", 2) + b"[]",
    "not UTF-8": struct.pack("<Q", 2) + b"\xff\xff",
    "a fraction": struct.pack("<Q", len(HEADER)) + HEADER.replace(b"[1]", b"1.0") + bytes(12),
    "a header of 17 MB": struct.pack("<Q", 17_000_000) + b"{" + b" " * 16_999_998 + b"}",
}


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_damaged_tensor_file_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(struct.pack("<Q", len(HEADER)) + HEADER + bytes(12))
    assert tensor_shapes(path) == {"a": (2,), "b": (1,)}
    path.write_bytes(TENSOR_FILES[name])
    with pytest.raises(UserError, match=r"model\.safetensors (is not a complete safetensors file|has a header of)"):
        tensor_shapes(path)


def test_terabyte_tensors_are_refused_before_reading(tmp_path: Path) -> None:
    path, header = tmp_path / "model.safetensors", {"a": dict(TENSORS["a"], shape=[2**38], data_offsets=[0, 2**40])}
    raw = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(raw)) + raw)
        file.truncate(8 + len(raw) + 2**40)  # makes a sparse file
    with pytest.raises(UserError, match=r"needs 1,099\.5 GB of memory"):
        tensor_shapes(path)


def rewrite_weights(untrusted_run: Path, header: dict[str, Any] | bytes, length: int | None = None) -> None:
    path = untrusted_run / "checkpoints/best/model.safetensors"
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + bytes(64))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("header", "length"),
    (
        (b"{}", 2**63),
        (b"{}", 2**40),
        (b"[" * 100_000, None),
        (b'{"a":' * 50_000, None),
        ({"a": {"dtype": "F32", "shape": [10**15], "data_offsets": [0, 4 * 10**15]}}, None),
        ({"a": {"dtype": "F32", "shape": [2**62, 2**62, 0], "data_offsets": [0, 0]}}, None),
        ({"a": {"dtype": "F32", "shape": [9**99], "data_offsets": [0, 4]}}, None),
        ({"a": 1}, None),
        (b"[]", None),
        (b"\xff\xff", None),
    ),
    ids=range(10),
)
def test_hostile_weights_are_refused(header: dict[str, Any] | bytes, length: int | None, untrusted_run: Path) -> None:
    rewrite_weights(untrusted_run, header, length)
    assert "checkpoints" in refusal(untrusted_run) or "weights" in refusal(untrusted_run)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    (
        {"num_hidden_layers": 10**9},
        {"hidden_size": 2**20},
        {"vocab_size": 2**40},
        {"intermediate_size": 2**45},
        {"max_position_embeddings": 2**40},
        {"num_attention_heads": 0},
        {"num_attention_heads": 7},
        {"hidden_act": "os.system"},
        {"hidden_act": {"a": 1}},
        {"model_type": "nothing known"},
        {"model_type": None},
        {"model_type": "t5"},
        {"auto_map": {"AutoModel": "evil.Model", "AutoConfig": "evil.Config"}, "model_type": "evil"},
        {"_attn_implementation": "someone/kernel"},
        {"hidden_size": "64"},
        {"hidden_dropout_prob": "x"},
        {"layer_norm_eps": []},
        {"vocab_size": -1},
    ),
    ids=str,
)
def test_a_hostile_architecture_is_refused_or_has_no_effect(
    change: dict[str, Any], untrusted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (untrusted_run / "backbone/evil.py").write_text("open('made', 'w')")
    path = untrusted_run / "backbone/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    started = time.process_time()
    try:
        evaluate(untrusted_run, "test")
    except UserError as error:
        assert "backbone" in str(error) or "checkpoints" in str(error)
    else:
        assert "to the last digit" in capsys.readouterr().err
    assert time.process_time() - started < 20
    assert not Path("made").exists()


@pytest.mark.slow
@pytest.mark.parametrize("name", ("config.json", "tokenizer.json", "tokenizer_config.json"))
@pytest.mark.parametrize("content", (b"", b"[" * 100_000, b"\xff\xfe", b"{}", b"null", b'{"a": ' * 10_000, None))
def test_hostile_backbone_files_are_refused_or_have_no_effect(
    name: str, content: bytes | None, untrusted_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = untrusted_run / "backbone" / name
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    try:
        evaluate(untrusted_run, "test")
    except UserError as error:
        assert "backbone" in str(error) or "token" in str(error)


@pytest.mark.slow
def test_missing_backbone_folder_is_not_treated_as_a_hub_id(
    untrusted_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reach(*_: object, **__: object) -> None:
        raise AssertionError("the folder name was looked up on the hub")

    monkeypatch.setattr("imdbcls.models.backbone.download", reach)
    shutil.rmtree(untrusted_run / "backbone")
    with pytest.raises(UserError, match=r"config\.json is missing"):
        evaluate(Path(untrusted_run.name), "test")


@pytest.mark.slow
def test_run_folder_does_not_choose_the_token_cache(untrusted_run: Path, tmp_path: Path) -> None:
    with_config(untrusted_run, lambda config: config["data"].update(cache_dir=str(tmp_path / "foreign_documents")))
    evaluate(untrusted_run, "test")
    assert not (tmp_path / "foreign_documents").exists()


def change_weights(untrusted_run: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Replace the tensors in the best checkpoint, and update the hash in its manifest."""
    best = untrusted_run / "checkpoints/best"
    tensors = load_file(best / "model.safetensors")
    change(tensors)
    save_file(tensors, best / "model.safetensors")
    manifest = json.loads((best / "manifest.json").read_text())
    raw = (best / "model.safetensors").read_bytes()
    manifest["files"]["model.safetensors"] = {"bytes": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
    (best / "manifest.json").write_text(json.dumps(manifest))


WEIGHTS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "not a number": (lambda w: w["head.output.bias"].fill_(math.nan), "tensor is head.output.bias"),
    "infinity": (lambda w: w["encoder.embeddings.word_embeddings.weight"][5].fill_(math.inf), "NaN or infinity"),
    "too large": (lambda w: w["head.output.weight"].fill_(3e38), "the model's output is NaN"),
    "integers": (lambda w: w.update({name: tensor.to(torch.int8) for name, tensor in w.items()}), "is torch.int8"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(WEIGHTS))
def test_weights_with_non_finite_outputs_are_refused(name: str, untrusted_run: Path) -> None:
    change, sentence = WEIGHTS[name]
    change_weights(untrusted_run, change)
    assert sentence in refusal(untrusted_run)
    with pytest.raises(UserError, match=re.escape(sentence)):
        load_run(untrusted_run).predict(["A quiet, patient film."])


@pytest.mark.slow
def test_a_panicking_tokenizer_is_refused_by_every_command(untrusted_run: Path) -> None:
    path = untrusted_run / "backbone/tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    bomb = {"type": "Split", "pattern": {"Regex": "(a+)+$"}, "behavior": "Isolated", "invert": False}
    path.write_text(json.dumps({**content, "pre_tokenizer": bomb}), encoding="utf-8")
    assert "tokenizer.json cannot be used: PanicException" in refusal(untrusted_run)
    with pytest.raises(UserError, match=r"tokenizer\.json cannot be used"):
        load_run(untrusted_run).predict(["A quiet, patient film."])
    command = start(Path.cwd(), *TINY, "backbone=minilm", f"backbone.path={untrusted_run / 'backbone'}")
    assert command.wait() == 2
    assert "tokenizer.json cannot be used" in command.output and "Traceback" not in command.output
