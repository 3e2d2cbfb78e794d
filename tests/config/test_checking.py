"""Test every validation rule, reports of several mistakes, and the refusal of foreign `_target_`s in any section."""

import copy
import re
from typing import Any

import pytest
from hydra import compose, initialize_config_module
from support.runs import ROOT

from imdbcls.config.allowed_targets import is_allowed
from imdbcls.config.checking import require_valid
from imdbcls.config.earlier_versions import with_later_keys
from imdbcls.config.key_types import Copied
from imdbcls.config.options import config_keys
from imdbcls.config.resolving import look_up, resolve
from imdbcls.config.schema import Config, declared
from imdbcls.errors import UserError
from imdbcls.printable import printable_line
from imdbcls.runs.identity import config_hash


def composed(*overrides: str) -> dict[str, Any]:
    with initialize_config_module("imdbcls.conf", version_base="1.3"):
        return resolve(compose("config", list(overrides)))


@pytest.fixture(scope="module")
def sound() -> dict[str, Any]:
    return composed("backbone=tiny", "data=sample")


def altered(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """Return a copy of a config with one dotted key set, even to a value that Hydra's grammar cannot express."""
    config = copy.deepcopy(config)
    *parents, last = key.split(".")
    section = config
    for parent in parents:
        section = section[parent]
    section[last] = value
    return config


def mistakes(config: dict[str, Any]) -> list[str]:
    with pytest.raises(UserError) as raised:
        require_valid(config)
    return str(raised.value).splitlines()


def test_valid_configs_pass(sound: dict[str, Any]) -> None:
    require_valid(sound)
    require_valid(composed("seed=0", "warmup=0", "backbone.dropout=0", "trainer.max_grad_norm=null", "optimizer=sgd"))


# Sections of other choices, for keys that the choices in `sound` lack.
SECTIONS_WITH = {
    "head.num_positions": {"head": composed("head=weight_avg")["head"]},
    "loss.gamma": {"loss": composed("loss=focal")["loss"]},
    "backbone.reinit_layers": {"backbone": composed("backbone=minilm")["backbone"]},
}
LIMIT = "a whole number of at least 1 (documents) or a number above 0 and below 1 (documents) or null"
NUMBER_CASES = {
    "backbone.recommended_lr": ([1e-9, 1], [0, -1e-5, None], "a number above 0"),
    "lr": ([1e-9, 1, 10.0], [0, -1e-5, "fast", None, float("nan"), float("inf"), True], "a number above 0"),
    "batch_size": ([1, 4096], [0, -1, 1.5, "16", None, True], "a whole number of at least 1 (documents)"),
    "eval_batch_size": ([1, None], [0, 2.0], "a whole number of at least 1 (documents) or null"),
    "epochs": ([1, 100], [0, 0.5, None], "a whole number of at least 1"),
    "jobs": ([1, 100, "auto"], [0, 0.5, None, "all"], "a whole number of at least 1 or auto"),
    "warmup": ([0, 0.0, 0.3, 0.99], [-0.1, 1, 1.0, None, float("nan")], "a number from 0 to below 1"),
    "max_length": ([8, 512, 2**20], [7, 0, 64.0, None, 2**20 + 1], "a whole number from 8 to 1,048,576 (tokens)"),
    "seed": ([0, 2**63 - 1], [-1, 2**63, 0.0, None, False], "a whole number of at least 0"),
    "backbone.dropout": ([None, 0, 0.5], [-0.1, 1.0, "none"], "a number from 0 to below 1 or null"),
    "backbone.attention_dropout": ([None, 0.0, 0.1], [1, -1], "a number from 0 to below 1 or null"),
    "backbone.cache_gb": ([0.5, 25, 1e6], [0, -1, None, "25"], "a number above 0 (gigabytes)"),
    "backbone.reinit_layers": ([0, 1, 6], [-1, 1.5, None, True], "a whole number of at least 0 (layers)"),
    "backbone.lora_rank": ([None, 1, 64], [0, 1.5, True], "a whole number of at least 1 or null"),
    "head.num_positions": ([512, 600], [0, "many", None], "a whole number of at least 1"),
    "head.dropout": ([0, 0.9], [1, -0.5, None], "a number from 0 to below 1"),
    "data.window_overlap": ([0, 0.5, 0.9], [-0.1, 1, 0.91, None], "a number from 0 to 0.9"),
    "data.max_windows": ([1, 1000], [0, 2.0, None], "a whole number of at least 1"),
    "data.validation_fraction": ([0.01, 0.5], [0, 0.0, 1, 2, None], "a number above 0 and below 1"),
    "data.test_fraction": ([0.2], [0, 1, None], "a number above 0 and below 1"),
    "data.split_seed": ([0, 7], [-1, 0.5, None], "a whole number of at least 0"),
    "data.order_seed": ([0, 7], [-1, "a", None], "a whole number of at least 0"),
    "data.train_limit": ([None, 1, 10**9, 0.05, 0.99], [0, 0.0, -5, 1.0, 10.0], LIMIT),
    "data.validation_limit": ([None, 1, 0.1], [0], LIMIT),
    "data.test_limit": ([None, 1, 0.1], [0, True], LIMIT),
    "loss.label_smoothing": ([0, 0.1], [-0.1, 1, None], "a number from 0 to below 1"),
    "loss.r_drop": ([0, 1, 5.0], [-1, None, "on"], "a number of at least 0"),
    "loss.dropout_samples": ([1, 8], [0, 1.5, None], "a whole number of at least 1"),
    "loss.sample_dropout": ([0.1, 0.5], [0, 1, None], "a number above 0 and below 1"),
    "loss.gamma": ([0, 2.0], [-1, None], "a number of at least 0"),
    "optimizer.head_lr": ([1, 0.1, 10], [0, -1, None, "2"], "a number above 0"),
    "optimizer.layer_decay": ([1, 0.9], [0, 1.01, None], "a number above 0 and at most 1"),
    "trainer.micro_batch_size": ([None, 1, 16], [0, 1.0], "a whole number of at least 1 (documents) or null"),
    "trainer.max_grad_norm": ([None, 0.1, 5], [0, -1], "a number above 0 or null"),
    "trainer.patience": ([None, 1, 3], [0, 1.5], "a whole number of at least 1 (epochs) or null"),
    "trainer.ema_decay": ([None, 0.5, 0.999], [0, 1, -1], "a number above 0 and below 1 or null"),
    "trainer.head_first_epochs": ([0, 1, 2], [-1, 0.5, None], "a whole number of at least 0 (epochs)"),
    "trainer.head_first_lr": ([1e-3, 1], [0, -1, None], "a number above 0"),
    "trainer.swa_start": ([None, 0.5, 0.75], [0, 1, -1, 10], "a number above 0 and below 1 or null"),
    "trainer.profile_steps": ([None, 1, 100], [0, 2.5], "a whole number of at least 1 (steps) or null"),
    "trainer.log_every": ([1, 100], [0, None, 2.5], "a whole number of at least 1 (steps)"),
    "checkpoint.every_minutes": ([None, 0.5, 15], [0, -1], "a number above 0 (minutes) or null"),
}


CHOICES = {
    "precision": ("auto", "fp32", "bf16"),
    "device": ("auto", "cpu", "cuda", "mps"),
    "metric": ("accuracy", "f1", "auroc", "loss", "brier"),
    "progress": ("auto", "live", "plain", "none"),
    "data.truncation": ("head", "tail", "head_tail", "windows"),
    "tracker.mode": ("auto", "online", "offline", "disabled"),
    "checkpoint.keep": ("all", "best", "none"),
}
FLAGS = (
    *("deterministic", "compile", "backbone.pretrained", "backbone.fast", "backbone.cache"),
    *("backbone.gradient_checkpointing", "data.group_by_length", "data.validate_on_train"),
    *("trainer.score_test_each_epoch", "trainer.greedy_soup"),
)
# Keys with separate tests below.
OTHERS = ("backbone.freeze", "loss.class_weights", "study", "head.name", "plugins", "tracker.tags", "tracker.notes")
NAMES = ("runs_dir", "data.name", "backbone.name", "data.cache_dir", "tracker.project", "tracker.entity")


def test_every_declared_key_has_test_cases() -> None:
    of_constructors = {"head.num_positions", "head.dropout", "loss.gamma"}
    cases = {*NUMBER_CASES, *CHOICES, *FLAGS, *OTHERS, *NAMES} - of_constructors
    assert cases == {key for key, _, _ in declared()}


def test_every_key_of_config_yaml_is_declared_without_a_second_default() -> None:
    """The schema has the types. `conf/config.yaml` has the defaults. Both have the same keys."""
    from_groups = {"backbone.name", "head.name", "data.name"}  # each choice sets its own name
    assert {key for key, _, _ in declared()} - from_groups == {
        each.key for each in config_keys() if not each.is_section
    }
    assert all(field.is_required() for field in Config.model_fields.values())


@pytest.mark.parametrize("key", NUMBER_CASES)
def test_numbers(key: str, sound: dict[str, Any]) -> None:
    right, wrong, allowed = NUMBER_CASES[key]
    sound = {**sound, **SECTIONS_WITH.get(key, {})}
    for value in right:
        require_valid(altered(sound, key, value))
    for value in wrong:
        (line,) = mistakes(altered(sound, key, value))
        assert line == f"{key}={'null' if value is None else value} is not {allowed}."


@pytest.mark.parametrize("key", CHOICES)
def test_choices(key: str, sound: dict[str, Any]) -> None:
    for value in CHOICES[key]:
        require_valid(altered(sound, key, value))
    for value in ("quux", "", None, 3):
        (line,) = mistakes(altered(sound, key, value))
        assert line == f"{key}={'null' if value is None else value} is not one of {', '.join(CHOICES[key])}."


@pytest.mark.parametrize(
    ("key", "value", "choice"),
    [
        ("metric", "acc", "accuracy"),
        ("metric", "auc", "auroc"),
        ("metric", "log_loss", "loss"),
        ("metric", "brier_score", "brier"),
        ("precision", "f32", "fp32"),
    ],
)
def test_a_misspelt_choice_names_the_closest(key: str, value: str, choice: str, sound: dict[str, Any]) -> None:
    (line,) = mistakes(altered(sound, key, value))
    assert line == f"{key}={value} is not one of {', '.join(CHOICES[key])}; closest: {choice}."


@pytest.mark.parametrize("key", FLAGS)
def test_flags(key: str, sound: dict[str, Any]) -> None:
    right, wrong = (False,) if key == "backbone.pretrained" else (True, False), ("yes", 1, None)
    for value in right:
        require_valid(altered(sound, key, value))
    for value in wrong:
        (line,) = mistakes(altered(sound, key, value))
        assert line.startswith(f"{key}=") and line.endswith("is not true or false.")


@pytest.mark.parametrize("key", NAMES)
def test_names(key: str, sound: dict[str, Any]) -> None:
    require_valid(altered(sound, key, "a/b c"))
    for value in ("", 3, "a\0b", ["a"], "a\nb", "\x1b[2J", "a\x85"):
        (line,) = mistakes(altered(sound, key, value))
        assert line.startswith(f"{key}=") and " is not a name" in line


def test_tags_and_notes_of_a_tracker(sound: dict[str, Any]) -> None:
    for tags in ([], ["a", "b c"], [2024, 1.5]):
        require_valid(altered(sound, "tracker.tags", tags))
    for tags in (None, "a", [None], [["a"]], {"a": 1}):
        (line,) = mistakes(altered(sound, "tracker.tags", tags))
        assert line.startswith("tracker.tags=") and line.endswith(" is not a list such as [a,b].")
    for notes in (None, "", "several\nlines"):
        require_valid(altered(sound, "tracker.notes", notes))
    (line,) = mistakes(altered(sound, "tracker.notes", ["a"]))
    assert line == "tracker.notes=[a] is not a string or null."


EARLIER = {"_partial_": True, "mode": "offline", "project": "films", "entity": None, "connect_seconds": 5}


@pytest.mark.parametrize(
    ("tracker", "chosen"),
    [
        ({"_target_": "imdbcls.tracking.none.NoTracker", "_partial_": True}, []),
        ({"_target_": "imdbcls.tracking.run.WandbTracker", "finish_seconds": 5, **EARLIER}, ["wandb"]),
        ({"_target_": "my_trackers.Mine", **EARLIER}, ["own"]),
    ],
)
def test_the_tracker_of_an_earlier_version_still_loads(
    tracker: dict[str, Any], chosen: list[str], sound: dict[str, Any]
) -> None:
    """In earlier versions, a single tracker had its `_target_` and its arguments in the section `tracker` itself."""
    values = with_later_keys({**sound, "tracker": tracker, "plugins": ["my_trackers"]})
    config = require_valid(values)
    assert list(config.tracker.chosen) == chosen
    assert (config.tracker.mode, config.tracker.project) == (tracker.get("mode", "auto"), tracker.get("project"))
    assert config_hash(config) == config_hash(require_valid(sound))
    assert with_later_keys(values) == values


def test_a_foreign_tracker_of_an_earlier_version_is_refused(sound: dict[str, Any]) -> None:
    lines = mistakes(with_later_keys({**sound, "tracker": {"_target_": "os.system", "_partial_": True}}))
    assert any(line.startswith("tracker.own._target_=os.system is refused") for line in lines)


def test_freeze_takes_a_flag_or_a_number_of_layers(sound: dict[str, Any]) -> None:
    for value in (True, False, 0, 1, 12):
        require_valid(altered(sound, "backbone.freeze", value))
    for value in (-1, 1.0, "yes", "true", None, [1]):
        (line,) = mistakes(altered(sound, "backbone.freeze", value))
        assert line.startswith("backbone.freeze=") and "is not false, true (the entire encoder)" in line


SECTIONS = (
    *("data", "trainer", "checkpoint", "tracker"),
    *("backbone", "head", "data.source", "loss", "optimizer", "schedule"),
)


@pytest.mark.parametrize("key", SECTIONS)
def test_a_section_must_be_a_mapping(key: str, sound: dict[str, Any]) -> None:
    for value in (None, "adamw", ["a"], 3):
        (line,) = mistakes(altered(sound, key, value))[:1]
        assert line.startswith(f"{key}=") and "is not a section with keys of its own." in line


def test_an_option_of_a_config_group_is_chosen_under_defaults(sound: dict[str, Any]) -> None:
    (line,) = mistakes(altered(sound, "tracker", "none"))[:1]
    assert line.endswith(
        "own. To choose an option in an experiment file, write '- override /tracker: none' under 'defaults:'."
    )
    (line,) = mistakes(altered(sound, "trainer", "none"))[:1]
    assert line.endswith("is not a section with keys of its own.")


def test_missing_keys_are_reported(sound: dict[str, Any]) -> None:
    for key in ("lr", "seed", "precision", "study", "runs_dir"):
        lines = mistakes({name: value for name, value in sound.items() if name != key})
        assert f"{key} is missing." in lines


def test_choices_without_a_key_are_valid() -> None:
    require_valid(composed("head=mean"))  # this head has no dropout
    require_valid(composed("tracker=none"))  # no section for a tracker


def test_a_micro_batch_larger_than_the_batch_is_refused(sound: dict[str, Any]) -> None:
    (line,) = mistakes(altered(sound, "trainer.micro_batch_size", 17))
    assert line == "trainer.micro_batch_size=17 is larger than batch_size=16. Reduce it, or set it to null."


@pytest.mark.parametrize(
    "name", ["", "../other", "/abs", "a/b", ".hidden", "..", "a b", None, 3, "-x", "a\nb", "a" * 101]
)
def test_names_that_are_not_folder_names_are_refused(name: Any, sound: dict[str, Any]) -> None:
    for key in ("study", "head.name"):
        sentence = "".join(mistakes(altered(sound, key, name)))
        assert sentence.startswith(f"{key}=") and "is not a folder name" in sentence


def test_usual_study_names_pass(sound: dict[str, Any]) -> None:
    for name in ("first", "heads-2", "lr_3e-5", "v1.2", "a+b", "été"):
        require_valid(altered(sound, "study", name))


def test_all_mistakes_are_reported_together(sound: dict[str, Any]) -> None:
    config = sound
    wrong = {"lr": -1, "epochs": 0, "precision": "fp8", "study": "../x", "head._target_": "os.system"}
    for key, value in wrong.items():
        config = altered(config, key, value)
    lines = mistakes(config)
    assert len(lines) == len(wrong)
    for key in wrong:
        assert sum(line.startswith(f"{key}=") for line in lines) == 1


# Limits on instantiation: a config may come from an untrusted run folder.

FORBIDDEN = (
    *("os.system", "subprocess.run", "builtins.eval", "builtins.exec", "torch.load", "torch.hub.load"),
    *("pandas.read_pickle", "pickle.load", "hydra.utils.instantiate", "importlib.import_module"),
    # Functions of the project that would run, write or load whatever their arguments name.
    *(
        "imdbcls.construction.construct",
        "imdbcls.construction.keep_corpus",
        "imdbcls.training.checkpoint.save",
        "imdbcls.runtime.hub.download",
    ),
    *("imdbcls.runtime.atomic.write_atomically", "imdbcls.train.main", "imdbcls.sweeps.jobs.exit_code_of"),
    # Names that modules of the project only import.
    *("imdbcls.construction.instantiate", "imdbcls.training.checkpoint.shutil.rmtree", "imdbcls.data.tokens.os.system"),
    *("imdbcls.data.tokens.shutil.rmtree", "imdbcls.heads.cls.nn.Module", "imdbcls.models.backbone.torch.load"),
    # Attempts to bypass a check of the prefix.
    *("imdbcls", "imdbcls.", "imdbclsx.heads.cls.ClsHead", "imdbcls.nowhere.Head", "imdbcls.heads.cls.Nothing"),
    *(
        "torch.optim.os.system",
        "torch.optim.lr_scheduler.types.new_class",
        "torch.optim.adam.Adam.__init__.__globals__",
    ),
    *("imdbcls.heads.cls.ClsHead.__init__.__globals__", "imdbcls.heads.cls..ClsHead", "imdbcls.heads/cls.ClsHead"),
    *("${oc.env:HOME}", None, 3, ["imdbcls.heads.cls.ClsHead"], {"_target_": "imdbcls.heads.cls.ClsHead"}),
    # Names in modules that also contain allowed names.
    *("imdbcls.models.backbone.Backbone", "imdbcls.data.files.read_table", "imdbcls.tracking.wandb.say"),
)
PLACES = (
    "backbone",
    "head",
    "data.source",
    "loss",
    "optimizer",
    "schedule",
    "tracker.wandb",
    "tracker",
    "data",
    "trainer",
    "checkpoint",
)


@pytest.mark.parametrize("target", FORBIDDEN, ids=str)
def test_a_foreign_target_is_refused(target: Any, sound: dict[str, Any]) -> None:
    for place in PLACES:
        lines = mistakes(altered(sound, f"{place}._target_", target))
        assert any(line.startswith(f"{place}._target_=") and "is refused" in line for line in lines), place


CLASS_WEIGHTS = (
    "balanced",
    "[1, 2]",
    [],
    {},
    [0, 1],
    [1, -1],
    [1, "2"],
    [True, 1],
    3,
    [float("nan"), 1],
    {"neg": None, "pos": 1},
)


@pytest.mark.parametrize("wanted", CLASS_WEIGHTS, ids=str)
def test_wrong_class_weights_are_refused(wanted: Any, sound: dict[str, Any]) -> None:
    (line,) = mistakes(altered(sound, "loss.class_weights", wanted))
    assert line.startswith("loss.class_weights=") and "one number above 0 per class" in line


def test_valid_class_weights_pass(sound: dict[str, Any]) -> None:
    for wanted in (None, "auto", [1, 5.5], {"neg": 1, "pos": 0.2}):
        require_valid(altered(sound, "loss.class_weights", wanted))


def test_r_drop_needs_a_dropout() -> None:
    still = ("backbone=tiny", "data=sample", "loss.r_drop=1", "backbone.dropout=0")
    (line,) = mistakes(composed(*still, "head=mean"))
    assert line.startswith(
        "loss.r_drop=1 has no effect without dropout in the trained layers: both passes are identical."
    )
    (line,) = mistakes(composed("loss.r_drop=1", "backbone.freeze=true", "head=mean"))
    assert line.startswith("loss.r_drop=1 has no effect")
    require_valid(composed(*still, "head=cls"))
    require_valid(composed(*still, "head=mean", "backbone.attention_dropout=0.1"))


EXCLUSIONS = (
    (
        ("backbone.lora_rank=8", "backbone.freeze=true"),
        "backbone.lora_rank=8 and backbone.freeze=true cannot be combined: LoRA",
    ),
    (
        ("backbone.lora_rank=8", "backbone.freeze=1"),
        "backbone.lora_rank=8 and backbone.freeze=1 cannot be combined: LoRA",
    ),
    (("backbone.freeze=true", "backbone.gradient_checkpointing=true"), "backbone.gradient_checkpointing=true saves"),
    (("backbone.freeze=true", "optimizer.layer_decay=0.9"), "optimizer.layer_decay has no effect"),
    (("loss.r_drop=1", "loss.dropout_samples=8"), "loss.r_drop=1 and loss.dropout_samples=8 cannot be combined: both"),
    (
        ("trainer.ema_decay=0.9", "trainer.swa_start=0.5"),
        "trainer.ema_decay=0.9 and trainer.swa_start=0.5 cannot be combined: each replaces",
    ),
    (
        ("trainer.greedy_soup=true", "trainer.swa_start=0.5"),
        "trainer.swa_start=0.5 and trainer.greedy_soup=true cannot be combined: each replaces",
    ),
    (("trainer.greedy_soup=true", "epochs=1"), "trainer.greedy_soup=true needs at least two epochs"),
    (
        ("trainer.patience=2", "trainer.swa_start=0.5"),
        "trainer.swa_start=0.5 and trainer.patience=2 cannot be combined: training could stop",
    ),
)


@pytest.mark.parametrize(("overrides", "sentence"), EXCLUSIONS)
def test_exclusive_keys_are_refused_together(overrides: tuple[str, ...], sentence: str) -> None:
    (line,) = mistakes(composed("backbone=tiny", "data=sample", *overrides))
    assert line.startswith(sentence)
    for one in overrides:
        require_valid(composed("backbone=tiny", "data=sample", one))


@pytest.mark.parametrize(
    ("key", "sentence"),
    [
        ("epochs=2", "leaves no epoch of epochs=2 that trains all weights"),
        ("backbone.freeze=true", "and backbone.freeze=true cannot be combined"),
        ("backbone.reinit_layers=1", "and backbone.reinit_layers=1 cannot be combined"),
        ("compile=true", "and compile=true cannot be combined"),
        ("trainer.swa_start=0.5", "and trainer.swa_start=0.5 cannot be combined with epochs=5"),
    ],
)
def test_training_the_head_first_needs_other_epochs(key: str, sentence: str) -> None:
    head_first = ("backbone=minilm", "data=sample", "epochs=5", "trainer.head_first_epochs=3")
    (line,) = mistakes(composed(*head_first, key))
    assert line.startswith(f"trainer.head_first_epochs=3 {sentence}")
    require_valid(composed(*head_first, "trainer.swa_start=0.6"))


def test_recipes_that_are_off_are_not_part_of_the_hash() -> None:
    """A run from an earlier version, which lacked these keys, keeps its name."""
    keys = {"reinit_layers", "head_first_epochs", "head_first_lr", "swa_start", "greedy_soup"}
    off = require_valid(composed("backbone=minilm", "data=sample")).choices()
    assert not keys & {*off["backbone"], *off["trainer"]}
    on = ("backbone.reinit_layers=1", "trainer.swa_start=0.5")
    choices = require_valid(composed("backbone=minilm", "data=sample", *on)).choices()
    assert {*choices["backbone"], *choices["trainer"]} & keys == {"reinit_layers", "swa_start"}


@pytest.mark.parametrize("key", ("backbone.pretrained=false", "backbone.freeze=true", "backbone.lora_rank=8"))
def test_layers_that_are_not_trained_are_not_reinitialized(key: str) -> None:
    (line,) = mistakes(composed("backbone=minilm", "data=sample", "backbone.reinit_layers=2", key))
    assert line.startswith(f"backbone.reinit_layers=2 and {key} cannot be combined")


def test_every_position_needs_a_weight() -> None:
    chosen = ("backbone=tiny", "data=sample", "head=weight_avg", "head.num_positions=64")
    (line,) = mistakes(composed(*chosen, "max_length=65"))
    assert line == (
        "head.num_positions=64 is less than max_length=65: each token position needs a weight. Increase "
        "head.num_positions."
    )
    require_valid(composed(*chosen, "max_length=64"))


def test_a_target_of_an_earlier_version_gets_its_own_error(sound: dict[str, Any]) -> None:
    """Run folders keep the import paths of the version that wrote them."""
    (line,) = mistakes(altered(sound, "loss._target_", "imdbcls.losses.CrossEntropy"))
    assert "this version of imdbcls has no such class or function" in line and "train it again" in line
    (line,) = mistakes(altered(sound, "loss._target_", "imdbcls.heads.cls.ClsHead"))
    assert "this section may only use certain classes and functions" in line


def test_a_foreign_target_is_refused_at_any_depth(sound: dict[str, Any]) -> None:
    node = {"_target_": "os.system", "command": "true"}
    for value in (node, [node], {"a": {"b": [1, [node]]}}, [{"a": ({"b": node},)}]):
        for key in ("lr", "head.dropout", "optimizer.betas", "data.source.path", "tracker.entity"):
            lines = mistakes(altered(sound, key, value))
            assert any(line.startswith(key) and "_target_=os.system is refused" in line for line in lines)
    lines = mistakes(altered(sound, "_target_", "os.system"))
    assert any(line.startswith("_target_=os.system is refused") for line in lines)


OWN_PLACES = {
    "backbone": "imdbcls.models.backbone.load_backbone",
    "head": "imdbcls.heads.cls.ClsHead",
    "data.source": "imdbcls.data.sample.read_sample",
    "loss": "imdbcls.training.losses.Focal",
    "optimizer": "torch.optim.RMSprop",
    "schedule": "torch.optim.lr_scheduler.StepLR",
    "tracker.wandb": "imdbcls.tracking.wandb.WandbTracker",
}


def test_a_target_is_allowed_in_its_own_section_only(sound: dict[str, Any]) -> None:
    """Test targets that a user may write. test_conf validates the targets of every YAML file."""
    for place in PLACES:
        for home, target in OWN_PLACES.items():
            assert is_allowed(place, target, ()) == (place == home)


def test_interpolations_in_a_resolved_config_are_refused(sound: dict[str, Any]) -> None:
    """`instantiate` would resolve them, and `oc.create` could create a `_target_` after the check."""
    for value in ("${oc.env:HOME}", "${oc.create:{_target_:os.system,command:id}}", "a ${lr} b"):
        for key in ("head.dropout", "data.source.path", "tracker.entity"):
            assert f"{key} contains an interpolation, which is not allowed." in mistakes(altered(sound, key, value))


def test_only_packages_of_the_user_are_plugins(sound: dict[str, Any]) -> None:
    config = altered(sound, "head._target_", "my_heads.First")
    assert "plugins=[...]" in mistakes(config)[0]
    require_valid({**config, "plugins": ["my_heads"]})
    (line,) = mistakes({**config, "plugins": ["my_head", "heads"]})
    assert "my_heads.First is refused" in line
    for plugin in ("os", "subprocess", "torch", "imdbcls", "pandas", "my.heads", ""):
        (line,) = mistakes({**sound, "plugins": [plugin]})
        assert line.startswith("plugins=") and "list a package of your own" in line
    for plugins in ("my_heads", [None], None, {"my_heads": 1}):
        (line,) = mistakes({**sound, "plugins": plugins})
        assert line.startswith("plugins=") and line.endswith("is not a list such as [a,b].")


@pytest.mark.parametrize("key", ["a.b", "\udce9", "é\udce9.x", 5, 1.5, True, None, ""])
@pytest.mark.parametrize("place", ["", "trainer", "checkpoint"])
def test_an_unknown_key_of_any_type_is_reported(place: str, key: Any, sound: dict[str, Any]) -> None:
    config = copy.deepcopy(sound)
    (config[place] if place else config)[key] = 1
    (line,) = mistakes(config)
    assert line.startswith(printable_line(f"{place}.{key}=1: there is no such key".removeprefix(".")))


@pytest.mark.parametrize(
    "key",
    [
        *("head.hidden_size", "head.num_labels", "loss.class_weights_C", "optimizer.params", "schedule.optimizer"),
        *("schedule.num_steps", "schedule.num_warmup_steps", "tracker.wandb.identity", "tracker.wandb.mode"),
    ],
)
def test_arguments_of_the_builder_are_refused_in_a_config(key: str) -> None:
    """The builder passes these arguments itself, and would silently replace the values in a config."""
    config = composed("backbone=tiny", "data=sample", "optimizer=lion")
    (line,) = mistakes(altered(config, key, 3))
    assert line.startswith(f"{key}: leave this out; imdbcls itself passes {key.rpartition('.')[2]} to imdbcls.")


@pytest.mark.parametrize("place", ["optimizer", "schedule", "tracker.wandb"])
def test_a_section_without_partial_is_refused(place: str, sound: dict[str, Any]) -> None:
    without = {key: value for key, value in look_up(sound, place).items() if key != "_partial_"}
    (line,) = mistakes(altered(sound, place, without))
    assert line.startswith(f"{place}._partial_ is missing: write _partial_: true")


def test_with_changes_returns_a_checked_copy(sound: dict[str, Any]) -> None:
    config = require_valid(sound)
    changed = config.with_changes(device="cpu", trainer={"patience": 2}, checkpoint=config.checkpoint, lr=config.lr)
    assert (changed.device, changed.trainer.patience, changed.trainer.log_every) == ("cpu", 2, config.trainer.log_every)
    assert config.trainer.patience is None
    wrong = ({"epochs": 0}, {"lrr": 1}, {"backbone": None}, {"trainer": {"patienc": 1}}, {"plugins": ("a",)})
    for values in wrong:
        with pytest.raises(
            UserError, match=f"with_changes: {next(iter(values))}.* does not exist or has a wrong value"
        ):
            config.with_changes(**values)


def test_with_changes_refuses_keys_with_copies(sound: dict[str, Any]) -> None:
    """`optimizer.lr` is `${lr}` in YAML. A changed `lr` would be recorded, but training would use the old value."""
    config = require_valid(sound)
    copied = {key for key, _, markers in declared() if Copied in markers}
    for key in copied:
        with pytest.raises(UserError, match=f"{key}=9: other keys of this config contain copies of {key}"):
            config.with_changes(**{key: 9})
    yaml_files = [path for path in (ROOT / "conf").rglob("*.yaml") if path.name != "config.yaml"]
    project_keys = (ROOT / "conf" / "config.yaml").read_text().partition("\nhydra:")[0]
    texts = [project_keys, *(path.read_text() for path in yaml_files)]
    assert copied == {name for text in texts for name in re.findall(r"\$\{(\w+)\}", text)}
