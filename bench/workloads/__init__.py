"""What is measured, one workload a file: each turns a slot of the schedule into readings."""

from collections.abc import Mapping
from types import MappingProxyType

from bench.workloads.base import Workload
from bench.workloads.memory import Memory
from bench.workloads.startup import Startup
from bench.workloads.storage import Storage
from bench.workloads.syscalls import Syscalls

WORKLOADS: Mapping[str, Workload] = MappingProxyType(
    {workload.name: workload for workload in (Startup(), Syscalls(), Memory(), Storage())}
)
