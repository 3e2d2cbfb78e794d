"""The wheel is complete: built from a clean copy and installed in another folder, it composes configs and trains."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml
from support.runs import PERSONAL, ROOT, TINY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel offline, with setuptools from the extra `dev`."""
    folder = tmp_path_factory.mktemp("wheel")
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in tracked.splitlines():  # only tracked files, so that other files here cannot get into the wheel
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder)]
    command = [sys.executable, "-m", "pip", "wheel", *options, str(folder / "source")]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("installed")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True)
    return target


def run(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `imdbcls.train` from the installed wheel. PYTHONPATH overrides an editable install of this project."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(PERSONAL)}
    environment = {**kept, "PYTHONPATH": str(installed), "HOME": str(folder), "IMDBCLS_CACHE": str(folder / "cache")}
    command = [sys.executable, "-m", "imdbcls.train", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_wheel_contains_every_module_choice_and_document(wheel: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    code = {name for name in tracked if name.startswith("imdbcls/")}
    choices = {f"imdbcls/{name}" for name in tracked if name.startswith("conf/")}
    found = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert found == code | choices
    assert "imdbcls/conf/config.yaml" in found and "imdbcls/data/sample/train.jsonl" in found


def test_wheel_has_correct_metadata(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
    text = archive.read(metadata).decode()
    assert "Name: imdbcls\n" in text and "Apache-2.0" in text
    assert "Requires-Python: >=3.11" in text and "Provides-Extra: quickstart" in text
    assert any(name.endswith("LICENSE") for name in archive.namelist())


def test_installed_wheel_has_the_script_the_sample_and_type_hints(installed: Path, tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(installed)}

    def output(*command: str) -> str:
        return subprocess.check_output([sys.executable, *command], cwd=tmp_path, env=environment, text=True)

    assert output(str(installed / "bin" / "imdbcls"), "--version").startswith("imdbcls 0.")
    code = "from imdbcls.data.sample import read_sample; print(len(read_sample().train) > 100)"
    assert output("-c", code) == "True\n"
    assert (installed / "imdbcls" / "py.typed").is_file()


def test_installed_wheel_composes_in_another_folder(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, "head=lstm", "lr=3e-5", "--cfg", "job")
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load(done.stdout)["head"]["name"] == "lstm"
    where = "import imdbcls, imdbcls.conf; print(imdbcls.__file__, imdbcls.conf.__file__)"
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    found = subprocess.run([sys.executable, "-c", where], env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert all(Path(file).is_relative_to(installed) for file in found.stdout.split())


def test_the_installed_wheel_trains(installed: Path, tmp_path: Path) -> None:
    done = run(installed, tmp_path, *TINY, "epochs=1", "tracker=none")
    assert done.returncode == 0, done.stderr
    (result,) = tmp_path.glob("runs/default/*/result.json")
    assert '"git_commit": null' in result.read_text(), "a wheel has no commit"
