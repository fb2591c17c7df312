"""From cells, comparisons and ledgers to rows, panels and tables: what the charts are put together from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from reports.rows import MAX_POINTS, SHAPES, Axis, Mark, Panel, Row, Table, thin
from reports.units import NONE, interval_text, percent, value_text, with_interval
from reports.view import (
    LaneGroup,
    backend_label,
    cells_of,
    family,
    figure,
    quantile,
    rank,
    remark,
    samples,
    sentence,
    why_missing,
)
from results.analysis import Analysis, Cell, Comparison, Floor, Ledgers
from results.schema import BASELINE, COMPARABLE_LANES

CLOUDS = "Dots are samples; the diamond is the median over blocks with its 95 % interval, hollow where there is none."
Legend = tuple[tuple[str, str, str], ...]


def panel(key: str, words: str, group: LaneGroup, axis: Axis, rows: Iterable[Row], legend: Legend = ()) -> Panel:
    title = f"{words} · {group.title}" if words else sentence(group.title)
    return Panel(f"{key}-{slug(group.key)}", title, group.words, axis, tuple(rows), legend)


def slug(text: str) -> str:
    """A word that may stand in an id."""
    return "".join(c if c.isascii() and c.isalnum() else "-" for c in text)


def by_backend(cells: Iterable[Cell]) -> list[tuple[str, list[Cell]]]:
    found: dict[str, list[Cell]] = {}
    for cell in cells:
        found.setdefault(backend_label(cell.key), []).append(cell)
    return list(found.items())


def cell_row(cell: Cell, label: str, role: str | None = None) -> Row:
    """A cell alone in its row; without a value it says why."""
    tag = "baseline" if cell.key.backend == BASELINE and cell.key.role == "subject" else ""
    if cell.median is None:
        return Row(label, text=why_missing(cell), tag=tag)
    return Row(label, (cell_mark(cell, role or family(cell.key.backend)),), figure(cell), tag)


def cell_mark(cell: Cell, role: str, shape: str = "d", limit: int = MAX_POINTS) -> Mark:
    assert cell.median is not None
    low, high = (cell.interval.low, cell.interval.high) if cell.interval else (None, None)
    return Mark(role, cell.median, low, high, thin([point.value for point in cell.points], limit), shape)


def ratio_mark(comparison: Comparison, shape: str) -> Mark:
    assert comparison.ratio is not None
    interval = comparison.interval
    low, high = (interval.low, interval.high) if interval else (None, None)
    return Mark(family(comparison.key.backend), comparison.ratio, low, high, shape=shape)


def ledger_of(analysis: Analysis, cell: Cell) -> Ledgers | None:
    key = (cell.key.backend, cell.key.lane, cell.key.profile)
    return next((ledger for ledger in analysis.ledgers if (ledger.backend, ledger.lane, ledger.profile) == key), None)


def floor_of(analysis: Analysis, workload: str, metric: str) -> Floor | None:
    """The noise floor of a metric in the lanes that share axes."""
    for floor in analysis.floors:
        if (floor.key.workload, floor.key.metric) == (workload, metric) and floor.key.lane in COMPARABLE_LANES:
            return floor
    return None


def shapes_of(analysis: Analysis, workload: str) -> dict[str, str]:
    """A marker for each series, so that none depends on colour; the same in every chart of the workload."""
    keys = [cell.key for cell in cells_of(analysis, workload)]
    keys += [comparison.key for comparison in analysis.comparisons if comparison.key.workload == workload]
    labels = dict.fromkeys(backend_label(key) for key in sorted(keys, key=lambda key: rank(analysis, key.backend)))
    return {label: SHAPES[index % len(SHAPES)] for index, label in enumerate(labels)}


def legend_of(found: Iterable[Cell | Comparison], shapes: dict[str, str]) -> Legend:
    names = dict.fromkeys((backend_label(item.key), item.key.backend) for item in found)
    return tuple((family(backend), shapes[label], label) for label, backend in names)


def thinned(cells: Sequence[Cell]) -> str:
    """What a caption must say where not every sample is drawn."""
    most = max((len(cell.points) for cell in cells), default=0)
    if most <= MAX_POINTS:
        return ""
    return (
        f" A cell has up to {most:,} samples; {MAX_POINTS:,} of each are drawn, at equal steps through its sorted "
        "samples with the smallest and the largest kept."
    )


def cell_table(cells: Iterable[Cell]) -> Table:
    headers = ("Metric", "Backend", "Lane", "Samples", "Median", "95 % interval", "p90", "p99", "Remark")
    return Table(
        headers,
        tuple(
            (
                cell.key.metric,
                backend_label(cell.key),
                cell.key.lane,
                f"{len(cell.points)} of {samples(cell)}",
                value_text(cell.median, cell.metric.unit) if cell.median is not None else why_missing(cell),
                interval_text(cell.interval, cell.metric.unit, cell.median) or NONE,
                value_text(quantile(cell, 0.9), cell.metric.unit),
                value_text(quantile(cell, 0.99), cell.metric.unit),
                remark(cell),
            )
            for cell in cells
        ),
    )


def ratio_table(comparisons: Iterable[Comparison]) -> Table:
    headers = ("Metric", "Backend", "Blocks", "Ratio", "95 % interval", "Verdict", "Smallest effect visible")
    return Table(
        headers,
        tuple(
            (
                comparison.key.metric,
                backend_label(comparison.key),
                str(comparison.blocks),
                value_text(comparison.ratio, "ratio"),
                interval_text(comparison.interval, "ratio", comparison.ratio) or NONE,
                comparison.verdict or f"none: {comparison.note}",
                percent(comparison.detectable),
            )
            for comparison in comparisons
        ),
    )


def ledger_table(ledgers: Iterable[Ledgers]) -> Table:
    headers = ("Backend", "Lane", "N", "Cgroup", "PSS", "MemAvailable, slope", "Residual", "Smallest visible", "Note")
    return Table(
        headers,
        tuple(
            (
                ledger.backend,
                ledger.lane,
                ", ".join(map(str, ledger.n)) or NONE,
                value_text(ledger.cgroup, "bytes"),
                value_text(ledger.pss, "bytes"),
                with_interval(ledger.available_slope, ledger.available_interval, "bytes"),
                value_text(ledger.residual, "bytes"),
                value_text(ledger.smallest_visible, "bytes"),
                ledger.note or NONE,
            )
            for ledger in ledgers
        ),
    )
