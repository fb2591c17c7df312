"""Tables of the page that stand beside no chart: overview, verdicts, cells, parity, environment."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from reports.parts import by_backend
from reports.units import (
    NONE,
    duration_text,
    interval_text,
    percent,
    plain,
    scale_for,
    significant,
    value_text,
    with_interval,
)
from reports.view import (
    backend_label,
    cells_of,
    figure,
    lane_groups,
    lane_title,
    rank,
    remark,
    samples,
    sentence,
    troubles,
)
from results.analysis import Analysis, Cell, CellKey, Comparison
from results.schema import BASELINE, COMPARABLE_LANES, REGISTRY, ROLES, BackendRecord

OVERVIEW = (
    ("startup", "ready", "Start, to first byte"),
    ("startup", "gone", "Exit, until all is gone"),
    ("memory", "cgroup", "Memory, by cgroup"),
    ("memory", "pss", "Memory, by PSS"),
    ("syscalls", "getppid", "Null system call"),
    ("syscalls", "fork_exit", "Fork and exit"),
    ("syscalls", "page_fault_cold", "Cold page fault"),
    ("storage", "randread_4k_direct", "4 KiB random reads"),
    ("storage", "write_1m_direct", "1 MiB writes"),
)
"""What the overview shows: a figure or two of each workload, direct storage only."""


@dataclass(frozen=True, slots=True)
class Banner:
    """A lane that is no measurement at native speed, and who ran in it."""

    title: str
    backends: str
    words: str


@dataclass(frozen=True, slots=True)
class OverviewEntry:
    value: str
    note: str = ""
    """Its interval, or why there is no value."""
    ratio: str = ""
    """Against the bare process, where the lanes allow it."""


@dataclass(frozen=True, slots=True)
class OverviewLane:
    title: str
    words: str
    rows: tuple[tuple[str, tuple[OverviewEntry, ...]], ...]


@dataclass(frozen=True, slots=True)
class VerdictRow:
    metric: str
    backend: str
    baseline: str
    lane: str
    blocks: int
    effect: str
    difference: str
    verdict: str
    """faster, slower, equivalent, inconclusive, or empty."""
    remarks: tuple[str, ...]
    """The p-values that the verdict rests on, and why there is none."""
    detectable: str


@dataclass(frozen=True, slots=True)
class VerdictGroup:
    workload: str
    rows: tuple[VerdictRow, ...]


@dataclass(frozen=True, slots=True)
class CellRow:
    metric: str
    backend: str
    role: str
    lane: str
    profile: str
    counts: str
    figure: str
    remark: str
    fine: bool


@dataclass(frozen=True, slots=True)
class CellGroup:
    workload: str
    total: int
    troubled: int
    rows: tuple[CellRow, ...]


@dataclass(frozen=True, slots=True)
class ParityRow:
    name: str
    values: tuple[str, ...]
    differs: bool


def overview(analysis: Analysis) -> tuple[tuple[str, ...], tuple[OverviewLane, ...]]:
    """Column titles, and for each lane the backends with their key figures. Lanes never share a line."""
    wanted = [item for item in OVERVIEW if cells_of(analysis, item[0], (item[1],))]
    cells = [cell for workload, metric, _ in wanted for cell in cells_of(analysis, workload, (metric,))]
    lanes = []
    for group in lane_groups(cells):
        named = sorted(by_backend(group.cells), key=lambda item: rank(analysis, item[1][0].key.backend))
        rows = tuple(
            (label, tuple(_overview_entry(analysis, found, w, m) for w, m, _ in wanted)) for label, found in named
        )
        lanes.append(OverviewLane(sentence(group.title), group.words, rows))
    return tuple(title for _, _, title in wanted), tuple(lanes)


def _overview_entry(analysis: Analysis, cells: Sequence[Cell], workload: str, metric: str) -> OverviewEntry:
    for cell in cells:
        if (cell.key.workload, cell.key.metric) == (workload, metric):
            if cell.median is None:
                return OverviewEntry(NONE, figure(cell))
            ratio = next(
                (c.ratio for c in analysis.comparisons if c.key == cell.key and c.baseline.backend == BASELINE), None
            )
            comparable = ratio is not None and cell.key.lane in COMPARABLE_LANES
            return OverviewEntry(
                value_text(cell.median, cell.metric.unit),
                interval_text(cell.interval, cell.metric.unit, cell.median),
                value_text(ratio, "ratio") if comparable else "",
            )
    return OverviewEntry(NONE)


def verdicts(analysis: Analysis) -> tuple[VerdictGroup, ...]:
    """Every comparison, workload by workload, in the registry's order."""
    found = sorted(
        analysis.comparisons, key=lambda c: (_order(c.key), c.family, rank(analysis, c.key.backend), c.baseline.backend)
    )
    workloads = dict.fromkeys(comparison.key.workload for comparison in found)
    return tuple(
        VerdictGroup(workload, tuple(_verdict_row(c) for c in found if c.key.workload == workload))
        for workload in workloads
    )


def _order(key: CellKey) -> int:
    """The metric's place in the registry; the unknown come last."""
    names = list(REGISTRY)
    name = (key.workload, key.metric)
    return names.index(name) if name in REGISTRY else len(names)


