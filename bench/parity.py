"""What each backend really ran with, told twice: by the payload from inside, and by /proc from outside.

Names in `BackendRecord.parity`, all plain JSON values, None where nobody could tell:

    name                          from     meaning
    kernel                        inside   release
    boot_id                       inside   of the kernel that runs the payload
    same_kernel_as_host           both     the boot id is the host's
    hostname                      inside
    namespaces                    both     kinds that are not the harness's; all of them under another kernel
    pid_inside                    inside   1 where the payload is the first process of its PID namespace or machine
    uid_map                       inside   lines of /proc/self/uid_map, blanks squeezed
    capabilities_effective        inside   hexadecimal mask
    capabilities_effective_count  inside   bits in it
    capabilities_bounding         inside   hexadecimal mask
    capabilities_bounding_count   inside   bits in it
    no_new_privs                  inside   boolean
    seccomp                       inside   `disabled`, `strict` or `filter`
    seccomp_filters               inside   number of filters
    lsm_label                     inside   what AppArmor or SELinux confines the payload by
    memory_limit_bytes            outside  the tightest along the group's path; for a VM, QEMU's group
    memory_total_bytes            inside   what the kernel that runs the payload has
    pids_limit                    outside  the tightest along the group's path
    cpu_limit                     outside  CPUs' worth of time, the tightest along the group's path
    cgroup_outside                outside  group of the memory controller, seen from the host
    cgroup_inside                 inside   lines of /proc/self/cgroup
    root_filesystem               inside   type of /
    root_options                  inside   mount options of /, folders of layers left out
    mounts                        inside   number of mounts
    network                       both     `own` or `shared with the host`
    network_interfaces            outside  names, where the payload is a process of the host
    open_descriptors              inside   `0 pipe`, `1 pipe`, `2 /file` ...
    cpus                          inside   that the payload may run on
    cpu_model                     inside
    cpu_flags_sha256              inside   of the sorted flags, first 16 digits
    mitigations                   kernel   {vulnerability: text}
    clocksource                   kernel
    page_size                     inside   bytes
    thp                           kernel   transparent huge pages: `always`, `madvise` or `never`
    payload_visible_on_host       outside  a process named `probe` is among the instance's on the host
    processes                     outside  number of host processes that exist for the instance
    process_names                 outside  their names, in the order in which they were made

`kernel` is inside; where no /sys shows there and the kernel is the host's, it is the host's own value.

`parity` and `differences` are pure, `outside` reads the host.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from bench.host import CLOCKSOURCE, HERE, THP, Tree, hierarchy, mitigations
from isolation.api import Launched
from isolation.container import cgroup

PAYLOAD = "probe"
SECCOMP_MODES = ("disabled", "strict", "filter")
"""Source: proc(5), Seccomp in /proc/pid/status."""
UNLIMITED = 1 << 62
"""Version 1 writes "no limit" as LONG_MAX rounded down to a page."""
LAYER_FOLDERS = ("lowerdir", "upperdir", "workdir")
INSTANCE_BOUND = frozenset({"boot_id", "hostname", "cgroup_outside", "cgroup_inside"})
"""Names that differ between any two instances, or runs, and so tell nothing of how they are set up."""


def parity(where: Mapping[str, Any], launched: Launched, outside: Mapping[str, Any]) -> dict[str, Any]:
    """One flat mapping, in the order of the table above.

    `where` is the payload's reply to that request, `outside` what the function of that name found for `launched`.
    """
    boot_id, host_boot_id = where.get("boot_id"), outside["host_boot_id"]
    same_kernel = boot_id == host_boot_id if boot_id and host_boot_id else None
    namespaces = _own_namespaces(where, outside, same_kernel)
    root = _root_mount(where)
    return {
        "kernel": where.get("kernel"),
        "boot_id": boot_id,
        "same_kernel_as_host": same_kernel,
        "hostname": where.get("hostname"),
        "namespaces": namespaces,
        "pid_inside": where.get("pid"),
        "uid_map": _squeezed(where.get("uid_map")),
        **_privileges(where),
        "memory_limit_bytes": outside["memory_limit_bytes"],
        "memory_total_bytes": where.get("memory_total_bytes"),
        "pids_limit": outside["pids_limit"],
        "cpu_limit": outside["cpu_limit"],
        "cgroup_outside": outside["cgroup"],
        "cgroup_inside": where.get("cgroup"),
        "root_filesystem": root.get("type"),
        "root_options": _without_folders(root.get("options")),
        "mounts": None if where.get("mounts") is None else len(where["mounts"]),
        "network": None if namespaces is None else "own" if "net" in namespaces else "shared with the host",
        "network_interfaces": outside["interfaces"],
        "open_descriptors": _descriptors(where),
        **_machine(where, outside["kernel_wide"] if same_kernel else {}),
        "payload_visible_on_host": PAYLOAD in outside["process_names"],
        "processes": len(launched.processes),
        "process_names": outside["process_names"],
    }


def differences(baseline: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Names whose values differ between two backends, in the order of the table; what one lacks counts as None."""
    names = dict.fromkeys((*baseline, *other))
    return tuple(n for n in names if n not in INSTANCE_BOUND and baseline.get(n) != other.get(n))


