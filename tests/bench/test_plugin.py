"""`bench/suite` on a stored run: what pytest-benchmark stores equals the samples."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench.plugin import Replay, selected_cells
from results.export import benchmark_json, write_benchmark
from results.schema import REGISTRY, SCHEMA_VERSION, BackendRecord, Manifest, Sample
from results.store import Store, open_run

ROOT = Path(__file__).resolve().parents[2]
READY = {"process": (1e6, 2e6, 3e6), "container": (4e6, 5e6, 6e6)}


def row(backend, block, value, *, workload="startup", metric="ready", **words):
    usual = {
        "run_id": "stored", "position": 0, "role": "subject", "lane": "native", "profile": "-", "parameters": "{}",
        "instance": "i", "status": "ok", "reason": "", "detail": "", "t_ns": block,
    }  # fmt: skip
    unit = REGISTRY[workload, metric].unit
    return Sample(
        **{**usual, **words}, backend=backend, block=block, value=value, workload=workload, metric=metric, unit=unit
    )


def rows():
    yield from (row(name, block, value) for name, three in READY.items() for block, value in enumerate(three))
    yield from (row("container", block, 9e9, role="control") for block in range(3))
    yield from (row("process", block, 1e9 + block, workload="storage", metric="read_1m_direct") for block in range(3))
    yield row("process", 0, 3e5, workload="memory", metric="pss")
    yield row("runc", 0, None, status="unsupported", reason="not_installed", detail="runc is not on PATH")
    yield row("bwrap", 0, 1e6)
    yield row("bwrap", 1, None, status="failed", reason="oom", detail="the kernel killed it")
    yield row("vm", 0, None, status="invalid", reason="suspended", detail="the host slept", lane="tcg")
    yield row("vm", 0, 7e8, lane="tcg")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    parent = tmp_path_factory.mktemp("runs")
    backends = (*READY, "runc", "bwrap", "vm")
    records = tuple(BackendRecord(name, True, "native", None, None, None, None) for name in backends)
    manifest = Manifest(SCHEMA_VERSION, "stored", "finished", 1, "2026-01-01T00:00:00+00:00", None, {}, {}, {}, records)
    store = Store.create(parent, manifest)
    store.append_block(tuple(rows()))
    store.finish(manifest)
    return parent


@pytest.fixture
def suite(stored):
    def run(*words, of="stored"):
        command = [sys.executable, "-m", "pytest", "bench/suite/test_cells.py", "-p", "no:cacheprovider", "-rs"]
        stored_run = ("--tare-run", of, "--tare-out", str(stored))
        return subprocess.run([*command, *stored_run, *words], cwd=ROOT, capture_output=True, text=True, check=False)

    return run


def test_stored_data_equal_the_samples_and_the_run_s_own_export(suite, stored, tmp_path):
    """Tests of cells that the run did not measure are skipped; nothing warns."""
    words = "(startup and ready) or (storage and read_1m_direct)"
    done = suite("-k", f"({words}) and not bwrap", f"--benchmark-json={tmp_path}/b.json")
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    assert "warning" not in done.stdout
    found = {item["name"]: item for item in json.loads((tmp_path / "b.json").read_text())["benchmarks"]}
    for backend, values in READY.items():
        item = found[f"test_startup[ready-{backend}]"]
        assert item["stats"]["data"] == [value / 1e9 for value in values]
        assert item["extra_info"] == {"lane": "native", "run_id": "stored"}
    assert found["test_startup[ready-vm]"]["extra_info"]["lane"] == "tcg"
    read = found["test_storage[read_1m_direct-process]"]
    assert read["stats"]["data"] == [(1 << 20) / rate for rate in read["extra_info"]["bytes_per_second"]]

    exported = {item["name"]: item for item in benchmark_json(open_run(stored / "stored"))["benchmarks"]}
    assert exported.keys() == found.keys()
    for name, item in found.items():
        for part in ("group", "fullname", "params", "param", "extra_info", "stats"):
            assert exported[name][part] == item[part], (name, part)


def test_an_unsupported_cell_is_skipped_with_its_reason_and_a_failed_one_fails_with_its(suite):
    done = suite("-k", "test_startup and ready and (runc or bwrap)")
    assert done.returncode == 1
    assert "runc: unsupported: not_installed: runc is not on PATH" in done.stdout
    assert "1 of 2 failed: oom: the kernel killed it" in done.stdout


def test_pytest_benchmark_s_own_options_know_these_tests(suite, stored, tmp_path):
    """A baseline of another machine is a warning of pytest-benchmark's, not an error of the session's."""
    write_benchmark(open_run(stored / "stored"), tmp_path / "baseline.json")
    only = suite("-k", "process", "--benchmark-only", f"--benchmark-compare={tmp_path}/baseline.json")
    assert only.returncode == 0, only.stdout
    assert "2 passed" in only.stdout
    assert "test_startup[ready-process] (NOW)" in only.stdout
    skipped = suite("-k", "process", "--benchmark-skip")
    assert "1 passed" in skipped.stdout  # memory, which is no benchmark


def test_without_pytest_benchmark_nothing_is_handed_over_and_all_else_works(suite):
    done = suite("-k", "process", "-p", "no:benchmark")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "pytest-benchmark, which readings are handed to, is switched off" in done.stdout
    assert "1 passed" in done.stdout


def test_a_run_that_is_not_there_ends_the_session_with_one_line(suite):
    done = suite(of="nowhere")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert "nowhere: no run of that id" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_cells_of_the_selected_tests_are_measured_once_and_skipped_ones_not_at_all(request):
    def item(*marks):
        made = pytest.Function.from_parent(request.node.parent, name="made", callobj=lambda: None)
        for mark in marks:
            made.add_marker(mark)
        return made

    ready, gone = (item(pytest.mark.tare_cell("startup", "vm")) for _ in range(2))
    skipped = item(pytest.mark.tare_cell("storage", "vm"), pytest.mark.skip(reason="why not"))
    memory = item(pytest.mark.tare_cell("memory", "process"))
    assert selected_cells([ready, item(), gone, skipped, memory]) == (("startup", "vm"), ("memory", "process"))


def test_a_replayed_timer_returns_each_reading_once():
    replay = Replay([0.5, 0.25])
    for wanted in (0.5, 0.25):
        replay.zero()
        began = replay.timer()
        replay.take()
        assert replay.timer() - began == wanted
    with pytest.raises(StopIteration):
        replay.take()


@pytest.mark.root
@pytest.mark.slow
def test_k_selects_what_is_measured(tmp_path):
    words = ("-k", "test_startup and ready and process", "--tare-blocks", "1", "--tare-out", str(tmp_path))
    command = [sys.executable, "-m", "pytest", "bench/suite", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((tmp_path / "latest/manifest.json").read_text())["plan"]
    assert [(cell["workload"], cell["backend"]) for cell in plan["cells"]] == [("startup", "process")]
