"""Read-only probes of the machine -> findings, each with what was seen, why it matters and the fix.

Nothing is changed: a fix is printed, never applied.  `diagnose` and the rules are pure; `look` touches the machine.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bench.host import HERE, Tree
from isolation.api import Availability

KVM = "/dev/kvm"
PROBE = ("unshare", "--user", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "tare", "/tmp")
PROBE_TIMEOUT_S = 5.0
NOBODY = 65534
LITTLE_MEMORY_BYTES = 2 << 30
STEAL_SHARE = 0.01
"""A block above it is invalid (DESIGN section 5), so a host that has had it since boot deserves a word."""
HOST_KEYS = ("kernel", "arch", "cpu", "virtualised", "cgroup", "init", "container", "lsm")
USER_NAMESPACE_SYSCTLS = (
    ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
    ("kernel.unprivileged_userns_clone", "0", "1"),
    ("user.max_user_namespaces", "0", "10000"),
)
"""(name, value that refuses, value that allows): Ubuntu 23.10 and later, Debian up to 10, every kernel."""

Table = tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that this machine lacks, or that skews what is measured on it."""

    name: str
    seen: str
    why: str
    fix: str


@dataclass(frozen=True, slots=True)
class Access:
    """What this user may do here. Empty text is "yes", else what the kernel answered."""

    root: bool
    kvm_missing: bool
    kvm_refusal: str
    user_namespace_refusal: str
    """Of mounting a tmpfs in a new user and mount namespace, as an unprivileged user."""
    refusing_sysctls: tuple[tuple[str, str, str], ...] = ()
    """Those of USER_NAMESPACE_SYSCTLS that have the refusing value."""


@dataclass(frozen=True, slots=True)
class Report:
    """What the doctor says: facts of the host, every backend, findings in order of weight."""

    host: Mapping[str, Any]
    backends: tuple[Availability, ...]
    findings: tuple[Finding, ...]

    def as_json(self) -> dict[str, Any]:
        """The shape of DESIGN section 4 (fixed). `evidence` is what the probe saw, also of a failure."""
        return {
            "host": {key: self.host.get(key) for key in HOST_KEYS},
            "backends": [
                {
                    "backend": found.backend,
                    "available": found.available,
                    "lane": found.lane,
                    "version": found.version,
                    "reason": found.reason,
                    "fix": found.fix,
                    "evidence": found.evidence or found.detail,
                }
                for found in self.backends
            ],
        }

    def tables(self) -> tuple[Table, ...]:
        """(title, column heads, rows) for the terminal; the last is left out where there is nothing to say."""
        host = tuple((key, _words(self.host.get(key))) for key in HOST_KEYS)
        backends = tuple(
            (
                found.backend,
                "yes" if found.available else "no",
                found.lane or "-",
                found.version or "-",
                ": ".join(filter(None, (found.reason, found.detail))) or found.evidence or "-",
                found.fix or "-",
            )
            for found in self.backends
        )
        advice = tuple((finding.name, finding.seen, finding.why, finding.fix) for finding in self.findings)
        tables: tuple[Table, ...] = (
            ("Host", ("fact", "seen"), host),
            ("Backends", ("backend", "available", "lane", "version", "why", "fix"), backends),
        )
        return (*tables, ("Advice", ("what", "seen", "why it matters", "fix"), advice)) if advice else tables


