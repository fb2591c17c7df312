"""runc, run in the foreground on a bundle made for each instance, configured as near to our container as it goes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from isolation.adapters.common import PROBE_TIMEOUT_S, probe_tool
from isolation.api import Availability, IsolationError, Limits, Medium, Site, Spec
from isolation.spawn import SpawnedInstance, now_ns, spawn

NAMESPACES = ("mount", "pid", "network", "ipc", "uts", "cgroup")
FLAGS = ("nosuid", "noexec", "nodev")


class Runc:
    """`runc run` on the shared root filesystem, read-only; limits as our container's."""

    medium: Medium = "directory"
    cheap = True
    shared = ("the root filesystem", "the bundle's template")
    owned = ("two pipes", "the bundle (config.json)", "namespaces, mounts and cgroups (by runc)", "the processes")
    before_first_byte = "exec of runc (Go), its init stages, namespaces, cgroups, mounts, execve of the payload"

    def __init__(self, name: str) -> None:
        self.name = name
        self._tool = shutil.which("runc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin") or "runc"
        self._site: Site | None = None
        self._state = ""

    def availability(self) -> Availability:
        if os.geteuid() != 0:
            return Availability(
                self.name,
                available=False,
                reason="no_permission",
                detail="needs root here: it makes cgroups",
                fix="sudo .venv/bin/tare run",
            )
        return probe_tool(self.name, self._tool, "runc")

    def prepare(self, site: Site) -> None:
        self._site = site
        self._state = os.path.join(site.runtime, "runc")

    def start(self, spec: Spec) -> SpawnedInstance:
        t0_ns = now_ns()
        assert self._site is not None, "prepare comes before start"
        bundle = os.path.join(self._site.scratch, f"{spec.instance}.bundle")
        os.mkdir(bundle, 0o700)
        with open(os.path.join(bundle, "config.json"), "w", encoding="utf-8") as file:
            json.dump(configuration(spec, self._site.rootfs), file)
        argv = (self._tool, "--root", self._state, "run", "--bundle", bundle, spec.instance)
        return spawn(argv, spec, t0_ns=t0_ns, clean_up=lambda: self._clean_up(spec.instance, bundle))

    def _clean_up(self, instance: str, bundle: str) -> None:
        """Ended well, runc has removed its own state and groups; else we ask it to."""
        shutil.rmtree(bundle)
        if os.path.exists(os.path.join(self._state, instance)):
            command = (self._tool, "--root", self._state, "delete", "--force", instance)
            outcome = subprocess.run(
                command, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=False, stdin=subprocess.DEVNULL
            )
            if outcome.returncode != 0:
                raise IsolationError("leak", f"runc delete --force {instance}: {outcome.stderr.strip()}")

    def tool(self) -> Sequence[str] | None:
        return (self._tool, "--version")

    def close(self) -> None:
        """State and bundles lie in the site's folders."""


def configuration(spec: Spec, rootfs: str) -> dict[str, Any]:
    """The bundle's config.json (OCI runtime-spec 1.0) for one instance."""
    mounts = [
        _mount("/proc", "proc", "proc"),
        _mount("/dev", "tmpfs", "tmpfs", "nosuid", "strictatime", "mode=755", "size=65536k"),
        _mount("/dev/pts", "devpts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"),
        _mount("/dev/shm", "tmpfs", "shm", *FLAGS, "mode=1777", "size=65536k"),
    ]
    mounts += [
        _mount(volume.target, "bind", volume.source, "bind", "ro" if volume.read_only else "rw")
        for volume in spec.volumes
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": name} for name in NAMESPACES],
        "resources": _resources(spec.limits),
    }
    if spec.cgroup:
        linux["cgroupsPath"] = "/" + spec.cgroup
    capabilities = _own_capabilities()
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": ["/probe", *spec.payload_arguments()],
            "env": [f"{name}={value}" for name, value in spec.environment],
            "cwd": "/",
            "capabilities": dict.fromkeys(("bounding", "effective", "permitted"), capabilities),
            "noNewPrivileges": True,
        },
        "root": {"path": rootfs, "readonly": True},
        "hostname": "tare",
        "mounts": mounts,
        "linux": linux,
    }


def _mount(destination: str, kind: str, source: str, *options: str) -> dict[str, Any]:
    return {"destination": destination, "type": kind, "source": source, "options": list(options)}


def _resources(limits: Limits) -> dict[str, Any]:
    resources: dict[str, Any] = {"devices": [{"allow": False, "access": "rwm"}]}
    if limits.memory_bytes is not None:
        resources["memory"] = {"limit": limits.memory_bytes}
    if limits.pids is not None:
        resources["pids"] = {"limit": limits.pids}
    if limits.cpus is not None:
        resources["cpu"] = {"quota": round(limits.cpus * 100_000), "period": 100_000}
    return resources


CAPABILITY_NAMES = tuple(
    """
    CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE NET_BIND_SERVICE
    NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN
    SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE
    MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE
    """.split()  # noqa: SIM905 - forty names read better so
)
"""By number, from linux/capability.h."""


def _own_capabilities() -> list[str]:
    """Those that we have ourselves, as our container's payload keeps them: parity, not safety."""
    with open("/proc/self/status", encoding="ascii") as file:
        permitted = next(int(line.split()[1], 16) for line in file if line.startswith("CapPrm:"))
    return [f"CAP_{name}" for number, name in enumerate(CAPABILITY_NAMES) if permitted >> number & 1]
