"""Give the W&B runs of a study the names that its comparison uses, so that both show the same groups."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from imdbcls.tracking.runsets import GROUP_LABEL
from imdbcls.tracking.saved_views import Place

PAGE = 100  # runs in one request


def relabel(place: Place, ids: Mapping[str, Sequence[str]]) -> list[str]:
    """Set `group_label` in the config of each run to the name of its group. Return the ids that the server lacks.

    `ids` are run ids by the name of their group.
    """
    import wandb

    labels = {run: group for group, runs in ids.items() for run in runs}
    api, missing = wandb.Api(), dict(labels)
    for chunk in chunks(list(labels)):
        filters = {"name": {"$in": chunk}}
        for run in api.runs(f"{place.entity}/{place.project}", filters=filters, per_page=PAGE, lazy=False):
            label = missing.pop(run.id, None)
            if label is not None and run.config.get(GROUP_LABEL) != label:
                run.config[GROUP_LABEL] = label
                if GROUP_LABEL in run.summary:  # a copy of the key in `result.json`
                    run.summary[GROUP_LABEL] = label
                run.update()
    return list(missing)


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, PAGE)):
        yield chunk
