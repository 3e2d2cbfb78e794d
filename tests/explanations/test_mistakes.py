"""A mistake in the command gives one sentence that says what to do."""

import io
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import imdbcls
from imdbcls.explain import explain_disagreement, explain_texts, parse
from imdbcls.explanations.attribution import replaced_embeddings, require_captum

pytestmark = pytest.mark.slow


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a").mkdir()
    Path("b").mkdir()
    Path("r.csv").write_text("text\ngood\n\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["a", "b", "good"], "b is a second folder. To see where two runs differ: .* --disagreement a b"),
        (["a", "good", "--count", "3"], "--count and --data can only be used with --disagreement"),
        (["a", "good", "--row", "3"], "--row can only be used with --file"),
        (["a", "--file", "r.csv"], "--file=r.csv needs --row NUMBER for each row to explain"),
        (["a", "--file", "r.csv", "--row", "2", "good"], "on the command line or in --file, not both"),
        (["a", "good", "--output", "no/page.html"], "--output=no/page.html must be a file in an existing folder"),
        (["a", "good"], "a/config.yaml is missing, so a is not a run folder"),
        (["--disagreement", "a", "a/../a"], "the two runs are the same"),
        (["--disagreement", "a", "b", "--json"], "Leave out texts, --json, --target"),
        (["--disagreement", "a", "b", "--target", "good"], "Leave out texts, --json, --target"),
        (["--disagreement", "a", "b"], "a/config.yaml is missing, so a is not a run folder"),
    ],
)
@pytest.mark.usefixtures("folders")
def test_options(arguments: list[str], sentence: str) -> None:
    options = parse(arguments)
    with pytest.raises(imdbcls.UserError, match=sentence):
        if options.disagreement is None:
            explain_texts(options, io.StringIO(), io.StringIO())
        else:
            explain_disagreement(options)


@pytest.mark.parametrize("arguments", [[], ["--disagreement", "a"], ["a", "--count", "0"], ["a", "--pair-column", "x"]])
def test_arguments(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(arguments)
    assert ended.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.usefixtures("folders")
def test_row_that_does_not_exist(finished: Path) -> None:
    with pytest.raises(imdbcls.UserError, match=r"--row 9: r\.csv has no row with this number; .* last row is 2"):
        explain_texts(parse([str(finished), "--file", "r.csv", "--row", "9"]), io.StringIO(), io.StringIO())


def test_captum_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(imdbcls.UserError, match="pip install captum"):
        require_captum()


@pytest.mark.parametrize("shapes", [[], [(2, 3), (2, 3)], [(2, 4)], [(2, 3), (2, 4)]])
def test_an_encoder_must_embed_all_tokens_in_one_call(shapes: list[tuple[int, int]]) -> None:
    class Encoder(nn.Module):
        def get_input_embeddings(self) -> nn.Module:
            return table

    table = nn.Embedding(5, 4)
    refused = pytest.raises(imdbcls.UserError, match="Encoder cannot be explained")
    with refused, replaced_embeddings(Encoder(), torch.zeros(2, 3, 4)):
        for shape in shapes:
            table(torch.zeros(shape, dtype=torch.long))
