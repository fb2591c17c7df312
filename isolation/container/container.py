"""The home-grown container as a backend: composes storage, control group, operations and the executor."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from isolation.api import Availability, Exit, IsolationError, LaunchFailed, Medium, Site, Spec, Unsupported
from isolation.container import cgroup, executor, namespaces, probe, storage
from isolation.container.plan import born_in, plan
from isolation.container.profile import BACKENDS, Profile
from isolation.spawn import LOG_FLAGS, descendants, now_ns

_CPU = ("cpu", "cpuacct")


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What all instances of a run share."""

    site: Site
    folder: str
    target: str
    hierarchy: cgroup.Hierarchy


class ContainerInstance:
    """A running container. The channel's two descriptors belong to who called `start`, `pidfd` to the instance."""

    def __init__(
        self,
        t0_ns: int,
        channel: tuple[int, int],
        started: executor.Child,
        upper: storage.Upper,
        group: cgroup.Group | None,
    ) -> None:
        self.t0_ns = t0_ns
        self.read_fd, self.write_fd = channel
        self.pid = started.pid
        self.pidfd = started.pidfd
        self._upper = upper
        self._group = group

    def processes(self) -> tuple[int, ...]:
        """Those in its group, where it has one, else the payload and its descendants."""
        return self._group.processes() if self._group else descendants(self.pid)

    def reap(self) -> Exit:
        """The pid cannot have been given to anybody else: nobody but us collects our child."""
        _, status, usage = os.wait4(self.pid, 0)
        return Exit.of(status, usage)

    def kill(self) -> None:
        """Its first process is PID 1 of its namespace: the kernel ends all others with it (pid_namespaces 7)."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def diagnose(self) -> tuple[str, str] | None:
        kills = self._group.oom_kills() if self._group else 0
        if kills and self._group:
            return "oom", f"the kernel killed {kills} process(es) of {self._group.path} at its memory limit"
        return None

    def destroy(self) -> None:
        os.close(self.pidfd)
        remains = [self._upper.remove, *((self._group.remove,) if self._group else ())]
        leaks = [leak for leak in map(_leak_of, remains) if leak]
        if leaks:
            raise IsolationError("leak", "; ".join(leaks))


def _leak_of(remove: Callable[[], None]) -> str | None:
    try:
        remove()
    except IsolationError as leak:
        return leak.detail
    return None


class Container:
    """`container-namespaces` or `container`, by the profile of `isolation.container.profile`."""

    medium: Medium = "directory"
    cheap = True
    shared = ("the root filesystem", "the run's control group", "the empty directory on which overlays are mounted")

    def __init__(self, name: str) -> None:
        self.name = name
        self.profile: Profile = BACKENDS[name]
        self._user = probe.needed_user()
        self._prepared: _Prepared | None = None
        self._explain()

    def _explain(self) -> None:
        grouped = ("its control group with limits",) if self.profile.limited else ()
        self.owned = ("two pipes", "overlay directories", *grouped, "namespaces and mounts", "the process")
        confined = ", joining the group, /sys, loopback, no_new_privs" if self.profile.limited else ""
        self.before_first_byte = (
            "overlay directories, clone3 into six namespaces, overlay, /proc, /dev, pivot_root"
            f"{confined}, execve, the static binary's own start"
        )

    def availability(self) -> Availability:
        return probe.availability(self.name, self.profile, self._user)

    def prepare(self, site: Site) -> None:
        """Raises Unsupported where the run's scratch folder or group cannot be used."""
        hierarchy = cgroup.detect()
        if self.profile.limited:
            cgroup.establish(site.cgroup, hierarchy)
        folder = f"{site.scratch}/{self.name}"
        target = f"{folder}/root"
        os.makedirs(target, exist_ok=True)
        probe.try_out(self.profile, self._user, folder)
        self._prepared = _Prepared(site, folder, target, hierarchy)

    def start(self, spec: Spec) -> ContainerInstance:
        t0_ns = now_ns()
        if self._prepared is None:
            raise Unsupported("not_prepared", f"{self.name}: prepare comes before start")
        if spec.profile not in ("-", self.profile.name):
            raise Unsupported("unknown_profile", f"{self.name} runs profile {self.profile.name}, not {spec.profile}")
        with ExitStack() as undo:
            try:
                instance = self._launch(spec, self._prepared, t0_ns, undo)
            except OSError as error:
                where = f": {error.filename}" if error.filename else ""
                raise LaunchFailed("setup_failed", f"{self.name}: {error.strerror}{where}") from error
            undo.pop_all()
        return instance

    def _launch(self, spec: Spec, prepared: _Prepared, t0_ns: int, undo: ExitStack) -> ContainerInstance:
        """Make what the instance owns, start it, and see it become the payload. `undo` removes what was made."""
        upper = storage.Upper.of(prepared.folder, spec.instance)
        undo.callback(upper.remove)
        upper.create()
        group = self._group(spec, prepared) if self.profile.limited else None
        if group:
            undo.callback(group.remove)
            group.create(spec.limits)
        operations = plan(
            spec,
            prepared.site,
            self.profile,
            upper=upper,
            target=prepared.target,
            entrances=group.entrances_v1 if group else (),
            user=self._user,
        )
        with ExitStack() as ours:
            child_in, write_fd = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, child_in)
            undo.callback(os.close, write_fd)
            read_fd, child_out = os.pipe2(os.O_CLOEXEC)
            ours.callback(os.close, child_out)
            undo.callback(os.close, read_fd)
            log = os.open(spec.log or os.devnull, LOG_FLAGS, 0o600)
            ours.callback(os.close, log)
            birthplace = _open_birthplace(group, ours)
            started = executor.start(
                operations,
                namespaces.flags(born_in(self.profile, self._user)),
                (child_in, child_out, log),
                birthplace,
            )
        return ContainerInstance(t0_ns, (read_fd, write_fd), started, upper, group)

    def _group(self, spec: Spec, prepared: _Prepared) -> cgroup.Group:
        """CPU groups are made for who has a CPU limit only: on version 1 each costs 0.1 ms."""
        if spec.limits.cpus is None:
            return cgroup.Group.at(spec.cgroup, prepared.hierarchy)
        controllers = (*cgroup.LIMITING, *(_CPU if prepared.hierarchy.tree("cpuacct") else _CPU[:1]))
        cgroup.establish(os.path.dirname(spec.cgroup), prepared.hierarchy, controllers)
        return cgroup.Group.at(spec.cgroup, prepared.hierarchy, controllers)

    def tool(self) -> Sequence[str] | None:
        return None

    def close(self) -> None:
        """All lies in the site's folders and group, which the run removes."""


def _open_birthplace(group: cgroup.Group | None, ours: ExitStack) -> int | None:
    if group is None or group.birthplace_v2 is None:
        return None
    descriptor = os.open(group.birthplace_v2, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    ours.callback(os.close, descriptor)
    return descriptor
