"""From samples to an Analysis: cells, comparisons with the baseline, controls, ledgers, checks, sentences.

Pure: reads a manifest and a table of samples, writes nothing.  What the figures mean is in `results.schema`, how
they are estimated in `results.statistics`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from results import sentences
from results import statistics as st
from results.analysis import (
    Analysis,
    Cell,
    CellKey,
    Check,
    Comparison,
    Dose,
    Floor,
    Interval,
    Ledgers,
    Point,
    Verdict,
)
from results.schema import BASELINE, COMPARABLE_LANES, REGISTRY, Manifest

KEYS = ["workload", "metric", "backend", "role", "lane", "profile"]
CONTROLLED_CHECK = "positive control"
QUANTILES = (0.5, 0.9, 0.99)


def analyse(manifest: Manifest, samples: pd.DataFrame) -> Analysis:
    """All that a report shows of one run. `samples` has the columns of DESIGN section 3."""
    known = [pair in REGISTRY for pair in zip(samples["workload"], samples["metric"], strict=True)]
    samples = samples[np.array(known, dtype=bool)]
    checks = samples["workload"] == "checks"
    cells = _cells(samples[~checks], manifest)
    by_key = {cell.key: cell for cell in cells}
    floors = tuple(_floors(by_key))
    comparisons = _judged(tuple(_comparisons(by_key)), floors)
    return Analysis(
        manifest=manifest,
        cells=cells,
        comparisons=comparisons,
        floors=floors,
        doses=tuple(_doses(by_key)),
        ledgers=tuple(_ledgers(by_key)),
        checks=(*_checks(samples[checks]), *_recoveries(by_key)),
        sentences=sentences.answer(cells, comparisons),
    )


def _cells(samples: pd.DataFrame, manifest: Manifest) -> tuple[Cell, ...]:
    """One Cell for each combination that occurs, in the registry's and the manifest's order."""
    backends = {record.backend: index for index, record in enumerate(manifest.backends)}
    metrics = {pair: index for index, pair in enumerate(REGISTRY)}
    cells = [_cell(CellKey(*map(str, key)), rows) for key, rows in samples.groupby(KEYS, observed=True, sort=False)]

    def order(cell: Cell) -> tuple[int, int, str]:
        key = cell.key
        return metrics[key.workload, key.metric], backends.get(key.backend, len(backends)), key.role

    return tuple(sorted(cells, key=order))


def _cell(key: CellKey, rows: pd.DataFrame) -> Cell:
    good = rows[rows["status"] == "ok"].sort_values(["block", "t_ns"], kind="stable")
    counts = tuple((str(status), int(number)) for status, number in rows["status"].value_counts().items() if number)
    metric = REGISTRY[key.workload, key.metric]
    reasons = _reasons(rows[rows["status"] != "ok"])
    if good.empty:
        return Cell(key, metric, (), (), None, None, (), counts, reasons, "no sample is ok")
    blocks = good["block"].to_numpy()
    values = good["value"].to_numpy(dtype=np.float64)
    points = tuple(map(Point, blocks.tolist(), values.tolist(), good["parameters"].astype(str).tolist()))
    medians = good.groupby("block", sort=True)["value"].median()
    block_values = tuple(zip((int(block) for block in medians.index), map(float, medians), strict=True))
    found = st.estimate(medians.to_numpy(dtype=np.float64))
    note = "" if found.resampled is not None else f"{found.blocks} blocks: under {st.MIN_BLOCKS_INTERVAL}, no interval"
    quantiles = tuple(zip(QUANTILES, st.quantiles(values, QUANTILES), strict=True))
    return Cell(
        key, metric, points, block_values, found.value, _interval(found), quantiles, counts, reasons, note
    )  # fmt: skip


def _reasons(bad: pd.DataFrame) -> tuple[tuple[str, str, int], ...]:
    if bad.empty:
        return ()
    grouped = bad.astype({"reason": str, "detail": str}).groupby("reason", sort=True)["detail"]
    return tuple((str(reason), details.iloc[0], len(details)) for reason, details in grouped)


def _interval(found: st.Estimate, sign: float = 1.0, exponential: bool = False) -> Interval | None:
    ends = found.interval()
    if ends is None:
        return None
    low, high = sorted((sign * ends[0], sign * ends[1]))
    return Interval(math.expm1(low) + 1, math.expm1(high) + 1) if exponential else Interval(low, high)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Figures of two cells in the blocks that both have."""

    blocks: tuple[int, ...]
    ours: st.Floats
    theirs: st.Floats

    @property
    def positive(self) -> bool:
        return bool(len(self.blocks)) and bool((self.ours > 0).all() and (self.theirs > 0).all())


