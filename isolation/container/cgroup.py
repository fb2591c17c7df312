"""Control groups on any host: version 1, version 2, or a mixture of both, controller by controller.

`detect` says which tree holds which controller; `Group` is one group across those trees; `establish` makes a run's
group and hands controllers down to it; `remove_tree` removes what is left of a run.  Paths of groups are relative
to each tree's mount, without a leading slash (`tare/<run>/<instance>`).
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from isolation.api import IsolationError, Limits, Unsupported
from isolation.container.cgroup_directory import Directory, MemoryReading, child_groups
from isolation.container.cgroup_v1 import DirectoryV1
from isolation.container.cgroup_v2 import DirectoryV2
from isolation.syscalls import write_file

PARENT = "tare"
LEAF = "tare-harness"
"""Where the processes of a delegated group move to, since a group with controllers handed down may hold none."""

LIMITING = ("memory", "pids")
FIX = (
    "run as root with a writable /sys/fs/cgroup; under systemd inside "
    "`systemd-run --scope -p Delegate=yes` (`--user` for an ordinary user)"
)


@dataclass(frozen=True, slots=True)
class Tree:
    """One mounted cgroup tree; `own` is the path of the process that looked, below `mount`."""

    version: Literal[1, 2]
    mount: str
    own: str
    controllers: tuple[str, ...]

    def directory(self, path: str) -> str:
        return f"{self.mount}/{path}".rstrip("/")


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """All trees of a host. A controller is in at most one of them."""

    trees: tuple[Tree, ...]

    def tree(self, controller: str) -> Tree | None:
        return next((tree for tree in self.trees if controller in tree.controllers), None)

    def trees_of(self, controllers: tuple[str, ...]) -> tuple[Tree, ...]:
        """The trees that hold these controllers, each once. Raises Unsupported where one is in none."""
        found: list[Tree] = []
        for controller in controllers:
            tree = self.tree(controller)
            if tree is None:
                raise Unsupported("kernel_lacks", f"cgroup controller {controller} is in no mounted tree; {FIX}")
            if tree not in found:
                found.append(tree)
        return tuple(found)

    def describe(self) -> str:
        """Which version holds what, for a person: `memory v1, pids v1, hugetlb v2`."""
        return ", ".join(f"{name} v{tree.version}" for tree in self.trees for name in tree.controllers)


def detect(process: str = "/proc/self") -> Hierarchy:
    """Read the mounted trees and this process's place in them. Source: proc(5) mountinfo, cgroups(7)."""
    places: dict[str, str] = {}
    with open(f"{process}/cgroup", encoding="utf-8") as file:
        for line in file:
            _, names, place = line.rstrip("\n").split(":", 2)
            places.update(dict.fromkeys(names.split(","), place))
    trees: list[Tree] = []
    taken: set[str] = set()
    with open(f"{process}/mountinfo", encoding="utf-8") as file:
        for line in file:
            tree = _tree(line, places)
            if tree and not taken & set(tree.controllers):
                taken |= set(tree.controllers)
                trees.append(tree)
    return Hierarchy(tuple(trees))


def _tree(line: str, places: dict[str, str]) -> Tree | None:
    before, _, after = line.partition(" - ")
    kind, _, options = after.split()
    if kind not in ("cgroup", "cgroup2"):
        return None
    root, mount = (_unescape(word) for word in before.split()[3:5])
    if kind == "cgroup2":
        with open(f"{mount}/cgroup.controllers", encoding="ascii") as file:
            return Tree(2, mount, _below(root, places.get("", "/")), tuple(file.read().split()))
    names = tuple(name for name in options.split(",") if name in places)
    return Tree(1, mount, _below(root, places[names[0]]), names) if names else None


def _below(root: str, place: str) -> str:
    """`place` seen from a mount whose root is `root`: a container's mount may show only its own part."""
    if root != "/" and (place == root or place.startswith(root + "/")):
        place = place[len(root) :]
    return place.strip("/")


def _unescape(word: str) -> str:
    """Mountinfo writes blanks and backslashes as octal escapes."""
    return word.encode().decode("unicode_escape").encode("latin-1").decode() if "\\" in word else word


