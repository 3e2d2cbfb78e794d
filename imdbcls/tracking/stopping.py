"""Stop a run because W&B asks for it: `early_terminate` of a sweep, or the stop button on the website.

The server sets a flag on the run. wandb reads it every 15 seconds and calls `StopFlag`. In a sweep, the agent reads it
too and sends SIGTERM. The same signal may also come from the agent's own end or from a batch system. These interrupt
the run, and it is resumed later. Therefore the flag decides what a signal meant.
"""

import logging
import signal
import threading
from typing import Any

from imdbcls.runtime.sweep_agent import in_sweep
from imdbcls.runtime.waiting import within

logger = logging.getLogger(__name__)

ASK_SECONDS = 5.0
QUERY = """
query RunStopped($entity: String!, $project: String!, $run: String!) {
    project(name: $project, entityName: $entity) { run(name: $run) { stopped shouldStop } }
}
"""


class StopFlag:
    """The server's request to stop a run. wandb calls the object, in a thread of its own, when it sees the request."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> None:
        self._is_set = True
        logger.info("W&B asks to stop the run.")
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)  # as wandb does by default

    def explains_signal(self, run: Any) -> bool:
        """Return whether a signal came because W&B asks to stop the run. In a sweep, ask the server if necessary.

        If the server does not answer, the answer is no: the run is then resumed instead of given up.
        """
        if not self._is_set and in_sweep() and not run.offline:
            try:
                within(ASK_SECONDS, lambda: self._ask(run))
            except Exception as error:
                reason = type(error).__name__
                logger.info(f"W&B did not answer whether to stop the run ({reason}); assuming that it should continue.")
        return self._is_set

    def _ask(self, run: Any) -> None:
        import wandb

        names = {"entity": run.entity, "project": run.project, "run": run.id}
        answer: dict[str, Any] = wandb.Api()._service_api.execute_graphql(QUERY, names, timeout=ASK_SECONDS)
        found = (answer.get("project") or {}).get("run") or {}
        self._is_set = bool(found.get("stopped") or found.get("shouldStop"))
