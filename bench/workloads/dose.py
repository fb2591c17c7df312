"""The positive control's scale: a dose is a share of the controlled backend's own typical figure (DESIGN section 6)."""

from __future__ import annotations

from bench.workloads.base import Slot
from isolation.api import Unsupported


def dosed_amount(slot: Slot, metric: str) -> float:
    """`slot.dose` of the pilot's median of `metric`, in that metric's unit; 0.0 for a slot without a dose.

    Raises Unsupported where the pilot left no median to take a share of.
    """
    if not slot.dose:
        return 0.0
    if metric not in slot.typical:
        detail = f"the pilot gave no {slot.workload} {metric} of {slot.backend}, so the dose has no size"
        raise Unsupported("no_pilot", detail)
    return slot.dose * slot.typical[metric]
