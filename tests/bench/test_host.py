import json
import os
from pathlib import Path

import pytest

from bench import host
from bench.host import Tree

LAPTOP = {
    "proc/sys/kernel/osrelease": "6.8.0-45-generic",
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555",
    "proc/1/comm": "systemd",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Fast CPU\nmicrocode\t: 0xf0\nflags\t\t: fpu vmx\n\nprocessor\t: 1",
    "proc/meminfo": "MemTotal:  16000000 kB\nMemAvailable:  9000000 kB\nSwapTotal:  2048 kB\nSwapFree:  1024 kB",
    "proc/stat": "cpu  10 20 30 40 50 60 70 80 90 100\ncpu0 1 2 3\n",
    "proc/loadavg": "0.50 0.25 0.10 1/100 1234",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 24.04.1 LTS"\nID=ubuntu\nID_LIKE=debian\n',
    "sys/devices/system/cpu/vulnerabilities/meltdown": "Mitigation: PTI",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "powersave",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_governor": "powersave",
    "sys/devices/system/cpu/intel_pstate/no_turbo": "0",
    "sys/devices/system/cpu/smt/active": "1",
    "sys/devices/system/clocksource/clocksource0/current_clocksource": "tsc",
    "sys/devices/system/clocksource/clocksource0/available_clocksource": "tsc hpet acpi_pm",
    "sys/class/dmi/id/sys_vendor": "LENOVO",
    "sys/kernel/security/lsm": "lockdown,capability,landlock,yama,apparmor",
    "sys/kernel/mm/transparent_hugepage/enabled": "[always] madvise never",
    "sys/kernel/mm/ksm/run": "1",
    "sys/kernel/mm/damon/admin/kdamonds/nr_kdamonds": "1",
    "sys/kernel/mm/damon/admin/kdamonds/0/state": "off",
}


