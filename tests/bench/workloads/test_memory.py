from __future__ import annotations

import os

import pytest

from bench.workloads.memory import (
    COUNTS,
    Ledgers,
    Memory,
    cpu_list_pages,
    field_bytes,
    instances_for,
    pss_bytes,
    readings,
    whole_pages,
)
from isolation.container.cgroup import remove_tree

NEEDS_GROUPS = pytest.mark.skipif(os.geteuid() != 0, reason="making memory groups needs root")


@pytest.mark.parametrize("medium", ["directory", "disk"])
def test_every_five_blocks_visit_each_n_once(medium):
    for first in (0, 5, 10):
        assert {instances_for(medium, "run", block) for block in range(first, first + 5)} == set(COUNTS[medium])


def test_the_order_of_n_is_drawn_for_each_run_and_the_same_for_all_cells_of_a_block():
    orders = {tuple(instances_for("directory", f"run-{run}", block) for block in range(5)) for run in range(8)}
    assert len(orders) > 1
    assert instances_for("directory", "run", 7) == instances_for("directory", "run", 7)


def test_kilobytes_of_the_proc_files_become_bytes():
    text = "MemTotal:       100 kB\nMemAvailable:    42 kB\n"
    assert field_bytes(text, "MemAvailable") == 42 * 1024
    with pytest.raises(KeyError):
        field_bytes(text, "Pss")


def test_the_residual_is_what_the_group_did_not_see():
    rows = list(readings(Ledgers(4, 100.0, 80.0, 130.0), {}, "i", 0))
    assert {row.metric: row.value for row in rows} == {"cgroup": 100, "pss": 80, "available": 130, "residual": 30}
    assert all(row.parameters == {"n": 4} for row in rows)


def test_the_control_tells_its_dose_as_a_share_of_each_ledger():
    ledgers = Ledgers(4, 100.0, 80.0, 130.0, touched_bytes=8192)
    rows = {row.metric: row.parameters for row in readings(ledgers, {"pss": 81920, "cgroup": 16384}, "i", 0)}
    assert rows["pss"] == {"n": 4, "dose": 0.1, "touched_bytes": 8192}
    assert rows["cgroup"]["dose"] == 0.5
    assert "dose" not in rows["available"]


def test_a_dose_is_whole_pages():
    assert [whole_pages(n) for n in (0.0, 1.0, 4096.0, 4097.0)] == [0, 4096, 4096, 8192]


def test_free_pages_on_the_lists_of_all_cpus_and_zones_are_counted():
    zone = "Node 0, zone  Normal\n  pages free 9\n  pagesets\n    cpu: 0\n          count:    {}\n          high: 99\n"
    assert cpu_list_pages(zone.format(16) + zone.format(5)) == 21


def test_pss_grows_by_what_a_payload_touches(slot):
    with slot.launch() as live:
        before = pss_bytes(live.launched)
        live.channel.request("touch", str(8 << 20), timeout_s=slot.timeout_s)
        assert pss_bytes(live.launched) - before == pytest.approx(8 << 20, rel=0.05)


@pytest.fixture
def grouped(slot):
    yield slot
    remove_tree(slot.site.cgroup)


@pytest.mark.root
@NEEDS_GROUPS
def test_a_slot_weighs_n_real_instances_after_a_warm_one(grouped):
    rows = {row.metric: row for row in Memory().measure(grouped)}
    n = instances_for("directory", grouped.site.run_id, grouped.block)
    assert len(grouped.launches) == n + 1
    assert rows["cgroup"].parameters == {"n": n}
    assert rows["cgroup"].value > 0
    assert 4096 <= rows["pss"].value < 8 << 20
    assert rows["residual"].value == rows["available"].value - rows["cgroup"].value


@pytest.mark.root
@NEEDS_GROUPS
def test_a_dose_is_seen_by_pss_and_by_the_group(grouped):
    plain = {row.metric: row.value for row in Memory().measure(grouped)}
    grouped.role, grouped.dose, grouped.typical = "control", 2.0, {"pss": float(4 << 20), "cgroup": float(8 << 20)}
    dosed = {row.metric: row for row in Memory().measure(grouped)}
    assert dosed["pss"].parameters["touched_bytes"] == 8 << 20
    for metric in ("pss", "cgroup"):
        assert dosed[metric].value - plain[metric] == pytest.approx(8 << 20, rel=0.05)
