"""Analysis -> charts of the four workloads: pure functions named `*_data`, drawn by `rows.draw`.

A new chart is one function here that returns a `Chart`, and its name in `CHARTS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from reports.parts import (
    CLOUDS,
    by_backend,
    cell_mark,
    cell_row,
    cell_table,
    floor_of,
    ledger_of,
    ledger_table,
    legend_of,
    panel,
    ratio_mark,
    ratio_table,
    shapes_of,
    slug,
    thinned,
)
from reports.rows import Axis, Chart, Mark, Panel, Row, extent
from reports.units import percent, value_text, with_interval
from reports.view import (
    LaneGroup,
    backend_label,
    cells_of,
    family,
    figure,
    lane_groups,
    rank,
    sentence,
    virtualised,
    why_missing,
)
from results.analysis import Analysis, Cell, Comparison
from results.schema import BASELINE, COMPARABLE_LANES, STORAGE_CASES, SYSCALL_OPERATIONS, metrics_of

_LEDGERS = {"cgroup": "memory cgroup", "pss": "sum of PSS", "available": "fall of MemAvailable"}

_HALVES = {
    "Calls": ("getppid", "read", "write", "stat", "open_close", "clock_gettime"),
    "Processes and memory": ("pipe", "fork_exit", "page_fault_cold", "page_fault_backed", "mmap"),
}
"""The operations in two panels of like height."""


def startup_data(analysis: Analysis) -> Chart:
    """Time to the payload's first byte."""
    return _times(
        analysis,
        "startup-ready",
        "Time to the first byte",
        "From the first system or libvirt call made for an instance to the first byte of its payload.",
        {"ready": ""},
    )


def ending_data(analysis: Analysis) -> Chart:
    """Time from being told to quit until nothing is left."""
    return _times(
        analysis,
        "startup-ending",
        "Time to exit, and until all is gone",
        "From being told to quit to the exit seen, and from there until group, mounts, links and domain are gone.",
        {"exit": "To exit", "gone": "Until gone"},
    )


def cost_data(analysis: Analysis) -> Chart:
    """Processor time of an instance, and what the runtime's own command takes before it does anything."""
    return _times(
        analysis,
        "startup-cost",
        "Processor time, and the share of the tool",
        "Processor time is what the kernel charged to the instance's processes. The tool's own time is its command "
        "printing its version: an adapter pays it in every launch, warm library code does not.",
        {"cpu": "Processor time", "tool": "The tool alone"},
    )


def _times(analysis: Analysis, key: str, title: str, reading: str, metrics: Mapping[str, str]) -> Chart:
    """Distributions of `startup` metrics: a panel for each metric and lane."""
    cells = cells_of(analysis, "startup", metrics)
    panels = [
        panel(f"{key}-{metric}", words, group, Axis(words.lower() or "time to first byte", "ns"), rows)
        for group in lane_groups(cells)
        for metric, words in metrics.items()
        if (rows := [cell_row(cell, backend_label(cell.key)) for cell in group.cells if cell.key.metric == metric])
    ]
    return Chart(key, title, f"{reading} {CLOUDS}{thinned(cells)}", tuple(panels), cell_table(cells))


def memory_data(analysis: Analysis) -> Chart:
    """The three ledgers of each backend side by side."""
    cells = cells_of(analysis, "memory", _LEDGERS)
    panels = []
    for group in lane_groups(cells):
        rows: list[Row] = []
        for label, found in by_backend(group.cells):
            rows.append(Row(label, heading=True))
            rows += [_ledger_row(analysis, cell) for cell in found]
        panels.append(panel("memory-ledgers", "", group, Axis("bytes per instance", "bytes"), rows))
    reading = (
        "Three ledgers of the same instances: what the memory cgroup was charged, the proportional set size of every "
        "process, and how much of the host's MemAvailable each further instance took (its diamond is the slope over "
        f"N). Where they agree, the figure can be believed. {CLOUDS}{thinned(cells)}"
    )
    return Chart("memory-ledgers", "Three ledgers of one instance", reading, tuple(panels), cell_table(cells))


