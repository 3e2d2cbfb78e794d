"""Tests of the requirements plugin: in CI, only missing hardware may skip a test."""

import pytest

from support import requirements
from support.hardware import NO_AMX
from support.runs import ROOT

pytest_plugins = ["pytester"]


@pytest.fixture
def session(pytester: pytest.Pytester) -> pytest.Pytester:
    """Create a project whose tests use the plugin."""
    pytester.makeini(f"[pytest]\npythonpath = {ROOT / 'tests'}\n")
    pytester.makeconftest('pytest_plugins = ["support.requirements"]')
    return pytester


SKIPS = {
    "mark": "@pytest.mark.skipif(True, reason='no network')\ndef test_a(): pass",
    "call": "def test_a(): pytest.skip('as root')",
    "fixture": "@pytest.fixture\ndef corpus(): pytest.skip('no corpus')\ndef test_a(corpus): pass",
    "module": "pytest.skip('no kernels', allow_module_level=True)",
    "package": "pytest.importorskip('a_package_that_nobody_has')",
    "hardware in part": f"def test_a(): pytest.skip('{NO_AMX}, or no time')",
}


@pytest.mark.parametrize("kind", SKIPS)
def test_skipped_test_fails_ci_and_is_listed(kind: str, session: pytest.Pytester) -> None:
    session.makepyfile(f"import pytest\n{SKIPS[kind]}\ndef test_b(): pass")
    relaxed, strict = session.runpytest(), session.runpytest("--ci")
    assert relaxed.ret in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)
    assert strict.ret != pytest.ExitCode.OK
    strict.stdout.fnmatch_lines(["Skipped, but not for missing hardware: test_skipped_test_fails_ci_and_is_listed.py*"])
    relaxed.stdout.no_fnmatch_line("Skipped, but not*")


def test_missing_hardware_and_expected_failures_are_allowed(session: pytest.Pytester) -> None:
    session.makepyfile(
        f"import pytest\ndef test_a(): pytest.skip('{NO_AMX}')\n"
        "@pytest.mark.xfail\ndef test_b(): raise ValueError\n"
        "def test_c(): pass\n"
    )
    result = session.runpytest("--ci")
    assert result.ret == pytest.ExitCode.OK
    result.assert_outcomes(passed=1, skipped=1, xfailed=1)


def test_skipped_test_in_a_worker_fails_ci(session: pytest.Pytester) -> None:
    session.makepyfile("import pytest\ndef test_a(): pytest.skip('no reason')\ndef test_b(): pass")
    result = session.runpytest("--ci", "-n1")
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["Skipped, but not for missing hardware: *: Skipped: no reason (*"])


@pytest.mark.parametrize("options", [(), ("-n1",)])
def test_missing_requirement_deselects_locally_and_fails_in_ci(
    options: tuple[str, ...], session: pytest.Pytester
) -> None:
    session.makeconftest(
        'pytest_plugins = ["support.requirements"]\n'
        "from support.requirements import NEEDS\n"
        'NEEDS.update(here=(lambda: True, "it is here"), gone=(lambda: False, "a moon"))\n'
    )
    session.makepyfile(
        "import pytest\n@pytest.mark.needs('gone', 'here')\ndef test_a(): pass\n"
        "@pytest.mark.needs('here')\ndef test_b(): pass"
    )
    try:
        result = session.runpytest(*options)
        result.assert_outcomes(passed=1)
        assert result.ret == pytest.ExitCode.OK
        result.stdout.fnmatch_lines(["Deselected tests with missing requirements: a moon."])
        if not options:
            strict = session.runpytest("--ci")
            strict.assert_outcomes(passed=1, errors=1)
            strict.stdout.fnmatch_lines(["*this test needs a moon"])
    finally:
        for name in ("here", "gone"):
            del requirements.NEEDS[name]
