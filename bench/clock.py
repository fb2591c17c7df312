"""The host's clocks: every duration in a run comes from `now_ns` (DESIGN section 5)."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Host CLOCK_MONOTONIC in nanoseconds: never steps back, stands still while the host is suspended."""
    return time.monotonic_ns()


def suspended_ns() -> int:
    """Nanoseconds this host has spent suspended since boot: CLOCK_BOOTTIME minus CLOCK_MONOTONIC.

    The two clocks are read one after the other, so a difference between two calls means a suspend only where it
    is far above the microseconds that reading takes.
    """
    monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME) - monotonic_ns
