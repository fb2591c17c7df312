"""What the payload says about where it is, against what the host sees."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path


def status_field(pid, name):
    with open(f"/proc/{pid}/status") as status:
        return next(line.split()[1] for line in status if line.startswith(f"{name}:"))


def test_where_agrees_with_what_the_host_sees(process):
    where, pid = process.ask("where"), process.process.pid
    assert (where["pid"], where["ppid"], where["uid"]) == (pid, os.getpid(), os.getuid())
    assert (where["kernel"], where["hostname"]) == (os.uname().release, os.uname().nodename)
    assert where["namespaces"]["mnt"] == os.stat("/proc/self/ns/mnt").st_ino
    assert set(where["namespaces"]) == {"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"}
    assert where["cgroup"] == Path("/proc/self/cgroup").read_text().splitlines()
    assert where["capabilities"]["effective"] == status_field("self", "CapEff")
    assert where["capabilities"]["bounding"] == status_field("self", "CapBnd")
    assert where["cwd"] == os.getcwd()
    assert where["exe"] == os.path.realpath(process.process.args[0])
    assert where["cpus"] == len(os.sched_getaffinity(0))
    assert where["page_size"] == os.sysconf("SC_PAGESIZE")
    assert where["boot_id"] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    root = [mount for mount in where["mounts"] if mount["target"] == "/"]
    assert root
    assert set(root[0]) == {"source", "target", "type", "options"}
    soft, hard = where["rlimits"]["nofile"]
    assert 0 < soft <= hard
    assert "fpu" in where["cpu_flags"]


def test_where_lists_inherited_descriptors_and_none_of_its_own(probe):
    leak = os.open("/dev/null", os.O_RDONLY)
    requests = b"loop pipe 1\nloop read 1\nloop write 1\nwhere\n"
    done = subprocess.run([probe, "nonce=ab"], input=requests, capture_output=True, pass_fds=(leak,), timeout=30)
    os.close(leak)
    descriptors = json.loads(done.stdout.splitlines()[-1])["descriptors"]
    assert sorted(entry["fd"] for entry in descriptors) == [0, 1, 2, leak]
    assert {entry["fd"]: entry["target"] for entry in descriptors}[leak] == "/dev/null"
