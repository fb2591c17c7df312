"""What a container's first process does before it becomes the payload, as small frozen operations.

Each can `describe()` itself and `execute()` against a `System`: calls made at once, written into a table, or recorded
by a test.  After `Overlay`, paths are relative to the working directory, which is the new root file system.  Mount
targets in it are opened below that directory with symbolic links refused, and mounted through the descriptor, since
the file system's content is not trusted.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from isolation import syscalls
from isolation.container import namespaces
from isolation.syscalls import MS_BIND, MS_NODEV, MS_NOEXEC, MS_NOSUID, MS_RDONLY, MS_REC, MS_SLAVE, System


class Operation(Hashable, Protocol):
    """One step of the set-up: a value, so that equal ones need to be encoded only once."""

    def describe(self) -> str:
        """In words, for `--explain`, for the report and for errors."""

    def execute(self, system: System) -> None:
        """Make its system calls, in order."""


@dataclass(frozen=True, slots=True)
class MapUser:
    """Be root of a new user namespace, which is `uid` and `gid` outside (user_namespaces 7)."""

    uid: int
    gid: int

    def describe(self) -> str:
        return f"map user {self.uid} and group {self.gid} to root of the user namespace"

    def execute(self, system: System) -> None:
        system.write_file("/proc/self/setgroups", "deny")  # the kernel's condition for mapping a group unprivileged
        system.write_file("/proc/self/uid_map", f"0 {self.uid} 1")
        system.write_file("/proc/self/gid_map", f"0 {self.gid} 1")


@dataclass(frozen=True, slots=True)
class DieWithParent:
    """SIGKILL to this process when the launcher ends. If it ended before, the payload reads end of file and exits."""

    def describe(self) -> str:
        return "be killed when the launcher ends"

    def execute(self, system: System) -> None:
        system.prctl(syscalls.PR_SET_PDEATHSIG, 9)


@dataclass(frozen=True, slots=True)
class JoinCgroup:
    """Enter version 1 groups; for version 2 the process is born in its group."""

    entrances: tuple[str, ...]

    def describe(self) -> str:
        return f"enter the control groups {', '.join(os.path.dirname(path) for path in self.entrances)}"

    def execute(self, system: System) -> None:
        for entrance in self.entrances:
            system.write_file(entrance, "0")


@dataclass(frozen=True, slots=True)
class Unshare:
    """Further namespaces. The cgroup namespace comes after JoinCgroup: its root is the group at that moment."""

    names: tuple[str, ...]

    def describe(self) -> str:
        return f"enter new namespaces: {', '.join(self.names)}"

    def execute(self, system: System) -> None:
        system.unshare(namespaces.flags(self.names))


@dataclass(frozen=True, slots=True)
class NewSession:
    """No controlling terminal is shared with the host."""

    def describe(self) -> str:
        return "start a new session"

    def execute(self, system: System) -> None:
        system.setsid()


@dataclass(frozen=True, slots=True)
class Hostname:
    name: str

    def describe(self) -> str:
        return f"set the host name to {self.name}"

    def execute(self, system: System) -> None:
        system.sethostname(self.name)


@dataclass(frozen=True, slots=True)
class LoopbackUp:
    def describe(self) -> str:
        return "bring the loopback interface up"

    def execute(self, system: System) -> None:
        system.raise_loopback()


@dataclass(frozen=True, slots=True)
class ReceiveMountsOnly:
    """Nothing mounted here shows on the host; recursive slave (mount_namespaces 7)."""

    def describe(self) -> str:
        return "make all mounts slaves of the host's"

    def execute(self, system: System) -> None:
        system.mount("", "/", "", MS_REC | MS_SLAVE, "")


@dataclass(frozen=True, slots=True)
class Overlay:
    """Mount the copy-on-write root on `target` and go there. `lower` is topmost first, as overlayfs has it."""

    lower: tuple[str, ...]
    upper: str
    work: str
    target: str
    user_xattrs: bool = False
    """Overlay's marks as `user.` attributes: what a user namespace may write, since Linux 5.11."""

    def describe(self) -> str:
        return f"mount an overlay of {' over '.join((self.upper, *self.lower))}"

    def execute(self, system: System) -> None:
        lower = ":".join(_escape(layer).replace(":", "\\:") for layer in self.lower)
        options = f"lowerdir={lower},upperdir={_escape(self.upper)},workdir={_escape(self.work)}"
        if self.user_xattrs:
            options += ",userxattr"
        system.mount("overlay", self.target, "overlay", MS_NODEV, options)
        system.chdir(self.target)


def _escape(path: str) -> str:
    """Overlayfs splits its options at commas and takes backslashes as escapes."""
    return path.replace("\\", "\\\\").replace(",", "\\,")


@dataclass(frozen=True, slots=True)
class Filesystem:
    """Mount a fresh kernel file system on a directory of the new root."""

    kind: str
    target: str
    flags: int
    options: str = ""

    def describe(self) -> str:
        return f"mount {self.kind} on /{self.target}"

    def execute(self, system: System) -> None:
        descriptor = system.open_beneath(self.target, os.O_PATH | os.O_DIRECTORY)
        system.mount(self.kind, f"/proc/self/fd/{descriptor}", self.kind, self.flags, self.options)
        system.close(descriptor)


