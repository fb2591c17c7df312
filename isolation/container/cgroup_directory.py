"""One directory of one cgroup tree: what version 1 and version 2 have in common, and their readings."""

from __future__ import annotations

import errno
import os
import select
import signal
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

from isolation.api import IsolationError, Limits
from isolation.syscalls import write_file

CPU_PERIOD_US = 100_000
END_TIMEOUT_S = 5.0
REMOVAL_TRIES = 100
REMOVAL_PAUSE_MS = 10


@dataclass(frozen=True, slots=True)
class MemoryReading:
    """What a memory group is charged with, in bytes. `file` counts shared memory and mapped files as well.

    Version 2: total is `memory.current`; the parts are `memory.stat`'s `anon`, `file` and `kernel`.  The total may
    exceed their sum by what each CPU has charged in advance (up to 64 pages a CPU, mm/memcontrol.c).

    Version 1: total is their sum, `total_rss + total_cache + memory.kmem.usage_in_bytes`, since
    `memory.usage_in_bytes` holds those advances (Documentation/admin-guide/cgroup-v1/memory.rst, 5.5);
    `total_mapped_file` and `total_shmem` are parts of `total_cache` and not added again.
    """

    total_bytes: int
    anonymous_bytes: int
    file_bytes: int
    kernel_bytes: int


@dataclass(frozen=True, slots=True)
class Directory(ABC):
    """A group's directory in one tree, for the controllers that this tree holds."""

    path: str
    controllers: frozenset[str]

    @property
    @abstractmethod
    def entrance(self) -> str:
        """The file to which a process writes `0` to enter."""

    @abstractmethod
    def limit(self, limits: Limits) -> None:
        """Set those limits whose controllers are here."""

    @abstractmethod
    def memory(self) -> MemoryReading: ...

    @abstractmethod
    def oom_kills(self) -> int:
        """How many processes the kernel killed because the memory limit was reached."""

    @abstractmethod
    def cpu_ns(self) -> int:
        """CPU time charged so far."""

    @abstractmethod
    def kill(self) -> None:
        """End every process in it, and wait for that. Raises IsolationError(`leak`) where one stays."""

    def processes(self) -> tuple[int, ...]:
        return tuple(int(pid) for pid in self.read("cgroup.procs").split())

    def remove(self) -> None:
        """Remove it with the groups below it. Raises IsolationError(`leak`) where the kernel keeps it busy."""
        for _ in range(REMOVAL_TRIES):
            try:
                os.rmdir(self.path)
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise IsolationError("leak", f"rmdir {self.path}: {error.strerror}") from error
                for child in child_groups(self.path):
                    type(self)(child, self.controllers).remove()
                self._await_empty()
            else:
                return
        raise IsolationError("leak", f"{self.path} stays busy; processes in it: {self.processes() or 'none'}")

    def _await_empty(self) -> None:
        """Version 1 has no event for the last process leaving; a process that was reaped is gone within this."""
        select.select((), (), (), REMOVAL_PAUSE_MS / 1000)

    def read(self, file: str) -> str:
        with open(f"{self.path}/{file}", encoding="ascii") as stream:
            return stream.read()

    def keyed(self, file: str) -> dict[str, int]:
        """A file of `key number` lines, as memory.stat."""
        return {key: int(value) for key, value in (line.split() for line in self.read(file).splitlines())}

    def write(self, file: str, value: object) -> None:
        write_file(f"{self.path}/{file}", str(value))

    def write_optional(self, file: str, value: object) -> None:
        """Files that a kernel without swap accounting does not have."""
        try:
            self.write(file, value)
        except FileNotFoundError:
            return


def child_groups(path: str) -> tuple[str, ...]:
    with os.scandir(path) as entries:
        return tuple(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))


def kill_members(directories: Iterable[Directory]) -> None:
    """SIGKILL every member of the directories until none is left, for kernels without `cgroup.kill`.

    A pid is signalled through a pidfd, and only if the group still lists it after the pidfd was opened: so it can
    belong to no foreign process.
    """
    for directory in directories:
        while pids := directory.processes():
            for pid in pids:
                _kill_member(directory, pid)


def _kill_member(directory: Directory, pid: int) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        if pid in directory.processes():
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            poller = select.poll()
            poller.register(pidfd, select.POLLIN)
            if not poller.poll(END_TIMEOUT_S * 1000):
                raise IsolationError("leak", f"process {pid} in {directory.path} outlives SIGKILL")
    finally:
        os.close(pidfd)
