import json
from pathlib import Path
from typing import Any

import pytest

from bench import doctor
from bench.doctor import Access, Report, diagnose
from bench.terminal import print_doctor
from isolation.api import Availability

FINE: dict[str, Any] = {
    "kernel": "6.8.0", "arch": "x86_64", "cpu": "Fast CPU", "cpus": 8, "virtualised": False, "hypervisor": None,
    "cgroup": "v2", "init": "systemd", "container": None, "lsm": ["apparmor"], "wsl": False,
    "distribution": "Debian GNU/Linux 12", "distribution_id": "debian", "distribution_like": None,
    "governor": "performance", "turbo": False, "smt": False, "thp": "madvise", "ksm": False, "damon": False,
    "memory_available_bytes": 8 << 30, "swap_bytes": 0, "swap_used_bytes": 0, "load_average": [0.1, 0.1, 0.1],
    "steal_ticks": 0, "cpu_ticks": 1000, "clocksource": "tsc", "clocksources": ["tsc", "hpet"],
}  # fmt: skip
ALLOWED = Access(root=True, kvm_missing=False, kvm_refusal="", user_namespace_refusal="")
BACKENDS = (
    Availability("process", available=True, lane="native", version="Linux 6.8.0"),
    Availability(
        "vm", available=False, reason="not_installed", detail="libvirt-python is not there", fix="nox -s setup"
    ),
)


def names(report: Report) -> list[str]:
    return [finding.name for finding in report.findings]


def test_json_has_the_fixed_shape() -> None:
    written = json.loads(json.dumps(diagnose(BACKENDS, FINE, ALLOWED).as_json()))
    assert list(written) == ["host", "backends"]
    assert list(written["host"]) == ["kernel", "arch", "cpu", "virtualised", "cgroup", "init", "container", "lsm"]
    assert written["backends"] == [
        {
            "backend": "process", "available": True, "lane": "native", "version": "Linux 6.8.0",
            "reason": None, "fix": None, "evidence": None,
        },
        {
            "backend": "vm", "available": False, "lane": None, "version": None,
            "reason": "not_installed", "fix": "nox -s setup", "evidence": "libvirt-python is not there",
        },
    ]  # fmt: skip


def test_json_says_null_where_the_host_tells_nothing() -> None:
    assert set(diagnose((), {}, ALLOWED).as_json()["host"].values()) == {None}


def test_a_quiet_machine_gets_no_advice() -> None:
    report = diagnose(BACKENDS, FINE, ALLOWED)
    assert report.findings == ()
    assert [title for title, *_ in report.tables()] == ["Host", "Backends"]


@pytest.mark.parametrize(
    ("change", "name", "fix"),
    [
        ({"arch": "aarch64"}, "architecture", "x86-64"),
        ({"wsl": True}, "WSL2", "Linux itself"),
        ({"distribution_id": "fedora"}, "distribution", "package manager"),
        ({"container": "docker"}, "inside a container", "on the host"),
        ({"cgroup": None}, "cgroup", "mount -t cgroup2"),
        ({"memory_available_bytes": 1 << 30}, "memory", "add memory"),
        ({"cpus": 1}, "CPUs", "at least 2"),
        ({"load_average": [6.0, 1.0, 1.0]}, "load", "wait"),
        ({"steal_ticks": 50}, "steal", "dedicated"),
        ({"virtualised": True}, "virtual machine", "bare metal"),
        ({"governor": "powersave"}, "CPU governor", "scaling_governor"),
        ({"turbo": True}, "turbo", "no_turbo"),
        ({"smt": True}, "SMT", "smt/control"),
        ({"thp": "always"}, "transparent huge pages", "madvise"),
        ({"ksm": True}, "KSM", "ksm/run"),
        ({"damon": True}, "DAMON", "damon"),
        ({"swap_bytes": 1 << 30}, "swap", "swapoff"),
        ({"clocksource": "hpet"}, "clock source", "echo tsc"),
        ({"clocksource": "hpet", "clocksources": ["hpet"]}, "clock source", "tsc=reliable"),
    ],
)
def test_each_trouble_is_found_with_a_fix(change: dict[str, Any], name: str, fix: str) -> None:
    (finding,) = diagnose((), FINE | change, ALLOWED).findings
    assert finding.name == name
    assert finding.seen
    assert finding.why
    assert fix in finding.fix


def test_ubuntu_and_what_derives_from_debian_are_known() -> None:
    assert names(diagnose((), FINE | {"distribution_id": "ubuntu", "distribution_like": "debian"}, ALLOWED)) == []
    assert names(diagnose((), FINE | {"distribution_id": "raspbian", "distribution_like": "debian"}, ALLOWED)) == []


def test_apparmor_that_refuses_user_namespaces_is_named_with_sysctl_and_profile() -> None:
    access = Access(
        root=False,
        kvm_missing=False,
        kvm_refusal="Permission denied",
        user_namespace_refusal="mount: /tmp: permission denied.",
        refusing_sysctls=doctor.USER_NAMESPACE_SYSCTLS[:1],
    )
    report = diagnose((), FINE, access)
    assert names(report) == ["not root", "/dev/kvm", "unprivileged user namespace"]
    _, kvm, namespace = report.findings
    assert "usermod -aG kvm" in kvm.fix
    assert namespace.seen == "mount: /tmp: permission denied."
    assert "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0" in namespace.fix
    assert "userns," in namespace.fix


@pytest.mark.parametrize(
    ("change", "fix"),
    [({}, "firmware"), ({"virtualised": True}, "nested"), ({"container": "docker"}, "--device /dev/kvm")],
)
def test_without_kvm_the_fix_depends_on_where_we_are(change: dict[str, Any], fix: str) -> None:
    access = Access(root=True, kvm_missing=True, kvm_refusal="No such file or directory", user_namespace_refusal="")
    kvm = next(f for f in diagnose((), FINE | change, access).findings if f.name == "/dev/kvm")
    assert fix in kvm.fix


def test_a_host_without_kvm_and_libvirt_renders(capsys: pytest.CaptureFixture[str]) -> None:
    access = Access(root=True, kvm_missing=True, kvm_refusal="No such file or directory", user_namespace_refusal="")
    report = diagnose(BACKENDS, FINE | {"thp": "always"}, access)
    for _, heads, rows in report.tables():
        assert all(len(row) == len(heads) for row in rows)
    print_doctor(report)
    shown = " ".join(capsys.readouterr().out.split())
    assert "not_installed" in shown
    assert "/dev/kvm" in shown
    assert "madvise" in shown


def test_looking_leaves_no_mount_behind() -> None:
    access = doctor.look()
    assert not [line for line in Path("/proc/self/mounts").read_text().splitlines() if line.startswith("tare ")]
    assert access.kvm_missing is not Path("/dev/kvm").exists()


def test_a_user_namespace_is_tried_for_real_and_a_missing_tool_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE", ("no-such-program",))
    assert "util-linux" in doctor.look().user_namespace_refusal
    monkeypatch.setattr(doctor, "PROBE", ("sh", "-c", "echo mount: permission denied. >&2; exit 32"))
    assert doctor.look().user_namespace_refusal == "mount: permission denied."
