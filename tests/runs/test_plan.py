"""The plan of a study on disk: what it may contain, and how a damaged or hostile file is refused."""

import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from imdbcls.errors import UserError
from imdbcls.runs.plan import FILE, Plan, PlannedGroup, has_plan, read_plan, write_plan
from imdbcls.runs.selection import TITLES

GROUPS = tuple(PlannedGroup(name=name, group_hash=f"hash-{name}", overrides=(f"head={name}",)) for name in "abc")
FIELDS = {"groups": GROUPS, "seeds": (4, 1, 0, 7), "first_look": 2, "metric": "f1", "margin": 0.003, "futility": 0.1}


def plan_of(**changes: object) -> Plan:
    return Plan(**{**FIELDS, **changes})


plans = st.builds(
    lambda seeds, share, metric, margin, futility: plan_of(
        seeds=tuple(seeds),
        first_look=2 + int(share * (len(seeds) - 2)),
        metric=metric,
        margin=margin,
        futility=futility,
    ),
    seeds=st.lists(st.integers(0, 2**63), min_size=2, max_size=20, unique=True),
    share=st.floats(0, 1),
    metric=st.sampled_from(sorted(TITLES)),
    margin=st.none() | st.floats(1e-300, 1e300),
    futility=st.none() | st.floats(1e-9, 0.999),
)


@given(plan=plans)
def test_plan_survives_the_file(plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> None:
    study = tmp_path_factory.mktemp("plans") / "new"
    assert not has_plan(study)
    write_plan(study, plan)
    assert has_plan(study) and read_plan(study) == plan


@given(plan=plans)
def test_looks_go_from_the_first_look_to_all_seeds(plan: Plan) -> None:
    assert plan.looks[0] == plan.first_look and plan.looks[-1] == len(plan.seeds)
    assert plan.information[-1] == 1.0 and list(plan.information) == sorted(set(plan.information))
    assert len(plan.looks) == len(plan.information) == len(plan.seeds) - plan.first_look + 1


def test_all_pairs_are_counted() -> None:
    assert plan_of().num_pairs == 3 and plan_of(groups=GROUPS[:2]).num_pairs == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"groups": GROUPS[:1]},
        {"groups": (GROUPS[0], GROUPS[0])},
        {"groups": (GROUPS[0], GROUPS[1].model_copy(update={"group_hash": "hash-a"}))},
        {"seeds": (1,)},
        {"seeds": (1, 1, 2)},
        {"seeds": (-1, 1)},
        {"seeds": tuple(range(1_001))},
        {"first_look": 1},
        {"first_look": 5},
        {"metric": "accurracy"},
        {"margin": 0.0},
        {"margin": float("inf")},
        {"futility": 1.0},
        {"futility": float("nan")},
    ],
)
def test_impossible_plan_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        plan_of(**changes)


def test_plan_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        plan_of().margin = 0.1


def test_order_of_groups_is_no_difference() -> None:
    assert plan_of().difference(plan_of(groups=GROUPS[::-1])) is None


def test_changed_seeds_of_the_same_range_are_named() -> None:
    difference = plan_of().difference(plan_of(seeds=(4, 0, 1, 7)))
    assert difference is not None and difference.startswith("seeds is ")


def one_sentence(study: Path) -> str:
    with pytest.raises(UserError) as error:
        read_plan(study)
    message = str(error.value)
    assert str(study / FILE) in message and message.isprintable()
    assert len(message) < 1_000
    return message


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b"\xff\xfe\x00",
        b"{}",
        b'{"format_version": 1}',
        b'{"format_version": "1"}',
        b"[" * 100_000,
        b'{"format_version": 1, "seeds": ' + b"9" * 5_000 + b"}",
        b'{"format_version": 1, "\\u001b[2J' + b"x" * 5_000 + b'": 1}',
        b'{"format_version": 1, "groups": {"a": 1}, "metric": "\\u001b[2J\\n"}',
        b" " * (2**24 + 1),
    ],
    ids=[
        "empty",
        "cut",
        "list",
        "null",
        "binary",
        "nothing",
        "no-keys",
        "version",
        "deep",
        "digits",
        "key",
        "esc",
        "big",
    ],
)
def test_damaged_file_is_one_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    assert has_plan(tmp_path)
    one_sentence(tmp_path)


@pytest.mark.parametrize(
    ("field", "value", "place"),
    [
        ("seeds", [0, 1.5, 2, 3], "seeds.1"),
        ("seeds", [True, 1, 2, 3], "seeds.0"),
        ("seeds", "0123", "seeds"),
        ("first_look", "3", "first_look"),
        ("margin", "0.3 points", "margin"),
        ("margin", -0.1, "margin"),
        ("futility", 0, "futility"),
        ("metric", "\x1b[2Jspeed\n", "metric="),
        ("groups", [{"name": "a", "group_hash": "h", "overrides": [1]}] * 2, "groups.0.overrides.0"),
        ("groups", [{"name": "", "group_hash": "h", "overrides": []}] * 2, "groups.0.name"),
        ("groups", [{"name": "a" * 1_001, "group_hash": "h", "overrides": []}] * 2, "groups.0.name"),
        ("metric", "speed" * 1_000, "metric="),
        ("alpha", 0.5, "alpha"),
        ("x" * 5_000, 0.5, "xxx"),
    ],
)
def test_wrong_value_is_named(tmp_path: Path, field: str, value: object, place: str) -> None:
    write_plan(tmp_path, plan_of())
    content = json.loads((tmp_path / FILE).read_text())
    (tmp_path / FILE).write_text(json.dumps(content | {field: value}))
    assert place in one_sentence(tmp_path)


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_plan_must_be_a_regular_file(tmp_path: Path, kind: str) -> None:
    study, path = tmp_path / "study", tmp_path / "study" / FILE
    study.mkdir()
    write_plan(tmp_path, plan_of())
    if kind == "link":
        path.symlink_to(tmp_path / FILE)
    elif kind == "folder":
        path.mkdir()
    else:
        os.mkfifo(path)
    assert has_plan(study)
    one_sentence(study)


def test_broken_link_is_a_plan_that_cannot_be_read(tmp_path: Path) -> None:
    """If a broken link counted as no file, the study would be treated as a study without a plan."""
    (tmp_path / FILE).symlink_to(tmp_path / "missing")
    assert has_plan(tmp_path)
    one_sentence(tmp_path)
