"""A run in the formats of others: so far pytest-benchmark's own JSON, which `pytest-benchmark compare` reads.

That format knows seconds only.  Times are told in seconds, a throughput as the seconds that a MiB takes with the bytes
per second beside it in `extra_info`; bytes of memory are no time and are left out (they are in `samples.parquet`).
Node ids, groups and figures are those of `bench/suite/test_cells.py`, and as there a cell in which an instance failed
is absent: what is left of it would tell of the survivors alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from pytest_benchmark.stats import Stats

from results.schema import REGISTRY
from results.store import Run, write_whole

SUITE = "bench/suite/test_cells.py"
MIB = 1 << 20
FAILED = ("failed", "timeout", "killed")


def benchmark_json(run: Run) -> dict[str, Any]:
    """The run as pytest-benchmark would have stored it. Cells that failed or were never `ok` are absent, as there."""
    manifest = run.manifest
    host = manifest.host
    return {
        "machine_info": {
            "node": host.get("hostname"),
            "machine": host.get("arch"),
            "release": host.get("kernel"),
            "system": "Linux",
            "python_version": host.get("python"),
            "cpu": {"brand_raw": host.get("cpu"), "count": host.get("cpus")},
        },
        "commit_info": {"id": "unversioned", "dirty": None, "project": "tare", "branch": "(unknown)"},
        "benchmarks": list(_benchmarks(run)),
        "datetime": manifest.finished or manifest.started,
        "version": version("pytest-benchmark"),
    }


def write_benchmark(run: Run, path: Path) -> None:
    """Raises StoreError where it cannot be written; the old file then stays whole."""
    write_whole(path, (json.dumps(benchmark_json(run), indent=1, allow_nan=False) + "\n").encode())


def _benchmarks(run: Run) -> Iterator[dict[str, Any]]:
    """In the registry's order, and within a metric in that of the rows."""
    subjects = run.samples[run.samples["role"] == "subject"]
    cells = subjects.groupby(["workload", "metric", "backend"], observed=True, sort=False)
    found = [(str(workload), str(metric), str(backend), rows) for (workload, metric, backend), rows in cells]
    order = {pair: index for index, pair in enumerate(REGISTRY)}
    known = [cell for cell in found if cell[:2] in order]
    for workload, metric, backend, rows in sorted(known, key=lambda cell: order[cell[:2]]):
        if workload == "checks" or rows["status"].isin(FAILED).any():
            continue
        good = rows[rows["status"] == "ok"]
        figures = good["value"].to_numpy(dtype=np.float64)
        if not figures.size:
            continue
        extra: dict[str, Any] = {"lane": str(good["lane"].iloc[0]), "run_id": run.manifest.run_id}
        match REGISTRY[workload, metric].unit:
            case "ns":
                seconds = figures / 1e9
            case "bytes/s" if np.all(figures > 0):
                seconds = MIB / figures
                extra["bytes_per_second"] = figures.tolist()
            case _:
                continue
        yield _benchmark(workload, metric, backend, seconds.tolist(), extra)


def _benchmark(workload: str, metric: str, backend: str, seconds: list[float], extra: dict[str, Any]) -> dict[str, Any]:
    stats = Stats()
    stats.data = seconds
    name = f"test_{workload}[{metric}-{backend}]"
    return {
        "group": f"{workload}/{metric}",
        "name": name,
        "fullname": f"{SUITE}::{name}",
        "params": {"metric": metric, "backend": backend},
        "param": f"{metric}-{backend}",
        "extra_info": extra,
        "options": {"disable_gc": False, "timer": "timer", "min_rounds": len(seconds), "warmup": False},
        "stats": {**stats.as_dict(), "data": seconds, "iterations": 1},
    }
