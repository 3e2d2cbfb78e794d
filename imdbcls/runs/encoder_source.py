"""Check whether the encoder of an earlier run may have been trained on documents that are now held out."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from imdbcls.errors import UserError
from imdbcls.printable import shown
from imdbcls.runs.identity import split_choices_hash
from imdbcls.runs.untrusted import read_json
from imdbcls.runtime.model_files import is_run, local_model

if TYPE_CHECKING:
    from imdbcls.config.schema import Config


@dataclass(frozen=True)
class EncoderSource:
    """The earlier run whose encoder a run starts from, by the name of its folder.

    `same_splits` says whether the earlier run, and every run before it that its encoder comes from, has the splits of
    this run. It is None if this is not recorded.
    """

    run: str
    same_splits: bool | None

    @property
    def fields(self) -> dict[str, Any]:
        """The content of `encoder_source` in `result.json`."""
        return asdict(self)

    @property
    def warning(self) -> str | None:
        """A sentence to log if the encoder may have been trained on documents that are now held out, else None."""
        if self.same_splits:
            return None
        reason = "does not record its splits" if self.same_splits is None else "used other documents or other splits"
        return (
            f"backbone.path: the run {shown(self.run)} {reason}, so its encoder may have been trained on documents "
            "that are now in validation or test. For the same data, use the files, data.split_seed, data.test_fraction "
            "and data.validation_fraction of that run."
        )


def encoder_source_of(config: "Config", split_hash: str) -> EncoderSource | None:
    """Return the earlier run at `backbone.path`; None if its weights are not those of a run.

    Two runs have the same splits if their `split_hash` or their `split_choices_hash` is equal. Only the `result.json`
    of the earlier run is read, not the documents.
    """
    path = config.backbone.arguments.get("path")
    folder = None if path is None or not config.backbone.pretrained else local_model(path)
    if folder is None or not is_run(folder):
        return None
    try:
        result = read_json(folder / "result.json")
    except UserError:  # an unfinished or damaged run
        result = {}
    same = has_splits(result, split_choices_hash(config), split_hash)
    earlier = result.get("encoder_source")
    if isinstance(earlier, dict) and same:
        before = earlier.get("same_splits")
        same = before if isinstance(before, bool) else None
    return EncoderSource(folder.resolve().name, same)


def has_splits(result: dict[str, Any], choices: str, split_hash: str) -> bool | None:
    """Return whether a run has these splits; None if its result does not contain enough hashes to know."""
    if result.get("split_hash") == split_hash or result.get("split_choices_hash") == choices:
        return True
    return False if "split_choices_hash" in result else None
