"""A run in the formats of others: so far pytest-benchmark's own JSON, which `pytest-benchmark compare` reads.

That format knows seconds only.  Times are told in seconds, a throughput as the seconds that a MiB takes with the bytes
per second beside it in `extra_info`; bytes of memory are no time and are left out (they are in `samples.parquet`).
Node ids are those of `bench/suite/test_cells.py`, so that what `tare run` writes and what pytest stores compare.
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


def benchmark_json(run: Run) -> dict[str, Any]:
    """The run as pytest-benchmark would have stored it. Cells without an `ok` sample are absent, as there."""
    manifest = run.manifest
    return {
        "machine_info": {
            "node": manifest.host.get("hostname"),
            "machine": manifest.host.get("arch"),
            "release": manifest.host.get("kernel"),
            "system": "Linux",
            "cpu": {"brand_raw": manifest.host.get("cpu"), "count": manifest.host.get("cpus")},
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
    frame = run.samples
    good = frame[(frame["status"] == "ok") & (frame["role"] == "subject") & (frame["workload"] != "checks")]
    order = {pair: index for index, pair in enumerate(REGISTRY)}
    groups = good.groupby(["workload", "metric", "backend", "lane"], observed=True, sort=False)["value"]
    for key, values in sorted(groups, key=lambda item: order[str(item[0][0]), str(item[0][1])]):
        workload, metric, backend, lane = map(str, key)
        unit = REGISTRY[workload, metric].unit
        if unit not in ("ns", "bytes/s"):
            continue
        figures = values.to_numpy(dtype=np.float64)
        seconds = figures / 1e9 if unit == "ns" else MIB / figures
        extra: dict[str, Any] = {"lane": lane, "run_id": run.manifest.run_id}
        if unit == "bytes/s":
            extra["bytes_per_second"] = figures.tolist()
        yield _benchmark(workload, metric, backend, seconds.tolist(), extra)


def _benchmark(workload: str, metric: str, backend: str, seconds: list[float], extra: dict[str, Any]) -> dict[str, Any]:
    stats = Stats()
    for second in seconds:
        stats.update(second)
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