def _own_namespaces(where: Mapping[str, Any], outside: Mapping[str, Any], same_kernel: bool | None) -> list[str] | None:
    """Inodes are comparable under one kernel only: each numbers its first namespaces alike (linux/nsfs.h)."""
    inside, host = where.get("namespaces"), outside["host_namespaces"]
    if not inside or same_kernel is None:
        return None
    known = {kind: inode for kind, inode in inside.items() if inode is not None}
    return sorted(kind for kind, inode in known.items() if not same_kernel or inode != host.get(kind))


def _privileges(where: Mapping[str, Any]) -> dict[str, Any]:
    capabilities = where.get("capabilities") or {}
    effective, bounding = capabilities.get("effective"), capabilities.get("bounding")
    no_new_privs, mode = where.get("no_new_privs"), where.get("seccomp")
    return {
        "capabilities_effective": effective,
        "capabilities_effective_count": _bits(effective),
        "capabilities_bounding": bounding,
        "capabilities_bounding_count": _bits(bounding),
        "no_new_privs": None if no_new_privs is None else no_new_privs == 1,
        "seccomp": None if mode is None else SECCOMP_MODES[mode],
        "seccomp_filters": where.get("seccomp_filters"),
        "lsm_label": where.get("lsm"),
    }


def _bits(mask: str | None) -> int | None:
    return None if mask is None else int(mask, 16).bit_count()


def _machine(where: Mapping[str, Any], kernel_wide: Mapping[str, Any]) -> dict[str, Any]:
    flags = where.get("cpu_flags")
    thp = re.search(r"\[(.+?)\]", where.get("thp") or "")
    return {
        "cpus": where.get("cpus"),
        "cpu_model": where.get("cpu_model"),
        "cpu_flags_sha256": hashlib.sha256(" ".join(sorted(flags)).encode()).hexdigest()[:16] if flags else None,
        "mitigations": where.get("mitigations") or kernel_wide.get("mitigations"),
        "clocksource": where.get("clocksource") or kernel_wide.get("clocksource"),
        "page_size": where.get("page_size"),
        "thp": thp[1] if thp else kernel_wide.get("thp"),
    }


def _root_mount(where: Mapping[str, Any]) -> Mapping[str, Any]:
    """The topmost mount of /: later lines of /proc/self/mounts cover earlier ones."""
    return next((mount for mount in reversed(where.get("mounts") or ()) if mount.get("target") == "/"), {})


def _without_folders(options: str | None) -> str | None:
    """An overlay's options without its folders, which are long and bear the instance's name."""
    if options is None:
        return None
    return ",".join(word for word in options.split(",") if word.partition("=")[0] not in LAYER_FOLDERS)


def _squeezed(text: str | None) -> list[str] | None:
    return None if text is None else [" ".join(line.split()) for line in text.splitlines()]


def _descriptors(where: Mapping[str, Any]) -> list[str] | None:
    """Numbers with kinds: inodes and the log's name are each instance's own, other paths are told in full."""
    entries = where.get("descriptors")
    if entries is None:
        return None
    return [f"{entry['fd']} {_kind(entry['fd'], entry['target'] or 'unknown')}" for entry in entries]


def _kind(descriptor: int, target: str) -> str:
    if descriptor == 2 and target.startswith("/") and not target.startswith("/dev/"):
        return "file"
    return re.sub(r":\[?\w+\]?$", "", target)


