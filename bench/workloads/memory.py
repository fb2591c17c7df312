"""What one instance costs in memory, by three ledgers at the same N (DESIGN section 5).

    cgroup      charged to the memory group around the instance, tool and kernel memory included
    pss         sum of PSS over every process that exists for the instance
    available   fall of the host's MemAvailable, divided by N
    residual    available - cgroup: what was spent outside the group, or freed in it meanwhile

An instance is started and ended first (a VM: once a run), so that files in the page cache and slabs that stay are
nobody's cost.  N is drawn anew for each block, the same for all its cells; PSS depends on it, since N instances share
their pages.  Each instance has answered one request when it is weighed.

`available` is the noisy one: MemAvailable is the host's, so whatever else allocates meanwhile is in it.  Both
readings are taken after the same pause, with the per-CPU counters folded first (`/proc/sys/vm/stat_refresh`, root
only; changes no setting).  MemAvailable leaves out the free pages that each CPU keeps in lists of its own, and since
kernel 6.7 those lists grow to hundreds of MB: an instance served from them would seem to cost nothing.  So they are
added, as `/proc/zoneinfo` counts them.
"""

from __future__ import annotations

import errno
import os
import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.workloads.base import Live, Reading, Slot
from bench.workloads.dose import dosed_amount
from isolation.api import Launched, LaunchFailed, Medium, Site, Unsupported
from isolation.container.cgroup import Group, detect

COUNTS: Mapping[Medium, tuple[int, ...]] = {"directory": (4, 8, 12, 16, 20), "disk": (1, 2, 3, 4, 5)}
"""The N that are visited; a VM's take seconds each to start under emulation."""
PAUSE_S = 0.1
"""Before MemAvailable is read: what the kernel frees after a grace period (namespaces, memory groups) has no event."""
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True)
class Ledgers:
    """Bytes per instance at `n` alive; `touched_bytes` is the dose that each was told to allocate."""

    n: int
    cgroup: float
    pss: float
    available: float
    touched_bytes: int = 0

    @property
    def residual(self) -> float:
        return self.available - self.cgroup


def instances_for(medium: Medium, run_id: str, block: int) -> int:
    """N of a block: every five blocks visit the five in an order of their own."""
    cycle, place = divmod(block, len(COUNTS[medium]))
    order = random.Random(f"{run_id}/memory/{cycle}").sample(range(len(COUNTS[medium])), len(COUNTS[medium]))
    return COUNTS[medium][order[place]]


def whole_pages(amount_bytes: float) -> int:
    """Memory comes in pages: the dose in whole ones, at least one where there is a dose at all."""
    return -(-round(amount_bytes) // PAGE_BYTES) * PAGE_BYTES


def field_bytes(text: str, name: str) -> int:
    """A field of /proc/meminfo or smaps_rollup, `Name:  123 kB`, in bytes (proc(5)). Raises KeyError."""
    for line in text.splitlines():
        key, _, value = line.partition(":")
        if key == name:
            return int(value.split()[0]) * 1024
    raise KeyError(name)


def readings(ledgers: Ledgers, typical: Mapping[str, float], instance: str, t_ns: int) -> Iterator[Reading]:
    """One row a ledger. Where a dose was touched, it is told as a share of each dosed ledger's typical figure."""
    at: dict[str, Any] = {"n": ledgers.n}
    for metric in ("cgroup", "pss", "available", "residual"):
        parameters = at
        if ledgers.touched_bytes and metric in ("cgroup", "pss") and metric in typical:
            share = ledgers.touched_bytes / typical[metric]
            parameters = {**at, "dose": share, "touched_bytes": ledgers.touched_bytes}
        yield Reading(metric, getattr(ledgers, metric), instance, t_ns, parameters)


def cpu_list_pages(zoneinfo: str) -> int:
    """Free pages in the per-CPU lists of all zones: the `count:` lines of /proc/zoneinfo (proc(5))."""
    return sum(int(line.split()[1]) for line in zoneinfo.splitlines() if line.lstrip().startswith("count:"))


def available_bytes() -> int:
    """The host's MemAvailable and its per-CPU free pages, after a pause and with the counters folded where we may."""
    time.sleep(PAUSE_S)
    _fold_counters()
    listed_bytes = cpu_list_pages(_read("/proc/zoneinfo")) * PAGE_BYTES
    return field_bytes(_read("/proc/meminfo"), "MemAvailable") + listed_bytes


def _fold_counters() -> None:
    if not os.access("/proc/sys/vm/stat_refresh", os.R_OK):
        return
    try:
        _read("/proc/sys/vm/stat_refresh")
    except OSError as error:
        if error.errno != errno.EINVAL:  # how kernels before 5.13 report a counter below zero, after having folded
            raise


def pss_bytes(launched: Launched) -> int:
    """Sum over the instance's processes. Raises LaunchFailed where one has ended, Unsupported where we may not look."""
    try:
        return sum(field_bytes(_read(f"/proc/{pid}/smaps_rollup"), "Pss") for pid in launched.processes)
    except (FileNotFoundError, ProcessLookupError, KeyError) as error:
        detail = f"a process of {launched.processes} ended while its memory was read: {error}"
        raise LaunchFailed("exited_early", detail) from error
    except PermissionError as error:
        raise Unsupported("no_permission", f"{error.filename}: {error.strerror}; run as root") from error


def charged_bytes(launched: Launched) -> int:
    """What the memory group around the instance is charged with."""
    if not launched.cgroup:
        raise Unsupported("no_permission", "the instance has no memory group; run as root with a writable cgroup tree")
    return Group.at(launched.cgroup, detect(), ("memory",)).memory().total_bytes


def _read(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def _weigh(alive: Sequence[Live], before: int, touched_bytes: int) -> Ledgers:
    fall = before - available_bytes()
    return Ledgers(
        n=len(alive),
        cgroup=statistics.fmean(charged_bytes(live.launched) for live in alive),
        pss=statistics.fmean(pss_bytes(live.launched) for live in alive),
        available=fall / len(alive),
        touched_bytes=touched_bytes,
    )


def _warm_up(slot: Slot) -> None:
    """A discarded instance before each slot; where a start takes seconds, before the backend's first slot only."""
    seen = Path(slot.shared_dir(), f"warm-{slot.backend}")
    if slot.medium == "disk" and seen.exists():
        return
    with slot.launch(accounting=True) as warm:
        warm.finish()
    seen.touch()


@dataclass(frozen=True, slots=True)
class Memory:
    """`cgroup pss available residual` per instance, at N alive."""

    name: str = "memory"

    def available(self) -> tuple[str, str] | None:
        return None

    def prepare(self, shared_dir: str, site: Site) -> None:
        """Nothing is shared."""

    def measure(self, slot: Slot) -> Iterator[Reading]:
        dose_bytes = whole_pages(dosed_amount(slot, "pss"))
        _warm_up(slot)
        before = available_bytes()
        t_ns = time.monotonic_ns()
        count = instances_for(slot.medium, slot.site.run_id, slot.block)
        with slot.launch_all(count, accounting=True) as alive:
            for live in alive:  # also of nothing: every instance has answered one request, dosed or not
                live.channel.request("touch", str(dose_bytes), timeout_s=slot.timeout_s)
            ledgers = _weigh(alive, before, dose_bytes)
            for live in alive:
                live.finish()
        yield from readings(ledgers, slot.typical, alive[0].launched.instance, t_ns)
