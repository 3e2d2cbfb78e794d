"""Score a finished run again: `python -m imdbcls.evaluate runs/heads/lstm-s0-1a2b3c4d --split test`.

The model comes from the run folder only, the documents from where the run read them. On the same machine and software
the figures equal the recorded ones to the last digit. Documents that only the run folder names are not read without
`--trust-source`: a run folder from elsewhere must not choose which files and hub data sets are opened.
"""

if __name__ == "__main__":  # first: a limit of the machine can already stop an import
    from imdbcls.runtime.entry import set_up_streams

    set_up_streams()

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from imdbcls.config.choices import Device
from imdbcls.errors import UserError
from imdbcls.finished import load_finished, open_finished
from imdbcls.printable import printable_line, shown
from imdbcls.runs.data_origin import describe_source, read_from, require_own_source
from imdbcls.runs.files import json_text
from imdbcls.runtime import entry
from imdbcls.runtime.console import write_out
from imdbcls.runtime.process import prepare_process

logger = logging.getLogger("imdbcls.evaluate")  # `__name__` is `__main__` in a command

SPLITS = {"test": "test", "validation": "val"}  # and the prefix of its figures in result.json


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m imdbcls.evaluate", description="Score a finished run again.")
    parser.add_argument("run", type=Path, help="the run's folder, runs/<study>/<name>")
    parser.add_argument("others", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--split", choices=SPLITS, default="test", help="which documents to score (default: test)")
    parser.add_argument("--device", choices=get_args(Device), help="instead of the run's own")
    parser.add_argument(
        "--plugins", action="append", default=[], metavar="PACKAGE", help="a package of yours that the run used"
    )
    parser.add_argument("--data", metavar="PATH", help="read the run's documents from your copy of them")
    parser.add_argument(
        "--trust-source",
        action="store_true",
        help="read the documents from where the run has them, even if it comes from someone else",
    )
    arguments = parser.parse_intermixed_args()
    if arguments.others:
        raise UserError(
            f"{arguments.others[0]}: evaluate takes one run folder and scores it on the run's own documents. To "
            f"classify other documents, use: python -m imdbcls.predict {arguments.run} --file FILE"
        )
    figures = evaluate(
        arguments.run,
        arguments.split,
        arguments.device,
        arguments.plugins,
        data=arguments.data,
        trust_source=arguments.trust_source,
    )
    write_out(json_text(figures, indent=2))


def evaluate(
    run: Path,
    split: str,
    device: str | None = None,
    plugins: Sequence[str] = (),
    *,
    data: str | None = None,
    trust_source: bool = False,
) -> dict[str, float]:
    """Return the figures of one split under the run's best weights, by their names in `result.json`.

    `data` names the user's own copy of the run's documents. Without it they are read from where the run's config has
    them, if this user has trained on the same source here or `trust_source` is true. Logs whether the figures equal the
    recorded ones.

    Raises UserError for a folder that is not a finished run or holds what a run of this project would not, and for
    documents that only the folder names.
    """
    config, recorded = open_finished(run, device, plugins)
    source = config.data.source.node
    if data is not None:
        config = config.with_changes(data={"source": read_from(source, data)})
    elif not trust_source:
        require_own_source(source, run)

    prepare_process()
    from imdbcls.construction import build_corpus
    from imdbcls.models.environment import environment_of
    from imdbcls.models.metrics import confusion_matrix, doubt_about, metrics_of
    from imdbcls.runtime.progress import Progress

    finished = load_finished(run, config, recorded["label_names"])
    try:
        corpus = build_corpus(config.data)
    except UserError as error:
        raise UserError(
            f"{error} Relative paths start where the run was trained; --data PATH names your own copy of the documents."
        ) from error
    if corpus.split_hash != recorded.get("split_hash") or list(corpus.label_names) != recorded["label_names"]:
        raise UserError(
            f"The documents are not the run's: split hash {corpus.split_hash} instead of "
            f"{shown(recorded.get('split_hash'))}; {describe_source(config.data.source.node)} may have changed."
        )
    documents = corpus.test if split == "test" else corpus.validation
    predictions, _ = finished.score(documents, on_progress=Progress(config.progress).for_split(split))
    labels_N, probabilities_NC = predictions.true_labels, predictions.probabilities
    figures = {f"{SPLITS[split]}/{name}": value for name, value in metrics_of(labels_N, probabilities_NC).items()}
    confusion = confusion_matrix(labels_N, predictions.predicted, len(corpus.label_names))
    if (doubt := doubt_about(confusion, corpus.label_names)) is not None:
        logger.warning(f"{split}: {doubt}")
    report_difference(figures, recorded, environment_of(finished.hardware, None, finished.model))
    return figures


def report_difference(figures: dict[str, float], recorded: dict[str, Any], environment: dict[str, str]) -> None:
    """Log whether the figures are the recorded ones and, where not, what differs from the run's environment."""
    different = [name for name, value in json.loads(json_text(figures)).items() if value != recorded.get(name)]
    if not different:
        logger.info("The same figures as recorded, to the last digit.")
    for name in different:
        logger.info(f"{name} is {figures[name]!r}, but the run recorded {shown(repr(recorded.get(name)))}.")
    if different:
        logger.info(explanation(recorded.get("environment"), environment))


def explanation(recorded: Any, environment: dict[str, str]) -> str:
    """Return what may have caused other figures; `recorded` is a run's `environment`, from a file."""
    from imdbcls.runtime.environment import differences

    if not isinstance(recorded, dict):
        return "The run is from an older version and did not record its environment, which may have differed."
    before = {name: str(recorded[name]) for name in environment if name in recorded}
    changes = [printable_line(change)[:200] for change in differences(before, environment)]
    if not changes:
        return "The environment is the recorded one: the code, a library or the data's content has changed."
    return f"The environment differs from the run's, which may be the cause: {'; '.join(changes)}."


if __name__ == "__main__":
    entry.run(main)
