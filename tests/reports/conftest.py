"""A run made by hand: every kind of cell, comparison and control that a page must show, at the size of a quick run."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from results.analysis import Analysis, Cell, CellKey, Check, Comparison, Dose, Floor, Interval, Ledgers, Point
from results.schema import REGISTRY, BackendRecord, Manifest, Metric, metrics_of

HOSTILE = "<script>alert('x')</script> & \"$\\frac{1}$\" \x07 漢字"
LANES = {"process": "native", "container": "native", "bwrap": "native", "runc": "native", "vm": "tcg"}
PROFILES = {"container": "default"}
NATIVE_FACTOR = {"process": 1.0, "container": 3.9, "bwrap": 8.6, "runc": 52.0, "vm": 1900.0}
BASE = {"ready": 0.52e6, "exit": 0.3e6, "gone": 0.11e6, "cpu": 0.7e6, "tool": 1.4e6}
CALLS = {
    "getppid": 92, "read": 141, "write": 120, "stat": 410, "open_close": 920, "pipe": 9400, "fork_exit": 182000,
    "page_fault_cold": 610, "page_fault_backed": 440, "mmap": 850, "clock_gettime": 24,
}  # fmt: skip
DISK = {"randread_4k": 61e6, "randwrite_4k": 48e6, "read_1m": 1.9e9, "write_1m": 0.9e9}
MEMORY = {"process": 0.4, "container": 0.9, "bwrap": 1.4, "runc": 2.3, "vm": 58.0}


def key_of(workload: str, metric: str, backend: str, role: str = "subject", lane: str | None = None) -> CellKey:
    return CellKey(workload, metric, backend, role, lane or LANES[backend], PROFILES.get(backend, "-"))


def _cell(key: CellKey, centre: float, spread: float, blocks: int, repeats: int) -> Cell:
    source = random.Random(repr(key))
    values = [(block, centre * source.lognormvariate(0, spread)) for block in range(blocks) for _ in range(repeats)]
    if spread and len(values) > 20:
        values[7] = (values[7][0], centre * 2.6)
    ordered = sorted(value for _, value in values)
    wide = centre * spread * 0.4
    return Cell(
        key=key,
        metric=REGISTRY[key.workload, key.metric],
        points=tuple(Point(block, value, "{}") for block, value in values),
        block_values=tuple(values[::repeats]),
        median=centre,
        interval=Interval(centre - abs(wide), centre + abs(wide)) if blocks >= 8 else None,
        quantiles=tuple((q, ordered[min(int(q * len(ordered)), len(ordered) - 1)]) for q in (0.5, 0.9, 0.99)),
        counts=(("ok", len(values)),),
        reasons=(),
        note="" if blocks >= 8 else "under 8 blocks: no interval",
    )


def _absent(key: CellKey, status: str, reason: str, detail: str, rows: int) -> Cell:
    metric = REGISTRY[key.workload, key.metric]
    return Cell(key, metric, (), (), None, None, (), ((status, rows),), ((reason, detail, rows),), "nothing was ok")


def _centre(metric: Metric, backend: str) -> float:
    if metric.workload == "startup":
        return BASE[metric.name] * NATIVE_FACTOR[backend] ** (0.5 if metric.name in {"exit", "cpu"} else 1)
    if metric.workload == "syscalls":
        extra = {"process": 1.0, "container": 1.03, "bwrap": 1.0, "runc": 1.21, "vm": 9.5}[backend]
        return CALLS[metric.name] * (1.0 if metric.name == "clock_gettime" and backend != "vm" else extra)
    if metric.workload == "storage":
        case, _, mode = metric.name.rpartition("_")
        share = {"process": 1.0, "container": 0.97, "bwrap": 1.01, "runc": 0.93, "vm": 0.11}[backend]
        return DISK[case] * share * (1.7 if mode == "buffered" else 1)
    share = {"cgroup": 0.93, "pss": 0.5, "available": 1.08, "residual": 0.15}[metric.name]
    return MEMORY[backend] * share * (1 << 20) * (-1 if metric.name == "residual" and backend == "bwrap" else 1)


PACE = {"startup": (20, 5, 0.12), "memory": (10, 1, 0.05), "syscalls": (20, 1, 0.02), "storage": (8, 1, 0.06)}


def _cells(backends: tuple[str, ...], repeats: int) -> list[Cell]:
    cells = []
    for workload, (blocks, usual, spread) in PACE.items():
        for metric in metrics_of(workload):
            for backend in backends:
                if metric.name == "tool" and backend not in {"bwrap", "runc"}:
                    continue
                key = key_of(workload, metric.name, backend)
                cells.append(_cell(key, _centre(metric, backend), spread, blocks, usual * repeats))
            centre = _centre(metric, "container")
            if metric.name != "tool":
                cells.append(
                    _cell(key_of(workload, metric.name, "container", "twin"), centre * 1.01, spread, blocks, usual)
                )
                dosed = centre * (1 + 2 * metric.margin)
                cells.append(_cell(key_of(workload, metric.name, "container", "control"), dosed, spread, blocks, usual))
    return cells


def _comparison(cell: Cell, baseline: Cell) -> Comparison:
    comparable = cell.key.lane == baseline.key.lane and cell.metric.scale == "ratio"
    enough = len(cell.block_values) >= 20
    ratio = cell.median / baseline.median if comparable else None
    spread = 0.004 if cell.key.workload == "syscalls" else 0.03
    interval = Interval(ratio * (1 - spread), ratio * (1 + spread)) if ratio else None
    verdict = None
    if ratio and enough:
        inside = abs(ratio - 1) + spread < cell.metric.margin
        verdict = "equivalent" if inside else "inconclusive" if abs(ratio - 1) < 0.04 else "slower"
    note = "" if verdict else "different lanes" if cell.key.lane != baseline.key.lane else "under 20 blocks"
    if cell.metric.scale == "difference":
        note = "difference only"
    return Comparison(
        cell.key, baseline.key, cell.metric, len(cell.block_values), ratio, interval, cell.median - baseline.median,
        None, 0.0004 if verdict else None, 0.03 if verdict else None, f"{cell.key.workload} against process", verdict,
        0.021, 0.1, note,
    )  # fmt: skip


def _comparisons(cells: list[Cell]) -> list[Comparison]:
    base = {c.key.metric: c for c in cells if c.key.backend == "process"}
    return [
        _comparison(cell, base[cell.key.metric])
        for cell in cells
        if cell.key.role == "subject" and cell.key.backend != "process" and cell.key.metric in base and cell.median
    ]


def _controls(cells: list[Cell]) -> tuple[tuple[Floor, ...], tuple[Dose, ...]]:
    floors, doses = [], []
    for cell in cells:
        wide = {"startup": 0.03, "syscalls": 0.012, "memory": 0.02, "storage": 0.06}[cell.key.workload]
        enough = cell.interval is not None
        if cell.key.role == "twin" and cell.metric.scale == "ratio":
            interval = Interval(1.01 - wide, 1.01 + wide) if enough else None
            floors.append(
                Floor(cell.key, cell.metric, len(cell.block_values), 1.01, interval, 0.01 + wide if enough else None)
            )
        if cell.key.role == "control" and cell.metric.scale == "ratio":
            injected = 2 * cell.metric.margin
            missed = cell.key.metric == "stat"
            found = injected * (0.6 if missed else 1.04)
            doses.append(
                Dose(cell.key, cell.metric, injected, 20, found, Interval(found - wide, found + wide), not missed)
            )
    return tuple(floors), tuple(doses)


def _record(backend: str) -> BackendRecord:
    parity = {
        "kernel": "6.1.0-28-cloud-amd64" if backend == "vm" else "6.18.5",
        "boot_id": "b" * 36 if backend == "vm" else "a" * 36,
        "pid_inside": 4711 if backend == "process" else 1,
        "memory_limit_bytes": 268435456,
        "no_new_privs": backend != "process",
        "seccomp": "filter" if backend == "runc" else "none",
        "namespaces": [] if backend == "process" else ["mnt", "pid"],
        "payload_visible_on_host": backend != "vm",
        "mitigations": {"spectre_v2": "Mitigation: Enhanced IBRS", "mds": "Not affected"},
        "process_names": ["qemu-system-x86"] if backend == "vm" else ["probe"],
    }
    return BackendRecord(
        backend, True, LANES[backend], "0.8.0" if backend == "bwrap" else None, None, None, None,
        ("root filesystem, unpacked once",), ("scratch directories", "memory and pids groups"),
        "mounts /dev and /proc, then executes the payload",
        "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        parity,
    )  # fmt: skip


def _manifest(records: tuple[BackendRecord, ...]) -> Manifest:
    return Manifest(
        schema_version=1,
        run_id="20250914-101502-7c1e",
        state="finished",
        seed=20250914,
        started="2025-09-14T10:15:02+00:00",
        finished="2025-09-14T10:18:44+00:00",
        plan={"depth": "quick", "paces": [["startup", {"blocks": 20, "repeats": 5}]], "cells": [], "settle_s": 0.01},
        host={
            "kernel": "6.18.5", "arch": "x86_64", "cpu": "AMD EPYC 7B13", "cpus": 2, "memory_bytes": 8 << 30,
            "clocksource": "tsc", "cgroup": "hybrid", "virtualised": "kvm", "governor": None, "thp": "madvise",
            "mitigations": {"spectre_v2": "Mitigation: Retpolines"},
        },
        tools={"qemu": "7.2.17", "libvirt": "9.0.0", "fio": "3.33", "runc": "1.1.5"},
        backends=records,
        notes=("2 of 58 blocks saw more than 1 % steal.",),
    )  # fmt: skip


def _ledgers(backend: str) -> Ledgers:
    mib = 1 << 20
    weight = MEMORY[backend] * mib
    slope = weight * 1.08
    return Ledgers(
        backend, LANES[backend], PROFILES.get(backend, "-"), (1, 2, 4, 6, 8), weight * 0.93, weight * 0.5, slope,
        Interval(slope * 0.94, slope * 1.06), slope - weight * 0.93, weight * 0.1,
    )  # fmt: skip


def build(*, repeats: int = 1, hostile: bool = False) -> Analysis:
    """`repeats` multiplies the samples of every cell; `hostile` puts markup wherever a run's texts may come from."""
    backends = tuple(LANES)
    cells = _cells(backends, repeats)
    comparisons = _comparisons(cells)
    floors, doses = _controls(cells)
    names = [m.name for m in metrics_of("startup")]
    for name in names[:3]:
        key = CellKey("startup", name, "nspawn", "subject", "native", "-")
        cells.append(_absent(key, "unsupported", "not_installed", "systemd-nspawn is not in PATH", 20))
    failed = next(i for i, c in enumerate(cells) if (c.key.metric, c.key.backend) == ("write_1m_buffered", "runc"))
    cells[failed] = _absent(cells[failed].key, "failed", "exited_early", "fio: No space left on device", 8)
    half = next(
        i for i, c in enumerate(cells) if (c.key.metric, c.key.backend, c.key.role) == ("ready", "vm", "subject")
    )
    cells[half] = replace(
        cells[half],
        counts=(("ok", 100), ("timeout", 3)),
        reasons=(("never_ready", "no first byte within 60 s", 3),),
    )
    gone = BackendRecord(
        "nspawn",
        False,
        None,
        None,
        "not_installed",
        "systemd-nspawn is not in PATH",
        "apt-get install systemd-container",
    )
    manifest = _manifest((*map(_record, backends), gone))
    checks = (
        Check(
            "payload clock against host clock",
            "container",
            0.004,
            0.02,
            True,
            "payload's own time over the host's, 220 pairs",
        ),
        Check(
            "block counters against fio",
            "process",
            0.031,
            0.02,
            False,
            "bytes on the device over bytes claimed, 8 pairs",
        ),
    )
    sentences = (
        "Starting a container took 3.9 times a bare process [3.8, 4.0] and 0.075 times runc.",
        "System calls in the container were equivalent to the bare process within 5 % in 9 of 11 operations.",
        "The virtual machine ran in software emulation: nothing is said about virtualisation.",
    )
    analysis = Analysis(
        manifest, tuple(cells), tuple(comparisons), floors, doses, tuple(map(_ledgers, backends)), checks, sentences
    )
    return _poison(analysis) if hostile else analysis


