from __future__ import annotations

import json

import pytest

from bench.plan import CONTROLLED, PACES, Cell, PlanError, make_plan, plan_from_mapping

KNOWN = ("process", "container", "bwrap", "runc", "vm")


def plan(**choices):
    return make_plan(**{"seed": 1, "depth": "quick", "known_backends": KNOWN, "default_backends": KNOWN} | choices)


def test_every_workload_meets_every_backend_once():
    cells = plan().cells
    assert len(cells) == len(set(cells))
    assert {(cell.workload, cell.backend) for cell in cells} == {(w, b) for w in PACES["quick"] for b in KNOWN}


def test_the_container_carries_a_twin_and_a_control_in_every_workload():
    for workload in PACES["quick"]:
        roles = [cell.role for cell in plan().cells_of(workload) if cell.backend == CONTROLLED]
        assert sorted(roles) == ["control", "subject", "twin"]


def test_without_the_container_there_is_neither_twin_nor_control():
    assert {cell.role for cell in plan(backends=["process", "vm"]).cells} == {"subject"}


def test_a_quick_run_has_the_blocks_that_verdicts_need():
    quick = plan()
    assert quick.pace("startup").blocks >= 20
    assert quick.pace("syscalls").blocks >= 20
    assert quick.pace("memory").blocks >= 10
    assert quick.pace("storage").blocks >= 8


def test_a_full_run_is_longer_in_everything():
    for workload, pace in PACES["full"].items():
        assert pace.blocks > PACES["quick"][workload].blocks


def test_blocks_on_the_command_line_hold_for_all_workloads():
    chosen = plan(blocks=3, workloads=["startup", "storage"])
    assert chosen.workloads == ("startup", "storage")
    assert {chosen.pace(name).blocks for name in chosen.workloads} == {3}


def test_only_backends_that_the_user_named_count_as_named():
    assert plan().named_backends == ()
    assert plan(backends=["vm", "vm", "process"]).named_backends == ("vm", "process")


@pytest.mark.parametrize(
    ("choice", "said"),
    [
        ({"backends": ["contaner"]}, "unknown backend 'contaner': did you mean container"),
        ({"workloads": ["start"]}, "unknown workload 'start': did you mean startup"),
        ({"backends": ["zzz"]}, "known: process, container, bwrap, runc, vm"),
        ({"blocks": 0}, "at least one block"),
        ({"only": ["startup"]}, "write WORKLOAD/BACKEND"),
        ({"only": ["startup/contaner"]}, "did you mean container"),
    ],
)
def test_wrong_use_is_told_in_one_line_with_the_nearest_names(choice, said):
    with pytest.raises(PlanError, match=said) as error:
        plan(**choice)
    assert "\n" not in str(error.value)


def test_single_cells_can_be_picked():
    picked = plan(only=["startup/container", "memory/process"])
    assert set(picked.cells) == {
        Cell("memory", "process"),
        *(Cell("startup", "container", role) for role in ("subject", "twin", "control")),
    }
    assert picked.workloads == ("startup", "memory")


def test_a_plan_survives_the_manifest():
    made = plan(blocks=2)
    assert plan_from_mapping(json.loads(json.dumps(made.as_mapping()))) == made


@pytest.mark.parametrize("spoiled", [{}, {"cells": [{"workload": "startup"}]}, {"further": 1}])
def test_a_stored_plan_of_another_version_is_refused(spoiled):
    stored = {**plan().as_mapping(), **spoiled} if spoiled else {}
    with pytest.raises(PlanError, match="not one of this version"):
        plan_from_mapping(json.loads(json.dumps(stored)))
