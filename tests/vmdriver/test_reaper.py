"""Daemons called QEMU are collected with their exit status; everybody else's children are left alone."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vmdriver.reaper import Reaper, start_ticks


@pytest.fixture
def reaper() -> Iterator[Reaper]:
    made = Reaper.shared()
    yield made
    made.close()


@pytest.fixture
def qemu(tmp_path: Path) -> str:
    """A program of that name: the shell."""
    target = tmp_path / "qemu-system-x86_64"
    shell = shutil.which("sh")
    assert shell is not None
    shutil.copy(shell, target)
    return str(target)


def daemon(program: str, script: str) -> tuple[int, subprocess.Popen[bytes]]:
    """Start it as libvirt does: in a session of its own, its parent gone. It waits for its input's end."""
    outer = subprocess.Popen(
        ["setsid", "-w", "sh", "-c", f"exec 3<&0; '{program}' -c 'read line <&3; {script}' >/dev/null & echo $!"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert outer.stdout is not None
    pid = int(outer.stdout.readline())
    assert outer.wait(10) == 0
    return pid, outer


@pytest.mark.parametrize(("script", "code", "number"), [("exit 3", 3, None), ("kill -TERM $$", None, 15)])
def test_a_daemon_is_collected(reaper: Reaper, qemu: str, script: str, code: int | None, number: int | None) -> None:
    pid, outer = daemon(qemu, script)
    began = start_ticks(pid)
    with outer:
        outer.communicate()
    ended = reaper.collect(pid, began, 10)
    assert (ended.code, ended.signal) == (code, number)
    assert ended.cpu_ns is not None
    assert not Path(f"/proc/{pid}").exists()


def test_a_pid_of_another_time_is_not_taken_for_it(reaper: Reaper, qemu: str) -> None:
    pid, outer = daemon(qemu, "exit 3")
    began = start_ticks(pid)
    with outer:
        outer.communicate()
    assert reaper.collect(pid, began, 10).code == 3
    assert reaper.collect(pid, began + 1, 0).code is None


@pytest.mark.parametrize("own_session", [False, True])
def test_direct_children_stay_with_who_started_them(reaper: Reaper, own_session: bool) -> None:
    command = [sys.executable, "-I", "-S", "-c", "raise SystemExit(7)"]
    assert subprocess.run(command, start_new_session=own_session, check=False).returncode == 7
