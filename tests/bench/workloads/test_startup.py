from __future__ import annotations

from dataclasses import replace

import pytest

from bench.workloads.startup import Startup, readings, tool_reading
from isolation.api import Exit, Finished, Launched, Unsupported

LAUNCHED = Launched("i-1", "process", "native", 1_000, 4_000, (1,), "")
FINISHED = Finished("i-1", 10_000, 10_700, 10_750, Exit(0, None, 2_500))


def values(found):
    return {reading.metric: reading.value for reading in found}


def test_figures_are_differences_of_the_launchers_stamps():
    found = list(readings(LAUNCHED, FINISHED, {}))
    assert values(found) == {"ready": 3_000, "exit": 700, "gone": 50, "cpu": 2_500}
    assert {(reading.instance, reading.t_ns) for reading in found} == {("i-1", 1_000)}


def test_cpu_time_that_nobody_knows_is_unsupported_not_zero():
    unknown = replace(FINISHED, exit=Exit(0, None, None))
    cpu = list(readings(LAUNCHED, unknown, {}))[-1]
    assert (cpu.metric, cpu.value, cpu.status, cpu.reason) == ("cpu", None, "unsupported", "not_reported")


def test_a_backend_without_a_tool_says_so():
    assert tool_reading(None, 5).status == "unsupported"
    assert tool_reading(1_200, 5).value == 1_200


def test_a_slot_launches_once_primed_then_in_a_row(slot):
    slot.repeats, slot.tool_ns = 3, 1_000
    found = list(Startup().measure(slot))
    assert [prime for _, prime in slot.launches] == [True, False, False]
    assert [reading.metric for reading in found].count("ready") == 3
    assert found[-1].metric == "tool"
    assert all(reading.status == "ok" and reading.value > 0 for reading in found)
    assert len({reading.instance for reading in found if reading.metric == "ready"}) == 3


def test_the_control_waits_before_its_first_byte_and_says_how_long(slot):
    slot.role, slot.dose, slot.typical = "control", 0.1, {"ready": 300e6}
    found = list(Startup().measure(slot))
    dosed = {reading.metric: dict(reading.parameters) for reading in found}
    assert slot.launches[0][0] == ("delay_ns=30000000",)
    assert dosed["ready"] == {"dose": 0.1, "delay_ns": 30_000_000}
    assert dosed["exit"] == {}
    assert values(found)["ready"] > 30e6


def test_a_dose_without_a_pilot_has_no_size(slot):
    slot.role, slot.dose = "control", 0.1
    with pytest.raises(Unsupported, match="no_pilot"):
        list(Startup().measure(slot))