def _verdict_row(comparison: Comparison) -> VerdictRow:
    lane, baseline_lane = comparison.key.lane, comparison.baseline.lane
    p_values = {"p of difference": comparison.p_difference, "p of equivalence": comparison.p_equivalence}
    if comparison.verdict in {"faster", "slower"}:
        p_values = {"p": comparison.p_difference}
    elif comparison.verdict == "equivalent":
        p_values = {"p": comparison.p_equivalence}
    remarks = [f"{name} {_p_text(value)}" for name, value in p_values.items() if value is not None]
    return VerdictRow(
        metric=comparison.key.metric,
        backend=backend_label(comparison.key),
        baseline=backend_label(comparison.baseline),
        lane=lane if lane == baseline_lane else f"{lane} over {baseline_lane}",
        blocks=comparison.blocks,
        effect=with_interval(comparison.ratio, comparison.interval, "ratio"),
        difference=with_interval(comparison.difference, comparison.difference_interval, comparison.metric.unit),
        verdict=comparison.verdict or "",
        remarks=tuple([*remarks, comparison.note] if comparison.note else remarks),
        detectable=percent(comparison.detectable),
    )


def _p_text(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"= {significant(value, 2)}"


def cell_groups(analysis: Analysis) -> tuple[CellGroup, ...]:
    """Every cell, workload by workload; nothing dropped."""
    groups: dict[str, list[Cell]] = {}
    for cell in sorted(
        analysis.cells,
        key=lambda c: (_order(c.key), rank(analysis, c.key.backend), _role_order(c)),
    ):
        groups.setdefault(cell.key.workload, []).append(cell)
    return tuple(
        CellGroup(workload, len(cells), sum(troubles(cell) > 0 for cell in cells), tuple(map(_cell_row, cells)))
        for workload, cells in groups.items()
    )


def _role_order(cell: Cell) -> int:
    return ROLES.index(cell.key.role) if cell.key.role in ROLES else len(ROLES)


def _cell_row(cell: Cell) -> CellRow:
    return CellRow(
        metric=cell.key.metric,
        backend=backend_label(cell.key),
        role=cell.key.role,
        lane=cell.key.lane,
        profile=cell.key.profile,
        counts=", ".join(f"{number} {status}" for status, number in cell.counts) or "no samples",
        figure=with_interval(cell.median, cell.interval, cell.metric.unit),
        remark=remark(cell),
        fine=troubles(cell) == 0 and samples(cell) > 0,
    )


def parity(records: Sequence[BackendRecord]) -> tuple[ParityRow, ...]:
    """One row for each fact that any backend reported, in the order in which they first appear."""
    flat = [flatten(record.parity) for record in records]
    names = dict.fromkeys(name for facts in flat for name in facts)
    rows = []
    for name in names:
        values = tuple(facts.get(name, NONE) for facts in flat)
        rows.append(ParityRow(name, values, len(set(values)) > 1))
    return tuple(rows)


def flatten(facts: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested facts as `name.inner` -> text; long lists by their number of entries (the raw facts stand beside)."""
    flat: dict[str, str] = {}
    for key, value in facts.items():
        name = plain(f"{prefix}{key}")
        inner = dict(value) if _is_pairs(value) else value
        if isinstance(inner, Mapping):
            flat |= flatten(inner, f"{name}.")
        else:
            flat[name] = fact_text(name, value)
    return flat


def _is_pairs(value: Any) -> bool:
    """A list of (name, facts), which is a mapping in order."""
    if not isinstance(value, list | tuple) or not value:
        return False
    pairs = all(isinstance(item, list | tuple) and len(item) == 2 for item in value)
    return pairs and all(isinstance(name, str) and isinstance(facts, Mapping) for name, facts in value)


def fact_text(name: str, value: Any) -> str:
    """One fact for a person."""
    if value is None:
        return NONE
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float) and name.endswith("_bytes"):
        return scale_for("bytes", value).text(value)
    if isinstance(value, list | tuple):
        simple = all(isinstance(item, str | int | float) for item in value)
        text = ", ".join(map(str, value))
        return (
            plain(text) if simple and len(text) <= 120 else f"{len(value)} {'entry' if len(value) == 1 else 'entries'}"
        )
    return plain(str(value))


def raw(facts: Mapping[str, Any]) -> str:
    """The facts as they are stored."""
    return json.dumps(facts, indent=1, sort_keys=True, default=str)


def duration(started: str, finished: str | None) -> str:
    """How long the run took; a dash where its end is not known."""
    if finished is None:
        return NONE
    try:
        return duration_text((datetime.fromisoformat(finished) - datetime.fromisoformat(started)).total_seconds())
    except (TypeError, ValueError):  # a manifest written by hand, or one time with and one without a zone
        return NONE


def moment(stamp: str) -> str:
    """An ISO 8601 time for a person; what is none stays as it is."""
    try:
        return f"{datetime.fromisoformat(stamp).astimezone(UTC):%-d %b %Y, %H:%M} UTC"
    except ValueError:
        return stamp


def banners(analysis: Analysis) -> tuple[Banner, ...]:
    """One for every lane in this run whose figures may not be set against native ones."""
    return tuple(
        Banner(lane_title(group.key), ", ".join(label for label, _ in by_backend(group.cells)), group.words)
        for group in lane_groups(analysis.cells)
        if group.words
    )
