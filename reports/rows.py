"""The one form of every chart: rows of samples, medians and intervals on a common axis. Values and drawing.

A row has its label and its figure in words on a line above its marks, so that a panel reads the same on a telephone
and on a wide screen. A row without figures keeps its place and says why.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.ticker import MaxNLocator

from reports.svg import Canvas
from reports.units import plain, scale_for

MAX_POINTS = 1500
"""Samples of one mark that are drawn; beyond it, equal steps through the sorted samples, both ends kept."""

WIDTH = 400
_EDGE = 8
_LABEL = 15
_CLOUD = 20
_SUMMARY = 11
_GAP = 11
_LADDERS: dict[str, tuple[float, tuple[tuple[int, ...], ...]]] = {
    "ns": (10.0, ((1,), (1, 3), (1, 2, 5))),
    "bytes": (1024.0, ((1,), (1, 32), (1, 8, 64), (1, 4, 16, 64, 256), tuple(2**k for k in range(10)))),
}
"""Base and ever finer steps of logarithmic ticks, by unit; other units are as times."""
SHAPES = "odsv^p<h>"
"""Shapes of marks that share a row, in order of their series."""


@dataclass(frozen=True, slots=True)
class Mark:
    """One series in one row. `role` is a colour of `svg.LIGHT`, `shape` one of matplotlib's marker letters."""

    role: str
    value: float
    low: float | None = None
    high: float | None = None
    points: tuple[float, ...] = ()
    shape: str = "d"
    target: float | None = None
    """Where the value should be, drawn as a hollow tick: the dose that was injected."""


@dataclass(frozen=True, slots=True)
class Row:
    label: str
    marks: tuple[Mark, ...] = ()
    text: str = ""
    """Right of the label: the figure with its interval, or why there is none."""
    tag: str = ""
    """Behind the label, muted: `baseline`."""
    band: tuple[float, float] | None = None
    """A range to shade behind the marks, such as a noise floor."""
    heading: bool = False

    @property
    def missing(self) -> bool:
        return not self.heading and not self.marks


@dataclass(frozen=True, slots=True)
class Axis:
    """`label` says what is shown; the kind of scale is added to it when drawn."""

    label: str
    unit: str
    log: bool = True
    reference: float | None = None
    """A line through all rows: 1.0 for a ratio, 0 for a difference."""
    reach: tuple[float, ...] = ()
    """Values that the axis must hold besides its own: those of a panel to be read beside it."""


@dataclass(frozen=True, slots=True)
class Panel:
    """Rows that share an axis: never of lanes that may not be compared."""

    key: str
    title: str
    lane: str
    """What the lane means where it needs saying; empty for native and KVM."""
    axis: Axis
    rows: tuple[Row, ...]
    legend: tuple[tuple[str, str, str], ...] = ()
    """(role, shape, label) of the series in rows with several marks."""


@dataclass(frozen=True, slots=True)
class Table:
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Chart:
    """One idea: panels, how to read them, and their figures as a table."""

    key: str
    title: str
    reading: str
    panels: tuple[Panel, ...]
    table: Table


def thin(values: Sequence[float], limit: int = MAX_POINTS) -> tuple[float, ...]:
    """At most `limit` of `values`: equal steps through the sorted ones, with the smallest and the largest."""
    if len(values) <= limit:
        return tuple(values)
    ordered = np.sort(np.asarray(values, dtype=float))
    return tuple(ordered[np.linspace(0, len(ordered) - 1, limit).round().astype(int)].tolist())


def draw(panel: Panel, name: str = "") -> str:
    """The panel as SVG, deterministic in every byte. `name` is what it is called aloud; its title unless given."""
    heights = [_row_height(row) for row in panel.rows]
    legend = _legend_places(panel.legend)
    top = max((y for *_, y in legend), default=-14) + 18
    bottom = top + sum(heights)
    canvas = Canvas.of(WIDTH, bottom + 38)
    scale = _Scale.of(panel)
    _draw_bands(canvas, scale, panel.rows, heights, top)
    for at, label in scale.ticks():
        x = scale.x(at)
        canvas.line([(x, top), (x, bottom)], role="rule")
        half = 3.4 * len(label)
        canvas.text(min(max(x, half), WIDTH - half), bottom + 14, label, role="muted", size=11, align="center")
    if panel.axis.reference is not None and scale.low <= panel.axis.reference <= scale.high:
        x = scale.x(panel.axis.reference)
        canvas.line([(x, top), (x, bottom)], role="muted", width=1.2)
    canvas.text(WIDTH / 2, bottom + 31, _axis_words(panel.axis), role="muted", size=11, align="center")
    for role, shape, label, x, y in legend:
        _draw_shape(canvas, shape, x, y, role)
        canvas.text(x + 8, y + 4, label, size=11)
    y = float(top)
    for row, height in zip(panel.rows, heights, strict=True):
        _draw_row(canvas, scale, row, y)
        y += height
    return canvas.svg(key=panel.key, title=name or panel.title, description=describe(panel))


