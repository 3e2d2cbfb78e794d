"""Upload an exported folder to the Hugging Face Hub, or list what would be uploaded."""

from dataclasses import dataclass
from pathlib import Path

from imdbcls.errors import UserError
from imdbcls.exports.marker import exported_files
from imdbcls.runs.untrusted import sha256
from imdbcls.runtime.hub_ids import HUB_FORM, is_hub_id


@dataclass(frozen=True)
class Upload:
    """A folder and the repository to which it is uploaded. `files` are paths with a size in bytes and a SHA-256."""

    folder: Path
    repository: str
    private: bool
    files: tuple[tuple[str, int, str], ...]

    def lines(self) -> list[str]:
        """Return the description of the upload, one line per file."""
        from huggingface_hub import constants

        visibility = "private" if self.private else "public"
        total = sum(size for _, size, _ in self.files)
        head = f"{self.folder} → {constants.ENDPOINT}/{self.repository} ({visibility} if it is new)"
        rows = [f"  {size:>13,} bytes  sha256 {digest}  {name}" for name, size, digest in self.files]
        return [head, *rows, f"  {total:>13,} bytes in {len(self.files)} files"]


def upload_of(folder: Path, repository: str, config_hash: str, *, private: bool) -> Upload:
    """Return a description of the upload of an exported folder. Nothing is sent.

    Raise UserError if the repository name is invalid, or if the folder is not an export of runs with `config_hash`.
    """
    require_repository(repository)
    paths = exported_files(folder, "huggingface", config_hash)
    files = tuple((path.relative_to(folder).as_posix(), path.stat().st_size, sha256(path)) for path in paths)
    return Upload(folder, repository, private, files)


def require_repository(repository: str) -> None:
    if not is_hub_id(repository) or "/" not in repository:
        raise UserError(f"--push {repository} is not a hub repository ({HUB_FORM.format('OWNER/NAME')}).")


def send(upload: Upload) -> str:
    """Create the repository if it does not exist, upload the files in one commit, and return the commit's URL.

    Raise UserError if the hub refuses the upload or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    try:
        api = HfApi(library_name="imdbcls")
        api.create_repo(upload.repository, private=upload.private, exist_ok=True)
        added = [CommitOperationAdd(name, upload.folder / name) for name, _, _ in upload.files]
        commit = api.create_commit(upload.repository, added, commit_message="Upload a model exported by imdbcls")
    except (HfHubHTTPError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"The upload to {upload.repository} failed ({reason}). The export in {upload.folder} is complete; "
            "log in with `hf auth login`, or set HF_TOKEN, and run the same command again."
        ) from error
    return str(commit.commit_url)
