"""bubblewrap, all namespaces unshared, on the shared root filesystem. No overlay, no cgroup: it has neither."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from isolation.adapters.common import probe_tool
from isolation.api import Availability, Medium, Site, Spec
from isolation.spawn import SpawnedInstance, now_ns, spawn


class Bubblewrap:
    """`bwrap --unshare-all`, root filesystem bound read-only, fresh /proc and /dev."""

    medium: Medium = "directory"
    cheap = True
    shared = ("the root filesystem",)
    owned = ("two pipes", "namespaces and mounts (by bwrap)", "the processes")
    before_first_byte = "exec and linking of bwrap, its namespaces and mounts, execve of the payload"

    def __init__(self, name: str) -> None:
        self.name = name
        self._tool = shutil.which("bwrap") or "bwrap"
        self._prefix: tuple[str, ...] = ()

    def availability(self) -> Availability:
        try_out = ("--unshare-all", "--ro-bind", "/", "/", "--proc", "/proc", "--dev", "/dev", "/bin/true")
        return probe_tool(self.name, self._tool, "bubblewrap", try_out)

    def prepare(self, site: Site) -> None:
        mounts = ("--ro-bind", site.rootfs, "/", "--proc", "/proc", "--dev", "/dev")
        self._prefix = (self._tool, "--unshare-all", "--die-with-parent", *mounts)

    def start(self, spec: Spec) -> SpawnedInstance:
        t0_ns = now_ns()
        volumes = [
            word
            for volume in spec.volumes
            for word in ("--ro-bind" if volume.read_only else "--bind", volume.source, volume.target)
        ]
        argv = (*self._prefix, *volumes, "--", "/probe", *spec.payload_arguments())
        return spawn(argv, spec, t0_ns=t0_ns)

    def tool(self) -> Sequence[str] | None:
        return (self._tool, "--version")

    def close(self) -> None:
        """Nothing outlives the instances."""
