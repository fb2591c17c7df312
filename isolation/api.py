"""The contract between the harness and a backend: frozen values, two protocols, typed failures.

A `Backend` lives in a slim launcher process (`isolation.launcher`), never in the harness: forking a process
that holds pandas costs about six times a slim one, and libvirt's embedded driver forks QEMU from its caller.
The launcher takes the stamps that are common to all (DESIGN section 5):

    t0  `Backend.start` reads the clock as its very first act and keeps it in `Instance.t0_ns`
    t1  the launcher has read the payload's first byte
    tq  the launcher is about to write `quit`
    t2  the launcher has seen the exit of `Instance.pidfd`
    t3  `Instance.destroy` has returned: cgroup directory, mounts, links, domain gone

Standard library only; imports nothing of ours.  All times are host CLOCK_MONOTONIC in nanoseconds.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import resource

Lane = Literal["native", "kvm", "nested", "tcg", "ptrace", "systrap"]
Medium = Literal["directory", "disk"]
"""What a backend takes as a volume: a host directory (bind mount) or a disk image (second virtio disk)."""

CHANNEL_NAME = "tare"
"""Name of the virtio-serial port, and prefix of every label that we leave on the host."""


class IsolationError(Exception):
    """A backend could not do what was asked: `reason` is a code of DESIGN section 3, `detail` one line for a person."""

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Unsupported(IsolationError):
    """The host cannot run it (`not_installed`, `no_permission`, `kernel_lacks` ...). The cell is `unsupported`."""


class LaunchFailed(IsolationError):
    """The host should have run it and did not (`exited_early`, `never_ready`, `oom` ...). The cell is `failed`."""


@dataclass(frozen=True, slots=True)
class Availability:
    """What a probe of the host found for one backend. `lane` is set where available; `fix` says what to run."""

    backend: str
    available: bool
    lane: Lane | None = None
    version: str | None = None
    reason: str | None = None
    detail: str | None = None
    fix: str | None = None
    evidence: str | None = None


@dataclass(frozen=True, slots=True)
class Limits:
    """Resource limits; None is no limit. `cpus` is a share of one CPU's time (0.5 is half a core)."""

    memory_bytes: int | None = None
    pids: int | None = None
    cpus: float | None = None


@dataclass(frozen=True, slots=True)
class Volume:
    """`source` on the host seen at `target` inside. For a backend of medium `disk`, source is a raw ext4 image
    that the payload mounts at `target`; for the bare process, target is ignored and source used as it is.
    """

    source: str
    target: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class Site:
    """What is shared by all instances of a run and made before any t0."""

    run_id: str
    scratch: str
    """Directory of the run on a real disk (overlay uppers, bundles). Everything under it is ours to remove."""
    runtime: str
    """Short-named directory of the run on tmpfs, for sockets and state."""
    payload: str
    """The static probe on the host; the same bytes are at `/probe` in `rootfs` and in the guest's initramfs."""
    rootfs: str
    """The shared root filesystem, used read-only as lower layer."""
    kernel: str | None = None
    initramfs: str | None = None
    """Guest kernel and initramfs; None where set-up could not build them."""
    cgroup: str = "tare"
    """Path of the run's group below each controller's mount, as `tare/<run_id>`."""


@dataclass(frozen=True, slots=True)
class Spec:
    """One instance to launch: the same payload and arguments in every backend."""

    instance: str
    """Unique within the run; labels cgroup, scratch folder, domain."""
    nonce: str
    """Hex; the payload repeats it in its first line, so that stray output never passes for a start."""
    arguments: tuple[str, ...] = ()
    """Further `key=value` words for the payload (`delay_ns=...`)."""
    environment: tuple[tuple[str, str], ...] = ()
    profile: str = "-"
    limits: Limits = field(default_factory=Limits)
    volumes: tuple[Volume, ...] = ()
    layers: tuple[str, ...] = ()
    """Further read-only layers over the root filesystem (directories; for a VM raw ext4 images)."""
    memory_bytes: int = 256 << 20
    """Guest memory of a VM; others ignore it and look at `limits`."""
    cgroup: str = ""
    """The instance's group below each controller's mount; the launcher fills it in."""
    log: str = ""
    """File for the payload's stderr or the guest's console."""
    timeout_s: float = 30.0

    def payload_arguments(self) -> tuple[str, ...]:
        """The payload's words, argv[1:]: the nonce first."""
        return (f"nonce={self.nonce}", *self.arguments)


