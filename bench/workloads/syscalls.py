"""Cost of one system call or page fault: the slope of host time over loop count (DESIGN section 5).

One instance a slot.  The host times request and reply of a loop inside the instance; the channel's own time is the
same at every count, so it falls out of the slope.  Counts are chosen by one rule for every backend: the span of
times is to be 100 times the channel's own spread, else the figure is `invalid`.  A `COUNT 0` goes before each timed
loop, so that what the payload does after its last reply (giving pages back) is over when the clock starts.

`page_fault_cold` comes first and gets no page back meanwhile: once memory has been freed inside a guest, its next
faults find pages that the host has backed already.  All pages together fit into a guest of 256 MiB.  They are
released before the next operation, since a fork copies the tables of what is mapped.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.payload.protocol import Channel, LoopReply
from bench.workloads.base import Reading, Slot
from isolation.api import Site
from results.schema import SYSCALL_OPERATIONS

OPERATIONS = ("page_fault_cold", *(name for name in SYSCALL_OPERATIONS if name != "page_fault_cold"))
STEPS = 5
"""Loop counts of one operation: a fifth of the largest, two fifths ..."""
SMALLEST_TOP = 20
"""The largest count is at least this, however long one operation takes."""
SPAN_OVER_SPREAD = 100
AIM_OVER_SPREAD = 150
"""Counts are set from one short trial, so the aim lies above what is required."""
SPAN_BOUNDS_NS = (5_000_000, 60_000_000)
"""Shortest span worth a fit beside scheduling noise, and the longest that a slot has time for."""
SPREAD_REQUESTS = 32
TRIAL_START, TRIAL_GROWTH, TRIAL_SHARE = 4, 4, 8
"""A trial's counts, and the share of the largest count that it may reach."""
COLD_PAGES = 24576
"""Fresh pages of one instance, trials included: 96 MiB."""
BACKED_PAGES = 16384
"""Pages that the payload keeps for `page_fault_backed`."""


@dataclass(frozen=True, slots=True)
class Point:
    """One timed loop: what was claimed, by the host's clock and by the payload's own."""

    count: int
    host_ns: int
    payload_ns: int


@dataclass(frozen=True, slots=True)
class Fit:
    """A least-squares line through the points."""

    per_operation_ns: float
    payload_per_operation_ns: float
    span_ns: int
    """Longest minus shortest host time."""
    linearity: float
    """Largest departure from the line, over the span."""

    @property
    def payload_clock(self) -> float:
        return self.payload_per_operation_ns / self.per_operation_ns - 1


def fit(points: Sequence[Point]) -> Fit:
    """Host time over claimed count, and the payload's own slope as the cross-check. Needs two different counts."""
    counts = [point.count for point in points]
    host = [point.host_ns for point in points]
    slope, intercept = statistics.linear_regression(counts, host)
    payload_slope, _ = statistics.linear_regression(counts, [point.payload_ns for point in points])
    span_ns = max(host) - min(host)
    departure = max(abs(point.host_ns - intercept - slope * point.count) for point in points)
    return Fit(slope, payload_slope, span_ns, departure / span_ns)


def spread_of(times_ns: Sequence[int]) -> float:
    """Interquartile range: how far two requests of equal work differ."""
    low, _, high = statistics.quantiles(times_ns, n=4)
    return high - low


def wanted_span_ns(spread_ns: float) -> float:
    shortest, longest = SPAN_BOUNDS_NS
    return min(max(AIM_OVER_SPREAD * spread_ns, shortest), longest)


def loop_counts(per_operation_ns: float, span_ns: float, limit: int) -> tuple[int, ...]:
    """Equal steps up to the count whose times span `span_ns`, within SMALLEST_TOP and `limit`."""
    top = span_ns / per_operation_ns * STEPS / (STEPS - 1)
    top = max(min(top, limit), SMALLEST_TOP)
    return tuple(round(top * step / STEPS) for step in range(1, STEPS + 1))


def largest_claim(operation: str, pages_used: int, dose: float) -> int:
    """The largest loop count that may be claimed, so that what is asked for stays within the payload's pages."""
    if operation == "page_fault_cold":
        all_steps = (STEPS + 1) / 2  # the counts together, in units of the largest
        return int((COLD_PAGES - pages_used) / all_steps / (1 + dose))
    if operation == "page_fault_backed":
        return int(BACKED_PAGES / (1 + dose))
    return 10**9


