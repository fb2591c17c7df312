"""The host's clocks."""

from __future__ import annotations

import time

from bench.clock import now_ns, suspended_ns


def test_now_is_the_monotonic_clock():
    before_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    assert before_ns <= now_ns() <= time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_suspended_time_is_what_boot_time_has_more_than_the_monotonic_clock():
    monotonic_ns = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
    boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert suspended_ns() >= 0
    assert time.clock_gettime_ns(time.CLOCK_MONOTONIC) + suspended_ns() >= boot_ns
    assert suspended_ns() <= time.clock_gettime_ns(time.CLOCK_BOOTTIME) - monotonic_ns
