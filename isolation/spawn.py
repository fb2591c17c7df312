"""An ordinary program as an instance: pipes, posix_spawn, pidfd.  Shared by the bare process and every adapter.

posix_spawn (glibc: CLONE_VM | CLONE_VFORK) does not copy the launcher's page tables, so the launcher's size
does not show in the figure.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping

from isolation.api import Exit, LaunchFailed, Spec

LOG_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC


class SpawnedInstance:
    """A leader that this process spawned, with its channel. `clean_up` removes what the adapter made for it."""

    def __init__(
        self, t0_ns: int, read_fd: int, write_fd: int, pid: int, clean_up: Callable[[], None] = lambda: None
    ) -> None:
        self.t0_ns = t0_ns
        self.read_fd = read_fd
        self.write_fd = write_fd
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self._clean_up = clean_up

    def processes(self) -> tuple[int, ...]:
        """The leader and all that descends from it."""
        return descendants(self.pid)

    def reap(self) -> Exit:
        _, status, usage = os.wait4(self.pid, 0)
        return Exit.of(status, usage)

    def kill(self) -> None:
        for pid in reversed(self.processes()):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # it ended between the listing and the signal

    def diagnose(self) -> tuple[str, str] | None:
        return None

    def destroy(self) -> None:
        os.close(self.pidfd)
        self._clean_up()


def descendants(pid: int) -> tuple[int, ...]:
    """`pid` and its children, recursively, parents first. Source: proc(5), /proc/pid/task/tid/children."""
    found = [pid]
    for parent in found:
        try:
            for task in os.listdir(f"/proc/{parent}/task"):
                with open(f"/proc/{parent}/task/{task}/children", "rb") as file:
                    found += [int(child) for child in file.read().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue  # ended while we looked
    return tuple(found)


def spawn(
    argv: tuple[str, ...],
    spec: Spec,
    *,
    t0_ns: int,
    clean_up: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] | None = None,
) -> SpawnedInstance:
    """Start `argv` with the channel on stdin and stdout and stderr in the instance's log.

    Raises LaunchFailed naming the program where it cannot be executed.
    """
    child_in, write_fd = os.pipe2(os.O_CLOEXEC)
    read_fd, child_out = os.pipe2(os.O_CLOEXEC)
    actions: list[tuple[int, int, int] | tuple[int, int, str, int, int]] = [
        (os.POSIX_SPAWN_DUP2, child_in, 0),
        (os.POSIX_SPAWN_DUP2, child_out, 1),
        (os.POSIX_SPAWN_OPEN, 2, spec.log or os.devnull, LOG_FLAGS & ~os.O_CLOEXEC, 0o600),
    ]
    variables = dict(spec.environment if environment is None else environment)
    try:
        pid = os.posix_spawn(
            argv[0],
            argv,
            variables,
            file_actions=actions,
            setsigmask=(),
            setsigdef=(signal.SIGPIPE, signal.SIGINT, signal.SIGTERM),
        )
    except OSError as error:
        os.close(write_fd)
        os.close(read_fd)
        clean_up()
        raise LaunchFailed("exec_failed", f"cannot execute {argv[0]}: {error.strerror}") from error
    finally:
        os.close(child_in)
        os.close(child_out)
    return SpawnedInstance(t0_ns, read_fd, write_fd, pid, clean_up)


def now_ns() -> int:
    """Host CLOCK_MONOTONIC, as every stamp."""
    return time.monotonic_ns()
