"""The Python executor: a child born in new namespaces runs the operations, then becomes the payload.

The launcher's own set-up is copied by fork, so no other thread may run in it; errors before the exec come back
through a pipe that the exec closes.
"""

from __future__ import annotations

import gc
import os
import select
import signal
from dataclasses import dataclass
from typing import NoReturn

from isolation import syscalls
from isolation.api import LaunchFailed
from isolation.container.operations import Operation

_ALL_SIGNALS = signal.valid_signals()
_REPORT_BYTES = 4096
_EXIT_CODE = 127


@dataclass(frozen=True, slots=True)
class Program:
    """What the child becomes: path inside the new root, argv, environment."""

    path: str
    argv: tuple[str, ...]
    environment: dict[str, str]


NOTHING = Program("", (), {})
"""For a probe: the child does its operations and ends with code 0."""


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
    operations: tuple[Operation, ...],
    flags: int,
    standard: tuple[int, int, int],
    program: Program,
    birthplace: int | None = None,
) -> Child:
    """Clone with namespace `flags`; returns once the child exists.

    `standard` become its 0, 1, 2 (none of them may itself be one of 0, 1, 2 in another place); `birthplace` is a
    descriptor of the version 2 group to be born in.  Raises OSError.
    """
    report_fd, child_report = os.pipe2(os.O_CLOEXEC)
    collecting = gc.isenabled()
    gc.disable()  # a collection in the child would copy the launcher's pages for nothing
    blocked_before = signal.pthread_sigmask(signal.SIG_BLOCK, _ALL_SIGNALS)
    try:
        pid, pidfd = syscalls.clone3(flags, birthplace)
        if pid == 0:
            _become(operations, standard, program, child_report)
    except OSError:
        os.close(report_fd)
        raise
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked_before)
        os.close(child_report)
        if collecting:
            gc.enable()
    return Child(pid, pidfd, report_fd)


def _become(
    operations: tuple[Operation, ...], standard: tuple[int, int, int], program: Program, report: int
) -> NoReturn:
    """Runs in the child and never returns. Signal handlers are the default ones already (CLONE_CLEAR_SIGHAND)."""
    doing = "take over the channel"
    try:
        for number, descriptor in enumerate(standard):
            os.dup2(descriptor, number)
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # Python ignores these two, and what is ignored stays so
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        for operation in operations:
            try:
                operation.execute(syscalls)
            except OSError as error:
                _report(report, error, operation.describe())
        doing = f"execute {program.path}"
        if program.path:
            os.execve(program.path, program.argv, program.environment)
        os._exit(0)
    except BaseException as error:  # noqa: BLE001 - must never return into the launcher's stack
        _report(report, error, doing)


def _report(report: int, error: BaseException, doing: str) -> NoReturn:
    number = error.errno or 0 if isinstance(error, OSError) else 0
    text = error.args[1] if isinstance(error, OSError) and len(error.args) > 1 else repr(error)
    try:
        os.write(report, f"{number} {doing}: {text}".encode()[:_REPORT_BYTES])
    finally:
        os._exit(_EXIT_CODE)


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
