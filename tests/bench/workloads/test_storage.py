from __future__ import annotations

import os
import random

import pytest

from bench.assets import Assets, locate
from bench.workloads import storage
from bench.workloads.fio import CASES, FILE_BYTES, KINDS, Case
from bench.workloads.storage import REFERENCE, Failure, Point, Run, Storage, count_for, readings, runs
from results.schema import metrics_of

EMPTY_NS = 200_000_000
COUNTS = {case.name: 64 << 20 for case in CASES}


def outcomes(rate=1e9, device_share=1.0, asked_share=1.0):
    """What a device of `rate` bytes per second and a fio of 0.2 s would give."""
    found = {}
    for run in runs(COUNTS, 0.0, random.Random(1)):
        run = Run(run.case, run.first, run.claimed, int(run.claimed * asked_share))
        elapsed = round(EMPTY_NS + run.asked / rate * 1e9)
        found[run.case.name, run.first] = Point(run, elapsed, int(run.asked * device_share), 0)
    return found


def test_what_a_run_of_fio_costs_anyway_is_not_in_the_throughput():
    rows = [row for row in readings(outcomes(), 0.0, "i") if row.workload is None]
    assert {row.metric for row in rows} == {metric.name for metric in metrics_of("storage")}
    assert all(row.value == pytest.approx(1e9, rel=1e-6) for row in rows)


def test_extra_bytes_that_nobody_claims_lower_the_throughput_by_the_dose():
    for row in readings(outcomes(asked_share=1.25), 0.25, "i"):
        if row.workload is None:
            assert row.value == pytest.approx(1e9 / 1.25, rel=1e-6)
            assert row.parameters["dose"] == 0.25
        else:
            assert row.value == 0.0  # the device did move what fio was asked for


def test_bytes_that_the_device_never_saw_are_told():
    checks = [row for row in readings(outcomes(device_share=0.9), 0.0, "i") if row.workload == "checks"]
    assert {row.parameters["of"] for row in checks} == {
        f"storage/{case.name}" for case in CASES if case.mode == "direct"
    }
    assert all(row.value == pytest.approx(-0.1, abs=1e-6) for row in checks)


def test_a_file_system_without_a_device_makes_the_check_unsupported_not_passed():
    point = Point(Run(Case("read_1m_direct"), False, 1, 1), 1, None, 0)
    row = storage.block_counters(point, "i")
    assert (row.value, row.status, row.reason) == (None, "unsupported", "no_block_device")


def test_a_case_that_fio_refused_fails_alone():
    found = outcomes() | {("read_1m_direct", False): Failure("fio: exit code 1: Invalid argument", 0)}
    rows = {row.metric: row for row in readings(found, 0.0, "i") if row.workload is None}
    assert (rows["read_1m_direct"].status, rows["read_1m_direct"].reason) == ("failed", "fio_failed")
    assert [row.status for row in rows.values()].count("ok") == 7


def test_a_run_no_longer_than_an_empty_one_is_invalid():
    found = outcomes()
    point = found["read_1m_direct", False]
    found["read_1m_direct", False] = Point(point.run, EMPTY_NS - 1000, point.device_bytes, 0)
    rows = {row.metric: row for row in readings(found, 0.0, "i")}
    assert (rows["read_1m_direct"].value, rows["read_1m_direct"].status) == (None, "invalid")


def test_runs_are_drawn_for_the_block_kind_by_kind():
    planned = runs(COUNTS, 0.0, random.Random("run/1"))
    assert planned == runs(COUNTS, 0.0, random.Random("run/1"))
    assert planned != runs(COUNTS, 0.0, random.Random("run/2"))
    assert [run.case for run in planned if run.first] == [REFERENCE]
    places = [KINDS.index(run.case.kind) for run in planned]
    assert places == sorted(places)


def test_the_times_of_a_cases_runs_are_drawn_over_more_than_the_10_ms_in_which_fio_looks_up():
    drawn = [runs(COUNTS, 0.0, random.Random(seed)) for seed in range(200)]
    counted_for_run_ms = COUNTS[REFERENCE.name] / storage.RUN_MS
    for first in (True, False):
        claimed = [run.claimed for planned in drawn for run in planned if (run.case, run.first) == (REFERENCE, first)]
        assert (max(claimed) - min(claimed)) / counted_for_run_ms > 10


def test_the_controls_writes_touch_no_block_twice_at_the_largest_dose():
    largest = {case.name: count_for(case, 1 << 40, 1) for case in CASES}
    for seed in range(50):
        for run in runs(largest, 0.5, random.Random(seed)):
            assert run.asked == pytest.approx(run.claimed * 1.5, abs=run.case.block_bytes)
            assert not run.case.ends_with_fsync or run.asked <= FILE_BYTES


def test_a_trial_sets_the_count_that_takes_the_time_aimed_at():
    assert count_for(Case("randread_4k_direct"), 1 << 20, storage.RUN_MS // 4) == 4 << 20
    assert count_for(Case("randread_4k_direct"), 4096, 10_000) == 4096


def test_sectors_of_the_kernels_file_become_bytes():
    text = "  109241    14129  4501314    18001    36994    26722  5344000    17128        0    15228    35572\n"
    assert storage.moved_bytes(text, written=False) == 4501314 * 512
    assert storage.moved_bytes(text, written=True) == 5344000 * 512


def test_without_fio_the_workload_says_what_to_do(monkeypatch):
    nothing = Assets(reasons={"tools_tree": "fio is missing; install fio"})
    monkeypatch.setattr(storage, "locate", lambda: nothing)
    assert Storage().available() == ("not_installed", "fio: fio is missing; install fio")


@pytest.mark.slow
@pytest.mark.skipif(locate().tools_tree is None, reason="set-up has not made fio's tree: run `./noxw -s setup`")
def test_a_slot_measures_all_eight_in_a_real_payload(slot, tmp_path):
    Storage().prepare(str(tmp_path), slot.site)
    rows = list(Storage().measure(slot))
    figures = {row.metric: row for row in rows if row.workload is None}
    assert set(figures) == {metric.name for metric in metrics_of("storage")}
    direct_runs = [row for row in figures.values() if row.metric.endswith("_direct") and row.status != "failed"]
    assert len([row for row in rows if row.workload == "checks"]) == len(direct_runs)
    for row in figures.values():
        refused = row.metric.endswith("_direct") and row.status == "failed"  # a tmpfs may know no O_DIRECT
        assert refused or row.status == "invalid" or row.value > 0
    assert os.path.getsize(tmp_path / "data" / "file") == FILE_BYTES
