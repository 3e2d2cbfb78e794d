#!/usr/bin/env bash
# Install imdbcls on a GPU machine without network: experiments/gpu/setup.sh PARTS ENVIRONMENT
#
# PARTS is a folder with the parts from wheels.py and SHA256SUMS. A bundle with missing or damaged parts is left
# out, but `base` is required. ENVIRONMENT is a new virtual environment that also has the packages of the machine's
# python3, including PyTorch.
set -euo pipefail
parts=$(realpath "$1")
environment=$(realpath -m "$2")
cd "$(dirname "$0")/../.."
wheels=$(mktemp -d)
trap 'rm -rf "$wheels"' EXIT

for bundle in base quickstart; do
    if (cd "$parts" && grep " $bundle\.tar\." SHA256SUMS | sha256sum --check --quiet --strict); then
        cat "$parts/$bundle".tar.* | tar -x -C "$wheels"
    else
        echo "The bundle $bundle is incomplete or damaged." >&2
        [ "$bundle" != base ] || exit 1
    fi
done

torch='import importlib.metadata as m, importlib.util as u; print(m.version("torch"), u.find_spec("torch").origin)'
before=$(python3 -c "$torch")
python3 -m venv --without-pip "$environment"
own=$("$environment/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
# python3 may itself be in a virtual environment, so --system-site-packages would not be enough.
python3 -c 'import sysconfig; print("import site;", *(f"site.addsitedir({sysconfig.get_path(name)!r});" for name in ("purelib", "platlib")))' >"$own/machine.pth"
pip() { python3 -m pip --python "$environment/bin/python" install --quiet --disable-pip-version-check --no-index "$@"; }
for list in "$wheels"/*.txt; do
    pip --find-links "$wheels" -r "$list"
done
pip --no-deps --no-build-isolation -e .

after=$("$environment/bin/python" -c "$torch")
if [ "$before" != "$after" ]; then
    echo "PyTorch must not change: $before → $after" >&2
    exit 1
fi
echo "Installed in $environment, with PyTorch $after."
