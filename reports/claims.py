"""The essay's fifteen claims, each with what this run can say about it, by rule from data that exist already.

A rule is a function from the Analysis to a `Finding`. A claim without a rule was not measured, and says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from reports.units import plain, with_interval
from reports.view import backend_label, cells_of, family
from results.analysis import Analysis, Comparison
from results.schema import BASELINE, COMPARABLE_LANES, BackendRecord

Standing = Literal["holds", "does not hold", "depends", "cannot be told here"]
NOT_MEASURED = "Not measured in this run."
QUICK_NS = 1e9
"""A machine that answers within a second is not slow to start: the bound of claim 12, said wherever it is used."""


@dataclass(frozen=True, slots=True)
class Finding:
    standing: Standing
    evidence: str
    section: str = ""
    """Id of the section that shows the figures, where there is one."""


@dataclass(frozen=True, slots=True)
class Claim:
    key: str
    text: str
    finding: Finding


def claims(analysis: Analysis) -> tuple[Claim, ...]:
    """All fifteen, in the essay's order."""
    return tuple(Claim(key, text, _RULES.get(key, _not_measured)(analysis)) for key, text in _TEXTS.items())


_TEXTS = {
    "C1": "A container shares the host's kernel; a virtual machine can boot another.",
    "C2": "A container is a group of host processes that the host's ps shows; a virtual machine is opaque.",
    "C3": "Namespaces decide what a process sees.",
    "C4": "Control groups meter and limit processor, memory, I/O and devices, in a hierarchy.",
    "C5": "The first process of a PID namespace is PID 1: it adopts orphans, ignores signals it does not handle, "
    "and takes the namespace down with it.",
    "C6": "Root in a user namespace is not root outside.",
    "C7": "A root filesystem is swapped by chroot or, safely, by pivot_root; chroot alone can be escaped.",
    "C8": "Copy-on-write storage is why containers start fast and stay small.",
    "C9": "Volumes and bind mounts share data and keep it.",
    "C10": "Container runtimes perform alike, since they use the same features of the kernel.",
    "C11": "Virtual machines isolate more strongly, with the processor's help.",
    "C12": "Virtual machines are not necessarily slow to start.",
    "C13": "Seccomp, capabilities, SELinux and AppArmor add isolation, at a cost.",
    "C14": "Application containers differ from OS containers, which run an init and services.",
    "C15": "Devices are reached through device files that the control group may allow or refuse.",
}


def _not_measured(_: Analysis) -> Finding:
    return Finding("cannot be told here", NOT_MEASURED)


def _host_boot_id(analysis: Analysis) -> Any:
    """What the bare process read, which shares the host's kernel; else what the manifest says of the host."""
    seen = (r.parity.get("boot_id") for r in analysis.manifest.backends if r.backend == BASELINE)
    return next(filter(None, seen), analysis.manifest.host.get("boot_id"))


def _records(analysis: Analysis, *families: str) -> list[BackendRecord]:
    return [r for r in analysis.manifest.backends if r.available and family(r.backend) in families]


def _kernels(analysis: Analysis) -> Finding:
    """C1: boot ids are compared, since two kernels may bear one name."""
    host = _host_boot_id(analysis)
    seen = {r.backend: r.parity.get("boot_id") for r in _records(analysis, "container", "runtime")}
    containers = {name: boot for name, boot in seen.items() if boot}
    machines = {r.backend: r.parity.get("boot_id") for r in _records(analysis, "vm") if r.parity.get("boot_id")}
    if not host or not containers:
        return Finding("cannot be told here", "No container's boot id could be compared with the host's in this run.")
    strangers = [name for name, boot in containers.items() if boot != host]
    if strangers:
        standing: Standing = "depends" if len(strangers) < len(containers) else "does not hold"
        return Finding(standing, f"{_and(strangers)} ran under another boot id than the host's.", "environment")
    same = f"{_and(containers)} saw the boot id of the host"
    if not machines:
        return Finding("cannot be told here", f"{same}; no virtual machine ran to compare with.", "environment")
    sharing = [name for name, boot in machines.items() if boot == host]
    if sharing:
        return Finding("does not hold", f"{same}, but so did {_and(sharing)}.", "environment")
    kernels = [f"{r.backend} booted {r.parity['kernel']}" for r in _records(analysis, "vm") if r.parity.get("kernel")]
    return Finding("holds", f"{same}; {_and(kernels or list(machines))} under a boot id of its own.", "environment")


