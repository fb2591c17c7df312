"""Control groups: which tree holds what, on made-up hosts; then real groups, where this host has them."""

import os
import pathlib
import subprocess
import sys
import uuid

import pytest

from isolation.api import IsolationError, Limits, Unsupported
from isolation.container import cgroup
from isolation.container.cgroup_directory import MemoryReading

MIB = 1 << 20


class Host:
    """A made-up /proc/self and /sys/fs/cgroup."""

    def __init__(self, folder: pathlib.Path) -> None:
        self.proc = folder / "proc"
        self.mounts = folder / "cgroup"
        self.proc.mkdir()
        (self.proc / "cgroup").write_text("")
        (self.proc / "mountinfo").write_text("22 27 0:21 / /proc rw,relatime - proc proc rw\n")

    def _append(self, file: str, line: str) -> None:
        with (self.proc / file).open("a") as stream:
            stream.write(line + "\n")

    def v1(self, names: str, own: str, root: str = "/") -> pathlib.Path:
        mount = self.mounts / names
        mount.mkdir(parents=True)
        self._append("cgroup", f"4:{names}:{own}")
        self._append("mountinfo", f"30 25 0:26 {root} {mount} rw shared:9 - cgroup cgroup rw,{names}")
        return mount

    def v2(self, controllers: str, own: str, name: str = "unified") -> pathlib.Path:
        mount = self.mounts / name
        mount.mkdir(parents=True)
        (mount / "cgroup.controllers").write_text(controllers + "\n")
        self._append("cgroup", f"0::{own}")
        self._append("mountinfo", f"31 25 0:27 / {mount} rw shared:10 - cgroup2 cgroup2 rw,nsdelegate")
        return mount

    def detect(self) -> cgroup.Hierarchy:
        return cgroup.detect(str(self.proc))


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_version_1_host(host):
    host.v1("cpu,cpuacct", "/")
    memory = host.v1("memory", "/user/1")
    host.v1("pids", "/")
    found = host.detect()
    assert found.describe() == "cpu v1, cpuacct v1, memory v1, pids v1"
    assert found.tree("memory").own == "user/1"
    assert found.tree("memory").directory("tare/r") == f"{memory}/tare/r"
    assert found.tree("cpu") is found.tree("cpuacct")
    assert cgroup.run_group("r", found) == "tare/r"


def test_version_2_host_puts_runs_below_the_delegated_group(host):
    host.v2("cpuset cpu io memory pids", "/system.slice/run-u1.scope")
    found = host.detect()
    assert found.tree("memory").version == 2
    assert cgroup.run_group("r", found) == "system.slice/run-u1.scope/tare/r"


def test_version_2_host_seen_from_the_leaf_has_the_same_run_group(host):
    host.v2("memory pids", f"/system.slice/run-u1.scope/{cgroup.LEAF}")
    assert cgroup.run_group("r", host.detect()) == "system.slice/run-u1.scope/tare/r"


def test_hybrid_host_decides_per_controller(host):
    host.v1("memory", "/a")
    host.v1("name=systemd", "/b")
    host.v2("hugetlb pids", "/c")
    found = host.detect()
    group = cgroup.Group.at("tare/r/i", found)
    assert found.describe() == "memory v1, name=systemd v1, hugetlb v2, pids v2"
    assert group.entrances_v1 == (f"{host.mounts}/memory/tare/r/i/tasks",)
    assert group.birthplace_v2 == f"{host.mounts}/unified/tare/r/i"


def test_mount_that_shows_only_the_own_part_of_the_tree(host):
    host.v1("memory", "/docker/abc/x", root="/docker/abc")
    assert host.detect().tree("memory").own == "x"


def test_missing_controller_is_unsupported_and_named(host):
    host.v1("memory", "/")
    with pytest.raises(Unsupported, match="kernel_lacks: cgroup controller pids is in no mounted tree"):
        cgroup.Group.at("tare/r/i", host.detect())


