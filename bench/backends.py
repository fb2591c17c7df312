"""Names of backends and where to find them: the only file that names concrete ones.

A third party adds its own through the entry point group `tare.backends`: `name = "package.module:Class"`, a class
that fulfils `isolation.api.Backend` and is called with the name.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from types import MappingProxyType

from bench.paths import cache_folder
from isolation.messages import Factory

ENTRY_POINTS = "tare.backends"


@dataclass(frozen=True, slots=True)
class Entry:
    """One backend. Backends of the same `host` share a launcher; `slim` ones need nothing but the standard library."""

    name: str
    target: str
    host: str = "native"
    slim: bool = True
    default: bool = False

    def factory(self) -> Factory:
        options = (("cache", str(cache_folder())),) if self.host == "vm" else ()
        return Factory(self.target, self.name, options)


OURS = (
    Entry("process", "isolation.process:Process", default=True),
    Entry("container", "isolation.container.container:Container", default=True),
    Entry("container-namespaces", "isolation.container.container:Container"),
    Entry("bwrap", "isolation.adapters.bubblewrap:Bubblewrap", default=True),
    Entry("runc", "isolation.adapters.runc:Runc", default=True),
    Entry("vm", "vmdriver.machine:Machine", host="vm", slim=False, default=True),
)


@cache
def registry() -> Mapping[str, Entry]:
    """Every backend by name: ours, then what installed packages offer (ours win)."""
    found = {entry.name: entry for entry in OURS}
    for point in entry_points(group=ENTRY_POINTS):
        found.setdefault(point.name, Entry(point.name, point.value, host=f"plugin-{point.name}", slim=False))
    return MappingProxyType(found)


def default_names() -> tuple[str, ...]:
    """What a run measures when nothing is named. Without root the container's groups are mostly refused: then the
    one that needs none stands beside it.
    """
    rootless = () if os.geteuid() == 0 else ("container-namespaces",)
    return tuple(entry.name for entry in registry().values() if entry.default or entry.name in rootless)
