"""pytest plugin for `bench/suite`: measure first, replay after.

All rounds of one pytest-benchmark test run in a row, which forbids randomised blocks.  So the session fixture
`tare_run` looks at the selected tests (`-k`, `-m`), lets `tare run` measure just those cells in interleaved blocks
under its supervisor, and each test replays its samples into pytest-benchmark through a timer that returns the current
reading.  What pytest-benchmark stores then equals the samples.

Fixtures: `cell_values` looks a cell up, `replay` hands its readings over.  pytest-benchmark's own options act on the
tests as on any other: those it skips are not measured.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    import pandas as pd

    from results.store import Run

MARK = "tare_cell"
FAILED_CELLS = 1
FAILED = ("failed", "timeout", "killed")
"""Statuses of an instance that did not do its work; `invalid` ones did, in a block or a way that does not count."""


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


class Replay:
    """A timer that returns recorded readings: `zero` sets it to nought, `take` to the next sample."""

    def __init__(self, seconds: Iterable[float] = ()) -> None:
        self.load(seconds)

    def load(self, seconds: Iterable[float]) -> None:
        self._seconds = iter(seconds)
        self._current = 0.0

    def timer(self) -> float:
        return self._current

    def zero(self) -> None:
        self._current = 0.0

    def take(self) -> None:
        self._current = next(self._seconds)


PLAYER = pytest.StashKey[Replay]()


def pytest_collection_modifyitems(config: pytest.Config, items: Sequence[pytest.Item]) -> None:
    """Each test that replays gets a timer of its own, known to pytest-benchmark before it makes its fixture."""
    for item in items:
        if "replay" not in getattr(item, "fixturenames", ()):
            continue
        if not config.pluginmanager.hasplugin("benchmark"):
            item.add_marker(pytest.mark.skip(reason="pytest-benchmark, which readings are handed to, is switched off"))
            continue
        player = item.stash[PLAYER] = Replay()
        item.add_marker(pytest.mark.benchmark(timer=player.timer, cprofile=False))  # nothing runs: nothing to profile


def selected_cells(items: Sequence[pytest.Item]) -> tuple[tuple[str, str], ...]:
    """(workload, backend) of every test that stands for a cell and is not skipped, each once, in order."""
    marks = (item.get_closest_marker(MARK) for item in items if item.get_closest_marker("skip") is None)
    return tuple(dict.fromkeys((str(mark.args[0]), str(mark.args[1])) for mark in marks if mark is not None))


@pytest.fixture(scope="session")
def tare_run(request: pytest.FixtureRequest) -> Run:
    """The run that the selected tests replay, measured now unless `--tare-run` names one."""
    from results.store import StoreError, open_run, run_path

    option = request.config.getoption
    parent = Path(option("--tare-out"))
    stored = option("--tare-run")
    if stored is None:
        _measure(selected_cells(request.session.items), parent, option("--tare-blocks"), option("--tare-seed"))
    try:
        return open_run(run_path(stored or "latest", parent))
    except StoreError as error:
        pytest.exit(str(error), returncode=pytest.ExitCode.USAGE_ERROR)


def _measure(cells: Sequence[tuple[str, str]], parent: Path, blocks: int | None, seed: int | None) -> None:
    command = [sys.executable, "-m", "bench.cli", "run", "--out", str(parent)]
    for workload, backend in cells:
        command += ["--cell", f"{workload}/{backend}"]
    command += ["--blocks", str(blocks)] if blocks is not None else []
    command += ["--seed", str(seed)] if seed is not None else []
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, check=False)
    if outcome.returncode not in (0, FAILED_CELLS):  # failed cells speak for themselves, test by test
        pytest.exit(f"`tare run` ended with {outcome.returncode}", returncode=outcome.returncode)


@dataclass(frozen=True, slots=True)
class CellValues:
    """The `ok` values of one cell and metric, in the metric's unit, with the lane and run they were measured in."""

    values: tuple[float, ...]
    lane: str
    run_id: str


@pytest.fixture
def cell_values(request: pytest.FixtureRequest, tare_run: Run) -> Callable[[str, str, str], CellValues]:
    """A cell's values; skips where it is unsupported and fails where an instance failed, each with the reason."""

    def look_up(workload: str, metric: str, backend: str) -> CellValues:
        frame = tare_run.samples
        wanted = (frame["workload"] == workload) & (frame["metric"] == metric) & (frame["backend"] == backend)
        rows = frame[wanted & (frame["role"] == "subject")]
        if rows.empty:
            stop = pytest.skip if request.config.getoption("--tare-run") else pytest.fail
            stop(f"the run {tare_run.path} holds no {workload}/{metric} of {backend}")
        good, bad = rows[rows["status"] == "ok"], rows[rows["status"].isin(FAILED)]
        if not bad.empty:
            pytest.fail(f"{len(bad)} of {len(rows)} {_words(bad)}")
        if good.empty:
            stop = pytest.skip if (rows["status"] == "unsupported").all() else pytest.fail
            stop(f"{backend}: {_words(rows)}")
        return CellValues(tuple(good["value"].tolist()), str(good["lane"].iloc[0]), tare_run.manifest.run_id)

    return look_up


def _words(rows: pd.DataFrame) -> str:
    """`failed: oom: the kernel killed it`, of the first of these rows."""
    first = rows.iloc[0]
    return f"{first['status']}: {first['reason']}: {first['detail']}"


@pytest.fixture
def replay(request: pytest.FixtureRequest, benchmark: Any) -> Callable[..., None]:
    """Hand readings in seconds to pytest-benchmark, as if it had timed them itself."""
    player = request.node.stash[PLAYER]

    def hand_over(group: str, seconds: Sequence[float], **extra_info: Any) -> None:
        player.load(seconds)
        benchmark.group = group
        # Mutated, never reassigned: pytest-benchmark keeps a reference to this very mapping.
        benchmark.extra_info.update(extra_info)
        benchmark.pedantic(player.take, setup=player.zero, rounds=len(seconds), iterations=1)

    return hand_over
