"""The payload as PID 1 of a PID namespace."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from bench.payload.protocol import ExecReply

pytestmark = pytest.mark.root


def payload_pid(container):
    """Host pid of the namespace's first process, which is `unshare`'s only child."""
    unshare = container.process.pid
    with open(f"/proc/{unshare}/task/{unshare}/children") as children:
        (pid,) = children.read().split()
    return int(pid)


def execute(container, script):
    return ExecReply.parse(container.ask("exec", "20000", "sh", "-c", script))


def test_it_is_pid_1_and_sees_only_its_namespace(container):
    where = container.ask("where")
    assert (where["pid"], where["ppid"]) == (1, 0)
    assert where["namespaces"]["pid"] != os.stat("/proc/self/ns/pid").st_ino
    assert execute(container, "ls -d /proc/[0-9]*").stdout.split()[0] == b"/proc/1"
    assert container.quit() == 0


def test_orphans_are_adopted_and_reaped(container, gone, tmp_path):
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reply = execute(container, f"(read line <{fifo}; exit 5) >/dev/null 2>&1 & echo $!")
    assert reply.code == 0
    orphan = reply.stdout.decode().strip()
    assert execute(container, f"grep PPid /proc/{orphan}/status").stdout.split() == [b"PPid:", b"1"]
    (host_pid,) = set(children_of(payload_pid(container)))
    fifo.write_text("go\n")
    assert gone(host_pid)  # a pidfd is readable from its end on ...
    container.ask("sync")
    container.ask("sync")
    assert children_of(payload_pid(container)) == []  # ... and its zombie is collected without being asked for


def children_of(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as children:
        return [int(child) for child in children.read().split()]


def test_reaping_orphans_steals_no_exit(container):
    for code in range(20):
        orphans = "for i in 1 2 3 4; do (true &) ; done;"
        assert execute(container, f"{orphans} exit {code}").code == code
    assert container.ask("loop", "fork_exit", "200")["count"] == 200
    assert container.ask("loop", "pipe", "200")["count"] == 200


def test_signals_without_a_handler_are_ignored_from_inside(container):
    assert execute(container, "kill -USR1 1; kill -KILL 1; kill -HUP 1").code == 0
    assert container.ask("where")["pid"] == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_to_end_it_quits_and_takes_the_namespace_down(container, gone, number):
    reply = execute(container, "sleep 600 >/dev/null 2>&1 & echo started")
    assert reply.stdout == b"started\n"
    (sleeper,) = children_of(payload_pid(container))
    os.kill(payload_pid(container), number)
    assert container.process.wait(30) == 0
    assert gone(sleeper)


def test_mount_makes_its_target_and_umount_undoes_it(container, tmp_path):
    target = str(tmp_path / "made" / "on the way")
    container.ask("mount", "our scratch", target, "tmpfs", "0", "size=64k")
    mounts = {mount["target"]: mount for mount in container.ask("where")["mounts"]}
    assert (mounts[target]["source"], mounts[target]["type"]) == ("our scratch", "tmpfs")
    assert "size=64k" in mounts[target]["options"]
    assert target not in Path("/proc/self/mounts").read_text().replace("\\040", " ")
    container.ask("umount", target)
    assert target not in {mount["target"] for mount in container.ask("where")["mounts"]}