def _pair(ours: Cell, theirs: Cell) -> _Pair:
    mine, other = dict(ours.block_values), dict(theirs.block_values)
    blocks = tuple(sorted(mine.keys() & other.keys()))
    return _Pair(
        blocks, np.array([mine[block] for block in blocks]), np.array([other[block] for block in blocks])
    )  # fmt: skip


def _comparisons(by_key: Mapping[CellKey, Cell]) -> Iterator[Comparison]:
    """Every subject against the bare process in the same blocks; verdicts come later, family by family."""
    baselines = {
        (key.workload, key.metric): cell
        for key, cell in by_key.items()
        if key.backend == BASELINE and key.role == "subject"
    }
    for key, cell in by_key.items():
        baseline = baselines.get((key.workload, key.metric))
        if key.role == "subject" and key.backend != BASELINE and baseline is not None:
            yield _comparison(cell, baseline)


def _comparison(cell: Cell, baseline: Cell) -> Comparison:
    pair = _pair(cell, baseline)
    empty = Comparison(
        key=cell.key, baseline=baseline.key, metric=cell.metric, blocks=len(pair.blocks), ratio=None, interval=None,
        difference=None, difference_interval=None, p_difference=None, p_equivalence=None,
        family=f"{cell.key.workload} against {BASELINE}", verdict=None, detectable=None, autocorrelation=None,
    )  # fmt: skip
    if not pair.blocks:
        return replace(empty, note="no block in which both were measured")
    difference = st.estimate(pair.ours - pair.theirs)
    found = replace(empty, difference=difference.value, difference_interval=_interval(difference))
    if cell.metric.scale == "difference":
        return replace(found, note="may be zero or negative: no ratio is formed")
    if not pair.positive:
        return replace(found, note="a figure is not positive: no ratio is formed")
    ratio = st.estimate(st.log_ratios(pair.ours, pair.theirs))
    return replace(
        found,
        ratio=math.exp(ratio.value),
        interval=_interval(ratio, exponential=True),
        p_difference=st.p_difference(ratio),
        p_equivalence=st.p_equivalence(ratio, cell.metric.margin),
        detectable=st.detectable(ratio),
        autocorrelation=ratio.autocorrelation,
        note="successive blocks depend on each other: interval by moving blocks" if ratio.dependent else "",
    )


def _judged(comparisons: tuple[Comparison, ...], floors: Sequence[Floor]) -> tuple[Comparison, ...]:
    """Adjust p-values within each family (Holm), then give verdicts."""
    noise = {(floor.key.workload, floor.key.metric, floor.key.lane): floor.floor for floor in floors}
    judged = list(comparisons)
    for family in dict.fromkeys(comparison.family for comparison in comparisons):
        members = [index for index, item in enumerate(judged) if item.family == family and _why_none(item) is None]
        differences = st.holm([judged[index].p_difference or 0.0 for index in members])
        equivalences = st.holm([judged[index].p_equivalence or 0.0 for index in members])
        for index, p_difference, p_equivalence in zip(members, differences, equivalences, strict=True):
            item = replace(judged[index], p_difference=p_difference, p_equivalence=p_equivalence)
            floor = noise.get((item.key.workload, item.key.metric, item.key.lane))
            verdict, remark = _verdict(item, floor, len(members))
            judged[index] = replace(item, verdict=verdict, note=_joined(item.note, remark))
    return tuple(replace(item, note=_joined(item.note, why)) if (why := _why_none(item)) else item for item in judged)


