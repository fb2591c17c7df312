"""pytest plugin for `bench/suite`: measure first, replay after.

All rounds of one pytest-benchmark test run in a row, which forbids randomised blocks.  So the session fixture
`tare_run` looks at the selected tests (`-k`, `-m`), lets `tare run` measure just those cells in interleaved blocks
under its supervisor, and each test replays its samples into pytest-benchmark through a timer that returns the current
reading.  What pytest-benchmark stores then equals the samples.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from results.store import Run

MARK = "tare_cell"
FAILED_CELLS = 1


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("tare", "Tare: what `bench/suite` measures with")
    group.addoption("--tare-blocks", type=int, metavar="N", help="blocks of each workload")
    group.addoption("--tare-seed", type=int, metavar="S", help="seed of the order")
    group.addoption("--tare-out", default="runs", metavar="DIR", help="parent of run folders (default runs/)")
    group.addoption("--tare-run", metavar="RUN", help="replay a stored run instead of measuring")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}(workload, backend): a cell that `tare run` measures")


@pytest.hookimpl(optionalhook=True)
def pytest_benchmark_update_machine_info(machine_info: dict[str, Any]) -> None:
    """The actual clock rate differs at every look and would make every pair of runs look like two machines."""
    machine_info.get("cpu", {}).pop("hz_actual", None)
    machine_info.get("cpu", {}).pop("hz_actual_friendly", None)


def selected_cells(items: Sequence[pytest.Item]) -> tuple[tuple[str, str], ...]:
    """(workload, backend) of every selected test that stands for a cell, each once, in order."""
    marks = (item.get_closest_marker(MARK) for item in items)
    return tuple(dict.fromkeys((str(mark.args[0]), str(mark.args[1])) for mark in marks if mark is not None))


@pytest.fixture(scope="session")
def tare_run(request: pytest.FixtureRequest) -> Run:
    """The run that the selected tests replay, measured now unless `--tare-run` names one."""
    from results.store import open_run, run_path

    option = request.config.getoption
    parent = Path(option("--tare-out"))
    stored = option("--tare-run")
    if stored is None:
        _measure(selected_cells(request.session.items), parent, option("--tare-blocks"), option("--tare-seed"))
    return open_run(run_path(stored or "latest", parent))


def _measure(cells: Sequence[tuple[str, str]], parent: Path, blocks: int | None, seed: int | None) -> None:
    command = [sys.executable, "-m", "bench.cli", "run", "--out", str(parent)]
    for workload, backend in cells:
        command += ["--cell", f"{workload}/{backend}"]
    command += ["--blocks", str(blocks)] if blocks is not None else []
    command += ["--seed", str(seed)] if seed is not None else []
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if outcome.returncode not in (0, FAILED_CELLS):  # failed cells speak for themselves, test by test
        pytest.exit(f"`tare run` ended with {outcome.returncode}", returncode=outcome.returncode)


class Replay:
    """A timer that returns recorded readings: `zero` sets it to nought, `take` to the next sample."""

    def __init__(self, seconds: Sequence[float]) -> None:
        self._seconds = iter(seconds)
        self._current = 0.0

    def timer(self) -> float:
        return self._current

    def zero(self) -> None:
        self._current = 0.0

    def take(self) -> None:
        self._current = next(self._seconds)


@dataclass(frozen=True, slots=True)
class CellValues:
    """The `ok` values of one cell and metric, in the metric's unit, and the lane they were measured in."""

    values: tuple[float, ...]
    lane: str


@pytest.fixture
def cell_values(tare_run: Run) -> Callable[[str, str, str], CellValues]:
    """A cell's values; skips where it is unsupported and fails where an instance failed, each with the reason."""

    def look_up(workload: str, metric: str, backend: str) -> CellValues:
        frame = tare_run.samples
        wanted = (frame["workload"] == workload) & (frame["metric"] == metric) & (frame["backend"] == backend)
        rows = frame[wanted & (frame["role"] == "subject")]
        good, bad = rows[rows["status"] == "ok"], rows[rows["status"] != "ok"]
        if rows.empty:
            pytest.fail(f"the run {tare_run.path} holds no {workload}/{metric} of {backend}")
        if good.empty and (bad["status"] == "unsupported").all():
            pytest.skip(f"{backend}: {bad['reason'].iloc[0]}: {bad['detail'].iloc[0]}")
        if not bad.empty:
            first = bad.iloc[0]
            pytest.fail(f"{len(bad)} of {len(rows)} {first['status']}: {first['reason']}: {first['detail']}")
        return CellValues(tuple(float(value) for value in good["value"]), str(good["lane"].iloc[0]))

    return look_up


@pytest.fixture
def replay(request: pytest.FixtureRequest, tare_run: Run) -> Callable[..., None]:
    """Hand readings in seconds to pytest-benchmark, as if it had timed them itself."""

    def hand_over(workload: str, metric: str, cell: CellValues, seconds: Sequence[float], **extra_info: Any) -> None:
        player = Replay(seconds)
        request.node.add_marker(pytest.mark.benchmark(timer=player.timer, group=f"{workload}/{metric}"))
        benchmark = request.getfixturevalue("benchmark")
        # Mutated, never reassigned: pytest-benchmark keeps a reference to this very mapping.
        benchmark.extra_info.update(lane=cell.lane, run_id=tare_run.manifest.run_id, **extra_info)
        benchmark.pedantic(player.take, setup=player.zero, rounds=len(seconds), iterations=1)

    return hand_over
