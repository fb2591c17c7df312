"""What a run may say to each claim, and what it may not."""

from dataclasses import replace

import pytest

from reports.claims import NOT_MEASURED, claims


def finding(analysis, key):
    return next(claim.finding for claim in claims(analysis) if claim.key == key)


def in_lane(analysis, lane):
    def moved(cell):
        return replace(cell, key=replace(cell.key, lane=lane)) if cell.key.backend == "vm" else cell

    return replace(analysis, cells=tuple(map(moved, analysis.cells)))


def with_parity(analysis, backend, **facts):
    backends = tuple(
        replace(r, parity={**r.parity, **facts}) if r.backend == backend else r for r in analysis.manifest.backends
    )
    return replace(analysis, manifest=replace(analysis.manifest, backends=backends))


def between(analysis, *verdicts):
    """Comparisons of runc against the container, one for each verdict, in as many workloads."""
    found = []
    for verdict, workload in zip(verdicts, ("startup", "syscalls", "memory"), strict=False):
        model = next(c for c in analysis.comparisons if c.key.backend == "runc" and c.key.workload == workload)
        baseline = replace(model.baseline, backend="container")
        found.append(replace(model, baseline=baseline, verdict=verdict))
    return replace(analysis, comparisons=tuple(found))


def test_there_are_fifteen_in_order(rich, empty):
    for analysis in (rich, empty):
        assert [claim.key for claim in claims(analysis)] == [f"C{n}" for n in range(1, 16)]
        assert all(claim.finding.evidence for claim in claims(analysis))


def test_nothing_is_told_of_an_empty_run(empty):
    assert {claim.finding.standing for claim in claims(empty)} == {"cannot be told here"}


@pytest.mark.parametrize("key", ["C4", "C5", "C6", "C7", "C8", "C9", "C11", "C13", "C14", "C15"])
def test_what_was_not_measured_says_so(rich, key):
    assert finding(rich, key).evidence == NOT_MEASURED


def test_c1_holds_by_boot_ids(rich):
    assert finding(rich, "C1").standing == "holds"


def test_c2_goes_by_what_the_host_saw(rich):
    found = finding(rich, "C2")
    assert found.standing == "holds"
    assert found.evidence == "The host saw the payload of container, bwrap and runc, and not that of vm."
    assert finding(with_parity(rich, "runc", payload_visible_on_host=False), "C2").standing == "depends"
    assert finding(with_parity(rich, "vm", payload_visible_on_host=True), "C2").standing == "does not hold"


def test_c1_depends_where_some_containers_have_a_boot_id_of_their_own(rich):
    odd = with_parity(rich, "container", boot_id="c" * 36)
    assert finding(odd, "C1").standing == "depends"
    assert finding(odd, "C1").evidence == "container ran under another boot id than the host's."
    for backend in ("bwrap", "runc"):
        odd = with_parity(odd, backend, boot_id="c" * 36)
    assert finding(odd, "C1").standing == "does not hold"


def test_c1_needs_a_machine_and_a_container(rich):
    alone = tuple(r for r in rich.manifest.backends if r.backend in {"process", "container"})
    assert (
        finding(replace(rich, manifest=replace(rich.manifest, backends=alone)), "C1").standing == "cannot be told here"
    )


def test_c3_names_the_namespaces_and_claims_no_more(rich):
    found = finding(rich, "C3")
    assert found.standing == "cannot be told here"
    assert "container had its own mnt and pid" in found.evidence


def test_c10_needs_equivalence_pair_by_pair(rich):
    assert finding(rich, "C10").standing == "cannot be told here"
    assert finding(between(rich, "equivalent", "equivalent"), "C10").standing == "holds"
    assert finding(between(rich, "equivalent", "inconclusive"), "C10").standing == "cannot be told here"
    assert finding(between(rich, "slower", "slower"), "C10").standing == "does not hold"
    assert finding(between(rich, "equivalent", "slower"), "C10").standing == "depends"


def test_c12_is_silent_on_emulation(rich):
    found = finding(rich, "C12")
    assert found.standing == "cannot be told here"
    assert "says nothing about hardware virtualisation" in found.evidence


def test_c12_goes_by_the_interval_against_a_second(rich):
    assert finding(in_lane(rich, "kvm"), "C12").standing == "depends"

    def scaled(cell, factor):
        if cell.key.backend != "vm" or cell.interval is None:
            return cell
        edges = replace(cell.interval, low=cell.interval.low * factor, high=cell.interval.high * factor)
        return replace(cell, median=cell.median * factor, interval=edges)

    for factor, standing in ((0.3, "holds"), (3.0, "does not hold")):
        analysis = in_lane(rich, "kvm")
        analysis = replace(analysis, cells=tuple(scaled(cell, factor) for cell in analysis.cells))
        assert finding(analysis, "C12").standing == standing