def _why_none(item: Comparison) -> str | None:
    """Why a comparison gets no verdict; None where it may get one."""
    if item.ratio is None:
        return "" if item.note else "no ratio"
    if item.key.lane not in COMPARABLE_LANES:
        return f"lane {item.key.lane} against {item.baseline.lane}: not comparable, no verdict"
    if item.blocks < st.MIN_BLOCKS_VERDICT:
        return f"{item.blocks} blocks: under {st.MIN_BLOCKS_VERDICT}, no verdict"
    return None


def _verdict(item: Comparison, floor: float | None, family: int) -> tuple[Verdict, str]:
    """Equivalence first: a difference that is certain but within the margin does not matter in practice."""
    assert item.ratio is not None
    assert item.p_difference is not None
    assert item.p_equivalence is not None
    if not st.can_reject(item.blocks, family):
        return "inconclusive", f"{item.blocks} blocks are too few for a family of {family}"
    noise = floor or 0.0
    if item.p_equivalence <= st.ALPHA:
        if noise > item.metric.margin:
            return "inconclusive", f"the A/A floor ({noise:.1%}) is above the margin"
        return "equivalent", ""
    if item.p_difference > st.ALPHA:
        return "inconclusive", ""
    if abs(math.log(item.ratio)) <= math.log1p(noise):
        return "inconclusive", f"below the A/A floor ({noise:.1%})"
    lower = item.ratio < 1
    return ("faster" if lower == (item.metric.better == "lower") else "slower"), ""


def _joined(*notes: str) -> str:
    return "; ".join(note for note in notes if note)


def _floors(by_key: Mapping[CellKey, Cell]) -> Iterator[Floor]:
    """The A/A control: twin against subject, same blocks."""
    for key, cell in by_key.items():
        subject = by_key.get(replace(key, role="subject"))
        if key.role != "twin" or subject is None or cell.metric.scale == "difference":
            continue
        pair = _pair(cell, subject)
        empty = Floor(key, cell.metric, len(pair.blocks), None, None, None)
        if not pair.positive:
            yield replace(empty, note="no block in which both were measured, or a figure that is not positive")
            continue
        found = st.estimate(st.log_ratios(pair.ours, pair.theirs))
        ends = found.interval()
        yield replace(
            empty,
            ratio=math.exp(found.value),
            interval=_interval(found, exponential=True),
            floor=math.expm1(max(abs(ends[0]), abs(ends[1]))) if ends else None,
            note="" if ends else f"{found.blocks} blocks: under {st.MIN_BLOCKS_INTERVAL}, no interval",
        )


@cache
def _parameters(text: str) -> Mapping[str, Any]:
    loaded: Mapping[str, Any] = json.loads(text)
    return loaded


def _dosed(by_key: Mapping[CellKey, Cell]) -> Iterator[tuple[Cell, Cell, dict[int, float]]]:
    """(control, subject, block -> dose) of each metric that was dosed."""
    for key, cell in by_key.items():
        subject = by_key.get(replace(key, role="subject"))
        if key.role != "control" or subject is None:
            continue
        doses = {point.block: float(_parameters(point.parameters).get("dose", 0.0)) for point in cell.points}
        doses = {block: dose for block, dose in doses.items() if dose > 0}
        if doses:
            yield cell, subject, doses


def _effects(control: Cell, subject: Cell, blocks: Iterable[int]) -> st.Floats:
    """Log of the recovered effect on cost, block by block: more time or bytes, or less throughput, is positive."""
    pair = _pair(control, subject)
    keep = np.isin(pair.blocks, list(blocks))
    sign = 1.0 if control.metric.better == "lower" else -1.0
    return sign * st.log_ratios(pair.ours[keep], pair.theirs[keep])


def _doses(by_key: Mapping[CellKey, Cell]) -> Iterator[Dose]:
    for control, subject, doses in _dosed(by_key):
        for dose in sorted(set(doses.values())):
            effects = _effects(control, subject, [block for block, given in doses.items() if given == dose])
            empty = Dose(control.key, control.metric, dose, len(effects), None, None, None)
            if not len(effects):
                yield replace(empty, note="no block in which both were measured")
                continue
            found = st.estimate(effects)
            ends = found.interval()
            yield replace(
                empty,
                recovered=math.expm1(found.value),
                interval=Interval(math.expm1(ends[0]), math.expm1(ends[1])) if ends else None,
                agrees=ends[0] <= math.log1p(dose) <= ends[1] if ends else None,
                note="" if ends else f"{found.blocks} blocks: under {st.MIN_BLOCKS_INTERVAL}, no interval",
            )


