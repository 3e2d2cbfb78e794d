"""Stop a run when W&B asks for it: by `early_terminate` of a sweep, or by the stop button on the website.

The server sets a stop flag on the run. wandb reads the flag every 15 seconds and calls `StopFlag`. The agent of a sweep
also reads the flag, and sends SIGTERM to the run. SIGTERM may have another cause: the agent exits, or a batch system
ends the job. Such a run can be resumed later, but a run that W&B stopped is finished. The flag tells the two cases
apart.
"""

import logging
import signal
import threading
from typing import Any

from imdbcls.runtime.preloading import preload
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
    """The server's request to stop a run. When wandb reads the request, it calls this object in its own thread."""

    def __init__(self) -> None:
        self._is_set = False

    def __call__(self) -> None:
        self._is_set = True
        logger.info("W&B asks to stop the run.")
        main_thread = threading.main_thread().ident
        assert main_thread is not None
        signal.pthread_kill(main_thread, signal.SIGINT)  # as wandb does by default

    def explains_signal(self, run: Any) -> bool:
        """Return whether a signal was sent because W&B asks to stop the run.

        If the flag is not set and the run belongs to a W&B sweep, ask the server. Return False if the server does not
        answer, so that the run can be resumed.
        """
        if not self._is_set and in_sweep() and not run.offline:
            try:
                preload(["wandb.apis.public"])  # first, so that the time limit does not include the import
                within(ASK_SECONDS, lambda: self._ask(run))
            except Exception as error:
                reason = type(error).__name__
                logger.info(f"W&B did not say whether to stop the run ({reason}), so the run can be resumed.")
        return self._is_set

    def _ask(self, run: Any) -> None:
        import wandb

        names = {"entity": run.entity, "project": run.project, "run": run.id}
        answer: dict[str, Any] = wandb.Api()._service_api.execute_graphql(QUERY, names, timeout=ASK_SECONDS)
        found = (answer.get("project") or {}).get("run") or {}
        self._is_set = bool(found.get("stopped") or found.get("shouldStop"))
