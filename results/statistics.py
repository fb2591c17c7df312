"""Statistics of paired blocks: pure functions over NumPy arrays (DESIGN section 6).

The unit is the block: each holds one figure of the subject and one of its baseline, taken within seconds of each
other, and what is studied is the log of their ratio.  Sources:

    Kalibera & Jones 2013, "Rigorous benchmarking in reasonable time": the repetition at the highest level that
        varies is what intervals must be made over; effects are ratios with intervals.
    Davison & Hinkley 1997, "Bootstrap methods and their application", ch. 2 and 3.8: bootstrap over clusters.
    Kuensch 1989, "The jackknife and the bootstrap for general stationary observations": moving blocks for
        dependent data.
    Schuirmann 1987, "A comparison of the two one-sided tests procedure ...": equivalence.
    Holm 1979, "A simple sequentially rejective multiple test procedure".
    Phipson & Smyth 2010, "Permutation p-values should never be zero".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

Floats = npt.NDArray[np.float64]

RESAMPLES = 10_000
LEVEL = 0.95
ALPHA = 0.05
POWER = 0.80
MIN_BLOCKS_INTERVAL = 8
MIN_BLOCKS_VERDICT = 20
SEED = 20260101
"""Of the bootstrap: fixed, so that the same samples give the same report."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A median over blocks with its bootstrap distribution. Without one (under 8 blocks) only `value` is known."""

    value: float
    blocks: int
    resampled: Floats | None
    autocorrelation: float | None
    dependent: bool
    """Lag-1 autocorrelation beyond chance: the resampling then took moving blocks."""

    def interval(self, level: float = LEVEL) -> tuple[float, float] | None:
        """Percentile interval (Davison & Hinkley, 5.3.1); None under 8 blocks."""
        if self.resampled is None:
            return None
        tail = (1 - level) / 2
        low, high = np.quantile(self.resampled, (tail, 1 - tail))
        return float(low), float(high)

    def p_below(self, bound: float) -> float | None:
        """One-sided p-value of `the true median is at or above bound`: small says that it is below."""
        if self.resampled is None:
            return None
        return float((np.count_nonzero(self.resampled >= bound) + 1) / (len(self.resampled) + 1))

    def p_above(self, bound: float) -> float | None:
        """One-sided p-value of `the true median is at or below bound`: small says that it is above."""
        if self.resampled is None:
            return None
        return float((np.count_nonzero(self.resampled <= bound) + 1) / (len(self.resampled) + 1))

    @property
    def spread(self) -> float | None:
        """Standard error of the median."""
        return None if self.resampled is None else float(np.std(self.resampled, ddof=1))


