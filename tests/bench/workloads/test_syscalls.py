from __future__ import annotations

import pytest

from bench.workloads import syscalls
from bench.workloads.syscalls import OPERATIONS, Point, Syscalls, asked_for, fit, largest_claim, loop_counts, readings
from results.schema import SYSCALL_OPERATIONS


def line(slope, intercept, counts=(100, 200, 300, 400, 500), payload=None):
    return [Point(n, intercept + slope * n, (payload or slope) * n) for n in counts]


def test_the_slope_does_not_hold_the_channels_own_time():
    fitted = fit(line(50, 30_000))
    assert fitted.per_operation_ns == pytest.approx(50)
    assert fitted.linearity == pytest.approx(0, abs=1e-12)
    assert fitted.span_ns == 20_000


def test_a_bent_line_shows_in_linearity():
    points = line(50, 0)
    points[2] = Point(300, 17_000, 15_000)
    assert fit(points).linearity == pytest.approx(1_600 / 20_000)  # a fifth of the bend goes into the line


def test_the_payloads_clock_is_compared_by_slope():
    assert fit(line(50, 30_000, payload=51)).payload_clock == pytest.approx(0.02)


def test_spread_is_the_interquartile_range_and_ignores_one_straggler():
    assert syscalls.spread_of([10, 11, 12, 13, 14, 15, 16, 5_000]) < 10


def test_counts_span_what_is_asked_for():
    counts = loop_counts(100.0, 4_000_000, 10**9)
    assert len(set(counts)) == 5
    assert (max(counts) - min(counts)) * 100 == 4_000_000


def test_counts_stay_apart_for_slow_operations_and_below_their_limit():
    assert loop_counts(5e6, 4e6, 10**9) == (4, 8, 12, 16, 20)
    assert max(loop_counts(1.0, 4e6, 16_384)) == 16_384


def test_the_span_aimed_at_follows_the_channel_between_its_bounds():
    assert syscalls.wanted_span_ns(1) == syscalls.SPAN_BOUNDS_NS[0]
    assert syscalls.wanted_span_ns(100_000) == 15_000_000
    assert syscalls.wanted_span_ns(10**9) == syscalls.SPAN_BOUNDS_NS[1]


@pytest.mark.parametrize("dose", [0.0, 0.05, 0.25])
def test_pages_asked_for_stay_within_what_the_payload_may_take(dose):
    counts = loop_counts(1.0, 1e12, largest_claim("page_fault_cold", 2_340, dose))
    assert 2_340 + sum(asked_for(count, dose) for count in counts) <= syscalls.COLD_PAGES + len(counts)
    counts = loop_counts(1.0, 1e12, largest_claim("page_fault_backed", 0, dose))
    assert max(asked_for(count, dose) for count in counts) <= syscalls.BACKED_PAGES


def test_cold_pages_come_before_any_memory_is_given_back():
    assert OPERATIONS[0] == "page_fault_cold"
    assert sorted(OPERATIONS) == sorted(SYSCALL_OPERATIONS)


def test_a_span_below_the_channels_noise_is_invalid_not_a_number():
    (row,) = readings("read", fit(line(50, 0)), 201.0, "i", 0, {})
    assert (row.value, row.status, row.reason) == (None, "invalid", "span_too_short")
    assert len(list(readings("read", fit(line(50, 0)), 200.0, "i", 0, {}))) == 3


def test_every_operation_of_a_real_payload_gets_its_figure_and_its_checks(slot):
    found = list(Syscalls().measure(slot))
    figures = {reading.metric: reading for reading in found if reading.workload is None}
    assert set(figures) == set(SYSCALL_OPERATIONS)
    for reading in figures.values():
        assert reading.status in ("ok", "invalid")  # a loaded machine may bend a line
        assert len(reading.parameters["counts"]) == 5
    good = {metric for metric, reading in figures.items() if reading.status == "ok"}
    assert good
    checked = {reading.parameters["of"] for reading in found if reading.workload == "checks"}
    assert checked == {f"syscalls/{metric}" for metric in good}
    assert "page_fault_cold" not in good or figures["page_fault_cold"].value > 50  # zeroing 4 KiB takes that at least


def test_a_trial_does_not_take_the_cost_of_a_loop_for_that_of_its_operation():
    talk = syscalls._Talk(None, 1.0)
    fixed_ns, each_ns = 2_000_000, 500
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(syscalls._Talk, "loop", lambda self, operation, count: (fixed_ns + each_ns * count, 0))
        rough_ns, spent = talk.trial("read", 500_000, 10**9)
    assert rough_ns == each_ns
    assert spent == 2 * sum(4**step for step in range(1, 7))


def test_counts_come_in_an_order_drawn_for_the_block(slot):
    def order(block):
        slot.block = block
        counts = next(iter(Syscalls().measure(slot))).parameters["counts"]
        return [sorted(counts).index(count) for count in counts]

    assert order(3) == order(3)
    assert len({tuple(order(block)) for block in range(6)}) > 1


def test_the_control_claims_fewer_iterations_than_it_runs(slot):
    slot.role, slot.dose = "control", 0.25
    asked = []
    with slot.launch() as live:
        talk = syscalls._Talk(live.channel, slot.timeout_s)
        timed = live.channel.timed

        def listen(*words, timeout_s):
            asked.append(int(words[2]))
            return timed(*words, timeout_s=timeout_s)

        live.channel.timed = listen
        points = list(talk.points("getppid", [100, 200], slot.dose))
    assert [point.count for point in points] == [100, 200]
    assert asked == [0, 125, 0, 250]
