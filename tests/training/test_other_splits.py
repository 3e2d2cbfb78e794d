"""An encoder that was trained on other splits of the same data may know the test documents, so a run warns."""

from pathlib import Path

import pytest

import imdbcls
from imdbcls.runs.folder import RunFolder
from imdbcls.runtime.model_files import weights_of_run
from imdbcls.training.report import other_splits_warning


@pytest.mark.parametrize(
    ("choices", "named"),
    [
        ((), None),
        (("data.train_limit=10", "seed=1", "data.order_seed=3"), None),
        (("data.split_seed=1",), "data.split_seed=0"),
        (
            ("data.test_fraction=0.3", "data.validation_fraction=0.2"),
            "data.test_fraction=0.2 data.validation_fraction=",
        ),
        (("data.split_seed=1", "data.train=other.csv"), None),
    ],
)
def test_other_values_are_named(
    choices: tuple[str, ...], named: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("mine.csv", "other.csv"):
        Path(name).write_text("text,label\na,b\nc,d\n")
    common = ("backbone=minilm", "data=files", "data.train=mine.csv", "data.test_fraction=0.2", "data.split_seed=0")
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / "config.json").write_text("{}")
    weights_of_run(tmp_path).parent.mkdir(parents=True)
    weights_of_run(tmp_path).touch()
    RunFolder(tmp_path).write_config(imdbcls.compose(*common))
    given = [each for each in common if each.partition("=")[0] not in {text.partition("=")[0] for text in choices}]
    warning = other_splits_warning(imdbcls.compose(*given, *choices, f"backbone.path={tmp_path}"))
    (tmp_path / "config.yaml").write_text("data: [")  # damaged
    assert other_splits_warning(imdbcls.compose(*given, *choices, f"backbone.path={tmp_path}")) is None
    if named is None:
        assert warning is None
    else:
        assert warning is not None and f"backbone.path={tmp_path} was trained with {named}" in warning


def test_other_encoders_need_no_warning() -> None:
    for backbone in ("minilm", "tiny", "roberta-base"):
        assert other_splits_warning(imdbcls.compose(f"backbone={backbone}", "data=sample")) is None
