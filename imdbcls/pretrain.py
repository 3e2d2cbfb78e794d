"""Continue the pretraining of an encoder on your own text: `python -m imdbcls.pretrain data=imdb backbone=minilm`.

The encoder learns to predict masked tokens of the training documents and of documents without labels, never of test
documents (Devlin et al. 2019; for further pretraining on the text of a task: Sun et al. 2019, Gururangan et al. 2020).
`python -m imdbcls.train backbone.path=runs/pretrain/NAME` then fine-tunes the encoder.
"""

if __name__ == "__main__":  # before the other imports, which can hit a limit of memory or threads
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from imdbcls.config.command_keys import read_arguments, read_command_keys
from imdbcls.config.commandline import DRY_RUN
from imdbcls.config.pretrain_experiment import examine_pretraining, key_of
from imdbcls.config.pretrain_settings import PretrainSettings
from imdbcls.config.schema import Config
from imdbcls.data.columns import AUTO
from imdbcls.data.pretraining import KEY, WITH_LINES, request_of_unlabelled
from imdbcls.data.table_paths import require_tables
from imdbcls.data.tables import require_columns
from imdbcls.errors import UserError
from imdbcls.runs.folder import RunFolder, run_folder
from imdbcls.runs.result import identity_of, recording_failures
from imdbcls.runtime import console, entry, limits
from imdbcls.runtime.messages import recorded_messages
from imdbcls.runtime.process import prepare_process
from imdbcls.runtime.signals import StopRequest, stop_requests
from imdbcls.train import with_wandb_variables

logger = logging.getLogger("imdbcls.pretrain")  # `__name__` is `__main__` in a command

FILE = "pretrain.yaml"
HEADER = """\
Continue the pretraining of an encoder with masked tokens, on the training documents and on documents without labels.

  python -m imdbcls.pretrain data=imdb backbone=minilm         IMDB's training split and its 50,000 unlabelled reviews
  python -m imdbcls.pretrain data=files data.train=my.csv data.unlabelled=more.csv backbone=minilm      your own files
  python -m imdbcls.pretrain data=imdb backbone=minilm --dry-run    estimate hours and disk space without training
  python -m imdbcls.train data=imdb backbone=minilm backbone.path=runs/pretrain/NAME    fine-tune the pretrained encoder

The encoder never learns from test documents: a document with the same text as a test document is left out. The
validation documents are held out: the masked loss on them selects the best epoch. The same command continues after an
interruption. All other keys are keys of python -m imdbcls.train (see its --help). Keys for the head, the loss and the
metric, jobs, debug and data.test_limit are not accepted.
An experiment for imdbcls.train sets the documents, the encoder and max_length. Its recipe is ignored.

Keys of pretraining, with their defaults:"""
# Groups and keys of training that pretraining does not accept. Pretraining uses no labels and no test split, has its
# own head, and trains a single run.
UNUSED = ("head", "loss", "metric", "jobs", "debug", "data.test_limit", "data.validate_on_train")
UNUSED_PREFIXES = ("head.", "loss.", "hydra/", "hydra.")


@dataclass(frozen=True)
class Command:
    """A checked command: its settings and the config that identifies its run.

    `only_estimate`: estimate the cost without training. `note`: a message to log about the command's experiment.
    """

    settings: PretrainSettings
    config: Config
    only_estimate: bool
    note: str | None = None


def command() -> None:
    """Run the command line and end the process."""
    entry.run(main)


def main() -> None:
    asked = read_command(sys.argv[1:])
    console.log_if_unconfigured()
    if asked.note is not None:
        logger.info(asked.note)
    if asked.only_estimate:
        prepare_process()
        from imdbcls.sweeps.pretraining_estimate import estimate_pretraining  # imports torch

        return estimate_pretraining(asked.config, asked.settings)
    pretrain(asked.config, asked.settings)


