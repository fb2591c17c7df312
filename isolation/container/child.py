"""The Python executor: a child born in new namespaces makes the calls of a table, the last of which is its exec.

Python in the child is one loop, since every page that it touches is a copy to be made (5 us a page on a host that
is itself virtual).  Errors before the exec come back through a pipe that the exec closes.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
from dataclasses import dataclass
from typing import NoReturn

from isolation import syscalls
from isolation.api import LaunchFailed
from isolation.container.operations import InheritOnly, Operation, UsualSignals
from isolation.container.table import REPORT_FD, Note, Table, encode

_REPORT_BYTES = 4096
_EXIT_CODE = 127
_USUAL_SIGNALS = UsualSignals()


@dataclass(frozen=True, slots=True)
class Child:
    """A child in its namespaces; `report_fd` tells whether it became its program."""

    pid: int
    pidfd: int
    report_fd: int


@dataclass(frozen=True, slots=True)
class SetupFailure:
    """What the child could not do: the errno (0 for a bug) and the operation with its error, in words."""

    errno: int
    message: str


def start(
    operations: tuple[Operation, ...], flags: int, standard: tuple[int, int, int], birthplace: int | None = None
) -> Child:
    """Clone with namespace `flags`; returns once the child exists. The process must have one thread only.

    `standard` become its 0, 1, 2; `birthplace` is a descriptor of the version 2 group to be born in.  Raises OSError.
    """
    report_fd, child_report = os.pipe2(os.O_CLOEXEC)
    table = encode((InheritOnly((*standard, child_report)), _USUAL_SIGNALS, *operations))
    collecting = gc.isenabled()
    gc.disable()  # a collection in the child would copy the launcher's pages for nothing
    before = syscalls.block_all_signals()
    try:
        pid, pidfd = syscalls.clone3(flags, birthplace)
        if pid == 0:
            _become(table)
    except OSError:
        os.close(report_fd)
        raise
    finally:
        syscalls.direct.set_blocked_signals(before)
        os.close(child_report)
        if collecting:
            gc.enable()
    return Child(pid, pidfd, report_fd)


def _become(table: Table) -> NoReturn:
    """Runs in the child and never returns."""
    done = 0
    try:
        call = syscalls.raw
        for arguments in table.calls:
            if call(*arguments) < 0 and ctypes.get_errno() != table.notes[done].tolerated:
                break
            done += 1
        _report(ctypes.get_errno(), table.notes[done])
    finally:
        os._exit(_EXIT_CODE)


def _report(number: int, note: Note) -> None:
    text = f"{number} {note.operation.describe()}: {note.tried}: {os.strerror(number)}"
    os.write(REPORT_FD, text.encode()[:_REPORT_BYTES])


def failure(child: Child, timeout_s: float) -> SetupFailure | None:
    """Wait until the child has become its program (None) or has failed, and close `report_fd`.

    Raises LaunchFailed(`never_ready`) where neither happens in time.
    """
    try:
        poller = select.poll()
        poller.register(child.report_fd, select.POLLIN)
        if not poller.poll(timeout_s * 1000):
            raise LaunchFailed("never_ready", f"the container's set-up takes longer than {timeout_s:g} s")
        report = os.read(child.report_fd, _REPORT_BYTES)
    finally:
        os.close(child.report_fd)
    if not report:
        return None
    number, _, message = report.decode("utf-8", "replace").partition(" ")
    return SetupFailure(int(number), message)
