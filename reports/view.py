"""What charts, tables and claims all ask of an Analysis: labels, order, lanes, and a cell in words."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from reports.units import NONE, plain, with_interval
from results.analysis import Analysis, Cell, CellKey
from results.schema import BASELINE, COMPARABLE_LANES

LANE_WORDS = {
    "nested": "nested virtualisation: a hypervisor under the hypervisor",
    "tcg": "software emulation: not a measurement of virtualisation",
    "ptrace": "gVisor on ptrace: every system call is stopped and traced",
    "systrap": "gVisor on systrap: system calls are trapped and emulated",
}

_FAMILIES = {"process": "baseline", "chroot": "baseline", "floor": "baseline", "container": "container",
             "unshare": "container", "vm": "vm", "qemu": "vm", "uml": "vm"}  # fmt: skip


@dataclass(frozen=True, slots=True)
class LaneGroup:
    """Cells that may share an axis."""

    key: str
    title: str
    words: str
    """What must be said beside every figure; empty for native and KVM."""
    cells: tuple[Cell, ...]


def family(backend: str) -> str:
    """The colour role of a backend: what kind of isolation it is."""
    if backend == "floor-kvm":
        return "vm"
    return _FAMILIES.get(backend.split("-")[0], "runtime")


def rank(analysis: Analysis, backend: str) -> tuple[int, str]:
    """The baseline first, then in the order of the manifest."""
    names = [record.backend for record in analysis.manifest.backends]
    if backend == BASELINE:
        return -1, backend
    return (names.index(backend) if backend in names else len(names)), backend


def cells_of(analysis: Analysis, workload: str, metrics: Iterable[str] = (), role: str = "subject") -> tuple[Cell, ...]:
    wanted = tuple(metrics)
    found = [
        cell
        for cell in analysis.cells
        if cell.key.workload == workload and cell.key.role == role and (not wanted or cell.key.metric in wanted)
    ]
    order = {metric: index for index, metric in enumerate(wanted)}
    return tuple(
        sorted(found, key=lambda c: (order.get(c.key.metric, 0), rank(analysis, c.key.backend), c.key.profile))
    )


def lane_groups(cells: Iterable[Cell]) -> tuple[LaneGroup, ...]:
    """Native and KVM together, every other lane alone (the lane rule). A cell that never ran has no value to
    confuse, so one without a known lane stands among the comparable.
    """
    cells = tuple(cells)
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        lane = cell.key.lane
        comparable = lane in COMPARABLE_LANES or (lane not in LANE_WORDS and cell.median is None)
        groups.setdefault("native" if comparable else lane, []).append(cell)
    order = ["native", *LANE_WORDS]
    ordered = sorted(groups.items(), key=lambda item: order.index(item[0]) if item[0] in order else len(order))
    return tuple(LaneGroup(lane, lane_title(lane, found), lane_words(lane), tuple(found)) for lane, found in ordered)


def lane_title(lane: str, cells: Iterable[Cell] = ()) -> str:
    if lane == "native":
        return "native and KVM" if any(cell.key.lane == "kvm" for cell in cells) else "native"
    return "TCG" if lane == "tcg" else plain(lane)


def lane_words(lane: str) -> str:
    if lane in COMPARABLE_LANES:
        return ""
    return LANE_WORDS.get(lane, "a lane of its own: not comparable with native figures")


def foreign_lanes(analysis: Analysis) -> tuple[str, ...]:
    """Lanes with figures in this run that may not be compared with native ones."""
    return tuple(group.key for group in lane_groups(analysis.cells) if group.words)


def backend_label(key: CellKey) -> str:
    """The backend, with its profile where it is not the one that its name stands for."""
    usual = {"-", "", "default", key.backend.partition("-")[2]}
    return plain(key.backend if key.profile in usual else f"{key.backend} · {key.profile}")


def why_missing(cell: Cell) -> str:
    """`unsupported: not_installed`, or whatever statuses and reasons the cell has instead of a value."""
    status = ", ".join(status for status, _ in cell.counts if status != "ok") or "no samples"
    reasons = ", ".join(dict.fromkeys(reason for reason, _, _ in cell.reasons if reason))
    return plain(f"{status}: {reasons}" if reasons else status)


def troubles(cell: Cell) -> int:
    """Rows of the cell that are not ok."""
    return sum(number for status, number in cell.counts if status != "ok")


def samples(cell: Cell) -> int:
    return sum(number for _, number in cell.counts)


def figure(cell: Cell) -> str:
    """The median with its interval, or why there is none."""
    if cell.median is None:
        return why_missing(cell)
    words = with_interval(cell.median, cell.interval, cell.metric.unit)
    bad = troubles(cell)
    return f"{words} · {bad} not ok" if bad else words


def quantile(cell: Cell, wanted: float) -> float | None:
    return dict(cell.quantiles).get(wanted)


def remark(cell: Cell) -> str:
    """The cell's note, and its troubles with one detail each."""
    parts = [cell.note] if cell.note else []
    parts += [
        f"{number} × {reason or 'not ok'}: {detail}" if detail else f"{number} × {reason}"
        for reason, detail, number in cell.reasons
    ]
    return plain("; ".join(parts)) or NONE


def sentence(text: str) -> str:
    """With a capital at its beginning."""
    return text[:1].upper() + text[1:]


def virtualised(analysis: Analysis) -> bool:
    """Whether the host says of itself that it is a virtual machine."""
    return analysis.manifest.host.get("virtualised") not in {None, False, "", "no", "none"}