def outside(launched: Launched, tree: Tree = HERE) -> dict[str, Any]:
    """What the host sees of an instance that is alive.

    Limits and group are those of the payload's process; where the host does not see it, of the leader (a VM: QEMU).
    """
    names = {pid: name for pid in launched.processes if (name := tree.text(f"proc/{pid}/comm")) is not None}
    visible = [pid for pid, name in names.items() if name == PAYLOAD]
    subject = (*visible, *names, 0)[0]
    memory, pids, cpu = (tuple(_groups(subject, controller, tree)) for controller in ("memory", "pids", "cpu"))
    return {
        "host_boot_id": tree.text("proc/sys/kernel/random/boot_id"),
        "host_namespaces": _namespaces("self", tree),
        "kernel_wide": {
            "mitigations": mitigations(tree),
            "clocksource": tree.text(CLOCKSOURCE),
            "thp": tree.chosen(THP),
        },
        "process_names": list(names.values()),
        "cgroup": memory[0].path if memory else None,
        "memory_limit_bytes": _tightest(group.memory_limit() for group in memory),
        "pids_limit": _tightest(group.pids_limit() for group in pids),
        "cpu_limit": _tightest(group.cpu_limit() for group in cpu),
        "interfaces": sorted(tree.fields(f"proc/{visible[0]}/net/dev")) or None if visible else None,
    }


def _namespaces(process: str, tree: Tree) -> dict[str, int]:
    links = {kind: tree.link(f"proc/{process}/ns/{kind}") or "" for kind in tree.names(f"proc/{process}/ns")}
    return {kind: int(link[link.index("[") + 1 : -1]) for kind, link in links.items() if "[" in link}


def _tightest(limits: Iterator[float | None]) -> float | None:
    return min((limit for limit in limits if limit is not None), default=None)


@dataclass(frozen=True, slots=True)
class _Limits:
    """The limit files of one group; `path` is below the mount of its tree."""

    directory: str
    path: str
    version: int

    def memory_limit(self) -> int | None:
        return self._number("memory.max" if self.version == 2 else "memory.limit_in_bytes")

    def pids_limit(self) -> int | None:
        return self._number("pids.max")

    def cpu_limit(self) -> float | None:
        """Quota over period. Source: cgroup-v2.rst, cpu.max; sched-bwc.rst."""
        if self.version == 2:
            quota, _, period = (self._text("cpu.max") or "max").partition(" ")
        else:
            quota, period = self._text("cpu.cfs_quota_us") or "-1", self._text("cpu.cfs_period_us") or ""
        return int(quota) / int(period) if quota.isdecimal() and period.isdecimal() else None

    def _number(self, name: str) -> int | None:
        """None for `max`, and where the group is a root, which has no limits."""
        text = self._text(name) or ""
        return int(text) if text.isdecimal() and int(text) < UNLIMITED else None

    def _text(self, name: str) -> str | None:
        return HERE.text(f"{self.directory}/{name}")


def _groups(pid: int, controller: str, tree: Tree) -> Iterator[_Limits]:
    """The group of a process for one controller, and those above it, which bind it too."""
    mounted = hierarchy(tree).tree(controller)
    place = _places(tree.text(f"proc/{pid}/cgroup"), mounted)
    own = _places(tree.text("proc/self/cgroup"), mounted)
    if mounted is None or place is None or own is None:
        return
    # A container's mount may show its own part of the tree only: what it leaves out is where our own two paths differ.
    left_out = own.removesuffix(mounted.own).rstrip("/")
    path = place.removeprefix(left_out).strip("/")
    if ".." in path.split("/"):
        return  # outside of what our cgroup namespace shows
    while True:
        yield _Limits(mounted.directory(path), f"/{path}", mounted.version)
        if not path:
            return
        path = os.path.dirname(path)


def _places(text: str | None, mounted: cgroup.Tree | None) -> str | None:
    """A process's path in this tree, by /proc/pid/cgroup (cgroups(7)): lines `number:controllers:path`."""
    if mounted is None:
        return None
    for line in (text or "").splitlines():
        number, controllers, path = line.split(":", 2)
        if number == "0" if mounted.version == 2 else set(mounted.controllers) & set(controllers.split(",")):
            return path
    return None