def test_memory_of_version_1_is_rss_cache_and_kernel_without_the_advance(host):
    directory = host.v1("memory", "/") / "g"
    directory.mkdir()
    (directory / "memory.stat").write_text(
        "cache 1\nrss 2\ntotal_cache 4096\ntotal_rss 8192\ntotal_mapped_file 4096\ntotal_shmem 4096\n"
    )
    (directory / "memory.kmem.usage_in_bytes").write_text("512\n")
    (directory / "memory.usage_in_bytes").write_text("999999\n")
    (directory / "memory.oom_control").write_text("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    group = cgroup.Group.at("g", host.detect(), ("memory",))
    assert group.memory() == MemoryReading(4096 + 8192 + 512, anonymous_bytes=8192, file_bytes=4096, kernel_bytes=512)
    assert group.oom_kills() == 3


@pytest.mark.parametrize(("kernel_lines", "kernel"), [("kernel 700\n", 700), ("slab 400\npagetables 50\n", 450)])
def test_memory_of_version_2_is_current_with_its_parts(host, kernel_lines, kernel):
    directory = host.v2("memory pids", "/") / "g"
    directory.mkdir()
    (directory / "memory.current").write_text("20000\n")
    (directory / "memory.stat").write_text(f"anon 8192\nfile 4096\n{kernel_lines}")
    (directory / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 2\noom_group_kill 0\n")
    (directory / "cpu.stat").write_text("usage_usec 5\nuser_usec 3\nsystem_usec 2\n")
    group = cgroup.Group.at("g", host.detect())
    assert group.memory() == MemoryReading(20000, anonymous_bytes=8192, file_bytes=4096, kernel_bytes=kernel)
    assert group.oom_kills() == 2
    assert group.cpu_ns() == 5000


def test_limits_of_version_2(host):
    directory = host.v2("cpu memory pids", "/") / "g"
    directory.mkdir()
    for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max"):
        (directory / name).write_text("max\n")
    group = cgroup.Group.at("g", host.detect(), ("memory", "pids", "cpu"))
    group.directories[0].limit(Limits(memory_bytes=MIB, pids=7, cpus=0.5))
    written = {file.name: file.read_text().splitlines()[0] for file in directory.iterdir()}
    assert written["memory.max"] == str(MIB)
    assert written["cpu.max"] == "50000 100000"
    assert written["pids.max"].startswith("7")
    assert written["memory.swap.max"].startswith("0")


def test_establish_hands_controllers_down_level_by_level(host):
    mount = host.v2("memory pids", "/")
    for level in ("", "tare", "tare/r"):
        (mount / level).mkdir(exist_ok=True)
        (mount / level / "cgroup.subtree_control").write_text("")
    cgroup.establish("tare/r", host.detect())
    for level in ("", "tare", "tare/r"):
        assert (mount / level / "cgroup.subtree_control").read_text() == "+memory +pids"


def test_establish_says_where_it_may_not_write_and_what_helps(host, monkeypatch):
    host.v1("memory", "/")
    host.v1("pids", "/")

    def refuse(path, exist_ok):
        raise OSError(30, "Read-only file system", path)

    monkeypatch.setattr(os, "makedirs", refuse)
    with pytest.raises(Unsupported, match=r"cgroup tare/r in .*memory.*Read-only file system; run as root") as caught:
        cgroup.establish("tare/r", host.detect())
    assert caught.value.reason == "no_permission"


def test_only_groups_of_ours_are_removed():
    for path in ("", "tare", "user.slice/x"):
        with pytest.raises(ValueError, match=r"no (group of ours|run.s group)"):
            cgroup.remove_tree(path)


@pytest.fixture
def group():
    """A real group of its own run."""
    hierarchy = cgroup.detect()
    path = cgroup.run_group(f"test-{uuid.uuid4().hex[:8]}", hierarchy)
    cgroup.establish(path, hierarchy)
    yield cgroup.Group.at(f"{path}/one", hierarchy)
    cgroup.remove_tree(path, hierarchy)
    assert not any(os.path.exists(tree.directory(path)) for tree in hierarchy.trees)


def own_places():
    return pathlib.Path("/proc/thread-self/cgroup").read_text()


@pytest.mark.root
def test_joining_for_a_while_and_back(group):
    group.create(Limits())
    before = own_places()
    with group.joined():
        assert own_places().count(f"/{group.path}\n") == len(group.directories)
        child = subprocess.Popen([sys.executable, "-I", "-S", "-c", "input()"], stdin=subprocess.PIPE)
    assert own_places() == before
    assert group.processes() == (child.pid,)
    assert group.memory().total_bytes > 0
    child.communicate(b"\n")
    group.remove()


@pytest.mark.root
def test_kill_ends_every_member_and_no_other(group):
    group.create(Limits())
    with group.joined():
        children = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
    with subprocess.Popen(["sleep", "100"]) as bystander:
        group.kill()
        assert [child.wait(10) for child in children] == [-9, -9, -9]
        assert bystander.poll() is None
        bystander.kill()
    group.remove()


@pytest.mark.root
def test_group_with_a_member_is_a_leak_that_names_it(group, monkeypatch):
    monkeypatch.setattr("isolation.container.cgroup_directory.REMOVAL_TRIES", 2)
    group.create(Limits())
    with group.joined():
        child = subprocess.Popen(["sleep", "100"])
    with pytest.raises(IsolationError, match=rf"leak: .*{group.path} stays busy; processes in it: \({child.pid},\)"):
        group.remove()
    child.kill()
    child.wait()


@pytest.mark.root
@pytest.mark.cgroup_v1
def test_limits_of_version_1_are_in_force(group):
    group.create(Limits(memory_bytes=64 * MIB, pids=5))
    memory, pids = (directory.path for directory in group.directories)
    assert int(pathlib.Path(memory, "memory.limit_in_bytes").read_text()) == 64 * MIB
    assert int(pathlib.Path(pids, "pids.max").read_text()) == 5
    group.remove()


@pytest.mark.root
@pytest.mark.cgroup_v2
def test_limits_of_version_2_are_in_force(group):
    group.create(Limits(memory_bytes=64 * MIB, pids=5))
    directory = group.birthplace_v2
    assert int(pathlib.Path(directory, "memory.max").read_text()) == 64 * MIB
    assert int(pathlib.Path(directory, "pids.max").read_text()) == 5
    group.remove()


@pytest.mark.root
def test_processes_of_a_real_version_2_group_make_room_in_a_leaf_and_come_back():
    """With any controller that the version 2 tree has: hugetlb will do."""
    tree = next((tree for tree in cgroup.detect().trees if tree.version == 2 and tree.controllers), None)
    if tree is None:
        pytest.skip("no controller is on cgroup v2 here")
    base = f"{tree.own}/tare-test-{uuid.uuid4().hex[:8]}".lstrip("/")
    directory = tree.directory(base)
    script = f"""
import sys; sys.path.insert(0, {str(pathlib.Path(cgroup.__file__).parents[2])!r})
from isolation.container import cgroup
tree = next(tree for tree in cgroup.detect().trees if tree.version == 2)
path = {base!r} + "/tare/r"
cgroup.establish(path, cgroup.detect(), tree.controllers[:1])
print(open("/proc/self/cgroup").read().strip().rsplit("0::")[-1])
cgroup.remove_tree(path)
print(open("/proc/self/cgroup").read().strip().rsplit("0::")[-1])
"""
    handed_before = pathlib.Path(tree.mount, tree.own, "cgroup.subtree_control").read_text().split()
    os.mkdir(directory)
    try:
        if tree.controllers[0] not in handed_before:
            pathlib.Path(tree.mount, tree.own, "cgroup.subtree_control").write_text(f"+{tree.controllers[0]}")
        enter = 'echo 0 > "$0/cgroup.procs" && exec "$@"'
        command = ["sh", "-c", enter, directory, sys.executable, "-I", "-S", "-c", script]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=30, check=True)
        assert done.stdout.split() == [f"/{base}/{cgroup.LEAF}", f"/{base}"]
    finally:
        os.rmdir(directory)
        if tree.controllers[0] not in handed_before:
            pathlib.Path(tree.mount, tree.own, "cgroup.subtree_control").write_text(f"-{tree.controllers[0]}")
