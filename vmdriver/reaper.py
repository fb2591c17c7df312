"""Reaps the daemonised QEMUs of this process, and nothing else.

libvirt starts QEMU as a daemon and then waits, by kill(2) in steps of 200 ms and for most of a minute, until a QEMU
that it ended is no longer even a zombie.  Its parent by then is the next child subreaper (prctl(2)), else PID 1,
which in many containers reaps nobody.  So this process is its own subreaper: clean-up never stalls, a QEMU's pid is
not reused unseen, and its exit status and CPU time are exact.

libvirt's direct children are left to libvirt: they are in our session, or they left it and have not executed QEMU.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from pathlib import Path
from typing import ClassVar

from isolation.api import Exit

_PR_SET_CHILD_SUBREAPER = 36
_QEMU = "qemu"
"""What the name of the program begins with, on every distribution."""
_FOREVER_S = 3600.0
_DEAF_S = 0.02
"""Between looks in a process whose older threads do not block SIGCHLD, and so may swallow it (not a launcher)."""


class Reaper:
    """The process's only one: get it by `shared`, in the main thread and before other threads exist, which inherit
    that SIGCHLD is blocked, and `close` it as often.
    """

    _instance: ClassVar[Reaper | None] = None

    def __init__(self) -> None:
        self._session = os.getsid(0)
        self._ended: dict[tuple[int, int], Exit] = {}
        self._changed = threading.Condition()
        self._closing = False
        self._users = 0
        self._patience_s = _FOREVER_S if len(os.listdir("/proc/self/task")) == 1 else _DEAF_S
        _set_child_subreaper(1)
        self._mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
        self._thread = threading.Thread(target=self._run, name="reaper", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls) -> Reaper:
        """The reaper of this process, started where it does not run. Two would take each other's daemons."""
        if cls._instance is None:
            cls._instance = cls()
        cls._instance._users += 1
        return cls._instance

    def collect(self, pid: int, start_ticks: int, timeout_s: float) -> Exit:
        """How the daemon `pid` that began at `start_ticks` ended; an Exit of unknowns where it did not in time."""
        key = (pid, start_ticks)
        with self._changed:
            self._changed.wait_for(lambda: key in self._ended, timeout_s)
            return self._ended.pop(key, Exit(None, None))

    def close(self) -> None:
        """Stop reaping when nobody uses it any more: daemons are then for the next subreaper or PID 1."""
        self._users -= 1
        if self._users:
            return
        Reaper._instance = None
        self._closing = True
        assert self._thread.ident is not None
        signal.pthread_kill(self._thread.ident, signal.SIGCHLD)
        self._thread.join()
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask)
        _set_child_subreaper(0)

    def _run(self) -> None:
        while not self._closing:
            # Ends at the same time come as one signal, which names one of them: it only says that it is time to look.
            signal.sigtimedwait({signal.SIGCHLD}, self._patience_s)
            for pid in _children():
                self._take(pid)

    def _take(self, pid: int) -> None:
        """Reap `pid` if it is a daemon that has ended."""
        try:
            name, state, session, began = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            return  # libvirt waited for it meanwhile
        if state != "Z" or session == self._session or not name.startswith(_QEMU):
            return
        taken, status, usage = os.wait4(pid, os.WNOHANG)
        if not taken:
            return  # its first thread has ended and others have not: the kernel will tell
        with self._changed:
            self._ended[pid, began] = Exit.of(status, usage)
            self._changed.notify_all()


def start_ticks(pid: int) -> int:
    """Start time of a process, which with its pid names it for good (proc(5), stat field 22)."""
    return _stat(pid)[3]


def _stat(pid: int) -> tuple[str, str, int, int]:
    """Name of the program, state, session and start time."""
    before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    fields = after.split()
    return before.partition("(")[2], fields[0], int(fields[3]), int(fields[19])


def _children() -> list[int]:
    """Children of all our threads, ended ones too (proc(5), /proc/pid/task/tid/children)."""
    tasks = Path("/proc/self/task")
    return [int(pid) for task in os.listdir(tasks) for pid in (tasks / task / "children").read_text().split()]


def _set_child_subreaper(value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")
