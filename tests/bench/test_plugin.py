"""`bench/suite` on a stored run: what pytest-benchmark stores equals the samples."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from bench.plugin import Replay
from results.schema import REGISTRY, SCHEMA_VERSION, BackendRecord, Manifest, Sample
from results.store import Store

ROOT = Path(__file__).resolve().parents[2]
VALUES = {"process": (1e6, 2e6, 3e6), "container": (4e6, 5e6, 6e6)}


def row(backend, block, value, **words):
    usual = {
        "run_id": "stored", "backend": backend, "workload": "startup", "metric": "ready", "unit": "ns", "block": block,
        "position": 0, "role": "subject", "lane": "native", "profile": "-", "parameters": "{}", "instance": "i",
        "value": value, "status": "ok", "reason": "", "detail": "", "t_ns": block,
    }  # fmt: skip
    return Sample(**{**usual, **words})


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    parent = tmp_path_factory.mktemp("runs")
    records = tuple(BackendRecord(name, True, "native", None, None, None, None) for name in VALUES)
    manifest = Manifest(
        SCHEMA_VERSION, "stored", "finished", 1, "2026-01-01T00:00:00+00:00", None, {}, {}, {}, records
    )  # fmt: skip
    store = Store.create(parent, manifest)
    store.append_block([row(name, block, value) for name, three in VALUES.items() for block, value in enumerate(three)])
    bad = {"value": None, "status": "unsupported", "reason": "not_installed", "detail": "runc is not on PATH"}
    store.append_block([row("runc", 0, None, **{key: word for key, word in bad.items() if key != "value"})])
    failed = {"status": "failed", "reason": "oom", "detail": "the kernel killed it"}
    store.append_block([row("bwrap", 0, 1e6), row("bwrap", 1, None, **failed)])
    store.finish(manifest)
    assert REGISTRY["startup", "ready"].unit == "ns"
    assert asdict(manifest)["run_id"] == "stored"
    return parent


def suite(stored, *words):
    command = [sys.executable, "-m", "pytest", "bench/suite/test_cells.py", "-p", "no:cacheprovider", "-rs"]
    return subprocess.run(
        [*command, "--tare-run", "stored", "--tare-out", str(stored), *words],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_stored_data_equal_the_samples(stored, tmp_path):
    done = suite(
        stored, "-k", "test_startup and ready and (process or container)", f"--benchmark-json={tmp_path}/b.json"
    )
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout
    found = {item["param"]: item for item in json.loads((tmp_path / "b.json").read_text())["benchmarks"]}
    for backend, values in VALUES.items():
        assert found[f"ready-{backend}"]["stats"]["data"] == [value / 1e9 for value in values]
        assert found[f"ready-{backend}"]["extra_info"] == {"lane": "native", "run_id": "stored"}


def test_an_unsupported_cell_is_skipped_with_its_reason_and_a_failed_one_fails_with_its(stored):
    done = suite(stored, "-k", "test_startup and ready and (runc or bwrap)")
    assert done.returncode == 1
    assert "runc: not_installed: runc is not on PATH" in done.stdout
    assert "1 of 2 failed: oom: the kernel killed it" in done.stdout


def test_a_replayed_timer_returns_each_reading_once():
    replay = Replay([0.5, 0.25])
    for wanted in (0.5, 0.25):
        replay.zero()
        began = replay.timer()
        replay.take()
        assert replay.timer() - began == wanted


@pytest.mark.root
@pytest.mark.slow
def test_k_selects_what_is_measured(tmp_path):
    words = ("-k", "test_startup and ready and process", "--tare-blocks", "1", "--tare-out", str(tmp_path))
    command = [sys.executable, "-m", "pytest", "bench/suite", "-p", "no:cacheprovider", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    plan = json.loads((tmp_path / "latest/manifest.json").read_text())["plan"]
    assert [(cell["workload"], cell["backend"]) for cell in plan["cells"]] == [("startup", "process")]
