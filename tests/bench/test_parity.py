import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from bench import parity as parity_module
from bench.host import Tree
from bench.parity import differences, outside, parity
from isolation.api import Launched

HOST_BOOT = "aaaaaaaa-0000-0000-0000-000000000000"
NAMESPACES = {"cgroup": 1, "ipc": 2, "mnt": 3, "net": 4, "pid": 5, "user": 6, "uts": 7}
WHERE: dict[str, Any] = {
    "ok": True, "pid": 4711, "kernel": "6.8.0", "boot_id": HOST_BOOT, "hostname": "box", "namespaces": NAMESPACES,
    "uid_map": "         0          0 4294967295", "no_new_privs": 0, "seccomp": 0, "seccomp_filters": 0, "lsm": None,
    "capabilities": {"effective": "000001ffffffffff", "bounding": "00000000a80425fb"},
    "mounts": [
        {"source": "rootfs", "target": "/", "type": "rootfs", "options": "rw"},
        {"source": "/dev/sda", "target": "/", "type": "ext4", "options": "rw,relatime"},
        {"source": "proc", "target": "/proc", "type": "proc", "options": "rw"},
    ],
    "cgroup": ["0::/user.slice"], "cpus": 4, "cpu_model": "Fast CPU", "cpu_flags": ["sse2", "fpu"],
    "mitigations": {"meltdown": "Mitigation: PTI"}, "clocksource": "tsc", "page_size": 4096,
    "thp": "always [madvise] never", "memory_total_bytes": 8 << 30,
    "descriptors": [
        {"fd": 0, "target": "pipe:[100]"}, {"fd": 1, "target": "pipe:[101]"}, {"fd": 2, "target": "/logs/one.log"},
    ],
}  # fmt: skip
OUTSIDE: dict[str, Any] = {
    "host_boot_id": HOST_BOOT, "host_namespaces": NAMESPACES, "process_names": ["probe"], "cgroup": "/user.slice",
    "memory_limit_bytes": None, "pids_limit": None, "cpu_limit": None, "interfaces": ["eth0", "lo"],
    "kernel_wide": {"mitigations": {"meltdown": "Mitigation: PTI"}, "clocksource": "tsc", "thp": "madvise"},
}  # fmt: skip


def launched(*processes: int) -> Launched:
    return Launched("one", "process", "native", 0, 1, processes, "tare/run/one")


def make(root: Path, files: dict[str, str]) -> Tree:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return Tree(root)


def test_a_bare_process_shares_everything_with_the_host() -> None:
    facts = parity(WHERE, launched(4711), OUTSIDE)
    assert facts["same_kernel_as_host"] is True
    assert facts["namespaces"] == []
    assert facts["network"] == "shared with the host"
    assert facts["uid_map"] == ["0 0 4294967295"]
    assert (facts["capabilities_effective_count"], facts["capabilities_bounding_count"]) == (41, 14)
    assert (facts["no_new_privs"], facts["seccomp"]) == (False, "disabled")
    assert (facts["root_filesystem"], facts["root_options"], facts["mounts"]) == ("ext4", "rw,relatime", 3)
    assert facts["open_descriptors"] == ["0 pipe", "1 pipe", "2 file"]
    assert facts["payload_visible_on_host"] is True
    assert (facts["thp"], facts["clocksource"]) == ("madvise", "tsc")


def test_names_are_those_of_the_table_and_values_plain_json() -> None:
    facts = parity(WHERE, launched(4711), OUTSIDE)
    table = [line.split() for line in (parity_module.__doc__ or "").splitlines() if line.startswith("    ")]
    assert list(facts) == [words[0] for words in table[1:]]
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts


def test_a_container_differs_in_what_it_has_of_its_own() -> None:
    overlay = {
        "target": "/", "type": "overlay",
        "options": "rw,lowerdir=/rootfs,upperdir=/scratch/one/upper,workdir=/scratch/one/work,uuid=on",
    }  # fmt: skip
    inside = WHERE | {
        "pid": 1, "hostname": "one", "namespaces": NAMESPACES | {"pid": 50, "mnt": 30, "net": 40},
        "no_new_privs": 1, "seccomp": 2, "seccomp_filters": 1, "mounts": [overlay],
    }  # fmt: skip
    limited = OUTSIDE | {"memory_limit_bytes": 256 << 20, "interfaces": ["lo"]}
    bare = parity(WHERE, launched(4711), OUTSIDE)
    contained = parity(inside, launched(4711), limited)
    assert contained["namespaces"] == ["mnt", "net", "pid"]
    assert contained["network"] == "own"
    assert contained["root_options"] == "rw,uuid=on"
    assert differences(bare, bare) == ()
    assert differences(bare, contained) == (
        "namespaces", "pid_inside", "no_new_privs", "seccomp", "seccomp_filters", "memory_limit_bytes",
        "root_filesystem", "root_options", "mounts", "network", "network_interfaces",
    )  # fmt: skip


