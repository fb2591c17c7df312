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
_AGAIN_S = 0.02
"""libvirt waits for its own children at once; no event tells when it has."""
_FOREVER_S = 3600.0


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
        obscured = False
        while not self._closing:
            # Ends at the same time come as one signal, which names one of them; so ask for others as well.
            ended = signal.sigtimedwait({signal.SIGCHLD}, _AGAIN_S if obscured else _FOREVER_S)
            if ended is not None and ended.si_pid:
                self._take(ended.si_pid)
            obscured = self._take_all()

    def _take_all(self) -> bool:
        """Reap the daemons that have ended; True where a child of libvirt's stands before others that we cannot see."""
        while (first := _first_ended()) is not None:
            if not self._take(first):
                return True
        return False

    def _take(self, pid: int) -> bool:
        """Reap `pid` if it is a daemon that has ended."""
        try:
            name, state, session, began = _stat(pid)
        except (FileNotFoundError, ProcessLookupError):
            return False  # libvirt waited for it meanwhile
        if state != "Z" or session == self._session or not name.startswith(_QEMU):
            return False
        _, status, usage = os.wait4(pid, os.WNOHANG)
        code = os.waitstatus_to_exitcode(status)
        cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
        with self._changed:
            self._ended[pid, began] = Exit(code if code >= 0 else None, -code if code < 0 else None, cpu_ns)
            self._changed.notify_all()
        return True


def start_ticks(pid: int) -> int:
    """Start time of a process, which with its pid names it for good (proc(5), stat field 22)."""
    return _stat(pid)[3]


def _stat(pid: int) -> tuple[str, str, int, int]:
    """Name of the program, state, session and start time."""
    before, _, after = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    fields = after.split()
    return before.partition("(")[2], fields[0], int(fields[3]), int(fields[19])


def _first_ended() -> int | None:
    """The first child that has ended and waits to be reaped; it is left as it is."""
    try:
        found = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return None
    return found.si_pid if found else None


def _set_child_subreaper(value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_CHILD_SUBREAPER): {os.strerror(number)}")
