"""Download the wheels that a GPU machine without network lacks: `python experiments/gpu/wheels.py FOLDER`.

The list comes from setup.cfg, with the versions in constraints.txt. Run this command where imdbcls is installed with
the extras `quickstart` and `dev`, because the dependencies of each package are read from its installed metadata. The
wheels are for Linux on x86-64. A package that is published only as source is built on this machine. The build is
refused if the package contains compiled code. Each bundle of wheels is packed into parts of limited size. SHA256SUMS
has the checksums of the parts. `setup.sh` installs the bundles.
"""

import argparse
import configparser
import hashlib
import importlib.metadata
import io
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
MARKERS = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "platform_machine": "x86_64",
    "platform_python_implementation": "CPython",
    "implementation_name": "cpython",
    "os_name": "posix",
}
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (35, 34, 31, 28, 27, 24, 17, 12, 5)] + ["manylinux2014_x86_64"]
# Each bundle needs the bundles before it. `quickstart`, with the weights of MiniLM, is needed only for real training.
BUNDLES = ("base", "quickstart")
FOR_TESTS = ("pytest", "pytest-xdist", "hypothesis", "graphql-core", "accelerate", "setuptools")  # from the extra `dev`


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder for the parts and SHA256SUMS")
    parser.add_argument(
        "--installed",
        type=Path,
        default=Path(__file__).with_name("installed.txt"),
        help="list of the packages on the GPU machine",
    )
    parser.add_argument("--python", default="3.12", help="Python of the GPU machine (default: 3.12)")
    parser.add_argument("--part-mib", type=int, default=56, help="maximum size of a part in MiB (default: 56)")
    parser.add_argument("--list", action="store_true", help="print the list without downloading")
    options = parser.parse_args(arguments)
    installed = [Requirement(line) for line in lines_of(options.installed)]
    markers = MARKERS | {"python_version": options.python, "python_full_version": f"{options.python}.0"}
    brought: set[str] = set()
    sums = []
    for bundle in BUNDLES:
        requirements = requirements_of(bundle)
        versions = {
            name: version for name, version in missing(requirements, installed, markers).items() if name not in brought
        }
        brought |= versions.keys()
        print(f"{bundle}: {' '.join(f'{name}=={version}' for name, version in sorted(versions.items()))}")
        if options.list:
            continue
        options.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory() as scratch:
            download([f"{name}=={version}" for name, version in versions.items()], options.python, Path(scratch))
            Path(scratch, f"{bundle}.txt").write_text("".join(f"{requirement}\n" for requirement in requirements))
            sums += pack(Path(scratch), options.folder, bundle, options.part_mib << 20)
    if not options.list:
        (options.folder / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))


def lines_of(path: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def requirements_of(bundle: str) -> list[Requirement]:
    """Return the requirements of a bundle, from setup.cfg."""
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    extras = setup["options.extras_require"]
    if bundle != "base":
        return [Requirement(line) for line in extras[bundle].split("\n") if line]
    needed = [Requirement(line) for line in setup["options"]["install_requires"].split("\n") if line]
    tests = [Requirement(line) for line in extras["dev"].split("\n") if line]
    return needed + [requirement for requirement in tests if requirement.name in FOR_TESTS]


def missing(
    requirements: Iterable[Requirement], installed: Iterable[Requirement], markers: Mapping[str, str]
) -> dict[str, str]:
    """Return the requirements and their dependencies that must be downloaded, with their versions in constraints.txt.

    An installed package is left out if its version fits, or if its version is not known.
    """
    pinned = {canonicalize_name(pin.name): str(pin.specifier)[2:] for pin in map(Requirement, pins())}
    present = {canonicalize_name(each.name): str(each.specifier)[2:] for each in installed}
    found: dict[str, str] = {}
    queue = list(requirements)

    def applies(requirement: Requirement, extra: str = "") -> bool:
        return requirement.marker is None or requirement.marker.evaluate({**markers, "extra": extra})

    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not applies(requirement):
            continue
        if name in present and (not present[name] or requirement.specifier.contains(present[name])):
            continue
        if name not in pinned:
            sys.exit(f"constraints.txt does not pin {name}. Add its version.")
        found[name] = pinned[name]
        try:
            needed = [Requirement(text) for text in importlib.metadata.requires(requirement.name) or []]
        except importlib.metadata.PackageNotFoundError:
            sys.exit(f"{name} is not installed. Install imdbcls with the extras quickstart and dev.")
        queue += [each for each in needed if any(applies(each, extra) for extra in ("", *requirement.extras))]
    return found


def pins() -> list[str]:
    return lines_of(ROOT / "constraints.txt")


def download(pins: Sequence[str], python: str, folder: Path) -> None:
    """Download the packages for the GPU machine. Build a wheel for each package that is published only as source."""
    pip = [sys.executable, "-m", "pip"]
    common = ["--quiet", "--disable-pip-version-check", "--no-deps"]
    platforms = [argument for name in PLATFORMS for argument in ("--platform", name)]
    target = ["--python-version", python, "--implementation", "cp", "--prefer-binary"]
    subprocess.run([*pip, "download", *common, *target, *platforms, "--dest", str(folder), *pins], check=True)
    for source in folder.glob("*.tar.gz"):
        before = set(folder.iterdir())
        subprocess.run([*pip, "wheel", *common, "--wheel-dir", str(folder), str(source)], check=True)
        (wheel,) = set(folder.iterdir()) - before
        if not wheel.name.endswith("-none-any.whl"):
            raise SystemExit(
                f"{source.name} has no wheel for Python {python}, and contains compiled code. Pin another version."
            )
        source.unlink()


def pack(source: Path, target: Path, bundle: str, max_bytes: int) -> list[tuple[str, str]]:
    """Pack a folder into `bundle`.tar, divided into parts. Return the sha256 and the name of each part."""
    for old in target.glob(f"{bundle}.tar.*"):
        old.unlink()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path in sorted(source.iterdir()):
            archive.add(path, path.name)
    content = buffer.getbuffer()
    sums = []
    for number, start in enumerate(range(0, len(content), max_bytes)):
        part, name = content[start : start + max_bytes], f"{bundle}.tar.{number:02}"
        (target / name).write_bytes(part)
        sums.append((hashlib.sha256(part).hexdigest(), name))
    return sums


if __name__ == "__main__":
    main()