def estimate(values: Sequence[float] | Floats, *, resamples: int = RESAMPLES, seed: int = SEED) -> Estimate:
    """Median over blocks (in the order of time) and its bootstrap over blocks; moving blocks where they depend."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or len(data) == 0 or not np.isfinite(data).all():
        raise ValueError("one finite figure per block is needed")
    autocorrelation = lag1_autocorrelation(data)
    dependent = autocorrelation is not None and is_autocorrelated(autocorrelation, len(data))
    resampled = None
    if len(data) >= MIN_BLOCKS_INTERVAL:
        rng = np.random.default_rng(seed)
        picks = _moving_blocks(len(data), resamples, rng) if dependent else _independent(len(data), resamples, rng)
        resampled = np.median(data[picks], axis=1)
    return Estimate(float(np.median(data)), len(data), resampled, autocorrelation, dependent)


def _independent(size: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return rng.integers(0, size, (resamples, size))


def _moving_blocks(size: int, resamples: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """Indices of overlapping runs of length ~ size^(1/3) (Kuensch 1989), glued to `size`."""
    length = max(2, math.ceil(size ** (1 / 3)))
    count = math.ceil(size / length)
    starts = rng.integers(0, size - length + 1, (resamples, count, 1))
    return (starts + np.arange(length)).reshape(resamples, count * length)[:, :size]


def lag1_autocorrelation(values: Floats) -> float | None:
    """Of consecutive blocks; None under 8 blocks or where nothing varies."""
    if len(values) < MIN_BLOCKS_INTERVAL:
        return None
    centred = values - values.mean()
    total = float(centred @ centred)
    # What rounding alone leaves of equal figures is no variation.
    if total <= (np.abs(values).max() * 1e-12) ** 2 * len(values):
        return None
    return float(centred[1:] @ centred[:-1]) / total


def is_autocorrelated(autocorrelation: float, blocks: int) -> bool:
    """Beyond the one-sided 99 % bound of white noise: positive dependence is what makes intervals too short."""
    return autocorrelation > 2.326 / math.sqrt(blocks)


def log_ratios(values: Sequence[float] | Floats, baseline: Sequence[float] | Floats) -> Floats:
    """log(value / baseline) block by block. Raises ValueError unless both are positive and of one length."""
    ours, theirs = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    if ours.shape != theirs.shape:
        raise ValueError("one baseline figure per block is needed")
    if not ((ours > 0).all() and (theirs > 0).all()):
        raise ValueError("a ratio needs positive figures")
    logs: Floats = np.log(ours) - np.log(theirs)
    return logs


def p_difference(found: Estimate) -> float | None:
    """Two-sided p-value of `no difference` (log-ratio 0), the inversion of the percentile interval."""
    below, above = found.p_below(0.0), found.p_above(0.0)
    return None if below is None or above is None else min(1.0, 2 * min(below, above))


def p_equivalence(found: Estimate, margin: float) -> float | None:
    """Larger p-value of the two one-sided tests against -log(1+margin) and log(1+margin) (Schuirmann 1987)."""
    bound = math.log1p(margin)
    above, below = found.p_above(-bound), found.p_below(bound)
    return None if above is None or below is None else max(above, below)


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjusted p-values in the given order (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, index in enumerate(order):
        running = max(running, (len(p_values) - rank) * p_values[index])
        adjusted[index] = min(1.0, running)
    return tuple(adjusted)


def detectable(found: Estimate) -> float | None:
    """Smallest relative effect seen with 80 % power at 5 %, from the run's own standard error."""
    if found.spread is None:
        return None
    return math.expm1((stats.norm.ppf(1 - ALPHA / 2) + stats.norm.ppf(POWER)) * found.spread)


def blocks_needed(found: Estimate, effect: float) -> int | None:
    """Blocks that would make `effect` (0.03 is 3 %) detectable, were the spread to stay; None where it is unknown."""
    if found.spread is None:
        return None
    now = math.log1p(detectable(found) or 0.0)
    return max(MIN_BLOCKS_VERDICT, math.ceil(found.blocks * (now / math.log1p(effect)) ** 2))


def can_reject(blocks: int, family: int) -> bool:
    """Whether the smallest member of a Holm family could be called at all: even if all blocks agree in sign.

    2^(1-blocks) is the exact sign test's smallest two-sided p-value; the bootstrap's floor is that of its resamples.
    """
    return max(2.0 ** (1 - blocks), 2 / (RESAMPLES + 1)) * family <= ALPHA


@dataclass(frozen=True, slots=True)
class Slope:
    value: float
    low: float
    high: float


def theil_sen(x: Sequence[float] | Floats, y: Sequence[float] | Floats, level: float = LEVEL) -> Slope | None:
    """Slope of y over x, robust against outliers (Theil 1950, Sen 1968), with Sen's interval.

    None under 8 points or under two different x.
    """
    if len(x) < MIN_BLOCKS_INTERVAL or len(set(map(float, x))) < 2:
        return None
    found: Any = stats.theilslopes(np.asarray(y, dtype=np.float64), np.asarray(x, dtype=np.float64), alpha=level)
    return Slope(float(found.slope), float(found.low_slope), float(found.high_slope))


def quantiles(values: Sequence[float] | Floats, wanted: Sequence[float] = (0.5, 0.9, 0.99)) -> tuple[float, ...]:
    """Linear-interpolated sample quantiles (Hyndman & Fan 1996, type 7)."""
    return tuple(float(value) for value in np.quantile(np.asarray(values, dtype=np.float64), wanted))


def ratio_interval(values: Sequence[float], baseline: Sequence[float]) -> tuple[float, float, float]:
    """(ratio, low, high) of paired figures: exp of the median log-ratio. Raises ValueError under 8 pairs."""
    found = estimate(log_ratios(values, baseline))
    interval = found.interval()
    if interval is None:
        raise ValueError(f"{found.blocks} pairs are too few for an interval")
    return math.exp(found.value), math.exp(interval[0]), math.exp(interval[1])
