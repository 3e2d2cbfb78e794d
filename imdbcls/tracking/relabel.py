"""Set the group names of a study's W&B runs to the group names of its comparison."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice

from imdbcls.tracking.runsets import GROUP_LABEL
from imdbcls.tracking.saved_views import Place

PAGE = 100  # runs in one request


def relabel(place: Place, ids: Mapping[str, Sequence[str]]) -> list[str]:
    """Set `group_label` in the W&B config of each run to the name of its group.

    `ids` maps the name of each group to the W&B ids of its runs. Return the ids of runs that are not on the server.
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
                if GROUP_LABEL in run.summary:  # the summary of a finished run has a copy
                    run.summary[GROUP_LABEL] = label
                run.update()
    return list(missing)


def chunks(ids: Sequence[str]) -> Iterator[list[str]]:
    remaining = iter(ids)
    while chunk := list(islice(remaining, PAGE)):
        yield chunk