def asked_for(count: int, dose: float) -> int:
    """The control's loop does more than it claims."""
    return round(count * (1 + dose))


def readings(
    operation: str, fitted: Fit, spread_ns: float, instance: str, t_ns: int, parameters: Mapping[str, Any]
) -> Iterator[Reading]:
    """The figure and its two cross-checks; without the span that was required, the figure is `invalid`."""
    of = {"of": f"syscalls/{operation}"}
    if fitted.span_ns < SPAN_OVER_SPREAD * spread_ns or fitted.per_operation_ns <= 0:
        detail = (
            f"loops span {fitted.span_ns / 1e6:.3f} ms at a slope of {fitted.per_operation_ns:.1f} ns; required is a "
            f"rising line and {SPAN_OVER_SPREAD} times the channel's spread of {spread_ns / 1e6:.3f} ms"
        )
        yield Reading(operation, None, instance, t_ns, parameters, "invalid", "span_too_short", detail)
        return
    yield Reading(operation, fitted.per_operation_ns, instance, t_ns, parameters)
    yield Reading("linearity", fitted.linearity, instance, t_ns, of, workload="checks")
    yield Reading("payload_clock", fitted.payload_clock, instance, t_ns, of, workload="checks")


@dataclass(frozen=True, slots=True)
class _Talk:
    """Timed loops over one channel."""

    channel: Channel
    timeout_s: float

    def loop(self, operation: str, count: int) -> tuple[int, int]:
        """(host time, payload's own time) of one loop, in nanoseconds."""
        timed = self.channel.timed("loop", operation, str(count), timeout_s=self.timeout_s)
        return timed.elapsed_ns, LoopReply.parse(timed.reply).elapsed_ns

    def trial(self, operation: str, enough_ns: float, limit: int) -> tuple[float, int]:
        """(time of one operation, roughly; iterations spent): counts grow till one more step takes `enough_ns`.

        The shorter of two loops counts: what a first one finds cold, or a preempted one waits for, says nothing.
        """
        count, spent, shorter_ns = TRIAL_START, 2 * TRIAL_START, self._shorter(operation, TRIAL_START)
        while True:
            count *= TRIAL_GROWTH
            longer_ns = self._shorter(operation, count)
            spent += 2 * count
            if longer_ns - shorter_ns >= enough_ns or count * TRIAL_GROWTH > limit:
                return max((longer_ns - shorter_ns) / (count - count // TRIAL_GROWTH), 1.0), spent
            shorter_ns = longer_ns

    def _shorter(self, operation: str, count: int) -> int:
        return min(self.loop(operation, count)[0] for _ in range(2))

    def points(self, operation: str, counts: Sequence[int], dose: float) -> Iterator[Point]:
        for count in counts:
            self.loop(operation, 0)
            yield Point(count, *self.loop(operation, asked_for(count, dose)))


@dataclass(frozen=True, slots=True)
class Syscalls:
    """Nanoseconds per operation, all operations in one instance."""

    name: str = "syscalls"

    def available(self) -> tuple[str, str] | None:
        return None

    def prepare(self, shared_dir: str, site: Site) -> None:
        """Nothing is shared."""

    def measure(self, slot: Slot) -> Iterator[Reading]:
        with slot.launch() as live:
            talk = _Talk(live.channel, slot.timeout_s)
            empty_ns = [talk.loop("getppid", 0)[0] for _ in range(SPREAD_REQUESTS)]
            spread_ns = spread_of(empty_ns)
            span_ns = wanted_span_ns(spread_ns)
            for operation in OPERATIONS:
                t_ns = time.monotonic_ns()
                talk.loop(operation, 0)
                limit = largest_claim(operation, 0, 0.0)
                rough_ns, spent = talk.trial(operation, span_ns / STEPS / 2, limit // TRIAL_SHARE)
                counts = list(loop_counts(rough_ns, span_ns, largest_claim(operation, spent, slot.dose)))
                random.Random(f"{slot.site.run_id}/{slot.block}/{operation}").shuffle(counts)
                fitted = fit(tuple(talk.points(operation, counts, slot.dose)))
                parameters = {"counts": counts, "spread_ns": round(spread_ns), "span_ns": fitted.span_ns}
                if slot.dose:
                    parameters["dose"] = slot.dose
                yield from readings(operation, fitted, spread_ns, live.launched.instance, t_ns, parameters)
                live.channel.request("release", timeout_s=slot.timeout_s)
            live.finish()