@dataclass(frozen=True, slots=True)
class Group:
    """One group across the trees that hold the controllers asked for."""

    path: str
    directories: tuple[Directory, ...]

    @classmethod
    def at(cls, path: str, hierarchy: Hierarchy, controllers: tuple[str, ...] = LIMITING) -> Group:
        """The group named `path`; nothing is made yet. Raises Unsupported where a controller is missing."""
        return cls(path, _directories(path, hierarchy.trees_of(controllers), controllers))

    def create(self, limits: Limits) -> None:
        """Make its directories and set the limits. The parent must exist (`establish`)."""
        for directory in self.directories:
            os.mkdir(directory.path, 0o755)
            directory.limit(limits)

    @property
    def entrances_v1(self) -> tuple[str, ...]:
        """Files to which a child writes `0` to enter the version 1 trees."""
        return tuple(directory.entrance for directory in self.directories if isinstance(directory, DirectoryV1))

    @property
    def birthplace_v2(self) -> str | None:
        """The directory for CLONE_INTO_CGROUP, if a controller is in the version 2 tree."""
        return next((directory.path for directory in self.directories if isinstance(directory, DirectoryV2)), None)

    def join_self(self) -> None:
        """Move this process in (version 1: this thread); children are born there."""
        for directory in self.directories:
            write_file(directory.entrance, "0")

    @contextlib.contextmanager
    def joined(self) -> Iterator[None]:
        """Be in the group for a while, then go back to where this process was."""
        here = detect()
        controllers = tuple(name for directory in self.directories for name in directory.controllers)
        homes = [Group(tree.own, _directories(tree.own, (tree,), controllers)) for tree in here.trees_of(controllers)]
        self.join_self()
        try:
            yield
        finally:
            for home in homes:
                home.join_self()

    def memory(self) -> MemoryReading:
        return self._holding("memory").memory()

    def oom_kills(self) -> int:
        return self._holding("memory").oom_kills()

    def cpu_ns(self) -> int:
        """CPU time charged so far. Raises Unsupported for a version 1 group without cpuacct."""
        v2 = next((directory for directory in self.directories if isinstance(directory, DirectoryV2)), None)
        return (v2 or self._holding("cpuacct")).cpu_ns()

    def processes(self) -> tuple[int, ...]:
        return self.directories[0].processes()

    def kill(self) -> None:
        for directory in self.directories:
            directory.kill()

    def remove(self) -> None:
        """Remove its directories. Raises IsolationError(`leak`) naming those that stay."""
        _remove(self.directories)

    def _holding(self, controller: str) -> Directory:
        for directory in self.directories:
            if controller in directory.controllers:
                return directory
        raise Unsupported("kernel_lacks", f"group {self.path} was made without the controller {controller}")


def _directories(path: str, trees: tuple[Tree, ...], controllers: tuple[str, ...]) -> tuple[Directory, ...]:
    return tuple(
        (DirectoryV1 if tree.version == 1 else DirectoryV2)(
            tree.directory(path), frozenset(tree.controllers).intersection(controllers)
        )
        for tree in trees
    )


def _remove(directories: tuple[Directory, ...]) -> None:
    leaks = []
    for directory in directories:
        try:
            directory.remove()
        except IsolationError as leak:
            leaks.append(leak.detail)
    if leaks:
        raise IsolationError("leak", "; ".join(leaks))


def run_group(run_id: str, hierarchy: Hierarchy | None = None) -> str:
    """Path of a run's group: `tare/<run_id>`, on version 2 below the group that was delegated to us.

    Only at the very root of version 2 without systemd, and on version 1, it hangs from the root.
    """
    tree = (hierarchy or detect()).tree("memory")
    base = tree.own.removesuffix(LEAF).rstrip("/") if tree and tree.version == 2 else ""
    return f"{base}/{PARENT}/{run_id}".lstrip("/")


def needs_scope(hierarchy: Hierarchy | None = None) -> bool:
    """Does this process, under systemd with version 2, sit in a group that was not delegated to it?"""
    tree = (hierarchy or detect()).tree("memory")
    return bool(tree and tree.version == 2 and _systemd_runs() and not _is_delegated(tree.directory(tree.own)))


