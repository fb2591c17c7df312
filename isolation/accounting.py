"""A memory group around one instance, whatever its backend: ledger (a) of the memory workload.

The launcher is inside `<group>/tool` while it starts the instance, so that every process of it (bwrap, runc, QEMU) is
born there, from its first page on; a backend with groups of its own makes them at `<group>/payload`.  Reading
`<group>` then counts both.  The few pages that the launcher itself touches meanwhile are counted too.
"""

from __future__ import annotations

from dataclasses import dataclass

from isolation.api import Limits
from isolation.container.cgroup import Group, detect, establish, remove_subtree


@dataclass(frozen=True, slots=True)
class Accounting:
    """One instance's accounting group."""

    group: str
    tool: Group

    @classmethod
    def begin(cls, group: str) -> Accounting:
        """Make the group and its leaf. Raises Unsupported where groups cannot be made."""
        hierarchy = detect()
        establish(group, hierarchy)
        tool = Group.at(f"{group}/tool", hierarchy, ("memory",))
        tool.create(Limits())
        return cls(group, tool)

    @property
    def payload(self) -> str:
        """Where a backend that limits puts its own group."""
        return f"{self.group}/payload"

    def end(self) -> None:
        """Remove the group with all below it, once the instance is gone."""
        remove_subtree(self.group)
