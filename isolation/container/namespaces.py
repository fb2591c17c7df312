"""Names of namespaces <-> flags of clone(2), unshare(2) and setns(2)."""

from __future__ import annotations

from collections.abc import Iterable

from isolation import syscalls

FLAGS = {
    "user": syscalls.CLONE_NEWUSER,
    "mount": syscalls.CLONE_NEWNS,
    "pid": syscalls.CLONE_NEWPID,
    "network": syscalls.CLONE_NEWNET,
    "ipc": syscalls.CLONE_NEWIPC,
    "uts": syscalls.CLONE_NEWUTS,
    "cgroup": syscalls.CLONE_NEWCGROUP,
    "time": syscalls.CLONE_NEWTIME,
}


def flags(names: Iterable[str]) -> int:
    """The flags of the named namespaces, or-ed."""
    bits = 0
    for name in names:
        bits |= FLAGS[name]
    return bits


def names(bits: int) -> tuple[str, ...]:
    """The namespaces whose flags are set in `bits`."""
    return tuple(name for name, flag in FLAGS.items() if bits & flag)