def _recoveries(by_key: Mapping[CellKey, Cell]) -> Iterator[Check]:
    """All doses of a metric together: the recovered share of the injected log effect, which should be 1."""
    for control, subject, doses in _dosed(by_key):
        shared = sorted(dict(control.block_values).keys() & dict(subject.block_values).keys() & doses.keys())
        effects = _effects(control, subject, shared)
        if len(effects) < st.MIN_BLOCKS_INTERVAL:
            continue
        found = st.estimate(effects / np.array([math.log1p(doses[block]) for block in shared]))
        ends = found.interval()
        assert ends is not None, "there are blocks enough"
        key = control.key
        yield Check(
            name=f"{CONTROLLED_CHECK}: {key.workload}/{key.metric}",
            backend=key.backend,
            value=found.value - 1,
            bound=max(abs(ends[0] - found.value), abs(ends[1] - found.value)),
            passed=ends[0] <= 1 <= ends[1],
            detail=f"{found.value:.0%} of the injected effect recovered ({ends[0]:.0%} to {ends[1]:.0%}), "
            f"{len(effects)} blocks",
        )


def _ledgers(by_key: Mapping[CellKey, Cell]) -> Iterator[Ledgers]:
    """Three ledgers of memory for each backend; `available` as slope of the fall of MemAvailable over N."""
    for key, cell in by_key.items():
        if (key.workload, key.metric, key.role) != ("memory", "available", "subject"):
            continue
        numbers = [int(_parameters(point.parameters).get("n", 1)) for point in cell.points]
        falls = [point.value * number for point, number in zip(cell.points, numbers, strict=True)]
        slope = st.theil_sen(numbers, falls)
        charged = by_key.get(replace(key, metric="cgroup"))
        shared = by_key.get(replace(key, metric="pss"))
        cgroup = charged.median if charged else None
        yield Ledgers(
            backend=key.backend,
            lane=key.lane,
            profile=key.profile,
            n=tuple(sorted(set(numbers))),
            cgroup=cgroup,
            pss=shared.median if shared else None,
            available_slope=slope.value if slope else None,
            available_interval=Interval(slope.low, slope.high) if slope else None,
            residual=slope.value - cgroup if slope and cgroup is not None else None,
            smallest_visible=_smallest_visible(slope) if slope else None,
            note=_ledger_note(cell, slope),
        )


def _smallest_visible(slope: st.Slope) -> float:
    """80 % power at 5 %: 2.8 standard errors, read from the 95 % interval, which is 2 x 1.96 of them wide."""
    return 2.8 * (slope.high - slope.low) / 3.92


def _ledger_note(cell: Cell, slope: st.Slope | None) -> str:
    if not cell.points:
        return _joined(*(f"{reason}: {detail}" for reason, detail, _ in cell.reasons)) or "not measured"
    return "" if slope else f"{len(cell.points)} samples, too few for a slope"


def _checks(samples: pd.DataFrame) -> Iterator[Check]:
    """The instrument's cross-checks: for each backend and kind, the worst of what was checked."""
    subjects = samples[(samples["role"] == "subject") & (samples["status"] == "ok")]
    if subjects.empty:
        return
    subjects = subjects.astype({"metric": str, "backend": str, "parameters": str})
    for (metric, backend), rows in subjects.groupby(["metric", "backend"], sort=False):
        deviations = rows.groupby("parameters")["value"].median()
        worst = str(deviations.abs().idxmax())
        bound = REGISTRY["checks", str(metric)].margin
        value = float(deviations[worst])
        yield Check(
            name=str(metric),
            backend=str(backend),
            value=value,
            bound=bound,
            passed=abs(value) <= bound,
            detail=f"worst of {len(deviations)}: {_parameters(worst).get('of', '?')}; {len(rows)} readings",
        )
