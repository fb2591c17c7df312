"""The answer in words, made by rule from verdicts and intervals; no sentence where the data do not carry one."""

from __future__ import annotations

from collections.abc import Sequence

from results.analysis import Cell, Comparison
from results.schema import COMPARABLE_LANES

TCG_WORDS = "it ran under software emulation (TCG), which says nothing of hardware virtualisation"


def answer(cells: Sequence[Cell], comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """At most a handful of sentences, the most asked first."""
    found = (
        _container_start(comparisons),
        _container_memory(comparisons),
        _system_calls(comparisons),
        _machine_start(cells, comparisons),
        _machine_memory(cells),
    )
    return tuple(sentence for sentence in found if sentence)


def _find(comparisons: Sequence[Comparison], backend: str, workload: str, metric: str) -> Comparison | None:
    for item in comparisons:
        if (item.key.backend, item.key.workload, item.key.metric) == (backend, workload, metric):
            return item
    return None


def _added(item: Comparison | None) -> str | None:
    """`1.9 ms (1.7 to 2.1)` where a difference was called and its interval leaves out nought."""
    if item is None or item.difference is None or item.difference_interval is None:
        return None
    interval = item.difference_interval
    if item.verdict not in ("slower", None) or interval.low <= 0:
        return None
    unit, scale = _unit(item.metric.unit, item.difference)
    return f"{item.difference / scale:.3g} {unit} ({interval.low / scale:.3g} to {interval.high / scale:.3g})"


def _container_start(comparisons: Sequence[Comparison]) -> str | None:
    item = _find(comparisons, "container", "startup", "ready")
    added = _added(item)
    if item is None or item.verdict != "slower" or added is None:
        return None
    return f"On this machine a container adds {added} to the start of a bare process, {item.ratio:.3g} times as long."


def _container_memory(comparisons: Sequence[Comparison]) -> str | None:
    added = _added(_find(comparisons, "container", "memory", "cgroup"))
    return f"A container adds {added} to the memory that the kernel charges." if added else None


def _system_calls(comparisons: Sequence[Comparison]) -> str | None:
    items = [item for item in comparisons if (item.key.backend, item.key.workload) == ("container", "syscalls")]
    same, slower, faster = (
        [item for item in items if item.verdict == verdict] for verdict in ("equivalent", "slower", "faster")
    )
    rest = len(items) - len(same) - len(slower) - len(faster)
    if rest == len(items):
        return None
    parts = [f"{len(same)} cost the same as in a bare process"] if same else []
    if slower:
        worst = max(slower, key=lambda item: item.ratio or 0.0)
        parts.append(f"{len(slower)} cost more, at most {worst.ratio:.3g} times as much ({worst.key.metric})")
    parts += [f"{len(faster)} cost less"] if faster else []
    parts += [f"for {rest} the data do not tell"] if rest else []
    return f"Of {len(items)} kinds of system call in a container, {', '.join(parts)}."


def _machine_start(cells: Sequence[Cell], comparisons: Sequence[Comparison]) -> str | None:
    for cell in cells:
        key = cell.key
        if (key.workload, key.metric, key.backend, key.role) != ("startup", "ready", "vm", "subject"):
            continue
        if cell.median is None or cell.interval is None:
            return None
        unit, scale = _unit("ns", cell.median)
        spread = f"{cell.interval.low / scale:.3g} to {cell.interval.high / scale:.3g}"
        took = f"A virtual machine is ready after {cell.median / scale:.3g} {unit} ({spread})"
        if key.lane not in COMPARABLE_LANES:
            return f"{took}; {TCG_WORDS if key.lane == 'tcg' else f'its lane is {key.lane}'}."
        item = _find(comparisons, "vm", "startup", "ready")
        return f"{took}, {item.ratio:.3g} times a bare process." if item and item.verdict == "slower" else None
    return None


def _machine_memory(cells: Sequence[Cell]) -> str | None:
    for cell in cells:
        key = cell.key
        if (key.workload, key.metric, key.backend, key.role) == ("memory", "pss", "vm", "subject") and cell.interval:
            assert cell.median is not None
            unit, scale = _unit("bytes", cell.median)
            spread = f"{cell.interval.low / scale:.3g} to {cell.interval.high / scale:.3g}"
            held = f"{cell.median / scale:.3g} {unit} ({spread}) of the host's memory"
            lane = "" if key.lane in COMPARABLE_LANES else f", in lane {key.lane}"
            return f"A virtual machine's processes hold {held}{lane}."
    return None


def _unit(unit: str, size: float) -> tuple[str, float]:
    """A unit that a person reads at ease, and how much of ours it is."""
    steps = {
        "ns": (("s", 1e9), ("ms", 1e6), ("us", 1e3), ("ns", 1.0)),
        "bytes": (("GiB", 2.0**30), ("MiB", 2.0**20), ("KiB", 2.0**10), ("bytes", 1.0)),
        "bytes/s": (("GB/s", 1e9), ("MB/s", 1e6), ("kB/s", 1e3), ("B/s", 1.0)),
    }
    for name, scale in steps.get(unit, ()):
        if abs(size) >= scale:
            return name, scale
    return unit, 1.0
