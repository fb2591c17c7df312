"""Charts of the instrument itself: the A/A control, the injected dose, and the samples of both."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from reports.parts import CLOUDS, cell_row, cell_table, panel, slug, thinned
from reports.rows import Axis, Chart, Mark, Panel, Row, Table
from reports.units import NONE, interval_text, percent, significant, value_text, with_interval
from reports.view import backend_label, cells_of, lane_groups, lane_title, lane_words, sentence
from results.analysis import Analysis, CellKey, Dose, Floor
from results.schema import COMPARABLE_LANES, ROLES

_Controlled = TypeVar("_Controlled", Floor, Dose)
_ROLE_WORDS = {"subject": "measured", "twin": "twin: an identical copy", "control": "control: with the dose"}


def floor_data(analysis: Analysis) -> Chart:
    """The A/A control: what two identical copies differ by."""
    panels = [
        Panel(
            f"trust-floor-{slug(f'{workload} {lane}')}",
            f"{sentence(workload)} · {lane_title(lane)}",
            lane_words(lane),
            Axis("twin over subject", "ratio", reference=1.0),
            tuple(_floor_row(floor, _label(floor, floors)) for floor in floors),
        )
        for (lane, workload), floors in _groups(analysis.floors)
    ]
    reading = (
        "The same backend was measured twice in every block, under two names. The mark is the ratio of the two, its "
        "line the 95 % interval, which should hold 1.0 (the vertical line). The grey band is the metric's margin of "
        "practical equivalence, fixed beforehand: an interval wider than the band cannot show equivalence."
    )
    table = Table(
        (
            "Workload",
            "Metric",
            "Backend",
            "Lane",
            "Blocks",
            "Twin over subject",
            "95 % interval",
            "Noise floor",
            "Margin",
            "Note",
        ),
        tuple(
            (
                floor.key.workload,
                floor.key.metric,
                backend_label(floor.key),
                floor.key.lane,
                str(floor.blocks),
                value_text(floor.ratio, "ratio"),
                interval_text(floor.interval, "ratio", floor.ratio) or NONE,
                percent(floor.floor),
                percent(floor.metric.margin),
                floor.note or NONE,
            )
            for floor in analysis.floors
        ),
    )
    return Chart("trust-floor", "Does it see a difference where there is none?", reading, tuple(panels), table)


def _floor_row(floor: Floor, label: str) -> Row:
    if floor.ratio is None:
        return Row(label, text=floor.note or "no ratio")
    low, high = (floor.interval.low, floor.interval.high) if floor.interval else (None, None)
    margin = floor.metric.margin
    mark = Mark("baseline", floor.ratio, low, high)
    words = with_interval(floor.ratio, floor.interval, "ratio")
    return Row(label, (mark,), words, band=(1 / (1 + margin), 1 + margin))


def dose_data(analysis: Analysis) -> Chart:
    """The positive control: the effect put in against the effect found."""
    panels = [
        Panel(
            f"trust-dose-{slug(f'{workload} {lane}')}",
            f"{sentence(workload)} · {lane_title(lane)}",
            lane_words(lane),
            Axis("change of the cost: time, bytes, or time per byte", "relative", log=False, reference=0.0),
            tuple(_dose_row(dose, _label(dose, doses)) for dose in doses),
        )
        for (lane, workload), doses in _groups(analysis.doses)
    ]
    reading = (
        "A known effect was put into a third copy: a delay, a longer loop, extra bytes touched or moved. The dark "
        "tick is the effect put in, the diamond the effect found, its line the 95 % interval, which should "
        "hold the tick."
    )
    table = Table(
        ("Workload", "Metric", "Backend", "Lane", "Blocks", "Put in", "Found", "95 % interval, in %", "Agrees", "Note"),
        tuple(
            (
                dose.key.workload,
                dose.key.metric,
                backend_label(dose.key),
                dose.key.lane,
                str(dose.blocks),
                percent(dose.injected, signed=True),
                percent(dose.recovered, signed=True),
                _percent_interval(dose) or NONE,
                {True: "yes", False: "no", None: "cannot be told"}[dose.agrees],
                dose.note or NONE,
            )
            for dose in analysis.doses
        ),
    )
    return Chart("trust-dose", "Does it find an effect at its true size?", reading, tuple(panels), table)


def _dose_row(dose: Dose, label: str) -> Row:
    label = f"{label} {percent(dose.injected, signed=True)}"
    if dose.recovered is None:
        return Row(label, text=dose.note or "nothing recovered")
    low, high = (dose.interval.low, dose.interval.high) if dose.interval else (None, None)
    mark = Mark("control", dose.recovered, low, high, target=dose.injected)
    verdict = {True: "", False: " · missed", None: ""}[dose.agrees]
    return Row(label, (mark,), f"{percent(dose.recovered, signed=True)} {_percent_interval(dose)}{verdict}")


def _percent_interval(dose: Dose) -> str:
    if dose.interval is None:
        return ""
    low, high = (significant(100 * edge) for edge in (dose.interval.low, dose.interval.high))
    return f"[{low}, {high}]"


def controls_data(analysis: Analysis) -> Chart:
    """The samples of subject, twin and control, for the first metric of each workload that has them."""
    panels: list[Panel] = []
    shown = []
    for workload in dict.fromkeys(cell.key.workload for cell in analysis.cells if cell.key.role != "subject"):
        metric = next(c.metric for c in analysis.cells if c.key.workload == workload and c.key.role != "subject")
        cells = [cell for role in ROLES for cell in cells_of(analysis, workload, (metric.name,), role)]
        controlled = {(cell.key.backend, cell.key.lane) for cell in cells if cell.key.role != "subject"}
        cells = [cell for cell in cells if (cell.key.backend, cell.key.lane) in controlled]
        shown += cells
        for group in lane_groups(cells):
            rows = [
                cell_row(cell, _role_label(cell.key), "control" if cell.key.role == "control" else None)
                for cell in group.cells
            ]
            axis = Axis(f"{workload} {metric.name}", metric.unit, log=metric.scale == "ratio")
            panels.append(panel(f"trust-samples-{workload}", f"{sentence(workload)} {metric.name}", group, axis, rows))
    reading = f"The samples behind the two charts above: one metric of each workload. {CLOUDS}{thinned(shown)}"
    return Chart("trust-samples", "Subject, twin and control", reading, tuple(panels), cell_table(shown))


def _role_label(key: CellKey) -> str:
    return f"{backend_label(key)}, {_ROLE_WORDS.get(key.role, key.role)}"


def _groups(items: tuple[_Controlled, ...]) -> list[tuple[tuple[str, str], list[_Controlled]]]:
    """Controls by lane and workload: those of lanes that share axes first."""
    groups: dict[tuple[str, str], list[_Controlled]] = {}
    for item in items:
        lane = "native" if item.key.lane in COMPARABLE_LANES else item.key.lane
        groups.setdefault((lane, item.key.workload), []).append(item)
    return sorted(groups.items(), key=lambda group: group[0][0] != "native")


def _label(item: Floor | Dose, among: Sequence[Floor | Dose]) -> str:
    """The metric, and the backend where several are controlled."""
    several = len({other.key.backend for other in among}) > 1
    return f"{item.key.metric} in {backend_label(item.key)}" if several else item.key.metric


TRUST: tuple[Callable[[Analysis], Chart], ...] = (floor_data, dose_data, controls_data)
