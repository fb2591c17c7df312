"""The bare process: the baseline that everything else is weighed against."""

from __future__ import annotations

import os
from collections.abc import Sequence

from isolation.api import Availability, Medium, Site, Spec, Unsupported
from isolation.spawn import SpawnedInstance, now_ns, spawn


class Process:
    """posix_spawn of the payload, nothing else."""

    medium: Medium = "directory"
    cheap = True
    shared = ("the payload's file",)
    owned = ("two pipes", "the process")
    before_first_byte = "execve, the static binary's own start"

    def __init__(self, name: str) -> None:
        self.name = name
        self._payload = ""

    def availability(self) -> Availability:
        return Availability(self.name, available=True, lane="native", version=f"Linux {os.uname().release}")

    def prepare(self, site: Site) -> None:
        if not os.access(site.payload, os.X_OK):
            raise Unsupported("not_installed", f"the payload {site.payload} is missing: run `nox -s setup`")
        self._payload = site.payload

    def start(self, spec: Spec) -> SpawnedInstance:
        t0_ns = now_ns()
        return spawn((self._payload, *spec.payload_arguments()), spec, t0_ns=t0_ns)

    def tool(self) -> Sequence[str] | None:
        return None

    def close(self) -> None:
        """Nothing outlives the instances."""
