"""Start, end and removal of an instance, on the host's clock, by the stamps that the launcher takes (DESIGN section 5).

A slot does its launches in a row after one untimed priming launch, so that the predecessor of each is a launch of
the same backend.  The control's payload waits before its first byte, which lengthens `ready` and nothing else.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.workloads.base import Reading, Slot
from bench.workloads.dose import dosed_amount
from isolation.api import Finished, Launched, Site


def readings(launched: Launched, finished: Finished, dose: Mapping[str, Any]) -> Iterator[Reading]:
    """The four figures of one launch; `dose` stands in the parameters of `ready`, the metric that was dosed."""
    instance, t0_ns = launched.instance, launched.t0_ns
    yield Reading("ready", launched.t1_ns - t0_ns, instance, t0_ns, dose)
    yield Reading("exit", finished.exit_ns, instance, t0_ns)
    yield Reading("gone", finished.gone_ns, instance, t0_ns)
    if finished.exit.cpu_ns is None:
        detail = "this backend does not learn what its processes were charged"
        yield Reading("cpu", None, instance, t0_ns, {}, "unsupported", "not_reported", detail)
    else:
        yield Reading("cpu", finished.exit.cpu_ns, instance, t0_ns)


def tool_reading(tool_ns: int | None, t_ns: int) -> Reading:
    """What the runtime's own command costs before it does anything."""
    if tool_ns is None:
        return Reading("tool", None, "", t_ns, {}, "unsupported", "no_tool", "this backend runs no command of its own")
    return Reading("tool", tool_ns, "", t_ns)


@dataclass(frozen=True, slots=True)
class Startup:
    """`ready exit gone cpu` of each launch, `tool` once per slot."""

    name: str = "startup"

    def available(self) -> tuple[str, str] | None:
        return None

    def prepare(self, shared_dir: str, site: Site) -> None:
        """Nothing is shared."""

    def measure(self, slot: Slot) -> Iterator[Reading]:
        delay_ns = round(dosed_amount(slot, "ready"))
        arguments = (f"delay_ns={delay_ns}",) if delay_ns else ()
        dose = {"dose": slot.dose, "delay_ns": delay_ns} if slot.dose else {}
        for launch in range(slot.repeats):
            with slot.launch(arguments=arguments, prime=launch == 0) as live:
                finished = live.finish()
            yield from readings(live.launched, finished, dose)
        t_ns = time.monotonic_ns()
        yield tool_reading(slot.tool(), t_ns)