def make(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Tree(root)


def namespaces(root: Path, **inodes: int) -> None:
    folder = root / "proc/self/ns"
    folder.mkdir(parents=True, exist_ok=True)
    for kind, inode in (host.INITIAL_NAMESPACES | inodes).items():
        (folder / kind).symlink_to(f"{kind}:[{inode}]")


def test_a_laptop_is_described(tmp_path: Path) -> None:
    tree = make(tmp_path, LAPTOP)
    namespaces(tmp_path)
    facts = host.facts(tree=tree)
    assert facts["cpu"] == "Fast CPU"
    assert facts["microcode"] == "0xf0"
    assert facts["kernel"] == "6.8.0-45-generic"
    assert facts["distribution"] == "Ubuntu 24.04.1 LTS"
    assert (facts["virtualised"], facts["hypervisor"], facts["container"], facts["wsl"]) == (False, None, None, False)
    assert facts["mitigations"] == {"meltdown": "Mitigation: PTI"}
    assert (facts["governor"], facts["turbo"], facts["smt"]) == ("powersave", True, True)
    assert (facts["thp"], facts["ksm"], facts["damon"]) == ("always", True, False)
    assert facts["memory_bytes"] == 16_000_000 << 10
    assert facts["swap_used_bytes"] == 1 << 20
    assert (facts["steal_ticks"], facts["cpu_ticks"]) == (80, 360)
    assert facts["lsm"] == ["lockdown", "capability", "landlock", "yama", "apparmor"]
    assert facts["init"] == "systemd"


def test_a_machine_that_tells_nothing_gives_nulls_and_no_error(tmp_path: Path) -> None:
    facts = host.facts(tree=Tree(tmp_path))
    told = {name for name, value in facts.items() if value is not None}
    assert told <= {"kernel", "arch", "python", "cpus", "page_size", "wsl", "scratch"}
    assert facts["virtualised"] is None


def test_this_machine_fits_into_json() -> None:
    facts = host.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert facts["kernel"] == os.uname().release
    assert facts["memory_bytes"] > facts["memory_available_bytes"] > 0
    assert facts["scratch_filesystem"]


def test_the_scratch_folder_may_not_exist_yet(tmp_path: Path) -> None:
    assert host.facts(str(tmp_path / "to" / "come"))["scratch"] == str(tmp_path)


@pytest.mark.parametrize(
    ("changes", "virtualised", "hypervisor"),
    [
        ({"proc/cpuinfo": "flags : fpu hypervisor"}, True, None),
        ({"proc/cpuinfo": "flags : fpu hypervisor", "sys/class/dmi/id/sys_vendor": "QEMU"}, True, "qemu"),
        ({"sys/class/dmi/id/product_name": "VMware Virtual Platform"}, True, "vmware"),
        ({"sys/class/dmi/id/sys_vendor": "Microsoft Corporation"}, False, None),
        (
            {"proc/cpuinfo": "flags : hypervisor", "sys/class/dmi/id/sys_vendor": "Microsoft Corporation"},
            True,
            "hyperv",
        ),
        ({"sys/hypervisor/type": "xen"}, True, "xen"),
        ({"proc/cpuinfo": "model name : unnamed"}, None, None),
    ],
)
def test_hypervisors_are_told_from_laptops_of_the_same_maker(
    tmp_path: Path, changes: dict[str, str], virtualised: bool | None, hypervisor: str | None
) -> None:
    facts = host.facts(tree=make(tmp_path, LAPTOP | changes))
    assert (facts["virtualised"], facts["hypervisor"]) == (virtualised, hypervisor)


@pytest.mark.parametrize(
    ("files", "own", "kind"),
    [
        ({".dockerenv": ""}, {"pid": 4026532000}, "docker"),
        ({".dockerenv": ""}, {"uts": 4026532000}, "docker"),
        ({".dockerenv": ""}, {}, None),
        ({"run/systemd/container": "systemd-nspawn"}, {"pid": 4026532000}, "systemd-nspawn"),
        ({"proc/1/environ": "HOME=/\0container=lxc\0"}, {"pid": 4026532000}, "lxc"),
        ({"run/.containerenv": ""}, {"pid": 4026532000}, "podman"),
        ({}, {"pid": 4026532000}, "unknown"),
        ({}, {}, None),
    ],
)
def test_a_container_is_known_by_marker_and_namespaces(
    tmp_path: Path, files: dict[str, str], own: dict[str, int], kind: str | None
) -> None:
    tree = make(tmp_path, LAPTOP | files)
    namespaces(tmp_path, **own)
    assert host.facts(tree=tree)["container"] == kind


def test_wsl_is_known_by_its_kernel(tmp_path: Path) -> None:
    tree = make(tmp_path, {"proc/sys/kernel/osrelease": "5.15.153.1-microsoft-standard-WSL2"})
    assert host.facts(tree=tree)["wsl"] is True


def test_control_groups_are_listed_by_version(tmp_path: Path) -> None:
    second = tmp_path / "unified"
    tree = make(
        tmp_path,
        {
            "proc/self/cgroup": "2:memory:/\n1:cpu,cpuacct:/\n0::/",
            "proc/self/mountinfo": (
                "40 30 0:30 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
                "41 30 0:31 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
                f"42 30 0:32 / {second} rw - cgroup2 cgroup2 rw"
            ),
            "unified/cgroup.controllers": "io pids",
        },
    )
    facts = host.facts(tree=tree)
    assert facts["cgroup"] == "hybrid"
    assert facts["cgroup_controllers"] == {"v1": ["cpu", "cpuacct", "memory"], "v2": ["io", "pids"]}


def test_tool_versions_name_what_is_installed_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, script in {
        "fio": "echo fio-9.99; echo more",
        "bwrap": "exit 1",
        "qemu-system-x86_64": "exec sleep 60",
    }.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(host, "TOOLS_TIMEOUT_S", 1.0)
    found = host.tool_versions()
    assert found["fio"] == "fio-9.99"
    assert {"bwrap", "qemu", "runc"}.isdisjoint(found)
    assert found["python"]


def test_libvirt_version_comes_from_the_name_of_its_library(tmp_path: Path) -> None:
    folder = tmp_path / "usr/lib/x86_64-linux-gnu"
    folder.mkdir(parents=True)
    assert host.libvirt_version(Tree(tmp_path)) is None
    for name in ("libvirt.so.0", "libvirt-qemu.so.0.9000.0", "libvirt.so.0.10010.3"):
        (folder / name).touch()
    assert host.libvirt_version(Tree(tmp_path)) == "10.10.3"