def test_a_machine_of_another_kernel_has_all_namespaces_of_its_own_though_inodes_are_alike() -> None:
    guest = WHERE | {"boot_id": "bbbbbbbb-0000-0000-0000-000000000000", "kernel": "6.1.0", "clocksource": None}
    opaque = OUTSIDE | {"process_names": ["qemu-system-x86"], "interfaces": None}
    facts = parity(guest, launched(99), opaque)
    assert facts["same_kernel_as_host"] is False
    assert facts["namespaces"] == sorted(NAMESPACES)
    assert facts["payload_visible_on_host"] is False
    assert facts["network_interfaces"] is None
    assert facts["clocksource"] is None, "the host's clock source is not the guest's"


def test_where_no_sys_shows_inside_the_values_of_the_shared_kernel_hold() -> None:
    blind = WHERE | {"mitigations": None, "clocksource": None, "thp": None}
    assert differences(parity(WHERE, launched(4711), OUTSIDE), parity(blind, launched(4711), OUTSIDE)) == ()


def test_what_nobody_could_read_is_null() -> None:
    unknown = dict.fromkeys(WHERE) | {"ok": True}
    nothing = dict.fromkeys(OUTSIDE) | {"process_names": [], "host_namespaces": {}, "kernel_wide": {}}
    facts = parity(unknown, launched(), nothing)
    assert {name for name, value in facts.items() if value is not None} == {
        "payload_visible_on_host", "processes", "process_names",
    }  # fmt: skip


def group_host(root: Path, version: int, place: str, files: dict[str, str]) -> Tree:
    """A host whose one cgroup tree is mounted below `root`, with process 7 in `place`."""
    mount = root / "sys/fs/cgroup"
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory,pids,cpu")
    prefix = "0:" if version == 2 else "3:memory,pids,cpu"
    lines = {
        "proc/self/mountinfo": f"40 30 0:30 / {mount} rw - {kind} {kind} {options}",
        "proc/self/cgroup": f"{prefix}:/",
        "proc/7/cgroup": f"{prefix}:{place}",
        "proc/7/comm": "probe",
        "sys/fs/cgroup/cgroup.controllers": "memory pids cpu",
    }
    return make(root, lines | {f"sys/fs/cgroup/{name}": text for name, text in files.items()})


def test_the_tightest_limit_on_the_way_up_counts_on_version_2(tmp_path: Path) -> None:
    limits = {
        "tare/memory.max": "100000", "tare/one/memory.max": "max",
        "tare/pids.max": "max", "tare/one/pids.max": "64",
        "tare/cpu.max": "150000 100000", "tare/one/cpu.max": "50000 100000",
    }  # fmt: skip
    seen = outside(launched(7), group_host(tmp_path, 2, "/tare/one", limits))
    assert (seen["memory_limit_bytes"], seen["pids_limit"], seen["cpu_limit"]) == (100000, 64, 0.5)
    assert seen["cgroup"] == "/tare/one"


def test_version_1_writes_no_limit_as_a_huge_number(tmp_path: Path) -> None:
    limits = {
        "memory.limit_in_bytes": "9223372036854771712", "tare/memory.limit_in_bytes": "9223372036854771712",
        "tare/pids.max": "512", "tare/cpu.cfs_quota_us": "-1", "tare/cpu.cfs_period_us": "100000",
    }  # fmt: skip
    seen = outside(launched(7), group_host(tmp_path, 1, "/tare", limits))
    assert (seen["memory_limit_bytes"], seen["pids_limit"], seen["cpu_limit"]) == (None, 512, None)


def test_a_group_outside_of_our_view_has_no_known_limits(tmp_path: Path) -> None:
    seen = outside(launched(7), group_host(tmp_path, 2, "/../other", {"memory.max": "1"}))
    assert (seen["cgroup"], seen["memory_limit_bytes"]) == (None, None)


def test_the_payload_is_told_from_the_processes_around_it(tmp_path: Path) -> None:
    tree = make(
        tmp_path,
        {
            "proc/5/comm": "bwrap",
            "proc/6/comm": "probe",
            "proc/6/net/dev": "Inter-|   Receive |  Transmit\n face |bytes |bytes\n    lo: 0 0\n  eth0: 1 1",
        },
    )
    seen = outside(launched(5, 6, 99), tree)
    assert seen["process_names"] == ["bwrap", "probe"]
    assert seen["interfaces"] == ["eth0", "lo"]


@pytest.mark.parametrize("kind", ["program", "gone"])
def test_a_real_process_is_read_from_outside(kind: str) -> None:
    with subprocess.Popen(("sleep", "60"), stdin=subprocess.DEVNULL) as program:
        if kind == "gone":
            program.kill()
            program.wait()
        seen = outside(launched(program.pid))
        program.kill()
    assert seen["host_boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert seen["host_namespaces"]["pid"] == os.stat("/proc/self/ns/pid").st_ino
    assert seen["interfaces"] is None
    if kind == "gone":
        assert seen["process_names"] == []
        assert seen["cgroup"] is None