def read_command(arguments: Sequence[str]) -> Command:
    """Check the arguments. Raise UserError with all mistakes."""
    asked = read_arguments(arguments, HEADER, FILE, (DRY_RUN,))
    keys = read_command_keys(asked.overrides, PretrainSettings, FILE)
    unused = [text for text in keys.others if is_unused(text)]
    others = [text for text in keys.others if text not in unused]
    given = [text for text in asked.overrides if text not in keys.others]
    found = examine_pretraining(others, keys.settings, given, asked.config_dir)
    mistakes = [*asked.mistakes, *keys.mistakes, *found.mistakes]
    mistakes += [f"{text} cannot be used in pretraining. Leave it out." for text in unused]
    if found.config is not None:
        mistakes += unfit(found.config, keys.settings)
    if mistakes or found.settings is None or found.config is None:
        raise UserError(*mistakes)
    return Command(found.settings, found.settings.recorded(found.config), DRY_RUN in asked.flags, found.note)


def is_unused(text: str) -> bool:
    key = key_of(text)
    return key in UNUSED or key.startswith(UNUSED_PREFIXES)


def unfit(config: Config, settings: PretrainSettings | None) -> Iterator[str]:
    """Yield a sentence for each setting that pretraining does not support, and for an unusable `data.unlabelled`."""
    backbone = config.backbone
    if backbone.freeze is True:
        yield (
            "backbone.freeze=true: pretraining trains the encoder. Leave it out, or set it to the number of lowest "
            "layers to freeze."
        )
    if backbone.lora_rank is not None:
        yield f"backbone.lora_rank={backbone.lora_rank}: pretraining does not support LoRA. Leave it out."
    if config.trainer.head_first_epochs > 0:
        epochs = config.trainer.head_first_epochs
        yield f"trainer.head_first_epochs={epochs}: pretraining trains the encoder in every epoch. Leave it out."
    if config.data.reads_pairs:
        yield (
            "data.pair_column cannot be used in pretraining, which reads single texts. Leave it out, or join the "
            "columns: data.text_column=[first,second]."
        )
    if config.trainer.score_test_each_epoch:
        yield "trainer.score_test_each_epoch=true: pretraining does not evaluate the test split. Leave it out."
    if config.checkpoint.keep == "none":
        yield "checkpoint.keep=none would remove the pretrained weights. Use all or best."
    if settings is not None and settings.data.unlabelled not in (None, AUTO):
        try:
            for place in require_tables(settings.data.unlabelled, KEY, WITH_LINES):
                require_columns(place, request_of_unlabelled(config.data.source.arguments))
        except UserError as error:
            yield from str(error).splitlines()


def pretrain(config: Config, settings: PretrainSettings) -> dict[str, Any]:
    """Pretrain with one checked config and return the content of its `result.json`.

    A finished run is not repeated: its recorded result is returned. An interrupted run is resumed.
    """
    console.log_if_unconfigured()
    folder = run_folder(config)
    with limits.explained(), folder.locked():
        result = folder.open_for_pretraining()
        if result is not None:
            return result
        folder.identity = identity_of(config, folder.path.name)
        with recorded_messages(), stop_requests() as stop, recording_failures(folder):
            logger.info(f"{folder.path}: loading the documents and the encoder")  # the imports below take seconds
            prepare_process()
            return fit(config, settings, folder, stop)


def fit(config: Config, settings: PretrainSettings, folder: RunFolder, stop: StopRequest) -> dict[str, Any]:
    """Build the run, resume it from a checkpoint if there is one, train it, and return the recorded result."""
    from imdbcls.pretraining import build_pretraining, log_result, log_start, result_of
    from imdbcls.sections import build_tracker

    folder.write_config(with_wandb_variables(config))
    with stop.interruptible():
        run = build_pretraining(config, settings, folder, stop)
        log_start(run)
        resumed_step = run.trainer.resume()
    with build_tracker(config, folder, resumed_step) as tracker:
        folder.begin()
        if resumed_step is None:
            run.trainer.evaluate_before_training(tracker)
        run.trainer.fit(tracker)
        result = folder.write_result({**result_of(run), "links": dict(tracker.links)})
        tracker.finish(result, folder.path)
        log_result(run, result)
    folder.discard_checkpoints(config.checkpoint.keep)
    return result


if __name__ == "__main__":
    command()
