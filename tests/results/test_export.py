import json
import subprocess
import sys
from pathlib import Path

import pytest

from results.export import write_benchmark
from results.store import Store, open_run


@pytest.fixture
def exported(tmp_path, manifest, series, sample):
    store = Store.create(tmp_path, manifest("process", "container"))
    words = {"workload": "storage", "metric": "read_1m_direct"}
    store.append_block(series("process", 1e6, blocks=5))
    store.append_block(series("process", float(1 << 30), blocks=5, **words))
    store.append_block([sample(backend="container", value=None, status="failed", reason="oom", detail="killed")])
    store.append_block([sample(workload="memory", metric="pss", value=1e5)])
    store.finish(manifest("process", "container"))
    write_benchmark(open_run(store.path), tmp_path / "benchmark.json")
    return tmp_path / "benchmark.json"


def test_stored_data_equal_the_samples_in_seconds(exported, series):
    start, read = json.loads(exported.read_text())["benchmarks"]
    assert start["fullname"] == "bench/suite/test_cells.py::test_startup[ready-process]"
    assert start["stats"]["data"] == [one.value / 1e9 for one in series("process", 1e6, blocks=5)]
    assert start["stats"]["rounds"] == 5
    assert read["extra_info"]["bytes_per_second"][0] == pytest.approx(1 / (read["stats"]["data"][0] / (1 << 20)))


def test_a_failed_cell_and_bytes_are_no_benchmarks(exported):
    names = [item["name"] for item in json.loads(exported.read_text())["benchmarks"]]
    assert names == ["test_startup[ready-process]", "test_storage[read_1m_direct-process]"]


def test_pytest_benchmark_itself_reads_it(exported):
    command = Path(sys.executable).with_name("pytest-benchmark")
    done = subprocess.run([command, "compare", exported], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "test_startup[ready-process]" in done.stdout
