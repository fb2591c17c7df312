"""What a person sees in the terminal: progress with time left, summaries, the doctor's table. No colour elsewhere."""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from bench.doctor import Report
from bench.plan import Cell, Plan
from results.schema import Sample

PLAIN_EVERY_S = 10.0
FIRST_GUESS_S = 0.5


class _TimeLeft(ProgressColumn):
    """Seconds left, from how long each cell's slots took so far."""

    max_refresh = 0.5

    def render(self, task: Task) -> Text:
        left = task.fields.get("left")
        return Text("" if left is None else f"{left // 60:.0f}:{left % 60:02.0f} left", style="cyan")


class Terminal:
    """Progress of a run (the protocol `bench.engine.Progress`): a bar in a terminal, a line now and then elsewhere."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._console = Console(file=sys.stderr, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            TimeElapsedColumn(), _TimeLeft(), console=self._console, disable=not self._console.is_terminal,
        )  # fmt: skip
        self._task: TaskID | None = None
        self._left: dict[Cell, int] = {}
        self._seconds: dict[Cell, list[float]] = {}
        self._began = 0.0
        self._said = time.monotonic()
        self._done = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def _outline(self) -> str:
        backends = dict.fromkeys(cell.backend for cell in self._plan.cells)
        blocks = ", ".join(f"{name} x {pace.blocks}" for name, pace in self._plan.paces)
        return f"{', '.join(backends)}; {blocks} blocks"

    def say(self, *lines: str) -> None:
        for line in lines:
            self._console.print(line, markup=False, soft_wrap=True)

    def begun(self) -> None:
        self.say(f"seed {self._plan.seed}, {self._plan.depth} run: {self._outline()}")

    def started(self, total: Mapping[Cell, int]) -> None:
        self._left = dict(total)
        self._task = self._bar.add_task("starting", total=sum(total.values()), left=None)

    def slot_started(self, cell: Cell, block: int) -> None:
        self._began = time.monotonic()
        if self._task is not None:
            self._bar.update(self._task, description=f"{cell.workload:<8} block {block:<3} {cell.label}")

    def slot_done(self, cell: Cell, block: int, samples: Sequence[Sample]) -> None:
        now = time.monotonic()
        self._seconds.setdefault(cell, []).append(now - self._began)
        self._left[cell] = max(0, self._left.get(cell, 0) - 1)
        self._done += 1
        for sample in samples:
            if sample.status not in ("ok", "unsupported"):
                self.say(
                    f"{cell.workload} block {block} {cell.label}: {sample.metric} {sample.status}: {sample.detail}"
                )
                break
        left_s = self._left_s()
        if self._task is not None:
            self._bar.update(self._task, advance=1, left=left_s)
        if not self._console.is_terminal and now - self._said > PLAIN_EVERY_S:
            self._said = now
            total = self._done + sum(self._left.values())
            self.say(f"{self._done}/{total} slots, about {left_s:.0f} s left")

    def _left_s(self) -> float:
        known = {cell: statistics.fmean(seconds) for cell, seconds in self._seconds.items()}
        usual = statistics.fmean(known.values()) if known else FIRST_GUESS_S
        return sum(number * known.get(cell, usual) for cell, number in self._left.items())


def print_doctor(report: Report) -> None:
    """The doctor's findings as tables."""
    console = Console(highlight=False)
    for title, columns, rows in report.tables():
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in columns:
            table.add_column(column, overflow="fold")
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)
        console.print()
