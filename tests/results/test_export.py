import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from results.export import benchmark_json, write_benchmark
from results.store import Store, StoreError, open_run

STORAGE = {"workload": "storage", "metric": "read_1m_direct"}
NO_SUCCESS = {"value": None, "status": "failed", "reason": "oom", "detail": "killed"}


@pytest.fixture
def run(tmp_path, manifest, series, sample):
    """One cell of each kind that there is."""
    store = Store.create(tmp_path, manifest("process", "container"))
    store.append_block(series("process", 1e6, blocks=5))
    store.append_block(series("process", float(1 << 30), blocks=5, **STORAGE))
    store.append_block([sample(backend="bwrap", value=0.0, **STORAGE)])
    store.append_block([sample(backend="container", **NO_SUCCESS)])
    store.append_block([*series("runc", 1e6, blocks=3), sample(backend="runc", **NO_SUCCESS)])
    store.append_block(series("vm", 1e9, blocks=3, lane="tcg", metric="gone"))
    store.append_block([sample(backend="vm", metric="gone", value=None, status="invalid", reason="suspended")])
    store.append_block([sample(workload="memory", metric="pss", value=1e5)])
    store.append_block([sample(workload="checks", metric="linearity", value=0.01)])
    store.append_block([replace(sample(), workload="later", metric="unknown")])
    store.append_block(series("process", 5e6, blocks=5, role="twin"))
    store.finish(manifest("process", "container"))
    return open_run(store.path)


@pytest.fixture
def exported(tmp_path, run):
    write_benchmark(run, tmp_path / "benchmark.json")
    return tmp_path / "benchmark.json"


def test_stored_data_equal_the_samples_in_seconds(run, series):
    start, gone, read = benchmark_json(run)["benchmarks"]
    assert start["fullname"] == "bench/suite/test_cells.py::test_startup[ready-process]"
    assert start["stats"]["data"] == [one.value / 1e9 for one in series("process", 1e6, blocks=5)]
    assert start["stats"]["rounds"] == 5
    assert start["stats"]["min"] <= start["stats"]["median"] <= start["stats"]["max"]
    assert (start["extra_info"]["lane"], gone["extra_info"]["lane"]) == ("native", "tcg")
    assert read["stats"]["data"] == [(1 << 20) / rate for rate in read["extra_info"]["bytes_per_second"]]


def test_a_cell_that_failed_and_what_is_no_time_are_no_benchmarks(run):
    """A cell in which one instance failed neither: what is left would tell of the survivors alone."""
    names = [item["name"] for item in benchmark_json(run)["benchmarks"]]
    assert names == ["test_startup[ready-process]", "test_startup[gone-vm]", "test_storage[read_1m_direct-process]"]


def test_names_are_those_of_the_suite(run):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", "bench/suite"]
    root = Path(__file__).resolve().parents[2]
    collected = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {item["fullname"] for item in benchmark_json(run)["benchmarks"]} <= set(collected)


def test_pytest_benchmark_itself_reads_it(exported, tmp_path):
    command = Path(sys.executable).with_name("pytest-benchmark")
    again = tmp_path / "again.json"
    again.write_bytes(exported.read_bytes())
    done = subprocess.run([command, "compare", exported, again], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "benchmark 'startup/ready': 2 tests" in done.stdout
    assert done.stdout.count("test_startup[ready-process]") == 2


def test_where_it_cannot_be_written_the_old_file_stays(exported, run):
    before = exported.read_bytes()
    exported.with_name(".benchmark.json.new").mkdir()
    with pytest.raises(StoreError, match=r"benchmark\.json: cannot be written: Is a directory"):
        write_benchmark(run, exported)
    assert exported.read_bytes() == before
    assert json.loads(before)["datetime"] == run.manifest.started