def establish(path: str, hierarchy: Hierarchy, controllers: tuple[str, ...] = LIMITING) -> None:
    """Make the group `path` in the trees of these controllers, ready for groups below it. Idempotent.

    On version 2 the controllers are handed down along the path.  Where our own delegated group holds processes,
    they move to a leaf below it first (cgroup-v2.rst, "No Internal Process Constraint").  Raises Unsupported.
    """
    for tree in hierarchy.trees_of(controllers):
        wanted = tuple(name for name in controllers if name in tree.controllers)
        try:
            if tree.version == 1:
                os.makedirs(tree.directory(path), exist_ok=True)
            else:
                _hand_down(tree, path, wanted)
        except OSError as error:
            detail = f"cgroup {path} in {tree.mount} ({', '.join(wanted)}): {error.strerror or error}; {FIX}"
            raise Unsupported("no_permission", detail) from error


def _hand_down(tree: Tree, path: str, controllers: tuple[str, ...]) -> None:
    directory = tree.mount
    for part in ("", *path.split("/")):
        directory = f"{directory}/{part}".rstrip("/")
        os.makedirs(directory, exist_ok=True)
        with open(f"{directory}/cgroup.subtree_control", encoding="ascii") as file:
            missing = set(controllers) - set(file.read().split())
        if missing:
            words = " ".join(f"+{name}" for name in sorted(missing))
            try:
                write_file(f"{directory}/cgroup.subtree_control", words)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                _vacate(directory)
                write_file(f"{directory}/cgroup.subtree_control", words)


def _vacate(directory: str) -> None:
    """Move the processes of a group that is ours to manage into its leaf."""
    if _systemd_runs() and not _is_delegated(directory):
        raise OSError(errno.EBUSY, f"{directory} holds processes and was not delegated to us by systemd")
    leaf = f"{directory}/{LEAF}"
    os.makedirs(leaf, exist_ok=True)
    _move_all(directory, leaf)


def _move_all(source: str, target: str) -> None:
    while pids := DirectoryV2(source, frozenset()).processes():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
                write_file(f"{target}/cgroup.procs", str(pid))


def _systemd_runs() -> bool:
    """sd_booted(3)."""
    return os.path.isdir("/run/systemd/system")


def _is_delegated(directory: str) -> bool:
    """Systemd marks what it delegates: `trusted.` only root can read, `user.` since version 251 everybody."""
    for name in ("user.delegate", "trusted.delegate"):
        with contextlib.suppress(OSError):
            if os.getxattr(directory, name) == b"1":
                return True
    return False


def remove_subtree(path: str, hierarchy: Hierarchy | None = None) -> None:
    """Remove a group of ours from every tree, with all below it and what is still running in it.

    Raises IsolationError(`leak`) naming what stays.
    """
    if PARENT not in path.split("/")[:-1]:
        raise ValueError(f"{path} is no group of ours")
    for tree in (hierarchy or detect()).trees:
        for directory in _directories(path, (tree,), tree.controllers):
            if os.path.isdir(directory.path):
                for group in (*_below_first(directory.path), directory.path):
                    type(directory)(group, directory.controllers).kill()
                _remove((directory,))


def remove_tree(path: str, hierarchy: Hierarchy | None = None) -> None:
    """`remove_subtree` for a run's group; its parent, and the leaf of `establish`, go with the last run."""
    hierarchy = hierarchy or detect()
    remove_subtree(path, hierarchy)
    for tree in hierarchy.trees:
        _remove_empty_parent(tree, os.path.dirname(path))


def _below_first(path: str) -> Iterator[str]:
    for child in child_groups(path):
        yield from _below_first(child)
        yield child


def _remove_empty_parent(tree: Tree, parent: str) -> None:
    directory = tree.directory(parent)
    if not os.path.isdir(directory) or child_groups(directory):
        return
    os.rmdir(directory)
    base = os.path.dirname(directory)
    leaf = f"{base}/{LEAF}"
    if tree.version == 2 and set(child_groups(base)) <= {leaf}:
        # Nobody is left below to whom controllers were handed down, and only without them may processes come back.
        with open(f"{base}/cgroup.subtree_control", encoding="ascii") as file:
            words = " ".join(f"-{name}" for name in file.read().split())
        write_file(f"{base}/cgroup.subtree_control", words)
        if os.path.isdir(leaf):
            _move_all(leaf, base)
            os.rmdir(leaf)
