"""Two ratios that the launcher is held to, side by side in one run; figures in the benchmark's extra_info.

No assertion on time: the machine may be busy. Read `ratio` and its interval, compare it with `goal`.
"""

from __future__ import annotations

import os
import random
import secrets
import statistics
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count

import pytest

from bench.assets import Assets, locate
from bench.fleet import Fleet
from bench.journal import LABEL
from isolation.api import Site, Spec
from isolation.container import cgroup
from results.statistics import ratio_interval

ROUNDS = 60


@pytest.fixture(scope="module")
def assets() -> Assets:
    return locate()


@contextmanager
def fleet_of(names: tuple[str, ...], assets: Assets, folder: str) -> Iterator[tuple[Fleet, Site]]:
    run_id = f"bench-{secrets.token_hex(3)}"
    site = Site(run_id, folder, folder, str(assets.payload), str(assets.rootfs), cgroup=cgroup.run_group(run_id))
    with Fleet(names, environment={LABEL: run_id}) as fleet:
        for name in names:
            fleet.prepare(name, site)
        yield fleet, site
    cgroup.remove_tree(site.cgroup)


def launch_ns(fleet: Fleet, backend: str, number: int) -> int:
    spec = Spec(instance=f"{backend}-{number}", nonce=secrets.token_hex(4))
    (started,) = fleet.launch(backend, [spec])
    os.close(started.read_fd)
    os.close(started.write_fd)
    fleet.finish(backend, spec.instance, timeout_s=10)
    return started.launched.t1_ns - started.launched.t0_ns


def in_turn(first: Callable[[], int], second: Callable[[], int]) -> tuple[list[int], list[int]]:
    """Both, ROUNDS times, in an order drawn anew each round; each preceded by an untimed launch of its own kind."""
    pairs: tuple[list[int], list[int]] = ([], [])
    rng = random.Random(1)
    for _ in range(ROUNDS):
        sides = [(first, pairs[0]), (second, pairs[1])]
        rng.shuffle(sides)
        for launch, kept in sides:
            launch()
            kept.append(launch())
    return pairs


def report(replay, ours: list[int], theirs: list[int], goal: float) -> None:
    ratio, interval = ratio_interval(ours, theirs)
    assert interval is not None, "ROUNDS is enough for an interval"
    median_ms = statistics.median(ours) / 1e6
    other_ms = statistics.median(theirs) / 1e6
    figures = {"ratio": ratio, "low": interval.low, "high": interval.high, "goal": goal}
    replay("launch", [reading / 1e9 for reading in ours], median_ms=median_ms, other_ms=other_ms, **figures)


@pytest.mark.root
def test_launcher_to_c_spawn(replay, assets, tmp_path):
    """Through the launcher at most 1.3 times a C program's posix_spawn and read of the first byte."""
    numbers = count()

    def floor() -> int:
        words = [str(assets.spawn_floor), str(assets.payload), "2"]
        return int(subprocess.run(words, capture_output=True, text=True, check=True).stdout.split()[-1])

    with fleet_of(("process",), assets, str(tmp_path)) as (fleet, _):
        ours, theirs = in_turn(lambda: launch_ns(fleet, "process", next(numbers)), floor)
    report(replay, ours, theirs, goal=1.3)


@pytest.mark.root
def test_container_namespaces_to_bwrap(replay, assets, tmp_path):
    """`container-namespaces` at most 0.8 of `bwrap --unshare-all`: same root filesystem, no cgroup on either side."""
    numbers = count()
    names = ("container-namespaces", "bwrap")
    with fleet_of(names, assets, str(tmp_path)) as (fleet, _):
        ours, theirs = in_turn(*(lambda name=name: launch_ns(fleet, name, next(numbers)) for name in names))
    report(replay, ours, theirs, goal=0.8)
