"""Orders: randomised complete blocks, balanced for the predecessor.  Pure; everything follows from the seed.

Each workload's blocks visit all its cells once.  The orders of a workload's blocks are the rows of a Williams
design (Williams 1949, "Experimental designs balanced for the estimation of residual effects of treatments"): over a
full cycle every cell follows every other equally often, so that what one launch leaves behind falls on all alike.
Which cell stands for which letter, and which row comes when, is drawn anew for each cycle.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.plan import Cell, Plan

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Block:
    """One complete block: every cell of a workload once, in this order."""

    workload: str
    number: int
    cells: tuple[Cell, ...]


def williams_rows(size: int) -> tuple[tuple[int, ...], ...]:
    """Rows of a Williams design of `size` letters: `size` rows when even, twice as many when odd.

    In a full set, each ordered pair of different letters stands side by side equally often.
    """
    first = [0]
    for step in range(1, size):
        first.append((first[-1] + (step if step % 2 else -step)) % size)
    rows = [tuple((letter + shift) % size for letter in first) for shift in range(size)]
    if size % 2 and size > 1:
        rows += [tuple(reversed(row)) for row in rows]
    return tuple(rows)


def orders(cells: Sequence[T], count: int, rng: random.Random) -> tuple[tuple[T, ...], ...]:
    """`count` orders of `cells`, predecessor-balanced within each full cycle."""
    made: list[tuple[T, ...]] = []
    rows = list(williams_rows(len(cells)))
    while len(made) < count:
        letters = list(cells)
        rng.shuffle(letters)
        rng.shuffle(rows)
        made += [tuple(letters[index] for index in row) for row in rows]
    return tuple(made[:count])


def blocks(plan: Plan) -> Iterator[Block]:
    """All blocks of a plan in the order of the run.

    The workloads' blocks are interleaved evenly, so that a run cut short holds about the same share of each and a
    drift of the host falls on all. A plan with the same seed gives the same order.
    """
    rng = random.Random(f"tare schedule {plan.seed}")
    queue: list[tuple[float, float, Block]] = []
    for workload, pace in plan.paces:
        for number, cells in enumerate(orders(plan.cells_of(workload), pace.blocks, rng)):
            queue.append(((number + rng.random()) / pace.blocks, rng.random(), Block(workload, number, cells)))
    for _, _, block in sorted(queue, key=lambda item: item[:2]):
        yield block
