"""From samples to an Analysis: cells, comparisons with the baseline, controls, ledgers, checks, sentences.

Pure: reads a manifest and a table of samples, writes nothing.  What the figures mean is in `results.schema`, how
they are estimated in `results.statistics`.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
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
    found = st.summarise(medians.to_numpy(dtype=np.float64))
    return Cell(
        key=key,
        metric=metric,
        points=points,
        block_values=block_values,
        median=found.median,
        interval=found.interval,
        quantiles=st.quantiles(values),
        counts=counts,
        reasons=reasons,
        note=_too_few(found),
    )


def _too_few(found: st.Summary) -> str:
    return "" if found.interval else f"{found.blocks} blocks: under {st.MIN_BLOCKS_INTERVAL}, no interval"


def _reasons(bad: pd.DataFrame) -> tuple[tuple[str, str, int], ...]:
    if bad.empty:
        return ()
    grouped = bad.astype({"reason": str, "detail": str}).groupby("reason", sort=True)["detail"]
    return tuple((str(reason), details.iloc[0], len(details)) for reason, details in grouped)


def _ratios(interval: Interval | None) -> Interval | None:
    """An interval of log-ratios as one of ratios."""
    return interval and Interval(math.exp(interval.low), math.exp(interval.high), interval.level)


def _effects_of(interval: Interval | None) -> Interval | None:
    """An interval of log-ratios as one of relative effects."""
    return interval and Interval(math.expm1(interval.low), math.expm1(interval.high), interval.level)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Figures of two cells in the blocks that both have."""

    blocks: tuple[int, ...]
    ours: st.Floats
    theirs: st.Floats

    def log_ratios(self) -> st.Floats | None:
        """None where no block has both, or a figure is not above zero."""
        return st.log_ratios(self.ours, self.theirs) if self.blocks else None


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
    difference = st.summarise(pair.ours - pair.theirs)
    found = replace(empty, difference=difference.median, difference_interval=difference.interval)
    if cell.metric.scale == "difference":
        return replace(found, note="may be zero or negative: no ratio is formed")
    logs = pair.log_ratios()
    if logs is None:
        return replace(found, note="a figure is not positive: no ratio is formed")
    ratio = st.summarise(logs, margin=math.log1p(cell.metric.margin))
    assert ratio.median is not None, "there is a block"
    dependent = ratio.effective < ratio.blocks
    return replace(
        found,
        ratio=math.exp(ratio.median),
        interval=_ratios(ratio.interval),
        p_difference=ratio.p_difference,
        p_equivalence=ratio.p_equivalence,
        detectable=st.detectable_effect(logs),
        autocorrelation=ratio.autocorrelation,
        note=f"successive blocks depend on each other and count as {ratio.effective}" if dependent else "",
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
    return tuple(_unjudged(item) for item in judged)


def _unjudged(item: Comparison) -> Comparison:
    """Where no verdict may be given, say why, and leave no p-value that no family has adjusted."""
    why = _why_none(item)
    if why is None:
        return item
    return replace(item, p_difference=None, p_equivalence=None, note=_joined(item.note, why))


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
        logs = pair.log_ratios()
        if logs is None:
            yield replace(empty, note="no block in which both were measured, or a figure that is not positive")
            continue
        found = st.summarise(logs)
        assert found.median is not None, "there is a block"
        ends = found.interval
        yield replace(
            empty,
            ratio=math.exp(found.median),
            interval=_ratios(ends),
            floor=math.expm1(max(abs(ends.low), abs(ends.high))) if ends else None,
            note=_too_few(found),
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


def _effects(control: Cell, subject: Cell, doses: Mapping[int, float]) -> dict[int, float]:
    """Block -> log of the recovered effect on cost: more time or bytes, or less throughput, is positive.

    Empty where a figure is not positive.
    """
    pair = _pair(control, subject)
    logs = pair.log_ratios()
    if logs is None:
        return {}
    sign = 1.0 if control.metric.better == "lower" else -1.0
    return {block: sign * float(log) for block, log in zip(pair.blocks, logs, strict=True) if block in doses}


def _doses(by_key: Mapping[CellKey, Cell]) -> Iterator[Dose]:
    """Each dose apart; where its own blocks are few, the spread is borrowed from all doses of the metric."""
    for control, subject, given in _dosed(by_key):
        effects = _effects(control, subject, given)
        groups = {
            level: np.array([effect for block, effect in effects.items() if _level(given[block]) == level])
            for level in sorted({_level(dose) for dose in given.values()})
        }
        filled = [group for group in groups.values() if group.size]
        residuals = np.concatenate([group - np.median(group) for group in filled]) if filled else np.array([])
        for level, group in groups.items():
            injected = statistics.median(dose for dose in given.values() if _level(dose) == level)
            empty = Dose(control.key, control.metric, injected, int(group.size), None, None, None)
            if not group.size:
                yield replace(empty, note="no block in which both were measured")
                continue
            ends = st.median_interval(group) or st.shared_spread_interval(group, residuals, len(filled))
            yield replace(
                empty,
                recovered=math.expm1(float(np.median(group))),
                interval=_effects_of(ends),
                agrees=ends.low <= math.log1p(injected) <= ends.high if ends else None,
                note="" if ends else f"{group.size} blocks: too few for an interval",
            )


def _level(dose: float) -> float:
    """Doses of one level differ a little where they are told as shares of what was typical."""
    return round(dose, 2)


def _recoveries(by_key: Mapping[CellKey, Cell]) -> Iterator[Check]:
    """All doses of a metric together: the recovered share of the injected log effect, which should be 1."""
    for control, subject, given in _dosed(by_key):
        effects = _effects(control, subject, given)
        shares = np.array([effect / math.log1p(given[block]) for block, effect in effects.items()])
        ends = st.median_interval(shares) if shares.size else None
        if ends is None:
            continue
        centre = float(np.median(shares))
        key = control.key
        yield Check(
            name=f"{CONTROLLED_CHECK}: {key.workload}/{key.metric}",
            backend=key.backend,
            value=centre - 1,
            bound=ends.high - centre if centre < 1 else centre - ends.low,
            passed=ends.low <= 1 <= ends.high,
            detail=f"{centre:.0%} of the injected effect recovered ({ends.low:.0%} to {ends.high:.0%}), "
            f"{shares.size} blocks",
        )


def _ledgers(by_key: Mapping[CellKey, Cell]) -> Iterator[Ledgers]:
    """Three ledgers of memory for each backend; `available` as slope of the fall of MemAvailable over N."""
    for key, cell in by_key.items():
        if (key.workload, key.metric, key.role) != ("memory", "available", "subject"):
            continue
        numbers = np.array([float(_parameters(point.parameters).get("n", 1)) for point in cell.points])
        falls = np.array([point.value for point in cell.points]) * numbers
        slope = st.slope(np.array([point.block for point in cell.points]), numbers, falls) if numbers.size else None
        charged = by_key.get(replace(key, metric="cgroup"))
        shared = by_key.get(replace(key, metric="pss"))
        cgroup = charged.median if charged else None
        yield Ledgers(
            backend=key.backend,
            lane=key.lane,
            profile=key.profile,
            n=tuple(int(number) for number in np.unique(numbers)),
            cgroup=cgroup,
            pss=shared.median if shared else None,
            available_slope=slope.slope if slope else None,
            available_interval=slope.interval if slope else None,
            residual=slope.slope - cgroup if slope and cgroup is not None else None,
            smallest_visible=slope.detectable if slope else None,
            note=_ledger_note(cell, slope),
        )


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
