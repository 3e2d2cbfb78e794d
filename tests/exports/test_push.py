"""`--push` sends exactly the files that `--dry-run` lists, and a refusal ends in one sentence."""

import hashlib
from pathlib import Path

import pytest
from support.hub_server import Uploads, hub
from support.runs import Launch

FILES = {
    "config.json": b"{}\n",
    "README.md": b"---\nlibrary_name: transformers\n---\n",
    "model.safetensors": b"\0" * 999,
}


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """An export in a folder that stands for a run: an existing export is sent as it is."""
    folder = tmp_path / "run" / "export" / "huggingface"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_bytes(content)
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
    for name, content in FILES.items():
        assert f"{len(content):,} bytes  sha256 {hashlib.sha256(content).hexdigest()}  {name}" in listed.stdout
    assert uploads.files == FILES and uploads.commits == ["Upload a model exported by imdbcls"]
    assert uploads.created[0]["name"] == "name" and uploads.created[0]["visibility"] == "private"
    assert "owner/name could not be uploaded" in refused.stderr and "Traceback" not in refused.stderr
