"""Frozen values between the statistics and whoever shows them. No arithmetic here, no I/O.

`results.compare.analyse(manifest, samples)` makes an `Analysis`; `reports` draws it and adds nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from results.schema import Manifest, Metric

Verdict = Literal["faster", "slower", "equivalent", "inconclusive"]
"""`faster` means better by the metric's own direction: less time, less memory, more throughput."""


@dataclass(frozen=True, slots=True)
class Interval:
    low: float
    high: float
    level: float = 0.95


@dataclass(frozen=True, slots=True)
class CellKey:
    """What identifies a cell: compare like with like. `parameters` is canonical JSON without per-block values."""

    workload: str
    metric: str
    backend: str
    role: str
    lane: str
    profile: str


@dataclass(frozen=True, slots=True)
class Point:
    """One `ok` sample, for charts that show every sample."""

    block: int
    value: float
    parameters: str


@dataclass(frozen=True, slots=True)
class Cell:
    """One backend doing one workload, one metric, one role. Values are in the metric's unit."""

    key: CellKey
    metric: Metric
    points: tuple[Point, ...]
    block_values: tuple[tuple[int, float], ...]
    """(block, median of the block's ok samples), by block."""
    median: float | None
    """Median over blocks; None where nothing was ok."""
    interval: Interval | None
    """Cluster bootstrap over blocks of the median; None under 8 blocks."""
    quantiles: tuple[tuple[float, float], ...]
    """(q, value) for 0.5, 0.9, 0.99 over all ok samples."""
    counts: tuple[tuple[str, int], ...]
    """(status, number of rows), statuses that occur."""
    reasons: tuple[tuple[str, str, int], ...]
    """(reason, one detail, number) for rows that are not ok."""
    note: str = ""
    """Why there is no interval, or another remark; empty where there is none."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A cell against its baseline in the same blocks: exp of the median over blocks of the log-ratio.

    `ratio` is value over baseline value, whatever the better direction. `verdict` is None where none may be given
    (different lanes, under 20 blocks, scale `difference`): `note` says why.
    """

    key: CellKey
    baseline: CellKey
    metric: Metric
    blocks: int
    ratio: float | None
    interval: Interval | None
    difference: float | None
    """Median over blocks of value minus baseline value, in the metric's unit."""
    difference_interval: Interval | None
    p_difference: float | None
    """Holm-adjusted within its family."""
    p_equivalence: float | None
    """Larger of the two one-sided p-values, Holm-adjusted within its family."""
    family: str
    verdict: Verdict | None
    detectable: float | None
    """Smallest relative effect that this run could see (80 % power, 5 %), from its own variance."""
    autocorrelation: float | None
    """Lag-1, of the block log-ratios."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Floor:
    """The A/A control of a workload's metric and lane: twin against subject. `ratio` should include 1."""

    key: CellKey
    metric: Metric
    blocks: int
    ratio: float | None
    interval: Interval | None
    floor: float | None
    """Smallest relative effect above the noise: upper bound of |log ratio|, as a ratio minus 1."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Dose:
    """The positive control at one dose: injected relative effect and what was recovered."""

    key: CellKey
    metric: Metric
    injected: float
    """Relative effect put in, 0.1 is 10 % more."""
    blocks: int
    recovered: float | None
    interval: Interval | None
    agrees: bool | None
    """The interval holds the injected effect; None where there is no interval."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Ledgers:
    """Memory of one backend: three ledgers per instance in bytes, and what they leave unexplained."""

    backend: str
    lane: str
    profile: str
    n: tuple[int, ...]
    """The N that were visited."""
    cgroup: float | None
    pss: float | None
    available_slope: float | None
    """Slope of the fall of MemAvailable over N, bytes per instance."""
    available_interval: Interval | None
    residual: float | None
    """`available_slope` minus `cgroup`."""
    smallest_visible: float | None
    """Smallest difference in `available_slope` that this run can see, bytes per instance."""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Check:
    """A cross-check of the instrument: payload clock against host clock, fio bytes against block counters ..."""

    name: str
    backend: str
    value: float
    """Relative deviation seen (median), as a fraction."""
    bound: float
    passed: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Analysis:
    """All that a report shows of one run."""

    manifest: Manifest
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    floors: tuple[Floor, ...]
    doses: tuple[Dose, ...]
    ledgers: tuple[Ledgers, ...]
    checks: tuple[Check, ...]
    sentences: tuple[str, ...]
    """The answer in words, made by rule from verdicts; none where the data do not carry one."""