def _poison(analysis: Analysis) -> Analysis:
    manifest = analysis.manifest
    first, second, *others = manifest.backends
    second = replace(
        second, detail=HOSTILE, version=HOSTILE, shared=(HOSTILE,), parity={HOSTILE: HOSTILE, "deep": {"a": HOSTILE}}
    )
    cells = tuple(
        replace(
            cell,
            key=replace(cell.key, backend=HOSTILE, profile=HOSTILE),
            reasons=((HOSTILE, HOSTILE, 1),),
            counts=(("ok", 3), ("failed", 1)),
        )
        if cell.key.backend == "bwrap"
        else cell
        for cell in analysis.cells
    )
    comparisons = tuple(
        replace(c, key=replace(c.key, backend=HOSTILE), note=HOSTILE) if c.key.backend == "bwrap" else c
        for c in analysis.comparisons
    )
    manifest = replace(
        manifest,
        run_id=HOSTILE,
        notes=(HOSTILE,),
        host={
            **manifest.host,
            "cpu": HOSTILE,
            "kernel": "</style><img src=x onerror=alert(1)>",
            "hostname": "\ud800 lone",
        },
        backends=(first, second, *others),
    )
    return replace(analysis, manifest=manifest, cells=cells, comparisons=comparisons, sentences=(HOSTILE,))


@pytest.fixture(scope="session")
def make() -> Callable[..., Analysis]:
    return build


@pytest.fixture(scope="session")
def rich() -> Analysis:
    return build()


@pytest.fixture(scope="session")
def empty() -> Analysis:
    """A run in which nothing was measured."""
    return Analysis(replace(_manifest(()), state="partial", finished=None, notes=()), (), (), (), (), (), (), ())
