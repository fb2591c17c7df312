"""The small parent: child subreaper, forwarder of signals, janitor.

`tare run` forks here before anything heavy is imported.  The parent stays slim; the child is the harness.  Being a
child subreaper (prctl(2)), the parent inherits every orphan, libvirt's daemonised QEMU too, and reaps it even where
PID 1 does not.  When the harness ends in whatever way, SIGKILL included, it ends what still descends from it and
removes what the journal names.  When the parent itself is killed, the harness gets SIGTERM.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable
from types import FrameType

from bench.journal import journals, remove
from isolation.spawn import descendants

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36
FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
POLITE_S = 2.0
"""How long launchers get to clean up by themselves once the harness is gone."""
FORCED_S = 2.0


class Terminated(BaseException):
    """SIGTERM or SIGHUP arrived in the harness. Not an Exception: no workload may take it for its own failure."""


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl({option}, {value})")


def supervised(harness: Callable[[], int]) -> int:
    """Run `harness` in a child and return the exit code to leave with (128 + n where signal n ended it)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)
    # Blocked across fork: a signal between fork and handler would otherwise end one of the two unseen.
    signal.pthread_sigmask(signal.SIG_BLOCK, FORWARDED)
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        _become_harness(parent)
        code = 1
        try:
            code = harness()
        except BaseException:  # noqa: BLE001 - a bug: shown here, since os._exit would say nothing
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return _watch(pid)


def _become_harness(parent: int) -> None:
    # A process group of its own: the terminal's Ctrl-C reaches the supervisor alone, which forwards it once.
    os.setpgid(0, 0)
    _prctl(PR_SET_CHILD_SUBREAPER, 0)
    _prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    if os.getppid() != parent:
        raise Terminated  # it was killed before the death signal was armed


def _terminate(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough: clean-up must not be cut short
    raise Terminated


def _watch(harness: int) -> int:
    """Forward signals and reap until the harness has ended, then clean up after it."""
    pidfd = os.pidfd_open(harness)

    def forward(number: int, _frame: FrameType | None) -> None:
        signal.pidfd_send_signal(pidfd, signal.SIGINT if number == signal.SIGINT else signal.SIGTERM)

    for number in FORWARDED:
        signal.signal(number, forward)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FORWARDED)
    status = None
    while status is None:
        pid, raw = os.waitpid(-1, 0)
        if pid == harness:
            status = raw
    os.close(pidfd)
    for number in FORWARDED:
        signal.signal(number, signal.SIG_IGN)  # from here on it takes a bounded few seconds
    _end_descendants()
    for journal in journals():
        if journal.supervisor == os.getpid():
            for trouble in remove(journal):
                print(f"tare: left behind: {trouble}", file=sys.stderr)  # noqa: T201 - the last one awake
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _end_descendants() -> None:
    """Wait for what the harness left to end by itself, then end it by force; bounded."""
    if _reap_all(POLITE_S):
        return
    for _ in range(3):  # a fork may race with the listing
        for pid in reversed(descendants(os.getpid())[1:]):
            try:
                os.kill(pid, signal.SIGKILL)  # a child of ours keeps its pid until we reap it
            except ProcessLookupError:
                continue
        if _reap_all(FORCED_S):
            return


def _reap_all(timeout_s: float) -> bool:
    """Reap until no child is left; False when time runs out."""
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    former = signal.signal(signal.SIGCHLD, lambda *_: None)
    former_fd = signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
    try:
        poller = select.poll()
        poller.register(read_fd, select.POLLIN)
        while True:
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return True
            if not poller.poll(timeout_s * 1000):
                return False
            os.read(read_fd, 512)
    finally:
        signal.set_wakeup_fd(former_fd)
        signal.signal(signal.SIGCHLD, former)
        os.close(read_fd)
        os.close(write_fd)
