"""Check and record an earlier run whose encoder is fine-tuned: its state, and which documents it held out."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runs.folder import PRETRAINED
from imdbcls.runs.identity import SPLIT_CHOICES, split_choices_hash
from imdbcls.runs.record import TRIAL_STATUSES
from imdbcls.runs.untrusted import read_json, read_yaml
from imdbcls.runtime.model_files import NO_WEIGHTS, architecture, is_run, local_model

if TYPE_CHECKING:
    from imdbcls.config.schema import Config
    from imdbcls.data.documents import Corpus

# Caveats on the test metrics of a run, by `same_splits`, as predicates about the run's encoder.
CAVEATS = {
    False: "was trained in an earlier run that held out other documents, so it may have learned from test documents",
    None: "was trained in an earlier run that did not record which documents it held out",
}
ENDED = ("done", PRETRAINED, *TRIAL_STATUSES)  # statuses of runs whose training has ended


def require_finished_run(path: str, folder: Path) -> None:
    """Raise UserError if `folder`, the local model at `backbone.path=path`, is an unfinished run or has no weights.

    An unfinished run has the weights of the best epoch so far, and does not record which documents it held out. A
    folder that is not a run passes this check.
    """
    if architecture(folder) == folder:
        return  # not a run folder
    status = read_or_nothing(folder / "result.json", read_json).get("status")
    if status not in ENDED:
        problem = "result.json is missing or damaged" if status is None else f"its status is {shown(status)}"
        raise UserError(
            f"backbone.path={shown(path)}: this run is not finished ({problem}). Repeat its command to finish it, or "
            "use another run."
        )
    if not is_run(folder):
        raise UserError(
            f"backbone.path={shown(path)}: this run {NO_WEIGHTS}. Restore them from a copy, or use another run."
        )


@dataclass(frozen=True)
class EncoderSource:
    """The earlier run whose encoder is fine-tuned in this run. `run` is the name of the earlier run's folder.

    The earlier run may itself have started from the encoder of another run, and so on. `same_splits` says whether all
    these runs held out the same documents as this run, or is None if this is not recorded. `problem` is a predicate
    that the warning contains, such as "does not record its splits".
    """

    run: str
    same_splits: bool | None
    problem: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The content of `encoder_source` in `result.json`."""
        return {"run": self.run, "same_splits": self.same_splits}

    @property
    def warning(self) -> str | None:
        """A sentence to log if the encoder may have been trained on documents that are now held out, else None."""
        if self.same_splits:
            return None
        return (
            f"backbone.path: the run {shown(self.run)} {self.problem}, so its encoder may have been trained on "
            "documents that are now in validation or test."
        )


def encoder_source_of(config: "Config", corpus: "Corpus") -> EncoderSource | None:
    """Return the earlier run at `backbone.path`, or None if the encoder's weights do not come from a run.

    Of the earlier run, only `result.json` and `config.yaml` are read, not the documents.
    """
    path = config.backbone.arguments.get("path")
    folder = None if path is None or not config.backbone.pretrained else local_model(path)
    if folder is None or not is_run(folder):
        return None
    result = read_or_nothing(folder / "result.json", read_json)
    same = has_splits(result, config, corpus)
    problem = "does not record its splits"
    if same is False:
        problem = f"held out other documents ({reason(read_or_nothing(folder / 'config.yaml', read_yaml), config)})"
    earlier = result.get("encoder_source")
    if isinstance(earlier, dict) and same:
        before = earlier.get("same_splits")
        same = before if isinstance(before, bool) else None
        problem = f"started from an encoder of a run with {'other' if same is False else 'unknown'} splits"
    return EncoderSource(folder.resolve().name, same, "" if same else problem)


def same_splits_of(results: Iterable[Mapping[str, Any]]) -> bool | None:
    """Return `same_splits` of runs, from the untrusted contents of their `result.json`: the worst of all runs.

    The worst value is False, then None. For a run whose encoder does not come from an earlier run, the value is True.
    """
    sources = [result["encoder_source"] for result in results if isinstance(result.get("encoder_source"), dict)]
    found = [source.get("same_splits") for source in sources]
    if any(same is False for same in found):
        return False
    return True if all(same is True for same in found) else None


def read_or_nothing(path: Path, read: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """Return the content of a file of the earlier run; {} if the run is unfinished or damaged."""
    try:
        return read(path)
    except UserError:
        return {}


def has_splits(result: Mapping[str, Any], config: "Config", corpus: "Corpus") -> bool | None:
    """Return whether an earlier run held out the same documents, or None if its result does not record this.

    `held_out_hash` is a hash of the texts in the complete validation and test splits. The held-out documents are the
    same if this hash is equal. Runs of earlier versions do not record this hash. For such a run, `split_hash` or
    `split_choices_hash` must be equal.
    """
    if isinstance(recorded := result.get("held_out_hash"), str):
        return recorded == corpus.held_out_hash
    if result.get("split_hash") == corpus.split_hash or result.get("split_choices_hash") == split_choices_hash(config):
        return True
    return False if "split_choices_hash" in result else None


def reason(earlier: Mapping[str, Any], config: "Config") -> str:
    """Return why a run with the config `earlier` held out other documents."""
    before = earlier.get("data")
    if not isinstance(before, Mapping):
        return "its config.yaml cannot be read"
    if keys := ", ".join(different_keys(before, config.plain()["data"])):
        return f"other values of {keys}"
    return "the same settings, but the content of the files has changed"


def different_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[str]:
    """Yield the keys of the section `data` that choose documents or splits and whose values differ."""
    if before.get("name") != now["name"]:
        yield "data"
        return
    for key in SPLIT_CHOICES:
        if key == "source":
            old, new = (values[key] if isinstance(values.get(key), Mapping) else {} for values in (before, now))
            yield from (f"data.{name}" for name in new if old.get(name, ...) != new[name])
        elif before.get(key, ...) != now.get(key, ...):
            yield f"data.{key}"