def describe(panel: Panel) -> str:
    """The panel in words, for who cannot see it."""
    group, parts = "", []
    for row in panel.rows:
        if row.heading:
            group = f"{row.label}, "
        else:
            parts.append(f"{group}{row.label}: {row.text or 'no figure'}")
    return f"{_axis_words(panel.axis)}. " + "; ".join(parts) + "."


def _axis_words(axis: Axis) -> str:
    return f"{axis.label} · {'logarithmic axis' if axis.log else 'axis includes zero'}"


def _row_height(row: Row) -> float:
    if row.heading:
        return 30
    if row.missing:
        return _LABEL + _GAP
    if len(row.marks) == 1:
        return _LABEL + (_CLOUD if row.marks[0].points else 4) + _SUMMARY + _GAP
    return _LABEL + 9 * len(row.marks) + _GAP


@dataclass(frozen=True, slots=True)
class _Scale:
    """From values to pixels."""

    axis: Axis
    low: float
    high: float

    @classmethod
    def of(cls, panel: Panel) -> _Scale:
        values = [value for row in panel.rows for value in extent(row)] + list(panel.axis.reach)
        if panel.axis.reference is not None:
            values.append(panel.axis.reference)
        if panel.axis.log:
            positive = [value for value in values if value > 0] or [1.0]
            low, high = math.log10(min(positive)), math.log10(max(positive))
            room = max(0.04 * (high - low), 0.01)
            return cls(panel.axis, 10 ** (low - room), 10 ** (high + room))
        low, high = min([0.0, *values]), max([0.0, *values])
        if low == high:
            return cls(panel.axis, 0.0, 1.0)
        room = 0.04 * (high - low)
        return cls(panel.axis, low - room if low < 0 else 0.0, high + room if high > 0 else 0.0)

    def x(self, value: float) -> float:
        """Pixels from the left; what a logarithm cannot show stands at the left edge."""
        if self.axis.log:
            share = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return _EDGE + share * (WIDTH - 2 * _EDGE)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values and their words: in one unit on a linear axis, each in its own on a logarithmic one."""
        unit = self.axis.unit
        if self.axis.log:
            return [(value, scale_for(unit, value).tick(value)) for value in self._log_ticks()]
        values = self._even_ticks()
        shown = scale_for(unit, max(map(abs, values), default=1.0))
        return [(value, shown.tick(value) if value else "0") for value in values]

    def _even_ticks(self) -> list[float]:
        factor = scale_for(self.axis.unit, max(abs(self.low), abs(self.high))).factor
        found = MaxNLocator(nbins=5, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low / factor, self.high / factor)
        return [
            value for value in (float(round_value) * factor for round_value in found) if self.low <= value <= self.high
        ]

    def _log_ticks(self) -> list[float]:
        base, ladder = _LADDERS.get(self.axis.unit, _LADDERS["ns"])
        exponents = range(math.floor(math.log(self.low, base)), math.ceil(math.log(self.high, base)) + 1)
        for mantissas in ladder:
            kept = [m * base**e for e in exponents for m in mantissas if self.low <= m * base**e <= self.high]
            if len(kept) >= 3:
                return kept[:: -(-len(kept) // 7)]
        return self._even_ticks()


def extent(row: Row) -> list[float]:
    """All values that an axis must reach to hold the row."""
    values = list(row.band or ())
    for mark in row.marks:
        values += [mark.value, *mark.points]
        values += [value for value in (mark.low, mark.high, mark.target) if value is not None]
    return values


def _draw_bands(canvas: Canvas, scale: _Scale, rows: Sequence[Row], heights: Sequence[float], top: float) -> None:
    """Under everything else, so that the reference line crosses them."""
    y = top
    for row, height in zip(rows, heights, strict=True):
        if row.band:
            left, right = (scale.x(edge) for edge in row.band)
            upper, lower = y + _LABEL - 1, y + height - 5
            canvas.shape([(left, upper), (right, upper), (right, lower), (left, lower)], role="band")
        y += height


def _legend_places(legend: Sequence[tuple[str, str, str]]) -> list[tuple[str, str, str, float, float]]:
    """(role, shape, label, x, y) of each series, in as many lines as they need."""
    places: list[tuple[str, str, str, float, float]] = []
    x, y = _EDGE - 2.0, 8.0
    for role, shape, words in legend:
        label = plain(words, 30)
        width = 24 + 6.9 * len(label)
        if places and x + width > WIDTH:
            x, y = _EDGE - 2.0, y + 16
        places.append((role, shape, label, x, y))
        x += width
    return places


def _draw_row(canvas: Canvas, scale: _Scale, row: Row, y: float) -> None:
    if row.heading:
        canvas.line([(0, y + 3), (WIDTH, y + 3)], role="rule")
        canvas.text(0, y + 19, plain(row.label, 40), bold=True, size=12)
        return
    label = plain(row.label, 30)
    canvas.text(0, y + 11, label)
    if row.tag:
        canvas.text(7.4 * len(label) + 8, y + 11, row.tag, role="muted", size=10.5)
    canvas.text(WIDTH, y + 11, plain(row.text, 46), role="missing" if row.missing else "ink", size=11, align="right")
    if row.missing:
        canvas.line([(0, y + _LABEL + 3), (WIDTH, y + _LABEL + 3)], role="missing", dashed=True)
    elif len(row.marks) == 1:
        _draw_alone(canvas, scale, row.marks[0], y + _LABEL)
    else:
        for index, mark in enumerate(row.marks):
            _draw_summary(canvas, scale, mark, y + _LABEL + 4 + 9 * index, along=True)


def _draw_alone(canvas: Canvas, scale: _Scale, mark: Mark, y: float) -> None:
    """A cloud of all samples, and under it the median with its interval."""
    if mark.points:
        opacity = 0.75 if len(mark.points) < 40 else 0.45 if len(mark.points) < 400 else 0.3
        cloud = _cloud([scale.x(value) for value in mark.points])
        canvas.dots([(x, y + _CLOUD / 2 + dy) for x, dy in cloud], role=mark.role, diameter=3.2, opacity=opacity)
        y += _CLOUD
    _draw_summary(canvas, scale, mark, y + 6)


def _cloud(positions: Sequence[float]) -> list[tuple[float, float]]:
    """(x, offset from the middle): spread by how many are near (a sina plot), in an order that is no random one."""
    bins = [round(x / 6) for x in positions]
    count = Counter(bins)
    most = max(count.values())
    golden = (math.sqrt(5) - 1) / 2
    return [
        (x, (_CLOUD - 4) * math.sqrt(count[b] / most) * ((golden * index) % 1 - 0.5))
        for index, (x, b) in enumerate(zip(positions, bins, strict=True))
    ]


def _draw_summary(canvas: Canvas, scale: _Scale, mark: Mark, y: float, *, along: bool = False) -> None:
    """Median and interval on the line `y`; `along` it the samples, where there is no room for a cloud."""
    x = scale.x(mark.value)
    if along:
        canvas.dots([(scale.x(value), y) for value in mark.points], role=mark.role, diameter=2.4, opacity=0.35)
    if mark.low is not None and mark.high is not None:
        left, right = scale.x(mark.low), scale.x(mark.high)
        canvas.line([(left, y), (right, y)], role=mark.role, width=2.2)
        for end in (left, right):
            canvas.line([(end, y - 3.5), (end, y + 3.5)], role=mark.role, width=1.6)
    if mark.target is not None:
        goal = scale.x(mark.target)
        canvas.line([(goal, y - 6.5), (goal, y + 6.5)], role="ink", width=1.6)
    _draw_shape(canvas, mark.shape, x, y, mark.role, hollow=mark.low is None)


_OUTLINES = {
    "d": ((0, -5.2), (3.2, 0), (0, 5.2), (-3.2, 0)),
    "s": ((-3.4, -3.4), (3.4, -3.4), (3.4, 3.4), (-3.4, 3.4)),
    "v": ((-4.2, -3.4), (4.2, -3.4), (0, 4.2)),
    "^": ((-4.2, 3.4), (4.2, 3.4), (0, -4.2)),
    "<": ((3.4, -4.2), (3.4, 4.2), (-4.2, 0)),
    ">": ((-3.4, -4.2), (-3.4, 4.2), (4.2, 0)),
    "o": tuple((4 * math.cos(k * math.pi / 8), 4 * math.sin(k * math.pi / 8)) for k in range(16)),
    "p": tuple((4.2 * math.sin(k * math.tau / 5), -4.2 * math.cos(k * math.tau / 5)) for k in range(5)),
    "h": tuple((4.2 * math.cos(k * math.tau / 6), 4.2 * math.sin(k * math.tau / 6)) for k in range(6)),
}


def _draw_shape(canvas: Canvas, shape: str, x: float, y: float, role: str, *, hollow: bool = False) -> None:
    """A filled shape with a rim of paper; hollow where there is no interval."""
    outline = [(x + dx, y + dy) for dx, dy in _OUTLINES[shape]]
    if hollow:
        canvas.shape(outline, role="paper", edge=role)
    else:
        canvas.shape(outline, role=role, edge="paper", width=1)