@dataclass(frozen=True, slots=True)
class Exit:
    """How the leader ended. `cpu_ns` is user plus system time of all its reaped processes, where known."""

    code: int | None
    signal: int | None
    cpu_ns: int | None = None

    @classmethod
    def of(cls, status: int, usage: resource.struct_rusage) -> Exit:
        """What wait4(2) told of an ended child."""
        code = os.waitstatus_to_exitcode(status)
        cpu_ns = round((usage.ru_utime + usage.ru_stime) * 1e9)
        return cls(code if code >= 0 else None, -code if code < 0 else None, cpu_ns)


class Instance(Protocol):
    """A started instance, seen from inside the launcher."""

    t0_ns: int
    read_fd: int
    """The payload's words come from here."""
    write_fd: int
    """Requests go here."""
    pidfd: int
    """Readable once the leader (payload, runtime's foreground process, QEMU) has ended."""

    def processes(self) -> tuple[int, ...]:
        """Host pids of every process that exists for this instance: payload, shim, QEMU, virtiofsd."""

    def reap(self) -> Exit:
        """Collect the leader, which has ended."""

    def kill(self) -> None:
        """End it by force; `pidfd` becomes readable."""

    def destroy(self) -> None:
        """Remove all that `start` made. Called once, after `reap`.

        Raises IsolationError with reason `leak` where something stays.
        """

    def diagnose(self) -> tuple[str, str] | None:
        """Before `destroy`: (reason, detail) for an end nobody asked for (`oom`, `guest_panic`, `vmm_killed`)."""


@runtime_checkable
class Backend(Protocol):
    """One way to run the payload, inside the launcher process."""

    name: str
    medium: Medium
    cheap: bool
    """Launches take milliseconds: primed before each sample and repeated within a slot."""
    shared: tuple[str, ...]
    """What exists before t0 (image, compiled filter, bundle template), in words for the report."""
    owned: tuple[str, ...]
    """What is made after t0 for each instance, in words for the report."""
    before_first_byte: str
    """What happens between t0 and the payload's first byte, in words for the report."""

    def availability(self) -> Availability:
        """Look at the host; change nothing, raise nothing."""

    def prepare(self, site: Site) -> None:
        """Make what is shared by all instances. Raises Unsupported."""

    def start(self, spec: Spec) -> Instance:
        """Read the clock, then start. Returns once the leader exists. Raises LaunchFailed or Unsupported."""

    def tool(self) -> Sequence[str] | None:
        """Command that only prints the tool's version (`bwrap --version`); None where no tool is run."""

    def close(self) -> None:
        """Remove what `prepare` made outside the site's folders."""


@dataclass(frozen=True, slots=True)
class Launched:
    """Reply of the launcher to a launch: stamps and identity. The channel's two descriptors travel beside it."""

    instance: str
    backend: str
    lane: Lane
    t0_ns: int
    t1_ns: int
    processes: tuple[int, ...]
    cgroup: str


@dataclass(frozen=True, slots=True)
class Finished:
    """Reply of the launcher to a finish. `trouble` is the reason and detail of an end nobody asked for, or a leak."""

    instance: str
    tq_ns: int
    t2_ns: int
    t3_ns: int
    exit: Exit
    trouble: tuple[str, str] | None = None

    @property
    def exit_ns(self) -> int:
        return self.t2_ns - self.tq_ns

    @property
    def gone_ns(self) -> int:
        return self.t3_ns - self.t2_ns
