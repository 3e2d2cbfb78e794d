"""`--push` sends exactly the files that `--dry-run` lists, and a refusal ends in one sentence."""

import hashlib
import shutil
from pathlib import Path

import pytest
from support.hub_server import Uploads, hub
from support.runs import Launch

import imdbcls
from imdbcls.export import export, parse
from imdbcls.exports.marker import MARKER, write_marker

pytestmark = pytest.mark.slow

FILES = {
    "config.json": b"{}\n",
    "README.md": b"---\nlibrary_name: transformers\n---\n",
    "model.safetensors": b"\0" * 999,
}


@pytest.fixture
def exported(finished: Path, tmp_path: Path) -> Path:
    """Return the export folder of a run: its files, its marker, and one file that the export did not write."""
    run = tmp_path / "run"
    shutil.copytree(finished, run)
    folder = run / "export" / "huggingface"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
    write_marker(folder, "huggingface", imdbcls.load_run(run).result["config_hash"])
    (folder / "notes.txt").write_text("mine")
    return folder


def test_dry_run_lists_what_push_sends(exported: Path, tmp_path: Path, launch: Launch) -> None:
    uploads = Uploads()
    with hub({}, uploads) as url:
        variables = {"HF_ENDPOINT": url, "HF_TOKEN": "secret", "HF_HUB_DISABLE_XET": "1"}
        arguments = ("export", "run", "--to", "huggingface", "--push", "owner/name", "--private")
        listed = launch(tmp_path, *arguments, "--dry-run", fresh=True, **variables)
        assert uploads == Uploads() and "Nothing was sent" in listed.stderr
        sent = launch(tmp_path, *arguments, fresh=True, **variables)
        refused = launch(tmp_path, *arguments, fresh=True, expect=2, **{**variables, "HF_TOKEN": "wrong"})
    assert f"{url}/owner/name (private if it is new)" in listed.stdout and sent.stdout == listed.stdout
    files = {**FILES, MARKER: (exported / MARKER).read_bytes()}
    for name, content in files.items():
        assert f"{len(content):,} bytes  sha256 {hashlib.sha256(content).hexdigest()}  {name}" in listed.stdout
    assert uploads.files == files and uploads.commits == ["Upload a model exported by imdbcls"]
    assert uploads.created[0]["name"] == "name" and uploads.created[0]["visibility"] == "private"
    assert "The upload to owner/name failed" in refused.stderr and "Traceback" not in refused.stderr


def test_folder_that_is_not_the_export_of_the_run_is_not_sent(exported: Path, tmp_path: Path) -> None:
    command = ["--to", "huggingface", "--push", "owner/name", "--dry-run", "--output", str(exported)]

    def refused(sentence: str) -> None:
        with pytest.raises(imdbcls.UserError, match=sentence):
            export(parse([str(tmp_path / "run"), *command]))

    (exported / "README.md").unlink()
    refused(r"is incomplete: README\.md is missing\. Add --overwrite")
    write_marker(exported, "huggingface", "hash of another run")
    refused("is an export of another run")
    (exported / MARKER).unlink()
    refused(rf"is not an export of imdbcls: .*{MARKER} is missing")


def test_link_in_an_export_is_not_followed(exported: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    elsewhere = exported.rename(tmp_path / "elsewhere")  # opening a run folder with links is refused
    (elsewhere / "model.safetensors").unlink()
    (elsewhere / "model.safetensors").symlink_to(secret)
    command = ["--to", "huggingface", "--push", "owner/name", "--dry-run", "--output", str(elsewhere)]
    with pytest.raises(imdbcls.UserError, match=r"model\.safetensors is a symbolic link"):
        export(parse([str(tmp_path / "run"), *command]))
