"""The measured cells, one test each: `pytest bench/suite -k startup` measures just those it selects."""

from __future__ import annotations

import pytest

from bench.backends import default_names
from results.schema import metrics_of

MIB = 1 << 20


def cells(workload: str) -> list[object]:
    return [
        pytest.param(backend, id=backend, marks=pytest.mark.tare_cell(workload, backend)) for backend in default_names()
    ]


def names(workload: str) -> list[str]:
    return [metric.name for metric in metrics_of(workload)]


@pytest.mark.parametrize("backend", cells("startup"))
@pytest.mark.parametrize("metric", names("startup"))
def test_startup(cell_values, replay, backend, metric):
    cell = cell_values("startup", metric, backend)
    replay(f"startup/{metric}", [value / 1e9 for value in cell.values], lane=cell.lane, run_id=cell.run_id)


@pytest.mark.parametrize("backend", cells("syscalls"))
@pytest.mark.parametrize("metric", names("syscalls"))
def test_syscalls(cell_values, replay, backend, metric):
    cell = cell_values("syscalls", metric, backend)
    replay(f"syscalls/{metric}", [value / 1e9 for value in cell.values], lane=cell.lane, run_id=cell.run_id)


@pytest.mark.parametrize("backend", cells("storage"))
@pytest.mark.parametrize("metric", names("storage"))
def test_storage(cell_values, replay, backend, metric):
    """pytest-benchmark knows seconds only: those that a MiB takes; the throughput stands in extra_info."""
    cell = cell_values("storage", metric, backend)
    seconds = [MIB / value for value in cell.values]
    rates = list(cell.values)
    replay(f"storage/{metric}", seconds, lane=cell.lane, run_id=cell.run_id, bytes_per_second=rates)


@pytest.mark.parametrize("backend", cells("memory"))
@pytest.mark.parametrize("metric", ["cgroup", "pss"])
def test_memory(cell_values, record_property, backend, metric):
    """Bytes are no seconds: they are recorded as the test's property, and must be what a live instance can have."""
    cell = cell_values("memory", metric, backend)
    record_property("bytes", list(cell.values))
    assert min(cell.values) > 0
