"""Report a planned study to the log: each round, which groups were stopped and why, the cost, and the verdict."""

import logging
import sys
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import TYPE_CHECKING

from imdbcls.printable import counted, duration
from imdbcls.runs.selection import LOWER_IS_BETTER, TITLES, as_text
from imdbcls.runtime.console import columns_of
from imdbcls.runtime.text_table import joined, text_table
from imdbcls.sweeps.study_runs import PlannedRun, StudyRuns

if TYPE_CHECKING:
    from imdbcls.comparison.inference import Inference
    from imdbcls.comparison.race import Round

logger = logging.getLogger(__name__)

SMALLEST_P = 0.0001


@dataclass
class StudyReport:
    """Log the progress of a study. Group indices refer to `Plan.groups`."""

    folder: Path
    runs: StudyRuns

    def __post_init__(self) -> None:
        self.plan = self.runs.plan
        self.names = [group.name for group in self.plan.groups]
        self.is_percentage = self.plan.metric not in LOWER_IS_BETTER

    def log_start(self, rounds: Sequence["Round"]) -> None:
        """Log the number of planned groups, seeds and runs. For a study that continues, also log its state."""
        looks = self.plan.looks
        tested = f"each number of seeds from {looks[0]} to {looks[-1]}" if len(looks) > 1 else f"{looks[0]} seeds"
        logger.info(
            f"{self.folder}: {len(self.names)} groups, each with up to {len(self.plan.seeds)} seeds: at most "
            f"{self.runs.num_planned} runs. The groups are tested with {tested}."
        )
        if self.runs.num_finished:
            logger.info(f"Already finished: {counted(self.runs.num_finished, 'run')}.")
        if rounds and not rounds[-1].is_over:
            self.log_round(rounds)

    def log_training(self, number: int, missing: Sequence[PlannedRun]) -> None:
        seeds = sorted({self.plan.seeds[run.seed] for run in missing})
        groups = [self.names[group] for group in sorted({run.group for run in missing})]
        if missing:
            logger.info("")
            logger.info(
                f"Round {number}: {counted(len(missing), 'run')} of {joined(groups)}, seed"
                f"{'s' if len(seeds) > 1 else ''} {', '.join(map(str, seeds))}"
            )

    def log_round(self, rounds: Sequence["Round"]) -> None:
        """Log the standing of every group after the last look, and the cost so far."""
        logger.info("")
        self._log_standings(rounds, {})
        logger.info(self.cost(rounds))

    def log_end(self, rounds: Sequence["Round"], failed: Mapping[int, str], stopped: str | None) -> None:
        """Log the reasons if the study stopped early or left out groups.

        After the first look, also log every group's standing, the verdict, the cost and the command for all results.
        """
        logger.info("")
        if stopped is not None:
            logger.info(stopped)
        for group, reason in failed.items():
            logger.error(
                f"{self.names[group]} is left out: {reason.rstrip('.')}. Repeat the command to train the failed run "
                "again."
            )
        if rounds:
            self._log_standings(rounds, failed)
            for sentence in (*self.verdict(rounds), self.cost(rounds)):
                logger.info(sentence)
            logger.info(f"All results: python -m imdbcls.compare {self.folder}")

    def _log_standings(self, rounds: Sequence["Round"], failed: Mapping[int, str]) -> None:
        over = ": the study is over" if rounds[-1].is_over else ""
        logger.info(f"Look {len(rounds)} of {len(self.plan.looks)}, after {rounds[-1].num_seeds} seeds{over}")
        rows = []
        for group, name in enumerate(self.names):
            num_seeds = min(len(self.runs.finished(group)), rounds[-1].num_seeds)
            values = self.runs.values(group, num_seeds)
            mean = as_text(self.plan.metric, fmean(values)) if values else ""
            spread = as_text(self.plan.metric, stdev(values)) if len(values) > 1 else ""
            standing = "left out: a run failed" if group in failed else self.standing(group, rounds)
            rows.append((name, standing, str(num_seeds), mean, spread))
        header = ("group", "", "seeds", TITLES[self.plan.metric], "sd")
        for line in text_table(rows, header, 2, columns_of(sys.stderr)).splitlines():
            logger.info(line)

    def standing(self, group: int, rounds: Sequence["Round"]) -> str:
        """Return the state of a group after the last look.

        For a stopped group, include its difference from the group with which it was compared when it was stopped.
        """
        from imdbcls.comparison.race import State

        now = rounds[-1]
        state = now.standings[group]
        if state.state is State.FAILED:
            return "left out: a run failed"
        if state.other is None or state.num_seeds is None:
            if now.leader == group:
                return "leads"
            return "not decided" if now.is_over else "continues"
        other, looked = self.names[state.other], next(each for each in rounds if each.num_seeds == state.num_seeds)
        difference = self.difference(group, state.other, looked)
        if state.state is State.WORSE:
            return f"stopped: worse than {other}: {difference}"
        if state.state is State.EQUIVALENT:
            return f"stopped: equivalent to {other}: {difference}"
        return f"stopped: {state.chance:.0%} chance of a verdict in the comparison with {other}: {difference}"

    def difference(self, group: int, other: int, looked: "Round") -> str:
        """Return the metric of `group` minus the metric of `other` as text, with an interval and a p-value.

        The interval and the p-value are corrected for all pairs and all looks.
        """
        inference = looked.inferences[min(group, other), max(group, other)]
        sign = 1 if group < other else -1
        low, high = sorted(sign * end for end in inference.simultaneous)
        value, unit = self.signed(sign * inference.estimate.value), " points" if self.is_percentage else ""
        return f"{value}{unit} ({self.signed(low)} to {self.signed(high)}), p {self.p_text(inference)}"

    def p_text(self, inference: "Inference") -> str:
        from imdbcls.comparison.verdicts import Outcome

        p = inference.p_equivalence_holm if inference.outcome is Outcome.EQUIVALENT else inference.p_holm
        assert p is not None
        return f"< {SMALLEST_P}" if p < SMALLEST_P else f"{p:.2g}"

    def verdict(self, rounds: Sequence["Round"]) -> list[str]:
        """Return sentences that name the groups that are better, equivalent, stopped as futile or undecided."""
        from imdbcls.comparison.race import State

        now = rounds[-1]
        found: dict[tuple[State, int | None], list[str]] = defaultdict(list)
        for group, standing in enumerate(now.standings):
            if group != now.leader:
                found[standing.state, standing.other].append(self.names[group])
        sentences = []
        for (state, other), groups in found.items():
            verb = "is" if len(groups) == 1 else "are"
            if state is State.WORSE and other is not None:
                sentences.append(f"{self.names[other]} is better than {joined(groups)}.")
            elif state is State.EQUIVALENT and other is not None:
                within = f" within {self.amount(self.plan.margin)}" if self.plan.margin is not None else ""
                sentences.append(f"{joined(groups)} {verb} equivalent to {self.names[other]}{within}.")
            elif state is State.FUTILE and other is not None:
                sentences.append(
                    f"Even with {len(self.plan.seeds)} seeds, the comparison of {self.names[other]} with "
                    f"{joined(groups)} would probably give no verdict."
                )
            elif state is State.RUNNING and now.leader is not None:
                sentences.append(
                    f"After {now.num_seeds} of {len(self.plan.seeds)} seeds, the comparison of "
                    f"{self.names[now.leader]} with {joined(groups)} is undecided."
                )
        return sentences

    def cost(self, rounds: Sequence["Round"]) -> str:
        """Return what the study has cost, and what it saves compared with all planned runs."""
        from imdbcls.comparison.race import State

        done, now = self.runs.num_finished, rounds[-1]
        left = len(self.plan.seeds)
        stopped = [
            group
            for group, standing in enumerate(now.standings)
            if standing.state is not State.FAILED and (now.is_over or standing.state is not State.RUNNING)
        ]
        saved = Counter({group: left - len(self.runs.finished(group)) for group in stopped})
        text = f"Cost: {done} of {self.runs.num_planned} runs, {duration(self.runs.total_seconds)}."
        if saved.total():
            seconds = self.runs.expected_seconds(saved)
            about = "" if seconds is None else f", about {duration(seconds)}"
            text += f" Saved: {counted(saved.total(), 'run')}{about}."
        return text

    def amount(self, value: float) -> str:
        """Format the size of a difference, such as the margin, in points if the metric is a percentage."""
        return f"{100 * value:.2f} points" if self.is_percentage else f"{value:.4f}"

    def signed(self, value: float) -> str:
        text = f"{100 * value:+.2f}" if self.is_percentage else f"{value:+.4f}"
        return text if text.strip("+-0.") else text.lstrip("+-")  # no sign for zero
