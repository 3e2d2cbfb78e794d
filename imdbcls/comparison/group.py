"""A group: the runs of one config with different seeds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from imdbcls.comparison.run_files import Run, number
from imdbcls.data.unlabeled import reads_pairs
from imdbcls.runs.encoder_source import same_splits_of

COLLAPSED_SHARE = 0.99  # a run collapsed if at least this share of its predictions is one class ...
MAX_LABEL_SHARE = 0.95  # ... and at most this share of the labels is the same class


@dataclass(frozen=True)
class Group:
    """The runs of one config, with S different seeds, on the same N test documents."""

    name: str
    head: str
    backbone: str
    runs: tuple[Run, ...]
    num_failed: int = 0  # failed runs of this group, which are not in `runs`
    num_stopped: int = 0  # runs of this group that W&B stopped early, which are not in `runs`
    varied: Mapping[str, str] = field(default_factory=dict)  # choices in which the groups differ, except the head

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def order_seeds(self) -> list[str]:
        """Values of `data.order_seed`, the seed of the batch order, from the runs that recorded one."""
        data = [run.config.get("data") for run in self.runs]
        return [str(section["order_seed"]) for section in data if isinstance(section, dict) and "order_seed" in section]

    @property
    def split_hash(self) -> str | None:
        return self.runs[0].result.get("split_hash")

    @property
    def watched_test(self) -> bool:
        return any(run.result.get("watched_test") is True for run in self.runs)

    @property
    def same_splits(self) -> bool | None:
        """Whether the earlier runs that trained the encoders held out the same documents; None if it is not known."""
        return same_splits_of(run.result for run in self.runs)

    @property
    def ids(self) -> np.ndarray:
        return self.runs[0].predictions.ids

    @property
    def labels_N(self) -> np.ndarray:
        return self.runs[0].predictions.true_labels

    @property
    def tokens_N(self) -> np.ndarray | None:
        return self.runs[0].predictions.tokens

    @cached_property
    def clusters_N(self) -> np.ndarray | None:
        """Index of each document's cluster; None if no run recorded clusters.

        The indices follow the sorted cluster names. Any run that recorded clusters can provide them, because all runs
        of a group have the same documents.
        """
        recorded = (run.predictions.clusters for run in self.runs)
        clusters = next((column for column in recorded if column is not None), None)
        return None if clusters is None else np.unique(clusters, return_inverse=True)[1]

    @cached_property
    def parts_N(self) -> np.ndarray | None:
        """Name of the part of the data that contains each document; None if no run recorded parts."""
        recorded = (run.predictions.parts for run in self.runs)
        return next((column for column in recorded if column is not None), None)

    @property
    def num_independent(self) -> int:
        """Number of independent units in the test split: clusters if they are known, else documents."""
        return len(self.ids) if self.clusters_N is None else len(np.unique(self.clusters_N))

    @property
    def flags(self) -> list[str]:
        """Caveats that every verdict on this group must include, as clauses."""
        num_runs = self.num_failed + self.num_stopped + len(self.runs)
        failed = f"{self.num_failed} of {num_runs} runs of {self.name} failed"
        stopped = f"W&B stopped {self.num_stopped} of {num_runs} runs of {self.name}"
        watched = f"{self.name} was evaluated on the test split during training"
        early = [*([failed] if self.num_failed else []), *([stopped] if self.num_stopped else [])]
        seen = f"the encoder of {self.name} may have learned from test documents"
        return [*early, *([watched] if self.watched_test else []), *([seen] if self.same_splits is False else [])]

    @property
    def max_length(self) -> int | None:
        length = number(self.runs[0].result.get("max_length", self.runs[0].config.get("max_length")))
        return None if length is None else int(length)

    @property
    def in_windows(self) -> bool:
        """Whether documents longer than `max_length` are split into windows instead of being truncated."""
        data = self.runs[0].config.get("data")
        return isinstance(data, dict) and data.get("truncation") == "windows"

    @property
    def reads_pairs(self) -> bool:
        """Whether each document is a pair of texts."""
        data = self.runs[0].config.get("data")
        source = data.get("source") if isinstance(data, dict) else None
        return isinstance(source, dict) and reads_pairs(source)

    @cached_property
    def correct_SN(self) -> np.ndarray:
        """1.0 where the prediction of a seed equals the label, else 0.0 (float32)."""
        return np.stack([run.predictions.correct for run in self.runs]).astype(np.float32)

    @cached_property
    def share_correct_N(self) -> np.ndarray:
        """Share of seeds that predict the label of each document.

        The share is exactly 1.0 if all seeds predict the label, and exactly 0.0 if none does.
        """
        return self.correct_SN.mean(axis=0)

    @cached_property
    def collapsed_S(self) -> np.ndarray:
        """Whether each run collapsed.

        A collapsed run predicts one class for at least 99 % of the documents, although at most 95 % of the documents
        are labelled with this class.
        """
        num_classes = len(self.runs[0].predictions.label_names)
        label_shares_C = np.bincount(self.labels_N, minlength=num_classes) / len(self.labels_N)
        collapsed = []
        for run in self.runs:
            shares_C = np.bincount(run.predictions.predicted, minlength=num_classes) / len(self.labels_N)
            most = int(shares_C.argmax())
            collapsed.append(bool(shares_C[most] >= COLLAPSED_SHARE and label_shares_C[most] <= MAX_LABEL_SHARE))
        return np.array(collapsed)

    @property
    def has_probabilities(self) -> bool:
        return all(run.predictions.probabilities is not None for run in self.runs)

    @property
    def probabilities_SNC(self) -> np.ndarray:
        return np.stack([run.predictions.known_probabilities for run in self.runs])

    @property
    def mean_probabilities_NC(self) -> np.ndarray:
        return self.probabilities_SNC.mean(axis=0)

    @cached_property
    def label_probability_N(self) -> np.ndarray | None:
        """Probability of each document's label, averaged over seeds; None if a run has no probabilities."""
        if not self.has_probabilities:
            return None
        return np.take_along_axis(self.mean_probabilities_NC, self.labels_N[:, None], axis=1)[:, 0]

    def has_documents_of(self, other: "Group") -> bool:
        return np.array_equal(self.ids, other.ids)
