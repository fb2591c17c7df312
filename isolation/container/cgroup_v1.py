"""A group's directory in a cgroup version 1 tree. Source: Documentation/admin-guide/cgroup-v1."""

from __future__ import annotations

from isolation.api import Limits
from isolation.container.cgroup_directory import CPU_PERIOD_US, Directory, MemoryReading, kill_members


class DirectoryV1(Directory):
    """Entered by `tasks`, never by `cgroup.procs`: that one takes the global thread-group lock (12 ms at worst)."""

    __slots__ = ()

    @property
    def entrance(self) -> str:
        return f"{self.path}/tasks"

    def limit(self, limits: Limits) -> None:
        if limits.memory_bytes is not None and "memory" in self.controllers:
            self.write("memory.limit_in_bytes", limits.memory_bytes)
            self.write_optional("memory.memsw.limit_in_bytes", limits.memory_bytes)
        if limits.pids is not None and "pids" in self.controllers:
            self.write("pids.max", limits.pids)
        if limits.cpus is not None and "cpu" in self.controllers:
            self.write("cpu.cfs_period_us", CPU_PERIOD_US)
            self.write("cpu.cfs_quota_us", round(limits.cpus * CPU_PERIOD_US))

    def memory(self) -> MemoryReading:
        stat = self.keyed("memory.stat")
        kernel = int(self.read("memory.kmem.usage_in_bytes"))
        anonymous, file = stat["total_rss"], stat["total_cache"]
        return MemoryReading(anonymous + file + kernel, anonymous, file, kernel)

    def oom_kills(self) -> int:
        return self.keyed("memory.oom_control")["oom_kill"]

    def cpu_ns(self) -> int:
        return int(self.read("cpuacct.usage"))

    def kill(self) -> None:
        kill_members((self,))
