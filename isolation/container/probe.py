"""Can this host run the container? Found out by doing it once, in a short-lived child, and removing all traces."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from isolation import syscalls
from isolation.api import Availability, IsolationError, Limits, Site, Spec, Unsupported
from isolation.container import cgroup, executor, namespaces, storage
from isolation.container.operations import End, MapUser, Operation
from isolation.container.plan import born_in, plan
from isolation.container.profile import Profile

PARENT = "/var/tmp"  # where runs have their scratch folders: on a disk

_ROOT = "run as root: sudo .venv/bin/tare run"
_APPARMOR = "/proc/sys/kernel/apparmor_restrict_unprivileged_userns"
_DENIED = (errno.EPERM, errno.EACCES)
_MISSING = (errno.ENOSYS, errno.ENODEV, errno.EINVAL)


def needed_user() -> MapUser | None:
    """Who can mount needs no user namespace; anybody else becomes root of one (user_namespaces 7)."""
    if syscalls.capget().effective >> syscalls.CAP_SYS_ADMIN & 1:
        return None
    return MapUser(os.geteuid(), os.getegid())


def availability(backend: str, profile: Profile, user: MapUser | None) -> Availability:
    """One launch without a payload, on the file system where runs have their scratch, in a group if need be."""
    evidence = f"launched once: {', '.join(namespaces.names(namespaces.flags(born_in(profile, user))))} namespaces"
    version = f"Linux {os.uname().release}"
    try:
        with _folder() as folder:
            try_out(profile, user, folder)
        if profile.limited:
            evidence += f", groups {_try_groups()}"
    except IsolationError as error:
        detail, about_groups, _ = error.detail.partition(f"; {cgroup.FIX}")
        fix = cgroup.FIX if about_groups else _fix(user)
        return Availability(backend, available=False, version=version, reason=error.reason, detail=detail, fix=fix)
    except OSError as error:
        detail = f"a folder to probe in: {error.strerror}: {error.filename}"
        return Availability(backend, available=False, version=version, reason="no_permission", detail=detail)
    return Availability(backend, available=True, lane="native", version=version, evidence=evidence)


def try_out(profile: Profile, user: MapUser | None, folder: str) -> None:
    """Run the profile's operations once in `folder`. Raises Unsupported naming the one that this host refuses."""
    name = f"probe-{os.getpid()}"
    upper = storage.Upper.of(folder, name)
    lower, target = f"{folder}/{name}.lower", f"{folder}/{name}.root"
    try:
        for path in (target, lower, *(f"{lower}/{below}" for below in ("proc", "dev", "sys"))):
            os.mkdir(path)
        upper.create()
        site = Site(run_id=name, scratch=folder, runtime=folder, payload="", rootfs=lower)
        operations = plan(Spec(name, ""), site, profile, upper=upper, target=target, user=user)
        _run((*operations[:-1], End()), namespaces.flags(born_in(profile, user)))
    finally:
        upper.remove()
        storage.remove(lower)
        storage.remove(target)


def _run(operations: tuple[Operation, ...], flags: int) -> None:
    """Start it; the launcher waits for its last operation, which ends it."""
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        started = executor.start(operations, flags, (null, null, null))
    except OSError as error:
        raise Unsupported(_reason(error.errno or 0), error.strerror or repr(error)) from error
    finally:
        os.close(null)
    os.waitpid(started.pid, 0)
    os.close(started.pidfd)


def _try_groups() -> str:
    """Make and remove a group with limits; say which controllers are where."""
    hierarchy = cgroup.detect()
    path = cgroup.run_group(f"probe-{os.getpid()}", hierarchy)
    try:
        cgroup.establish(path, hierarchy)
        cgroup.Group.at(f"{path}/probe", hierarchy).create(Limits(memory_bytes=64 << 20, pids=64))
    except OSError as error:
        raise Unsupported("no_permission", f"cgroup {path}: {error.strerror}; {cgroup.FIX}") from error
    finally:
        cgroup.remove_tree(path)
    return ", ".join(f"{name} v{tree.version}" for name in cgroup.LIMITING if (tree := hierarchy.tree(name)))


@contextmanager
def _folder() -> Iterator[str]:
    folder = f"{PARENT}/tare-probe-{os.getpid()}"
    os.mkdir(folder, 0o700)
    try:
        yield folder
    finally:
        storage.remove(folder)


def _reason(number: int) -> str:
    if number in _DENIED or number == errno.ENOSPC:  # ENOSPC: user.max_user_namespaces is 0
        return "no_permission"
    return "kernel_lacks" if number in _MISSING else "setup_failed"


def _fix(user: MapUser | None) -> str | None:
    """What gives an ordinary user the rights, said and never done."""
    if user is None:
        return None
    try:
        with open(_APPARMOR, encoding="ascii") as file:
            restricted = file.read().strip() == "1"
    except FileNotFoundError:
        restricted = False
    if restricted:
        return f"{_ROOT}; or sysctl kernel.apparmor_restrict_unprivileged_userns=0, which weakens the host"
    return f"{_ROOT}; or allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone)"