def _ledger_row(analysis: Analysis, cell: Cell) -> Row:
    words = _LEDGERS[cell.key.metric]
    row = cell_row(cell, words)
    ledger = ledger_of(analysis, cell)
    if cell.key.metric != "available" or ledger is None or ledger.available_slope is None:
        return Row(row.label, row.marks, row.text)
    interval = ledger.available_interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    points = row.marks[0].points if row.marks else ()
    mark = Mark(family(cell.key.backend), ledger.available_slope, low, high, points)
    return Row(words, (mark,), with_interval(ledger.available_slope, interval, "bytes"))


def residual_data(analysis: Analysis) -> Chart:
    """What the cgroup does not see of an instance's memory."""
    cells = cells_of(analysis, "memory", ("residual",))
    axis = Axis("fall of MemAvailable minus cgroup, per instance", "bytes", log=False, reference=0.0)
    panels = [
        panel("memory-residual", "", group, axis, [_residual_row(analysis, cell) for cell in group.cells])
        for group in lane_groups(cells)
    ]
    reading = (
        "Right of zero: memory that an instance costs the host and its group does not show. Left of zero: charged to "
        f"the group, yet not missing on the host. {CLOUDS}{thinned(cells)}"
    )
    return Chart(
        "memory-residual", "What the cgroup does not see", reading, tuple(panels), ledger_table(analysis.ledgers)
    )


def _residual_row(analysis: Analysis, cell: Cell) -> Row:
    ledger = ledger_of(analysis, cell)
    label = backend_label(cell.key)
    if cell.median is None and ledger is not None and ledger.residual is not None:
        return Row(label, (Mark(family(cell.key.backend), ledger.residual),), value_text(ledger.residual, "bytes"))
    return cell_row(cell, label)


def overhead_data(analysis: Analysis) -> Chart:
    """System calls against the bare process, in the same blocks."""
    found = sorted(
        (
            comparison
            for comparison in analysis.comparisons
            if comparison.key.workload == "syscalls"
            and comparison.key.role == "subject"
            and comparison.baseline.backend == BASELINE
            and comparison.key.lane in COMPARABLE_LANES
        ),
        key=lambda comparison: rank(analysis, comparison.key.backend),
    )
    shapes = shapes_of(analysis, "syscalls")
    halves = [
        (title, rows)
        for title, operations in _HALVES.items()
        if (rows := [row for name in operations for row in _overhead_rows(analysis, name, found, shapes)])
    ]
    axis = Axis(
        "times the bare process",
        "ratio",
        reference=1.0,
        reach=tuple(v for _, rows in halves for r in rows for v in extent(r)),
    )
    legend = legend_of((c for c in found if c.ratio is not None), shapes)
    panels = [
        Panel(
            f"syscalls-overhead-{slug(title.lower())}",
            title,
            "",
            axis,
            tuple(rows),
            legend,
        )
        for title, rows in halves
    ]
    reading = (
        "Each mark is the median over blocks of the ratio to the bare process in the same block, the line its 95 % "
        "interval. The vertical line is 1.0: no overhead. Inside the grey band a difference cannot be told from noise: "
        "so far apart were two identical copies in this run."
    )
    return Chart("syscalls-overhead", "Overhead of system calls", reading, tuple(panels), ratio_table(found))


def _overhead_rows(analysis: Analysis, metric: str, found: list[Comparison], shapes: dict[str, str]) -> list[Row]:
    """One operation: a mark for each backend, and a row of its own for each that has no value."""
    marks = tuple(
        ratio_mark(c, shapes[backend_label(c.key)]) for c in found if c.key.metric == metric and c.ratio is not None
    )
    groups = lane_groups(cells_of(analysis, "syscalls", (metric,)))
    absent = [cell for group in groups if not group.words for cell in group.cells if cell.median is None]
    rows = [Row(f"{backend_label(cell.key)}: {metric}", text=why_missing(cell)) for cell in absent]
    if not marks:
        return rows
    floor = floor_of(analysis, "syscalls", metric)
    if floor is None or floor.floor is None:
        return [Row(metric, marks), *rows]
    band = (1 / (1 + floor.floor), 1 + floor.floor)
    return [Row(metric, marks, f"noise floor {percent(floor.floor)}", band=band), *rows]


