"""Names, units and shapes of what a run stores (DESIGN section 3, fixed).

SCHEMA_VERSION history
    1  first: columns of DESIGN section 3, manifest as below
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

SCHEMA_VERSION = 1

Status = Literal["ok", "failed", "timeout", "unsupported", "killed", "invalid"]
Role = Literal["subject", "twin", "control"]
STATUSES: tuple[Status, ...] = ("ok", "failed", "timeout", "unsupported", "killed", "invalid")
ROLES: tuple[Role, ...] = ("subject", "twin", "control")
LANES = ("native", "kvm", "nested", "tcg", "ptrace", "systrap")
COMPARABLE_LANES = ("native", "kvm")
"""These share axes and ratios; every other lane stands in a panel of its own (DESIGN section 5, lane rule)."""
BASELINE = "process"


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric's meaning. `margin` is the ratio of practical equivalence, fixed beforehand (0.05 is 5 %)."""

    workload: str
    name: str
    unit: Literal["ns", "bytes", "bytes/s", "count", "ratio"]
    better: Literal["lower", "higher"]
    margin: float
    meaning: str
    scale: Literal["ratio", "difference"] = "ratio"
    """`difference` for figures that may be zero or negative, such as a residual: no ratio is formed."""


def _startup() -> tuple[Metric, ...]:
    def metric(name: str, margin: float, meaning: str) -> Metric:
        return Metric("startup", name, "ns", "lower", margin, meaning)

    return (
        metric("ready", 0.10, "first system or libvirt call for the instance, to the payload's first byte read"),
        metric("exit", 0.10, "quit sent, to exit seen"),
        metric("gone", 0.10, "exit seen, to cgroup directory, mounts, links and domain gone"),
        metric("cpu", 0.10, "user and system time of the instance's processes, as the kernel charged it"),
        metric("tool", 0.10, "the runtime's own command printing its version, to its first byte"),
    )


def _memory() -> tuple[Metric, ...]:
    def metric(name: str, meaning: str, scale: Literal["ratio", "difference"] = "ratio") -> Metric:
        return Metric("memory", name, "bytes", "lower", 0.05, meaning, scale)

    return (
        metric("cgroup", "charged to the instance's memory cgroup, kernel memory included"),
        metric("pss", "proportional set size summed over every process of the instance"),
        metric(
            "available",
            "fall per instance of the host's MemAvailable, with the free pages on per-CPU lists added",
            "difference",
        ),
        metric("residual", "available minus cgroup", "difference"),
    )


SYSCALL_OPERATIONS = (
    "getppid", "read", "write", "stat", "open_close", "pipe", "fork_exit",
    "page_fault_cold", "page_fault_backed", "mmap", "clock_gettime",
)  # fmt: skip

_SYSCALL_MEANING = {
    "getppid": "the null call",
    "read": "read of one byte from /dev/zero",
    "write": "write of one byte to /dev/null",
    "stat": "stat of /",
    "open_close": "open and close of /",
    "pipe": "one round trip of a byte between two processes over two pipes",
    "fork_exit": "fork, exit of the child, wait",
    "page_fault_cold": "first touch of a page that was never backed (a VM pays the second stage too)",
    "page_fault_backed": "first touch of a page whose physical memory was in use before",
    "mmap": "mmap and munmap of one page, untouched",
    "clock_gettime": "CLOCK_MONOTONIC through the C library",
}


def _syscalls() -> tuple[Metric, ...]:
    return tuple(Metric("syscalls", name, "ns", "lower", 0.05, _SYSCALL_MEANING[name]) for name in SYSCALL_OPERATIONS)


STORAGE_CASES = ("randread_4k", "randwrite_4k", "read_1m", "write_1m")
STORAGE_MODES = ("direct", "buffered")


def _storage() -> tuple[Metric, ...]:
    kinds = {
        "randread_4k": "random reads of 4 KiB", "randwrite_4k": "random writes of 4 KiB",
        "read_1m": "sequential reads of 1 MiB", "write_1m": "sequential writes of 1 MiB",
    }  # fmt: skip
    modes = {"direct": "past the page cache", "buffered": "through the page cache, ending with fsync"}
    return tuple(
        Metric("storage", f"{case}_{mode}", "bytes/s", "higher", 0.10, f"{kinds[case]}, {modes[mode]}")
        for mode in STORAGE_MODES
        for case in STORAGE_CASES
    )


def _checks() -> tuple[Metric, ...]:
    def metric(name: str, margin: float, meaning: str) -> Metric:
        return Metric("checks", name, "ratio", "lower", margin, meaning, "difference")

    return (
        metric("payload_clock", 0.02, "payload's own time per operation over the host-clocked one, minus 1"),
        metric("linearity", 0.02, "largest departure from the fitted line, over the span of times"),
        metric("block_counters", 0.02, "bytes moved by the host's block device over bytes claimed by fio, minus 1"),
    )


REGISTRY: Mapping[tuple[str, str], Metric] = MappingProxyType(
    {(m.workload, m.name): m for m in (*_startup(), *_memory(), *_syscalls(), *_storage(), *_checks())}
)
"""(workload, metric) -> Metric, in the order in which reports show them.

Workload `checks` holds the instrument's cross-checks: rows beside the measured ones, `parameters` naming with `of`
the `workload/metric` that is checked. They get no ratios and no verdicts.
"""


def metrics_of(workload: str) -> tuple[Metric, ...]:
    return tuple(m for m in REGISTRY.values() if m.workload == workload)


def canonical(parameters: Mapping[str, Any]) -> str:
    """Canonical JSON: sorted keys, no blanks; equal parameters give equal text."""
    return json.dumps(parameters, sort_keys=True, separators=(",", ":"), allow_nan=False)


@dataclass(frozen=True, slots=True)
class Sample:
    """One row of `samples.parquet`. `value` is None unless status is `ok`."""

    run_id: str
    backend: str
    workload: str
    metric: str
    unit: str
    block: int
    position: int
    role: Role
    lane: str
    profile: str
    parameters: str
    instance: str
    value: float | None
    status: Status
    reason: str
    detail: str
    t_ns: int


COLUMNS: tuple[str, ...] = tuple(Sample.__dataclass_fields__)


@dataclass(frozen=True, slots=True)
class BackendRecord:
    """What the manifest keeps for one backend. `parity` is what instances really ran with, read from inside and
    outside (names -> plain values); `shared`, `owned`, `before_first_byte` are the backend's own words.
    """

    backend: str
    available: bool
    lane: str | None
    version: str | None
    reason: str | None
    detail: str | None
    fix: str | None
    shared: tuple[str, ...] = ()
    owned: tuple[str, ...] = ()
    before_first_byte: str = ""
    payload_sha256: str | None = None
    parity: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Manifest:
    """`manifest.json`. `state` is `running`, `finished`, `partial` (ended early, blocks kept) or `failed`."""

    schema_version: int
    run_id: str
    state: str
    seed: int
    started: str
    """ISO 8601, UTC."""
    finished: str | None
    plan: Mapping[str, Any]
    host: Mapping[str, Any]
    """kernel, arch, cpu, cpus, mitigations, clocksource, cgroup, memory_bytes, virtualised, governor, thp, ksm ..."""
    tools: Mapping[str, str]
    backends: tuple[BackendRecord, ...]
    notes: tuple[str, ...] = ()
    """Plain sentences about the run: loss salvaged, blocks missing, steal seen."""
