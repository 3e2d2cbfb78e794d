"""Compose the config of pretraining from an experiment that was written for `imdbcls.train`."""

from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from imdbcls.config.checking import check
from imdbcls.config.command_keys import names_of
from imdbcls.config.overrides import examine
from imdbcls.config.pretrain_settings import PretrainSettings
from imdbcls.config.schema import Config

EXPERIMENT = "experiment"
# The sections of fine-tuning, which pretraining reads from the command but not from an experiment.
RECIPE = ("optimizer", "schedule", "trainer")
# The keys and sections of an experiment that pretraining ignores: the recipe, the keys with a default of their own in
# `conf/pretrain.yaml`, and the parts of a classifier and of a sweep.
IGNORED = (*RECIPE, "lr", "batch_size", "epochs", "warmup", "study", "head", "loss", "metric", "jobs", "hydra")
# The keys that pretraining ignores in the sections that it uses.
IGNORED_KEYS = {
    "backbone": ("freeze", "cache", "lora_rank", "reinit_layers"),
    "data": ("test_limit", "validate_on_train"),
}
SMALL = ("backbone=tiny", "data=sample")  # choices of a cheap config; only its values for the ignored keys are used


@dataclass(frozen=True)
class Pretraining:
    """The config and the settings of pretraining, all mistakes, and a note on ignored keys.

    If there are mistakes, `config` and `settings` may be None.
    """

    config: Config | None
    settings: PretrainSettings | None
    mistakes: list[str]
    note: str | None = None


def examine_pretraining(
    others: Sequence[str], settings: PretrainSettings | None, given: Sequence[str], folder: str | None
) -> Pretraining:
    """Return the config of pretraining. With an experiment, it has the experiment's documents and encoder.

    `others` are the overrides that `imdbcls.train` knows. `settings` are the keys of pretraining (None if they have
    mistakes), and `given` are the overrides that set them.
    """
    names = names_of(PretrainSettings)
    own = [] if settings is None else settings.overrides
    experiment = experiment_in(others)
    if experiment is None:
        examined = examine([*others, *own], "single", folder, names)
        return Pretraining(examined.config, settings, examined.mistakes)
    recipe = [text for text in others if key_of(text).partition(".")[0] in RECIPE]
    max_length = [text for text in given if key_of(text) == "max_length"]
    written = examine([*(text for text in others if text not in recipe), *max_length], "single", folder, names)
    plain = examine([*recipe, *own, *SMALL], "single", command_keys=names)
    mistakes = list(dict.fromkeys([*written.mistakes, *plain.mistakes]))
    if written.config is None or plain.config is None or settings is None or mistakes:
        return Pretraining(None, settings, mistakes)
    keys = {key for name in experiment for key in written.loader.parts_of(EXPERIMENT, name)}
    if "max_length" in keys or max_length:
        settings = settings.model_copy(update={"max_length": written.config.max_length})
    config, reset = combined(written.config, plain.config, settings, {key_of(text) for text in others})
    ignored = sorted({*keys.intersection(IGNORED), *reset})
    named = ", ".join(f"{EXPERIMENT}={name}" for name in experiment)
    note = f"{named}: pretraining ignores {', '.join(ignored)} of this experiment."
    return Pretraining(config, settings, list(check(config.plain()).mistakes), note if ignored else None)


def combined(written: Config, plain: Config, settings: PretrainSettings, given: set[str]) -> tuple[Config, list[str]]:
    """Return the experiment's config with the settings of pretraining, and the ignored keys of its sections.

    `written` is the config of `imdbcls.train`, and `plain` is the config of the command without the experiment. `given`
    are the keys in the command, which are not ignored.
    """
    changes = {name: getattr(plain, name) for name in IGNORED if name in Config.model_fields}
    changes["max_length"] = settings.max_length
    reset: list[str] = []
    for name, keys in IGNORED_KEYS.items():
        section, defaults = getattr(written, name), getattr(plain, name)
        values = {key: getattr(defaults, key) for key in keys if f"{name}.{key}" not in given}
        different = {key: value for key, value in values.items() if getattr(section, key) != value}
        changes[name] = section.model_copy(update=different)
        reset += [f"{name}.{key}" for key in different]
    return written.model_copy(update=changes), reset


def experiment_in(overrides: Sequence[str]) -> list[str] | None:
    """Return the names in the last override of `experiment`, such as `experiment=[a,b]`; None without an override.

    Also return None for an override that is malformed or a sweep, which `examine` reports.
    """
    texts = [text for text in overrides if key_of(text) == EXPERIMENT]
    if not texts:
        return None
    try:
        (override,) = OverridesParser.create().parse_overrides(texts[-1:])
        value = override.value()
    except HydraException:
        return None
    return [str(name) for name in (value if isinstance(value, list) else [value])]


def key_of(text: str) -> str:
    return text.partition("=")[0].lstrip("+~")