def latency_data(analysis: Analysis) -> Chart:
    """Time of one operation, by lane."""
    cells = cells_of(analysis, "syscalls", SYSCALL_OPERATIONS)
    shapes = shapes_of(analysis, "syscalls")
    panels = []
    for group in lane_groups(cells):
        labels = [label for label, _ in by_backend(group.cells)]
        rows = [row for name in SYSCALL_OPERATIONS for row in _operation_rows(group, name, shapes)]
        legend = legend_of((cell for cell in group.cells if cell.median is not None), shapes) if len(labels) > 1 else ()
        words = "" if len(labels) > 1 else labels[0]
        panels.append(panel("syscalls-latency", words, group, Axis("time per operation", "ns"), rows, legend))
    reading = (
        "Time of one operation on the host's clock: the slope over several loop counts, so that the cost of asking "
        "drops out. Small dots are samples, the larger mark is the median over blocks with its 95 % interval."
    )
    return Chart(
        "syscalls-latency", "Time of one operation", reading + thinned(cells), tuple(panels), cell_table(cells)
    )


def _operation_rows(group: LaneGroup, metric: str, shapes: dict[str, str]) -> list[Row]:
    found = [cell for cell in group.cells if cell.key.metric == metric]
    present = [cell for cell in found if cell.median is not None]
    marks = tuple(cell_mark(c, family(c.key.backend), shapes[backend_label(c.key)], 200) for c in present)
    rows = [Row(metric, marks, figure(present[0]) if len(present) == 1 else "")] if marks else []
    alone = len(by_backend(group.cells)) == 1
    absent = [cell for cell in found if cell.median is None]
    return rows + [
        Row(metric if alone else f"{backend_label(cell.key)}: {metric}", text=why_missing(cell)) for cell in absent
    ]


def direct_data(analysis: Analysis) -> Chart:
    """Storage past the page cache."""
    return _storage(analysis, "direct", "Storage, past the page cache", "")


def buffered_data(analysis: Analysis) -> Chart:
    """Storage through the page cache."""
    words = " The page cache is the host's for processes and containers, the guest's own in a VM. Ends with fsync."
    return _storage(analysis, "buffered", "Storage, through the page cache", words)


def _storage(analysis: Analysis, mode: str, title: str, words: str) -> Chart:
    names = {f"{case}_{mode}" for case in STORAGE_CASES}
    metrics = {
        metric.name: sentence(metric.meaning.split(",")[0]) for metric in metrics_of("storage") if metric.name in names
    }
    cells = cells_of(analysis, "storage", metrics)
    axis = Axis("throughput, more is better", "bytes/s", log=False)
    panels = [
        panel(f"storage-{metric}", meaning, group, axis, rows)
        for group in lane_groups(cells)
        for metric, meaning in metrics.items()
        if (rows := [cell_row(cell, backend_label(cell.key)) for cell in group.cells if cell.key.metric == metric])
    ]
    virtual = " This host is itself virtual: its block device is not a physical one." if virtualised(analysis) else ""
    reading = f"Throughput of fio on the host's clock.{words}{virtual} {CLOUDS}{thinned(cells)}"
    return Chart(f"storage-{mode}", title, reading, tuple(panels), cell_table(cells))


CHARTS: Mapping[str, tuple[Callable[[Analysis], Chart], ...]] = MappingProxyType(
    {
        "startup": (startup_data, ending_data, cost_data),
        "memory": (memory_data, residual_data),
        "syscalls": (overhead_data, latency_data),
        "storage": (direct_data, buffered_data),
    }
)
"""Section of the page -> its charts, in order."""
