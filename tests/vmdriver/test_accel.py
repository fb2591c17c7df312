"""A proof of acceleration holds for the circumstances it was made in, and for no others."""

import json
from pathlib import Path

import pytest

from vmdriver import accel
from vmdriver.image import Guest

CPUINFO = """processor\t: 0
model name\t: Some CPU @ 2.00GHz
stepping\t: 7
microcode\t: 0x5003604
flags\t\t: fpu vmx hypervisor

processor\t: 1
model name\t: Some CPU @ 2.00GHz
"""
GUEST = Guest("/k", "/i", "6.1", (), (), "aa", "bb", "cc")


@pytest.fixture
def kvm_opens(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a host whose /dev/kvm opens: the cache then decides."""
    monkeypatch.setattr(accel, "_KVM", "/dev/null")


def record(cache: Path, guest: Guest, lane: str) -> Path:
    here = accel.circumstances(guest, accel._cpuinfo())
    path = cache / "acceleration" / f"{here.key}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"proof": {"lane": lane, "evidence": "it booted", "seconds": 1.0}}))
    return path


def test_the_cpu_is_told_by_model_stepping_and_microcode() -> None:
    found = accel.circumstances(GUEST, CPUINFO)
    assert found.cpu == "model name Some CPU @ 2.00GHz, stepping 7, microcode 0x5003604"
    updated = accel.circumstances(GUEST, CPUINFO.replace("0x5003604", "0x5003605"))
    assert updated.key != found.key


def test_another_guest_needs_another_proof(kvm_opens: None, tmp_path: Path) -> None:
    record(tmp_path, GUEST, "kvm")
    assert accel.cached_proof(tmp_path, GUEST) == accel.Proof("kvm", "it booted", 1.0)
    other = Guest("/k", "/i", "6.1", (), (), "aa", "changed", "cc")
    assert accel.cached_proof(tmp_path, other) is None


def test_a_torn_record_is_no_proof(kvm_opens: None, tmp_path: Path) -> None:
    path = record(tmp_path, GUEST, "kvm")
    path.write_text(path.read_text()[:10])
    assert accel.cached_proof(tmp_path, GUEST) is None


def test_without_a_kvm_device_no_boot_is_needed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(accel, "_KVM", str(tmp_path / "absent"))
    proof = accel.cached_proof(tmp_path, GUEST)
    assert proof is not None
    assert proof.lane == "tcg"
    assert "No such file" in proof.evidence


def test_a_virtual_host_makes_it_nested() -> None:
    assert accel._is_virtualised(CPUINFO)
    assert not accel._is_virtualised(CPUINFO.replace(" hypervisor", ""))