PROC = Filesystem("proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC)
SYS = Filesystem("sysfs", "sys", MS_NOSUID | MS_NODEV | MS_NOEXEC | MS_RDONLY)
DEV = Filesystem("tmpfs", "dev", MS_NOSUID | MS_NOEXEC, "mode=755,size=64k")
PTS = Filesystem("devpts", "dev/pts", MS_NOSUID | MS_NOEXEC, "newinstance,ptmxmode=0666,mode=0620")
SHM = Filesystem("tmpfs", "dev/shm", MS_NOSUID | MS_NODEV | MS_NOEXEC, "mode=1777,size=64m")

DEVICES = (("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0))
"""Name, major, minor. Source: Documentation/admin-guide/devices.txt."""
USUAL_UMASK = 0o022

_LINKS = (
    ("/proc/self/fd", "dev/fd"),
    ("/proc/self/fd/0", "dev/stdin"),
    ("/proc/self/fd/1", "dev/stdout"),
    ("/proc/self/fd/2", "dev/stderr"),
    ("pts/ptmx", "dev/ptmx"),
)


@dataclass(frozen=True, slots=True)
class DeviceNodes:
    """The minimal devices, made in the fresh /dev by mknod, which needs real root."""

    def describe(self) -> str:
        return f"make in /dev: {' '.join(name for name, _, _ in DEVICES)}"

    def execute(self, system: System) -> None:
        system.umask(0)
        for name, major, minor in DEVICES:
            system.make_device(f"dev/{name}", major, minor)
        system.umask(USUAL_UMASK)


@dataclass(frozen=True, slots=True)
class DeviceBinds:
    """The minimal devices, bound from the host: a user namespace may not use mknod."""

    def describe(self) -> str:
        return f"bind from the host's /dev: {' '.join(name for name, _, _ in DEVICES)}"

    def execute(self, system: System) -> None:
        for name, _, _ in DEVICES:
            system.make_file(f"dev/{name}")
            system.mount(f"/dev/{name}", f"dev/{name}", "", MS_BIND, "")


@dataclass(frozen=True, slots=True)
class DeviceLinks:
    """Links and mount points in the fresh /dev."""

    def describe(self) -> str:
        return "make in /dev: fd stdin stdout stderr ptmx, and the directories pts and shm"

    def execute(self, system: System) -> None:
        for content, path in _LINKS:
            system.symlink(content, path)
        system.mkdir("dev/pts", 0o755)
        system.mkdir("dev/shm", 0o755)


@dataclass(frozen=True, slots=True)
class Bind:
    """A file or directory of the host, with what is mounted below it, seen at `target` (made where missing)."""

    source: str
    target: str
    read_only: bool

    def describe(self) -> str:
        return f"bind {self.source} on {self.target}{' read-only' if self.read_only else ''}"

    def execute(self, system: System) -> None:
        inside = self.target.strip("/")
        system.make_beneath(inside, os.path.isdir(self.source))
        attributes = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
        if self.read_only:
            attributes |= syscalls.MOUNT_ATTR_RDONLY
        tree = system.open_tree(self.source, syscalls.OPEN_TREE_CLONE | syscalls.AT_RECURSIVE)
        system.mount_setattr(tree, attributes, self.source)
        target = system.open_beneath(inside, os.O_PATH)
        system.move_mount(tree, target, self.target)
        system.close(target)
        system.close(tree)


@dataclass(frozen=True, slots=True)
class PivotRoot:
    """The working directory becomes the root; the old one, stacked over it, is detached (pivot_root 2, NOTES)."""

    def describe(self) -> str:
        return "make the overlay the root and detach the host's"

    def execute(self, system: System) -> None:
        system.pivot_root(".", ".")
        system.umount2(".", syscalls.MNT_DETACH)
        system.chdir("/")


@dataclass(frozen=True, slots=True)
class NoNewPrivileges:
    """No exec gives more rights than there are (prctl 2)."""

    def describe(self) -> str:
        return "set no_new_privs"

    def execute(self, system: System) -> None:
        system.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


@dataclass(frozen=True, slots=True)
class InheritOnly:
    """These become 0, 1, 2; whatever else the launcher holds is closed, close-on-exec or not.

    They may overlap with their new numbers only in place.
    """

    descriptors: tuple[int, int, int]

    def describe(self) -> str:
        return f"keep the descriptors {', '.join(map(str, self.descriptors))} and close all others"

    def execute(self, system: System) -> None:
        for number, descriptor in enumerate(self.descriptors):
            system.dup2(descriptor, number)
        system.close_from(len(self.descriptors))


_OFTEN_IGNORED = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGPIPE,
    signal.SIGTERM,
    signal.SIGXFSZ,
)
"""By Python, nohup, shells in the background; what is ignored would stay so over exec."""


@dataclass(frozen=True, slots=True)
class UsualSignals:
    """Default actions, also for what is ignored; what the launcher blocked is let through.

    Handlers need nothing: CLONE_CLEAR_SIGHAND has reset them.
    """

    def describe(self) -> str:
        return "reset signals"

    def execute(self, system: System) -> None:
        for number in _OFTEN_IGNORED:
            system.default_signal(number)
        system.set_blocked_signals(syscalls.NO_SIGNALS)


@dataclass(frozen=True, slots=True)
class Execute:
    """Become the program at `path` inside the new root."""

    path: str
    argv: tuple[str, ...]
    environment: tuple[tuple[str, str], ...] = ()

    def describe(self) -> str:
        return f"execute {' '.join(self.argv)}"

    def execute(self, system: System) -> None:
        system.execve(self.path, self.argv, self.environment)


@dataclass(frozen=True, slots=True)
class End:
    """Instead of a program, for a probe: all went well."""

    def describe(self) -> str:
        return "end"

    def execute(self, system: System) -> None:
        system.exit(0)
