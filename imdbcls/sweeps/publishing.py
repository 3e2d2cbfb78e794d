"""After a sweep: compare each study, publish the comparison to W&B and alert the user.

These functions run in the sweep's process after the last job has ended: they import libraries that start threads, and a
process with threads must not fork jobs. They do not change the exit code of the sweep.
"""

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from imdbcls.errors import UserError
from imdbcls.runtime.sweep_agent import in_sweep
from imdbcls.sweeps.jobs import Outcome, Sweep, reason_of

if TYPE_CHECKING:
    from imdbcls.config.schema import Config

logger = logging.getLogger(__name__)


def publish_sweep(sweep: Sweep) -> None:
    """Publish the studies of a sweep whose jobs have ended. Do nothing for a search, or if a signal stopped the sweep.

    A job whose study is not known, for example because its config has a mistake, counts for every study.
    """
    if sweep.stopped_by is None and not sweep.is_search:
        for folder in sorted(sweep.studies):
            outcomes = [each for i, each in enumerate(sweep.outcomes) if sweep.study_of.get(i, folder) == folder]
            publish_study(folder, sweep.studies[folder], outcomes)


def publish_study(folder: Path, config: "Config", outcomes: Sequence[Outcome]) -> None:
    """Publish the comparison of a study folder, if `tracker.wandb.publish` is true and the runs are logged online.

    If several runs are done but logged offline, log the command that uploads them and publishes the comparison. Errors
    are logged as warnings, never raised.
    """
    section = config.tracker.chosen.get("wandb")
    if section is None or not section.arguments.get("publish", False):
        return
    try:
        _publish(folder, {**config.tracker.shared, **section.arguments}, outcomes)
    except UserError as error:
        logger.warning(f"{folder} is not published: {error}")
    except KeyboardInterrupt:
        logger.warning(f"{folder} is not published: interrupted.")
    except Exception as error:
        logger.debug("error while publishing", exc_info=error)
        logger.warning(f"{folder} is not published ({reason_of(error).rstrip('.')}).")


def _publish(folder: Path, settings: dict[str, object], outcomes: Sequence[Outcome]) -> None:
    """Publish a study folder. `settings` are the keys of `tracker` and `tracker.wandb`."""
    from imdbcls.tracking import publish
    from imdbcls.tracking.server import effective_mode

    mode = effective_mode(str(settings["mode"]))
    if mode == "disabled" or in_sweep():
        return
    num_done = sum(outcome.state == "done" for outcome in outcomes)
    if mode == "offline":
        if num_done > 1:
            logger.info(f"Upload the runs and publish the comparison: {publish.offline_command(folder)}")
        return
    logger.info("")
    logger.info(f"{folder}: comparing the runs and publishing the comparison to W&B")  # this takes several seconds
    try:
        rendered = publish.compare_folder(folder)
    except UserError:
        if num_done < len(outcomes):
            alert = publish.Alert(f"{folder.name}: the sweep failed", counts(outcomes), "ERROR")
            publish.send_alert(folder, settings, alert)
        raise
    if sum(len(group.seeds) for group in rendered.comparison.groups) < 2:
        return
    answer = publish.verdict_of(rendered)
    logger.info(answer)
    alert = publish.Alert(f"{folder.name}: the sweep is done", f"{counts(outcomes)} {answer}".lstrip(), "INFO")
    if num_done < len(outcomes):
        title = f"{folder.name}: {len(outcomes) - num_done} of {len(outcomes)} runs are not done"
        alert = replace(alert, title=title, level="WARN")
    urls = publish.publish(rendered, folder, settings, alert)
    for line in publish.urls_text(urls).splitlines():
        logger.info(line)


def counts(outcomes: Sequence[Outcome]) -> str:
    """Return a sentence on how many runs are done and, if some are not, a sentence on the first of those.

    Return an empty string if the command had no runs to train.
    """
    if not outcomes:
        return ""
    undone = [outcome for outcome in outcomes if outcome.state != "done"]
    text = f"{len(outcomes) - len(undone)} of {len(outcomes)} runs are done."
    return f"{text} {undone[0].name} {undone[0].state}: {undone[0].detail.rstrip('.')}." if undone else text