def _words(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(map(str, value))
    return "-" if value is None else str(value)


def examine(availabilities: Sequence[Availability], host: Mapping[str, Any]) -> Report:
    """What can run here and what to mend. `host` is `bench.host.facts()`."""
    return diagnose(availabilities, host, look())


def diagnose(availabilities: Sequence[Availability], host: Mapping[str, Any], access: Access) -> Report:
    """Pure part of `examine`."""
    findings = (
        *(rule(host) for rule in STOPPING),
        _not_root(access),
        _kvm(host, access),
        _user_namespaces(access),
        *(rule(host) for rule in SKEWING),
    )
    return Report(host, tuple(availabilities), tuple(finding for finding in findings if finding is not None))


def look(tree: Tree = HERE) -> Access:
    """Try what cannot be read from a file."""
    refusal = _kvm_refusal()
    return Access(
        root=os.geteuid() == 0,
        kvm_missing=refusal == errno.ENOENT,
        kvm_refusal=os.strerror(refusal) if refusal else "",
        user_namespace_refusal=_user_namespace_refusal(),
        refusing_sysctls=tuple(
            sysctl
            for sysctl in USER_NAMESPACE_SYSCTLS
            if tree.text(f"proc/sys/{sysctl[0].replace('.', '/')}") == sysctl[1]
        ),
    )


def _kvm_refusal() -> int:
    """Why /dev/kvm does not open, as errno; 0 where it does, which proves no guest (`doctor --prove` boots one)."""
    try:
        os.close(os.open(KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _user_namespace_refusal() -> str:
    """Mount a tmpfs in a new user and mount namespace, which vanish with the short-lived child that tries.

    Unsharing alone proves nothing: AppArmor of Ubuntu 24.04 lets it succeed and refuses the mount.  Root is never
    refused, so root tries as who called sudo, else as nobody.
    """
    user = int(os.environ.get("SUDO_UID", NOBODY)) if os.geteuid() == 0 else None
    groups: Sequence[int] | None = None if user is None else ()
    try:
        done = subprocess.run(
            PROBE,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"},
            timeout=PROBE_TIMEOUT_S,
            check=False,
            user=user,
            group=user,
            extra_groups=groups,
        )
    except FileNotFoundError:
        return f"cannot be tried: {PROBE[0]} (package util-linux) is not on PATH"
    except subprocess.TimeoutExpired:
        return f"no answer within {PROBE_TIMEOUT_S:g} s"
    except (OSError, subprocess.SubprocessError) as error:
        return f"cannot be tried: becoming user {user}: {error}"
    return "" if done.returncode == 0 else " ".join(done.stderr.split()) or f"exit code {done.returncode}"


# Rules, in the order in which findings are shown: what stops a backend first, then what skews figures.


def _architecture(host: Mapping[str, Any]) -> Finding | None:
    if (arch := host.get("arch")) in {"x86_64", None}:
        return None
    why = "system call numbers, the payload's build and the guest are made for x86-64"
    return Finding("architecture", f"{arch}", why, "run Tare on an x86-64 machine; the bare process may still run here")


def _wsl(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("wsl"):
        return None
    why = "the kernel runs in a lightweight VM that Windows pauses and resizes: no figure here is one of bare metal"
    return Finding(
        "WSL2", f"kernel {host.get('kernel')}", why, "measure on Linux itself; WSL2 is fine for a first look"
    )


def _distribution(host: Mapping[str, Any]) -> Finding | None:
    family = {str(host.get("distribution_id")), *str(host.get("distribution_like") or "").split()}
    if family & {"debian", "ubuntu"}:
        return None
    seen = host.get("distribution") or "no os-release"
    why = "set-up knows the package names of Debian and Ubuntu only"
    packages = "QEMU, libvirt with its headers, fio, bubblewrap, runc, a C compiler and static busybox"
    return Finding("distribution", f"{seen}", why, f"install {packages} by your package manager, then run set-up")


def _in_container(host: Mapping[str, Any]) -> Finding | None:
    if not (kind := host.get("container")):
        return None
    why = "its limits, seccomp filter and read-only cgroups bind all that is started here, the bare process too"
    return Finding("inside a container", f"{kind}", why, "run on the host; else with --privileged and --cgroupns=host")


def _not_root(access: Access) -> Finding | None:
    if access.root:
        return None
    why = "mounts, cgroups and most runtimes need root: those backends are unsupported without"
    return Finding("not root", f"uid {os.geteuid()}", why, "sudo .venv/bin/tare run (outputs are handed back to you)")


def _kvm(host: Mapping[str, Any], access: Access) -> Finding | None:
    if not access.kvm_refusal:
        return None
    why = "without KVM a guest is emulated (lane tcg): not a measurement of virtualisation"
    if not access.kvm_missing:
        fix = "sudo usermod -aG kvm $USER, then log in again; or run as root"
        return Finding(KVM, access.kvm_refusal, why, fix)
    fix = "enable VT-x or AMD-V in the firmware, then: sudo modprobe -a kvm_intel kvm_amd"
    if host.get("virtualised"):
        fix = (
            "this machine is itself virtual: enable nested virtualisation on its host (kvm_intel or kvm_amd, nested=1)"
        )
    if host.get("container"):
        fix = "give the container the device: --device /dev/kvm"
    return Finding(KVM, access.kvm_refusal, why, fix)


def _user_namespaces(access: Access) -> Finding | None:
    if not access.user_namespace_refusal:
        return None
    why = "rootless containers need one in which they may mount"
    fixes = [f"sudo sysctl -w {name}={allows}" for name, _, allows in access.refusing_sysctls]
    if any("apparmor" in name for name, *_ in access.refusing_sysctls):
        fixes.append("or, for one program, an AppArmor profile with `flags=(unconfined) { userns, }`")
    fix = "; ".join(fixes) or "run as root, or see user_namespaces(7) and your security module's log"
    return Finding("unprivileged user namespace", access.user_namespace_refusal, why, fix)


def _no_cgroup(host: Mapping[str, Any]) -> Finding | None:
    if host.get("cgroup"):
        return None
    fix = "sudo mount -t cgroup2 none /sys/fs/cgroup"
    return Finding("cgroup", "not mounted", "without it there are no limits and no memory ledger", fix)


def _memory(host: Mapping[str, Any]) -> Finding | None:
    available = host.get("memory_available_bytes")
    if available is None or available >= LITTLE_MEMORY_BYTES:
        return None
    why = "several guests at once may make the host reclaim or swap, which shows in every figure"
    return Finding("memory", f"{available >> 20} MiB available", why, "end other programs, or add memory")


def _few_cpus(host: Mapping[str, Any]) -> Finding | None:
    if (host.get("cpus") or 2) > 1:
        return None
    why = "harness and payload take turns on it: launches look slower than they are"
    return Finding("CPUs", "1 online", why, "measure with at least 2")


def _busy(host: Mapping[str, Any]) -> Finding | None:
    load, cpus = host.get("load_average"), host.get("cpus")
    if not load or not cpus or load[0] <= cpus / 2:
        return None
    why = "other programs compete for the CPUs: intervals widen and verdicts become inconclusive"
    return Finding("load", f"{load[0]:g} over the last minute on {cpus} CPUs", why, "end them, or wait until they end")


def _steal(host: Mapping[str, Any]) -> Finding | None:
    steal, all_ticks = host.get("steal_ticks"), host.get("cpu_ticks")
    if not steal or not all_ticks or steal / all_ticks <= STEAL_SHARE:
        return None
    why = "the hypervisor gives this machine's CPUs to others meanwhile"
    fix = "use a machine with dedicated CPUs, or more blocks"
    return Finding("steal", f"{steal / all_ticks:.1%} of CPU time since boot", why, fix)


def _virtual(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("virtualised"):
        return None
    why = "processes and containers run at this VM's speed, its block device is no physical one, guests are nested"
    seen = f"by {host.get('hypervisor') or 'a hypervisor'}"
    return Finding("virtual machine", seen, why, "measure on bare metal where absolute figures matter")


def _governor(host: Mapping[str, Any]) -> Finding | None:
    if (governor := host.get("governor")) in {"performance", None}:
        return None
    why = "the clock rate follows the load: short launches run at a lower one than long ones"
    fix = "echo performance | sudo tee /sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return Finding("CPU governor", f"{governor}", why, fix)


def _turbo(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("turbo"):
        return None
    why = "the clock rate depends on heat and on the other cores: figures drift"
    fix = "Intel: echo 1 | sudo tee /sys/devices/system/cpu/intel_pstate/no_turbo; "
    fix += "AMD: echo 0 | sudo tee /sys/devices/system/cpu/cpufreq/boost"
    return Finding("turbo", "on", why, fix)


def _smt(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("smt"):
        return None
    why = "two hardware threads share a core: a neighbour's work shows in yours"
    return Finding("SMT", "on", why, "echo off | sudo tee /sys/devices/system/cpu/smt/control")


def _thp(host: Mapping[str, Any]) -> Finding | None:
    if host.get("thp") != "always":
        return None
    why = "memory of a process depends on what the kernel merges into huge pages meanwhile"
    fix = "echo madvise | sudo tee /sys/kernel/mm/transparent_hugepage/enabled"
    return Finding("transparent huge pages", "always", why, fix)


def _ksm(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("ksm"):
        return None
    why = "equal pages of guests are merged: the memory ledgers shrink with time"
    return Finding("KSM", "on", why, "echo 2 | sudo tee /sys/kernel/mm/ksm/run (stops and unmerges)")


def _damon(host: Mapping[str, Any]) -> Finding | None:
    if not host.get("damon"):
        return None
    why = "the kernel samples accesses, and may reclaim or reorder memory by them, while we measure it"
    fix = "end what started it (damo stop), or write N to /sys/module/damon_*/parameters/enabled"
    return Finding("DAMON", "on", why, fix)


def _swap(host: Mapping[str, Any]) -> Finding | None:
    if not (swap := host.get("swap_bytes")):
        return None
    why = "pages that leave for swap vanish from the memory ledgers"
    return Finding(
        "swap", f"{swap >> 20} MiB, {(host.get('swap_used_bytes') or 0) >> 20} MiB used", why, "sudo swapoff -a"
    )


def _clocksource(host: Mapping[str, Any]) -> Finding | None:
    if (clock := host.get("clocksource")) in {"tsc", None}:
        return None
    fix = "boot with tsc=reliable where the CPU's TSC is stable (dmesg says why it was not taken)"
    if "tsc" in (host.get("clocksources") or ()):
        fix = "echo tsc | sudo tee /sys/devices/system/clocksource/clocksource0/current_clocksource"
    why = "reading the time costs more, and in a guest or container differently from the host"
    return Finding("clock source", f"{clock}", why, fix)


Rule = Callable[[Mapping[str, Any]], Finding | None]
STOPPING: tuple[Rule, ...] = (_architecture, _wsl, _distribution, _in_container, _no_cgroup)
SKEWING: tuple[Rule, ...] = (
    _memory, _few_cpus, _busy, _steal, _virtual, _governor, _turbo, _smt, _thp, _ksm, _damon, _swap, _clocksource,
)  # fmt: skip
