"""What is put around a container's payload, by name: the isolation profiles."""

from __future__ import annotations

from dataclasses import dataclass

SIX_NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup")


@dataclass(frozen=True, slots=True)
class Profile:
    """Everything has the six namespaces, an overlay, /proc, a minimal /dev and `pivot_root`; this is the rest."""

    name: str
    limited: bool
    """A control group of its own, with the limits of the spec."""
    confined: bool
    """A session, /sys read-only, /dev/shm of its own, loopback up, no_new_privs."""


NAMESPACES = Profile("namespaces", limited=False, confined=False)
DEFAULT = Profile("default", limited=True, confined=True)

BACKENDS = {"container-namespaces": NAMESPACES, "container": DEFAULT}
"""Name of a backend -> the profile it runs."""
