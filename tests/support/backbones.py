"""Load a backbone in the same way as a run."""

from pathlib import Path

from imdbcls.models.backbone import Backbone, load_backbone


def load(
    path: Path | str,
    *,
    pretrained: bool = True,
    dropout: float | None = None,
    attention_dropout: float | None = None,
    fast: bool = True,
) -> Backbone:
    return load_backbone(
        name="small",
        path=str(path),
        pretrained=pretrained,
        dropout=dropout,
        attention_dropout=attention_dropout,
        fast=fast,
    )


TEXTS = ["Not bad.", "A film that has everything, but for a reason to be seen by anyone.", "No", "Dull " * 60]
