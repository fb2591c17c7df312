"""The block loop: every cell of every block gets its slot, every slot gives rows, whatever happens in it."""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import count
from typing import Protocol

from bench import clock, schedule
from bench.fleet import Fleet
from bench.payload.protocol import ProtocolError
from bench.plan import CONTROLLED, Cell, Plan
from bench.slot import Slot
from bench.workloads import WORKLOADS
from bench.workloads.base import Reading
from isolation.api import IsolationError, Site, Unsupported
from isolation.container.profile import BACKENDS as PROFILES
from isolation.messages import Words
from results.schema import REGISTRY, Sample, Status, canonical, metrics_of

DOSE_MULTIPLES = (1, 2, 5)
DOSED: Mapping[str, str] = {
    "startup": "ready",
    "syscalls": "getppid",
    "memory": "pss",
    "storage": "randread_4k_direct",
}
"""The metric whose margin sets a workload's dose."""
PILOT_SLOTS = 3
TIMED_OUT = frozenset({"never_ready", "hang", "guest_hang"})
KILLED = frozenset({"killed", "oom", "vmm_killed"})


class Progress(Protocol):
    """Whoever wants to see the run go on."""

    def begun(self) -> None: ...

    def say(self, *lines: str) -> None: ...

    def started(self, total: Mapping[Cell, int]) -> None: ...

    def slot_started(self, cell: Cell, block: int) -> None: ...

    def slot_done(self, cell: Cell, block: int, samples: Sequence[Sample]) -> None: ...


