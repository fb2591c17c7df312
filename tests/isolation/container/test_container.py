"""The home-grown container, really launched: what its payload sees, what holds it, what is left."""

import os
import pathlib
import select
import shutil
import signal
import subprocess
import sys

import pytest

from isolation.api import Exit, LaunchFailed, Limits, Site, Spec, Unsupported, Volume
from isolation.container.container import Container

pytestmark = pytest.mark.root

BACKENDS = ("container-namespaces", "container")
SIX = {"mnt", "pid", "net", "ipc", "uts", "cgroup"}
MIB = 1 << 20


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def host_namespaces():
    return {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in SIX}


def test_available_here_with_evidence(backend):
    found = Container(backend).availability()
    assert found.available, found
    assert found.lane == "native"
    assert "launched once" in found.evidence


def test_payload_is_pid_1_in_six_namespaces_of_its_own(launch, backend):
    with launch(backend, "box") as running:
        where = running.ask("where")
    own = host_namespaces()
    assert where["pid"] == 1
    assert where["hostname"] == "box"
    assert all(where["namespaces"][name] != own[name] for name in SIX)


def test_payload_sees_its_own_root_and_nothing_of_the_host(launch, backend, site):
    with launch(backend) as running:
        where = running.ask("where")
        root = running.shell("busybox ls /")
        gone = running.ask("exec", "1000", "/bin/busybox", "ls", site.scratch)
    targets = {mount["target"]: mount["type"] for mount in where["mounts"]}
    wanted = {"/": "overlay", "/proc": "proc", "/dev": "tmpfs", "/dev/pts": "devpts"}
    assert targets == wanted | ({"/sys": "sysfs", "/dev/shm": "tmpfs"} if backend == "container" else {})
    assert set(root.split()) == {"probe", "proc", "dev", "sys", "tmp", "bin", "etc"}
    assert gone["code"] != 0
    assert where["cwd"] == "/"


def test_payload_inherits_0_1_2_only_whatever_the_launcher_holds(launch, backend):
    leaky = os.open("/etc/passwd", os.O_RDONLY)
    os.set_inheritable(leaky, True)
    try:
        with launch(backend) as running:
            descriptors = {entry["fd"] for entry in running.ask("where")["descriptors"]}
            listed = running.shell("ls -l /proc/1/fd")
    finally:
        os.close(leaky)
    assert descriptors <= {0, 1, 2, 3}, "3 is the probe's own look into /proc"
    assert "passwd" not in listed


def test_no_new_privileges_belongs_to_the_default_profile(launch, backend):
    with launch(backend) as running:
        assert running.ask("where")["no_new_privs"] == (1 if backend == "container" else 0)


def test_devices_work_and_writes_stay_in_the_upper(launch, backend, rootfs):
    with launch(backend) as running:
        assert running.shell("head -c 3 /dev/zero | wc -c").strip() == "3"
        assert running.shell("echo x > /dev/null; echo new > /etc/new; cat /etc/new").strip() == "new"
        assert running.shell("ls -l /dev/ptmx /dev/fd/0 > /dev/null; umask").strip() == "0022"
    assert not (rootfs / "etc" / "new").exists()


def test_signals_that_the_launcher_ignores_or_blocks_are_usual_again(launch, backend):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGUSR1,))
    try:
        with launch(backend) as running:
            status = running.shell("grep -E '^Sig(Ign|Blk)' /proc/self/status").split()
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    blocked, ignored = int(status[1], 16), int(status[3], 16)
    assert blocked == 0
    assert not ignored & 1 << signal.SIGTERM - 1


def test_loopback_is_up_in_the_default_profile(launch):
    with launch("container") as running:
        assert "UP" in running.shell("ip link show lo")


