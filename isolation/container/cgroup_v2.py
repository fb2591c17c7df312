"""A group's directory in the cgroup version 2 tree. Source: Documentation/admin-guide/cgroup-v2.rst."""

from __future__ import annotations

import select

from isolation.api import IsolationError, Limits
from isolation.container.cgroup_directory import (
    CPU_PERIOD_US,
    END_TIMEOUT_S,
    REMOVAL_PAUSE_MS,
    Directory,
    MemoryReading,
    kill_members,
)

_KERNEL_PARTS = ("kernel_stack", "pagetables", "percpu", "sock", "slab")
"""What `kernel` in memory.stat sums up since Linux 5.18."""


class DirectoryV2(Directory):
    """Entered by `cgroup.procs`, or by being born in it (CLONE_INTO_CGROUP)."""

    __slots__ = ()

    @property
    def entrance(self) -> str:
        return f"{self.path}/cgroup.procs"

    def limit(self, limits: Limits) -> None:
        if limits.memory_bytes is not None and "memory" in self.controllers:
            self.write("memory.max", limits.memory_bytes)
            self.write_optional("memory.swap.max", 0)
        if limits.pids is not None and "pids" in self.controllers:
            self.write("pids.max", limits.pids)
        if limits.cpus is not None and "cpu" in self.controllers:
            self.write("cpu.max", f"{round(limits.cpus * CPU_PERIOD_US)} {CPU_PERIOD_US}")

    def memory(self) -> MemoryReading:
        stat = self.keyed("memory.stat")
        kernel = stat["kernel"] if "kernel" in stat else sum(stat.get(part, 0) for part in _KERNEL_PARTS)
        return MemoryReading(int(self.read("memory.current")), stat["anon"], stat["file"], kernel)

    def oom_kills(self) -> int:
        return self.keyed("memory.events")["oom_kill"]

    def cpu_ns(self) -> int:
        return self.keyed("cpu.stat")["usage_usec"] * 1000

    def kill(self) -> None:
        try:
            self.write("cgroup.kill", 1)
        except FileNotFoundError:  # before Linux 5.14
            kill_members((self,))
        if not self._wait_unpopulated(END_TIMEOUT_S * 1000):
            raise IsolationError("leak", f"processes in {self.path} outlive cgroup.kill: {self.processes()}")

    def _await_empty(self) -> None:
        self._wait_unpopulated(REMOVAL_PAUSE_MS)

    def _wait_unpopulated(self, timeout_ms: float) -> bool:
        """`cgroup.events` signals POLLPRI when the last process below has left."""
        with open(f"{self.path}/cgroup.events", encoding="ascii") as events:
            poller = select.poll()
            poller.register(events, select.POLLPRI)
            while "populated 1" in events.read():
                if not poller.poll(timeout_ms):
                    return False
                events.seek(0)
        return True
