"""What to measure: frozen, validated, no I/O.  `bench.schedule` orders it, `bench.engine` carries it out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from results.schema import Role

Depth = Literal["quick", "full"]


class PlanError(ValueError):
    """Wrong use: one line that says what and where (exit code 2)."""


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """One workload in one backend, in one role. A control's dose is `multiple` times the metric's margin."""

    workload: str
    backend: str
    role: Role = "subject"

    @property
    def label(self) -> str:
        return self.backend if self.role == "subject" else f"{self.backend} ({self.role})"


@dataclass(frozen=True, slots=True)
class Pace:
    """How one workload is repeated."""

    blocks: int
    repeats: int
    """Launches recorded in one slot of a cheap backend; others get one."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A whole run. `cells` holds every cell once; each block of a workload visits all of that workload's cells."""

    seed: int
    depth: Depth
    cells: tuple[Cell, ...]
    paces: tuple[tuple[str, Pace], ...]
    settle_s: float
    """Waited before each timed launch, the same for all."""
    timeout_s: float
    """Bound of every single wait."""
    memory_bytes: int
    """Limit of containers and guest memory of VMs, for parity."""
    pids: int
    named_backends: tuple[str, ...] = ()
    """Those the user asked for by name: where one cannot run, the exit code is 1."""

    def pace(self, workload: str) -> Pace:
        return dict(self.paces)[workload]

    @property
    def workloads(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.paces)

    def cells_of(self, workload: str) -> tuple[Cell, ...]:
        return tuple(cell for cell in self.cells if cell.workload == workload)

    def as_mapping(self) -> Mapping[str, Any]:
        return asdict(self)


PACES: Mapping[Depth, Mapping[str, Pace]] = {
    "quick": {
        "startup": Pace(blocks=20, repeats=5),
        "syscalls": Pace(blocks=20, repeats=1),
        "memory": Pace(blocks=10, repeats=1),
        "storage": Pace(blocks=8, repeats=1),
    },
    "full": {
        "startup": Pace(blocks=60, repeats=10),
        "syscalls": Pace(blocks=40, repeats=1),
        "memory": Pace(blocks=30, repeats=1),
        "storage": Pace(blocks=30, repeats=1),
    },
}
CONTROLLED = "container"
"""The backend that carries the A/A twin and the injected dose of every workload (DESIGN section 6)."""


def _known(kind: str, names: Iterable[str], known: Iterable[str]) -> tuple[str, ...]:
    known = tuple(known)
    chosen = tuple(dict.fromkeys(names))
    for name in chosen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
            hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(known)}"
            raise PlanError(f"unknown {kind} {name!r}: {hint}")
    return chosen


def _split(cell: str) -> tuple[str, str]:
    workload, slash, backend = cell.partition("/")
    if not slash:
        raise PlanError(f"--cell {cell!r}: write WORKLOAD/BACKEND")
    return workload, backend


def make_plan(
    *,
    seed: int,
    depth: Depth,
    known_backends: Iterable[str],
    default_backends: Iterable[str],
    backends: Iterable[str] = (),
    workloads: Iterable[str] = (),
    only: Iterable[str] = (),
    blocks: int | None = None,
    settle_s: float = 0.01,
    timeout_s: float = 60.0,
    memory_bytes: int = 256 << 20,
    pids: int = 512,
) -> Plan:
    """Expand a user's choice into a plan. `only` keeps just the named `workload/backend` cells.

    Raises PlanError for an unknown name (with the nearest ones) or a number that makes no sense.
    """
    if blocks is not None and blocks < 1:
        raise PlanError(f"--blocks {blocks}: at least one block is needed")
    wanted = {_split(cell) for cell in only}
    named = _known("backend", backends, known_backends)
    chosen_backends = named or tuple(default_backends)
    chosen_workloads = _known("workload", workloads, PACES[depth]) or tuple(PACES[depth])
    if wanted:
        chosen_backends = _known("backend", (backend for _, backend in sorted(wanted)), known_backends)
        chosen_workloads = _known("workload", (workload for workload, _ in sorted(wanted)), PACES[depth])
    paces = tuple(
        (name, Pace(blocks=blocks or pace.blocks, repeats=pace.repeats))
        for name, pace in PACES[depth].items()
        if name in chosen_workloads
    )
    cells: list[Cell] = []
    for name, _ in paces:
        cells += [Cell(name, backend) for backend in chosen_backends]
        if CONTROLLED in chosen_backends:
            cells += [Cell(name, CONTROLLED, "twin"), Cell(name, CONTROLLED, "control")]
    if wanted:
        cells = [cell for cell in cells if (cell.workload, cell.backend) in wanted]
    return Plan(seed, depth, tuple(cells), paces, settle_s, timeout_s, memory_bytes, pids, named)


def plan_from_mapping(stored: Mapping[str, Any]) -> Plan:
    """The plan as a manifest keeps it (`Plan.as_mapping` through JSON). Raises PlanError where it does not fit."""
    try:
        return Plan(
            **{
                **stored,
                "cells": tuple(Cell(**cell) for cell in stored["cells"]),
                "paces": tuple((name, Pace(**pace)) for name, pace in stored["paces"]),
                "named_backends": tuple(stored["named_backends"]),
            }
        )
    except (KeyError, TypeError, ValueError) as error:
        raise PlanError(f"the stored plan is not one of this version's: {error!r}") from error
