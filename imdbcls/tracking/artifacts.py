"""The W&B artifacts of a run: the data that it used, its predictions and its model."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_NAME_LENGTH = 128  # characters in the name of an artifact, and in an alias
MODEL_FILES = ("config.yaml", "result.json", "backbone/*", "checkpoints/best/*")  # read by `imdbcls.predict`


def dataset_artifact(name: str, split_hash: str, sizes: Mapping[str, int], source: Mapping[str, Any]) -> Any:
    """Return an artifact of type `dataset` that refers to the splits of the data by their hash. No text is uploaded.

    The digest of the artifact depends only on `split_hash`, so W&B stores one version for equal splits. `sizes` are in
    documents.
    """
    import wandb
    from wandb.sdk.artifacts.artifact_manifest_entry import ArtifactManifestEntry
    from wandb.sdk.lib.paths import LogicalPath

    metadata = {"split_hash": split_hash, "documents": dict(sizes), "source": dict(source)}
    artifact = wandb.Artifact(valid_name(name), "dataset", metadata=metadata)
    # `add_reference` is not used: it would warn that W&B cannot read this URI.
    reference = f"imdbcls://splits/{split_hash}"
    artifact.manifest.add_entry(ArtifactManifestEntry(path=LogicalPath("splits"), ref=reference, digest=split_hash))
    return artifact


def predictions_artifact(study: str, run_folder: Path, metadata: Mapping[str, Any]) -> Any:
    """Return an artifact of type `predictions` with the Parquet files of a run, or None if the run has none."""
    return files_artifact(f"{study}-predictions", "predictions", run_folder, ("predictions/*.parquet",), metadata)


def model_artifact(study: str, run_folder: Path, metadata: Mapping[str, Any]) -> Any:
    """Return an artifact of type `model` with the best weights of a run, or None if they are missing.

    The downloaded files are a run folder that `imdbcls.predict` reads.
    """
    if not (run_folder / "checkpoints" / "best").is_dir():
        return None
    return files_artifact(f"{study}-model", "model", run_folder, MODEL_FILES, metadata)


def files_artifact(name: str, kind: str, folder: Path, patterns: tuple[str, ...], metadata: Mapping[str, Any]) -> Any:
    """Return an artifact with the files in `folder` that match the patterns, or None if there are no such files.

    wandb copies the files to the study's `wandb` folder, so `wandb sync` still works if a checkpoint is removed later.
    """
    import wandb

    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern)) if path.is_file()]
    if not paths:
        return None
    artifact = wandb.Artifact(valid_name(name), kind, metadata=dict(metadata))
    for path in paths:
        artifact.add_file(str(path), name=path.relative_to(folder).as_posix(), skip_cache=True)
    return artifact


def aliases_of(run_name: str, group_label: str | None) -> list[str]:
    """Return the aliases of a run's artifacts: `latest`, the run's name and its group label, if any."""
    aliases = ["latest", valid_alias(run_name), *([] if group_label is None else [valid_alias(group_label)])]
    return list(dict.fromkeys(aliases))


def valid_name(name: str) -> str:
    """Replace the characters that W&B does not allow in an artifact name, and truncate the name."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name)[:MAX_NAME_LENGTH]


def valid_alias(alias: str) -> str:
    """Replace the characters that W&B does not allow in an alias, and truncate the alias."""
    return re.sub(r"[/:]", "-", alias)[:MAX_NAME_LENGTH]