def _processes(analysis: Analysis) -> Finding:
    """C2, by whether the host's process table held the payload."""
    containers, machines = (
        {r.backend: r.parity["payload_visible_on_host"] for r in records if "payload_visible_on_host" in r.parity}
        for records in (_records(analysis, "container", "runtime"), _records(analysis, "vm"))
    )
    if not containers:
        return _not_measured(analysis)
    hidden = [name for name, visible in containers.items() if not visible]
    if hidden:
        standing: Standing = "depends" if len(hidden) < len(containers) else "does not hold"
        return Finding(standing, f"The host did not see the payload of {_and(hidden)}.", "environment")
    seen = f"The host saw the payload of {_and(containers)}"
    if not machines:
        return Finding("cannot be told here", f"{seen}; no virtual machine ran to compare with.", "environment")
    open_to_view = [name for name, visible in machines.items() if visible]
    if open_to_view:
        return Finding("does not hold", f"{seen}, and that of {_and(open_to_view)} as well.", "environment")
    return Finding("holds", f"{seen}, and not that of {_and(machines)}.", "environment")


def _namespaces(analysis: Analysis) -> Finding:
    """C3: which namespaces were its own is known, what they hid was not probed."""
    parts = []
    for record in _records(analysis, "container", "runtime"):
        own = record.parity.get("namespaces")
        if own is not None:
            parts.append(
                f"{record.backend} had its own {_and(own)}" if own else f"{record.backend} had none of its own"
            )
    if not parts:
        return _not_measured(analysis)
    evidence = f"{'; '.join(parts)}. What each of them hides was not probed in this run."
    return Finding("cannot be told here", evidence, "environment")


def _alike(analysis: Analysis) -> Finding:
    """C10: equivalence must have been shown, pair by pair; a missing difference is no evidence."""
    pairs = [c for c in analysis.comparisons if _between_runtimes(c)]
    if not pairs:
        return Finding(
            "cannot be told here", "Runtimes were compared with the bare process, not with each other, in this run."
        )
    different = [c for c in pairs if c.verdict in {"faster", "slower"}]
    equal = [c for c in pairs if c.verdict == "equivalent"]
    counted = (
        f"Of {len(pairs)} comparisons between runtimes, {len(equal)} showed equivalence, {len(different)} a difference"
    )
    if different and equal:
        unlike = _and(list(dict.fromkeys(c.key.workload for c in different)))
        return Finding("depends", f"{counted} (in {unlike}).", "verdicts")
    if different:
        widest = max(different, key=lambda c: abs((c.ratio or 1) - 1))
        sides = f"{backend_label(widest.key)} was {widest.verdict} than {backend_label(widest.baseline)}"
        words = f"{sides} in {widest.key.workload} {widest.key.metric}"
        return Finding("does not hold", f"{counted}; {words}.", "verdicts")
    if len(equal) == len(pairs):
        return Finding("holds", f"{counted}.", "verdicts")
    return Finding("cannot be told here", f"{counted}; the others are inconclusive or have no verdict.", "verdicts")


def _between_runtimes(comparison: Comparison) -> bool:
    sides = {family(comparison.key.backend), family(comparison.baseline.backend)}
    return (
        comparison.key.role == "subject"
        and sides <= {"container", "runtime"}
        and comparison.key.backend != comparison.baseline.backend
    )


def _slow_to_start(analysis: Analysis) -> Finding:
    """C12, on hardware virtualisation alone."""
    cells = [
        c for c in cells_of(analysis, "startup", ("ready",)) if family(c.key.backend) == "vm" and c.median is not None
    ]
    fair = [cell for cell in cells if cell.key.lane in COMPARABLE_LANES]
    if not fair:
        emulated = [
            f"{backend_label(c.key)} needed {with_interval(c.median, c.interval, 'ns')} in lane {c.key.lane}"
            for c in cells
        ]
        told = (
            f"{_and(emulated)}, which says nothing about hardware virtualisation."
            if emulated
            else "No virtual machine ran."
        )
        return Finding("cannot be told here", told, "startup" if emulated else "")
    words = _and([f"{backend_label(c.key)} answered after {with_interval(c.median, c.interval, 'ns')}" for c in fair])
    evidence = f"{words}; the bound taken for slow is one second."
    bounded = [cell.interval for cell in fair if cell.interval is not None]
    if any(interval.high < QUICK_NS for interval in bounded):
        return Finding("holds", evidence, "startup")
    if len(bounded) == len(fair) and all(interval.low > QUICK_NS for interval in bounded):
        return Finding("does not hold", evidence, "startup")
    return Finding("depends" if bounded else "cannot be told here", evidence, "startup")


def _and(words: Any) -> str:
    """`a, b and c`."""
    listed = [plain(str(word)) for word in words]
    return listed[0] if len(listed) == 1 else f"{', '.join(listed[:-1])} and {listed[-1]}" if listed else ""


_RULES: Mapping[str, Callable[[Analysis], Finding]] = {
    "C1": _kernels,
    "C2": _processes,
    "C3": _namespaces,
    "C10": _alike,
    "C12": _slow_to_start,
}
