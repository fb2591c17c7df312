"""Synthetic runs: samples with a known effect, a manifest, a stored run."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pandas as pd
import pytest

from results.schema import REGISTRY, SCHEMA_VERSION, BackendRecord, Manifest, Sample, canonical


def _sample(**words):
    usual = {
        "run_id": "r", "backend": "process", "workload": "startup", "metric": "ready", "block": 0, "position": 0,
        "role": "subject", "lane": "native", "profile": "-", "parameters": "{}", "instance": "i", "value": 1.0,
        "status": "ok", "reason": "", "detail": "", "t_ns": 0,
    }  # fmt: skip
    merged = {**usual, **words}
    merged.setdefault("unit", REGISTRY[merged["workload"], merged["metric"]].unit)
    return Sample(**merged)


def _series(backend, centre, *, blocks=24, spread=0.02, seed=2, metric="ready", workload="startup", **words):
    """One sample per block around `centre`, log-normal."""
    rng = np.random.default_rng([seed, len(backend), len(words.get("role", ""))])
    values = centre * np.exp(rng.normal(0, spread, blocks))
    return [
        _sample(backend=backend, block=block, value=float(value), metric=metric, workload=workload, t_ns=block, **words)
        for block, value in enumerate(values)
    ]


def _manifest(*backends):
    records = tuple(BackendRecord(name, True, "native", "1", None, None, None) for name in backends)
    return Manifest(SCHEMA_VERSION, "r", "finished", 1, "2026-01-01T00:00:00+00:00", None, {}, {}, {}, records)


@pytest.fixture
def sample():
    return _sample


@pytest.fixture
def series():
    return _series


@pytest.fixture
def manifest():
    return _manifest


@pytest.fixture
def table():
    """Samples as the table that `analyse` reads."""
    return lambda samples: pd.DataFrame([asdict(one) for one in samples])


@pytest.fixture
def dose():
    return lambda size: canonical({"dose": size})
