"""Test that values are quoted if Hydra's grammar cannot read them, and unchanged otherwise."""

import shlex
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from support.processes import TINY, start

from imdbcls.config.commandline import for_hydra
from imdbcls.config.overrides import compose, examine
from imdbcls.config.quoting import as_one_value, readable
from imdbcls.errors import UserError


def value_of(text: str) -> Any:
    (override,) = OverridesParser.create().parse_overrides([text])
    return list(override._value.list) if override.is_sweep_override() else override.value()


@pytest.mark.parametrize(
    "value",
    ["отзыв", "año.csv", "d'or.csv", "#7.csv", "a=b=c.csv", "film (2).csv", "[old].csv", "{x}.csv", "~/films.csv", "🎬",
     "a;b&c|d.csv", "it's \"new\".csv", "über\\", "zwei\nzeilen", "٣", "a!b", "50%<x>"],
)  # fmt: skip
def test_values_are_quoted_without_change(value: str) -> None:
    assert value_of(readable(f"data.train={value}")) == value
    assert value_of(shlex.split(as_one_value(f"data.train={value}"))[0]) == value


@pytest.mark.parametrize(
    "text",
    ["lr=3e-5", "data.train=C:\\films\\a.csv", "data.train=$HOME/a b.csv", "data.train='año.csv'", "head=cls,mean",
     "optimizer.betas=[0.9, 0.99]", "lr=choice(1e-5,2e-5)", "study=${oc.env:USER}", "~head.dropout", "head", "lr=",
     "loss.class_weights={very good:1,a.b:2}", "--multirun"],
)  # fmt: skip
def test_readable_overrides_are_not_changed(text: str) -> None:
    assert readable(text) == text


@pytest.mark.parametrize("text", ["lr=[1,", "lr=(", "lr={a:1", "имя=3", "lr=día,"])
def test_ambiguous_overrides_are_refused_with_advice(text: str) -> None:
    assert readable(text) == text
    with pytest.raises(UserError, match="is not readable as key=value") as refused:
        compose([*TINY, text])
    advised = str(refused.value).partition("write ")[2].removesuffix(".")
    if not text.startswith("имя"):  # Hydra does not accept `имя` as a key
        assert value_of(shlex.split(advised)[0]) == text.partition("=")[2]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"seed={'1' * 5000}", "seed=1111"),
        (f"seed=[{'1' * 5000},0]", "seed=[1111"),
        (f"lr={'[' * 300}{']' * 300}", "nested too deeply"),
        (f"lr={'[' * 5000}{']' * 5000}", "lr=[[[["),
        (f"loss.class_weights={'{a:' * 3000}1{'}' * 3000}", "loss.class_weights={"),
    ],
    ids=lambda value: value[:20],
)
def test_values_too_long_for_python_are_refused(text: str, sentence: str) -> None:
    with pytest.raises(UserError) as refused:
        compose([*TINY, text])
    assert sentence in str(refused.value).splitlines()[0]


def test_lists_mappings_and_sweeps_keep_their_items() -> None:
    assert value_of(readable("+head.x=[день,b,1]")) == ["день", "b", 1]
    assert value_of(readable("+head.x={a:день,b:[ночь]}")) == {"a": "день", "b": ["ночь"]}
    for text in ("data.train=день.csv,d'or.csv", "data.train=choice(день.csv,d'or.csv)"):
        assert [getattr(each, "text", each) for each in value_of(readable(text))] == ["день.csv", "d'or.csv"]


def test_options_keep_their_values() -> None:
    arguments = ["--config-dir", "мои=файлы", "-c", "job", "data.train=мои.csv", "+experiment=heads"]
    assert for_hydra(arguments) == ['data.train="мои.csv"', "experiment=heads", *arguments[:4]]
    assert for_hydra(["head=lstm", "--multirun", "seed=0,1"]) == ["head=lstm", "seed=0,1", "--multirun"]


def test_class_weights_take_any_class_names(tmp_path: Path) -> None:
    tiny = ("backbone=tiny", "data=sample")

    def weights(text: str) -> object:
        return compose([*tiny, f"loss.class_weights={text}"]).loss.class_weights

    assert weights("{0:1,1:5}") == weights("{0.0:1,1.0:5}") == weights('{"0": 1, "1": 5}') == {"0": 1, "1": 5}
    assert weights("{true:1,false:5}") == weights("{True:1,FALSE:5}") == {"true": 1, "false": 5}
    assert weights("{плохо:1,хорошо:2.5}") == {"плохо": 1, "хорошо": 2.5}
    assert weights("{very good:1,a.b:2,null:3,-1:4}") == {"very good": 1, "a.b": 2, "null": 3, "-1": 4}
    assert weights("{'a, b': 1, \"c:d\": 5, e!: 1e-1}") == {"a, b": 1, "c:d": 5, "e!": 0.1}
    for wrong in ("{a:1,'ж':'5'}", "{}", "{a:0}", "{ж:-1}", "{ж}"):
        with pytest.raises(UserError, match="one number above 0 per class"):
            weights(wrong)
    with pytest.raises(UserError, match="contains the class '1' twice"):
        weights("{1:1,'1.0':2}")
    (tmp_path / "experiment").mkdir()
    recipe = "# @package _global_\nloss:\n  class_weights: {0: 1, 2.0: 5, true: 2, день: 3}\n"
    (tmp_path / "experiment/mine.yaml").write_text(recipe)
    examined = examine([*tiny, "experiment=mine"], "run", str(tmp_path))
    assert examined.mistakes == []
    assert examined.config is not None and examined.config.loss.class_weights == {"0": 1, "2": 5, "true": 2, "день": 3}
    swept = examine([*tiny, "loss.class_weights={0:1,1:5},{ночь:2}"], "multirun")
    assert swept.mistakes == [] and swept.config is not None
    assert swept.config.loss.class_weights == {"0": 1, "1": 5}


@pytest.mark.slow
def test_a_command_accepts_non_ascii_names(tmp_path: Path) -> None:
    rows = "".join(f"film {number} is {'dull' if number % 2 else 'warm'},{number % 2}.0\n" for number in range(60))
    (tmp_path / "día d'or #1.csv").write_text("отзыв,метка\n" + rows)
    command = start(
        tmp_path,
        "--multirun",
        *(text for text in TINY if not text.startswith("data")),
        *("data=files", "data.train=día d'or #1.csv", "data.text_column=отзыв", "data.label_column=метка", "epochs=1"),
        "loss.class_weights={0:1,1:5},{'0':5,\"1\":1}",
    )
    assert command.wait() == 0, command.output
    assert command.output.count("  done  ") == 2
    losses = {path.read_text() for path in tmp_path.glob("runs/*/*/metrics.jsonl")}
    assert len(losses) == 2


def test_yes_and_no_of_a_yaml_file_are_class_names() -> None:
    from imdbcls.training.losses import in_order

    assert in_order({"true": 5, "false": 1}, ("no", "yes")) == [1, 5]
    assert in_order({"true": 5, "false": 1}, ("false", "true")) == [1, 5]
    with pytest.raises(UserError, match="has weights for true, false"):
        in_order({"true": 5, "false": 1}, ("bad", "good"))