@dataclass(frozen=True, slots=True)
class Missing:
    """Why a cell cannot run at all."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Bench:
    """Everything the block loop needs, made beforehand: `missing` says which backends and workloads cannot run."""

    plan: Plan
    site: Site
    fleet: Fleet
    words: Mapping[str, Words]
    lanes: Mapping[str, str]
    missing_backends: Mapping[str, Missing]
    missing_workloads: Mapping[str, Missing]
    logs: str


def run(
    bench: Bench, append: Callable[[Sequence[Sample]], None], progress: Progress, *, done: frozenset[tuple[str, int]]
) -> tuple[str, ...]:
    """Carry out the plan, handing each finished block to `append`; blocks in `done` (workload, number) are skipped.

    Returns remarks for the manifest. A block during which the host slept or its CPU set changed is kept as `invalid`
    and done again once.
    """
    remaining = [block for block in schedule.blocks(bench.plan) if (block.workload, block.number) not in done]
    totals: dict[Cell, int] = {}
    for block in remaining:
        for cell in block.cells:
            totals[cell] = totals.get(cell, 0) + 1
    progress.started(totals)
    numbers = count()
    typical, remarks = _pilot(bench, numbers)
    for block in remaining:
        for _attempt in range(2):
            before = _conditions()
            samples = list(_block(bench, block, typical, numbers, progress))
            disturbance = _disturbance(before, _conditions())
            if disturbance is None:
                append(samples)
                break
            reason, detail = disturbance
            append([_invalidated(sample, reason, detail) for sample in samples])
            remarks.append(f"{block.workload} block {block.number} is invalid ({detail}) and was done again")
    return tuple(remarks)


def _block(
    bench: Bench,
    block: schedule.Block,
    typical: Mapping[str, Mapping[str, float]],
    numbers: count[int],
    progress: Progress,
) -> Iterator[Sample]:
    for position, cell in enumerate(block.cells):
        progress.slot_started(cell, block.number)
        samples = tuple(_cell(bench, cell, block.number, position, typical.get(cell.workload, {}), numbers))
        progress.slot_done(cell, block.number, samples)
        yield from samples


def _cell(
    bench: Bench, cell: Cell, block: int, position: int, typical: Mapping[str, float], numbers: count[int]
) -> Iterator[Sample]:
    """All rows of one slot: readings, and one row for each metric that a failure left without any."""
    profile = PROFILES[cell.backend].name if cell.backend in PROFILES else "-"

    def row(reading: Reading) -> Sample:
        workload = reading.workload or cell.workload
        return Sample(
            run_id=bench.site.run_id, backend=cell.backend, workload=workload, metric=reading.metric,
            unit=REGISTRY[workload, reading.metric].unit, block=block, position=position, role=cell.role,
            lane=bench.lanes[cell.backend],
            profile=profile, parameters=canonical(reading.parameters),
            instance=reading.instance, value=reading.value, status=reading.status, reason=reading.reason,
            detail=reading.detail, t_ns=reading.t_ns,
        )  # fmt: skip

    def failed(status: Status, reason: str, detail: str, seen: set[str]) -> Iterator[Sample]:
        for metric in metrics_of(cell.workload):
            if metric.name not in seen:
                one_line = " ".join(detail.split())
                reading = Reading(metric.name, None, "", clock.now_ns(), {}, status, reason, one_line)
                yield row(reading)

    missing = bench.missing_backends.get(cell.backend) or bench.missing_workloads.get(cell.workload)
    if missing:
        yield from failed("unsupported", missing.reason, missing.detail, set())
        return
    slot = _slot(bench, cell, block, typical, numbers)
    seen: set[str] = set()
    try:
        for reading in WORKLOADS[cell.workload].measure(slot):
            seen.add(reading.metric)
            yield row(reading)
    except Unsupported as error:
        yield from failed("unsupported", error.reason, error.detail, seen)
    except IsolationError as error:
        yield from failed(_status(error.reason), error.reason, error.detail, seen)
    except ProtocolError as error:
        yield from failed("failed", error.reason, error.detail, seen)
    except TimeoutError as error:
        yield from failed("timeout", "hang", str(error), seen)


def _status(reason: str) -> Status:
    if reason in TIMED_OUT:
        return "timeout"
    return "killed" if reason in KILLED else "failed"


def _slot(bench: Bench, cell: Cell, block: int, typical: Mapping[str, float], numbers: count[int]) -> Slot:
    dose = 0.0
    if cell.role == "control":
        margin = REGISTRY[cell.workload, DOSED[cell.workload]].margin
        dose = DOSE_MULTIPLES[block % len(DOSE_MULTIPLES)] * margin
    return Slot(
        fleet=bench.fleet, plan=bench.plan, cell=cell, block=block, words=bench.words[cell.backend], site=bench.site,
        folder=workload_folder(bench.site, cell.workload), dose=dose, typical=typical, numbers=numbers, logs=bench.logs,
    )  # fmt: skip


def workload_folder(site: Site, workload: str) -> str:
    """Where a workload keeps what its slots share."""
    return os.path.join(site.scratch, f"workload-{workload}")


def prepare_workloads(names: Sequence[str], site: Site) -> dict[str, Missing]:
    """Let each workload make its shared files. Returns why some cannot run here."""
    missing: dict[str, Missing] = {}
    for name in names:
        workload = WORKLOADS[name]
        lacking = workload.available()
        if lacking is None:
            folder = workload_folder(site, name)
            os.makedirs(folder, mode=0o755, exist_ok=True)
            try:
                workload.prepare(folder, site)
            except Unsupported as error:
                lacking = (error.reason, error.detail)
        if lacking is not None:
            missing[name] = Missing(*lacking)
    return missing


def _pilot(bench: Bench, numbers: count[int]) -> tuple[dict[str, dict[str, float]], list[str]]:
    """The controlled backend's own medians before the first block: what a control's dose is a share of."""
    typical: dict[str, dict[str, float]] = {}
    remarks: list[str] = []
    if CONTROLLED not in bench.words or CONTROLLED in bench.missing_backends:
        return typical, remarks
    for workload in bench.plan.workloads:
        cell = Cell(workload, CONTROLLED)
        if workload in bench.missing_workloads or cell not in bench.plan.cells:
            continue
        values: dict[str, list[float]] = {}
        slots = PILOT_SLOTS if workload == "startup" else 1
        for number in range(slots):
            for sample in _cell(bench, cell, -1 - number, 0, {}, numbers):
                if sample.value is not None and sample.workload == workload:
                    values.setdefault(sample.metric, []).append(sample.value)
        typical[workload] = {metric: statistics.median(found) for metric, found in values.items()}
        dosed = typical[workload].get(DOSED[workload])
        if dosed is None:
            remarks.append(f"the pilot of {workload} on {CONTROLLED} gave no {DOSED[workload]}: no dose can be set")
        else:
            unit = REGISTRY[workload, DOSED[workload]].unit
            remarks.append(f"pilot: {workload} {DOSED[workload]} of {CONTROLLED} is {dosed:.6g} {unit}")
    return typical, remarks


@dataclass(frozen=True, slots=True)
class _Conditions:
    suspended_ns: int
    cpus: frozenset[int]


def _conditions() -> _Conditions:
    return _Conditions(clock.suspended_ns(), frozenset(os.sched_getaffinity(0)))


def _disturbance(before: _Conditions, after: _Conditions) -> tuple[str, str] | None:
    """What makes a block worthless: the host slept (BOOTTIME ran ahead of MONOTONIC), or its CPU set changed."""
    slept_ns = after.suspended_ns - before.suspended_ns
    if slept_ns > 1_000_000:  # reading two clocks one after the other differs by microseconds
        return "suspended", f"the host was suspended for {slept_ns / 1e9:.1f} s"
    if before.cpus != after.cpus:
        return "cpus_changed", f"CPUs were {sorted(before.cpus)}, are {sorted(after.cpus)}"
    return None


def _invalidated(sample: Sample, reason: str, detail: str) -> Sample:
    if sample.status != "ok":
        return sample
    return replace(sample, value=None, status="invalid", reason=reason, detail=detail)