def test_volumes_are_shared_and_read_only_ones_refuse_writes(launch, backend, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    file = tmp_path / "file"
    file.write_text("from the host")
    volumes = (Volume(str(data), "/deep/data"), Volume(str(file), "/etc/one", read_only=True))
    with launch(backend, volumes=volumes) as running:
        running.shell("echo kept > /deep/data/result")
        assert running.shell("cat /etc/one") == "from the host"
        refused = running.ask("exec", "1000", "/bin/busybox", "sh", "-c", "echo x > /etc/one")
        assert "Read-only file system" in refused["stderr"]
    assert (data / "result").read_text() == "kept\n"


def test_layers_lie_over_the_root_filesystem(launch, backend, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name / "layer").mkdir(parents=True)
        (tmp_path / name / "layer" / "top").write_text(name)
    with launch(backend, layers=(str(tmp_path / "one"), str(tmp_path / "two"))) as running:
        assert running.shell("cat /layer/top") == "two"


def test_memory_limit_is_in_force_and_its_breach_diagnosed(started):
    running = started("container", limits=Limits(memory_bytes=32 * MIB, pids=32))
    instance = running.instance
    os.write(instance.write_fd, b"touch %d\n" % (200 * MIB))
    os.waitid(os.P_PIDFD, instance.pidfd, os.WEXITED | os.WNOWAIT)
    reason, detail = instance.diagnose()
    assert reason == "oom"
    assert instance._group.path in detail
    ended = running.end()
    assert ended.signal == 9


def test_touching_less_than_the_limit_is_counted_not_killed(launch):
    with launch("container", limits=Limits(memory_bytes=128 * MIB)) as running:
        group = running.instance._group
        before = group.memory()
        running.ask("touch", str(20 * MIB))
        grown = group.memory().anonymous_bytes - before.anonymous_bytes
        assert 20 * MIB <= grown < 21 * MIB
        assert running.instance.diagnose() is None


def test_pids_limit_is_exact(launch):
    """PID 1 and the shell leave three: a fourth child is refused."""
    script = "for i in 1 2 3; do busybox sleep 10 & done; busybox sleep 10 & wait $!"
    with launch("container", limits=Limits(pids=5)) as running:
        enough = running.ask(
            "exec", "5000", "/bin/busybox", "sh", "-c", script.replace("; busybox sleep 10 & wait $!", "")
        )
        assert enough["stderr"] == ""
        refused = running.ask("exec", "5000", "/bin/busybox", "sh", "-c", script)
        assert "can't fork" in refused["stderr"]


def test_cpu_limit_charges_its_own_group(launch):
    with launch("container", limits=Limits(cpus=0.5)) as running:
        running.ask("loop", "getppid", "100000")
        assert running.instance._group.cpu_ns() > 0


def test_processes_are_host_pids_of_all_that_runs(launch, backend):
    with launch(backend) as running:
        assert running.instance.processes() == (running.instance.pid,)
        command = pathlib.Path(f"/proc/{running.instance.pid}/cmdline").read_bytes()
    assert command.startswith(b"/probe\0nonce=5eed")


def test_killing_ends_all_and_says_the_signal(started, backend):
    running = started(backend)
    running.instance.kill()
    ended = running.end()
    assert (ended.code, ended.signal) == (None, 9)
    assert ended.cpu_ns > 0


def leftovers(site: Site):
    groups = [f for tree in pathlib.Path("/sys/fs/cgroup").iterdir() for f in tree.glob(f"{site.cgroup}/*/")]
    mounts = [line for line in pathlib.Path("/proc/self/mountinfo").read_text().splitlines() if site.scratch in line]
    return groups, mounts, sorted(file.name for file in pathlib.Path(site.scratch).glob("*/*"))


def test_nothing_is_left_after_the_end_not_even_of_a_big_upper(launch, backend, site):
    with launch(backend) as running:
        running.shell("mkdir -p /tmp/a/b/c; for i in 1 2 3; do echo $i > /tmp/a/b/$i; done; rm -r /etc")
    assert leftovers(site) == ([], [], ["root"])


def test_fifty_launches_leak_nothing(launch, backend, site):
    with launch(backend):
        pass
    before = sorted(os.listdir("/proc/self/fd"))
    for number in range(50):
        with launch(backend, f"box-{number}"):
            pass
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert leftovers(site) == ([], [], ["root"])


def prepared(backend, site, **changes):
    container = Container(backend)
    container.prepare(Site(**{name: changes.get(name, getattr(site, name)) for name in Site.__slots__}))
    return container


def test_failed_set_up_says_which_step_and_leaves_nothing(backend, site, tmp_path):
    container = prepared(backend, site, rootfs=str(tmp_path / "no-such-rootfs"))
    before = sorted(os.listdir("/proc/self/fd"))
    with pytest.raises(LaunchFailed, match=r"setup_failed: .*mount an overlay of .*: No such file") as caught:
        container.start(Spec("one", "5eed", cgroup=f"{site.cgroup}/one"))
    assert "no-such-rootfs" in caught.value.detail
    assert sorted(os.listdir("/proc/self/fd")) == before
    assert leftovers(site) == ([], [], ["root"])


def test_missing_payload_says_so(backend, site, rootfs, tmp_path):
    bare = tmp_path / "bare"
    shutil.copytree(rootfs, bare)
    (bare / "probe").unlink()
    container = prepared(backend, site, rootfs=str(bare))
    with pytest.raises(LaunchFailed, match=r"execve /probe: No such file"):
        container.start(Spec("one", "5eed", cgroup=f"{site.cgroup}/one"))


@pytest.mark.parametrize("name", ["proc", "dev"])
def test_hostile_root_filesystem_is_refused_with_the_host_unchanged(backend, site, rootfs, tmp_path, name):
    hostile, victim = tmp_path / "hostile", tmp_path / "victim"
    victim.mkdir()
    shutil.copytree(rootfs, hostile)
    (hostile / name).rmdir()
    (hostile / name).symlink_to(victim)
    container = prepared(backend, site, rootfs=str(hostile))
    with pytest.raises(LaunchFailed, match="Too many levels of symbolic links"):
        container.start(Spec("one", "5eed", cgroup=f"{site.cgroup}/one"))
    assert list(victim.iterdir()) == []


def test_volume_target_through_a_link_is_refused(launch, backend, rootfs, site, tmp_path):
    layer = tmp_path / "layer"
    layer.mkdir()
    (layer / "out").symlink_to("/etc")
    with (
        pytest.raises(LaunchFailed, match="out"),
        launch(backend, layers=(str(layer),), volumes=(Volume(str(tmp_path), "/out/x"),)),
    ):
        pass
    assert leftovers(site) == ([], [], ["root"])


def test_profile_it_does_not_run_is_refused(backend, site):
    with pytest.raises(Unsupported, match="unknown_profile"):
        prepared(backend, site).start(Spec("one", "5eed", profile="hardened"))


def test_container_dies_with_its_launcher(site, rootfs, tmp_path):
    """The launcher is killed by SIGKILL; its container's channel stays open in us, and yet it ends."""
    script = f"""
import os, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parents[3])!r})
from isolation.api import Site, Spec
from isolation.container.container import Container
container = Container("container-namespaces")
container.prepare(Site("r", {site.scratch!r}, {site.scratch!r}, "", {site.rootfs!r}))
instance = container.start(Spec("orphan", "5eed"))
os.dup2(instance.write_fd, 9, inheritable=True)
print(instance.pid, flush=True)
sys.stdin.read()
"""
    launcher = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    pidfd = os.pidfd_open(int(launcher.stdout.readline()))
    held = os.open(f"/proc/{launcher.pid}/fd/9", os.O_WRONLY)
    launcher.kill()
    launcher.communicate()
    try:
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(5000), "the container outlived its launcher"
    finally:
        os.close(held)
        os.close(pidfd)


def test_ordinary_user_gets_namespaces_or_hears_what_is_missing(rootfs):
    """Run as nobody: either it really launches in a user namespace, or the refusal names a step and a fix."""
    script = f"""
import os, sys
sys.path.insert(0, {str(pathlib.Path(__file__).parents[3])!r})
from isolation.container.container import Container
from isolation.syscalls import direct
open("/proc/self/cgroup", encoding="ascii").read()  # loads the codec while we may
os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)
direct.prctl(4, 1)  # PR_SET_DUMPABLE, as any program that a user starts
for name in {BACKENDS!r}:
    found = Container(name).availability()
    print(name, found.available, found.reason, bool(found.detail), bool(found.fix), sep="|")
"""
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", script], stdout=subprocess.PIPE, text=True, timeout=60, check=True
    )
    for line in done.stdout.splitlines():
        name, available, reason, has_detail, has_fix = line.split("|")
        if available == "True":
            assert name == "container-namespaces" or os.path.isdir("/run/systemd/system")
        else:
            assert (reason in ("no_permission", "kernel_lacks"), has_detail, has_fix) == (True, "True", "True"), line


def test_exit_is_a_value_with_cpu_time(started):
    running = started("container-namespaces")
    ended = running.end()
    assert isinstance(ended, Exit)
    assert ended.cpu_ns > 0
