"""The machine as it is: facts for the manifest and the doctor, read from /proc and /sys, changing nothing.

Every fact is a plain JSON value; what this machine does not tell (absent file, no permission) is None.
"""

from __future__ import annotations

import contextlib
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from isolation.container import cgroup

SCRATCH = "/var/tmp"
TOOLS_TIMEOUT_S = 5.0
COLLECT_TIMEOUT_S = 0.1
"""For reading what a tool has said already, after another one used up the time."""
CPU = "sys/devices/system/cpu"
CLOCKSOURCE = "sys/devices/system/clocksource/clocksource0/current_clocksource"
THP = "sys/kernel/mm/transparent_hugepage/enabled"

INITIAL_NAMESPACES = {"ipc": 0xEFFFFFFF, "uts": 0xEFFFFFFE, "pid": 0xEFFFFFFC, "cgroup": 0xEFFFFFFB}
"""Inodes of the namespaces that the kernel itself boots with. Source: include/uapi/linux/nsfs.h."""
HYPERVISORS = {
    "kvm": "kvm", "qemu": "qemu", "firecracker": "kvm", "amazon ec2": "kvm", "google": "kvm", "openstack": "kvm",
    "vmware": "vmware", "virtualbox": "virtualbox", "innotek": "virtualbox", "xen": "xen", "microsoft": "hyperv",
    "parallels": "parallels", "bochs": "bochs", "apple virtualization": "apple",
}  # fmt: skip
"""A word of the DMI names -> hypervisor. Source: systemd src/basic/virt.c, detect_vm_dmi_vendor."""


@dataclass(frozen=True, slots=True)
class Tree:
    """Reads below `root`, which is another folder than / in tests."""

    root: Path = Path("/")

    def text(self, path: str) -> str | None:
        """The file's content, stripped; None where the machine does not tell."""
        try:
            return (self.root / path).read_text(encoding="utf-8", errors="replace").strip("\0 \n\t")
        except OSError:
            return None

    def number(self, path: str) -> int | None:
        text = self.text(path)
        return int(text) if text and text.removeprefix("-").isdecimal() else None

    def chosen(self, path: str) -> str | None:
        """The bracketed word of a line such as `always [madvise] never`."""
        match = re.search(r"\[(.+?)\]", self.text(path) or "")
        return match[1] if match else None

    def names(self, path: str) -> tuple[str, ...]:
        try:
            return tuple(sorted(os.listdir(self.root / path)))
        except OSError:
            return ()

    def exists(self, path: str) -> bool:
        return (self.root / path).exists()

    def link(self, path: str) -> str | None:
        try:
            return os.readlink(self.root / path)
        except OSError:
            return None

    def fields(self, path: str, separator: str = ":") -> dict[str, str]:
        """`name: value` lines, the first of each name; quotes around values dropped."""
        found: dict[str, str] = {}
        for line in (self.text(path) or "").splitlines():
            name, mark, value = line.partition(separator)
            if mark:
                found.setdefault(name.strip(), value.strip().strip("\"'"))
        return found


HERE = Tree()


def facts(scratch: str = SCRATCH, tree: Tree = HERE) -> dict[str, Any]:
    """What the manifest keeps of the host, and what the doctor looks at.

    `scratch` is the folder whose file system the runs use; it, or its nearest parent that exists, is looked up.
    Sizes are in bytes, `steal_ticks` and `cpu_ticks` are clock ticks since boot over all CPUs.
    """
    return {
        **_kernel(tree),
        **_processor(tree),
        **_surroundings(tree),
        **_memory(tree),
        **_load(tree),
        **_disks(scratch, tree),
    }


def _kernel(tree: Tree) -> dict[str, Any]:
    name = os.uname()
    release = tree.text("proc/sys/kernel/osrelease") or name.release
    groups = _control_groups(tree)
    system = tree.fields("etc/os-release", "=") or tree.fields("usr/lib/os-release", "=")
    return {
        "kernel": release,
        "kernel_version": tree.text("proc/sys/kernel/version"),
        "arch": name.machine,
        "boot_id": tree.text("proc/sys/kernel/random/boot_id"),
        "hostname": tree.text("proc/sys/kernel/hostname"),
        "distribution": system.get("PRETTY_NAME"),
        "distribution_id": system.get("ID"),
        "distribution_like": system.get("ID_LIKE"),
        "python": platform.python_version(),
        "cgroup": "hybrid" if len(groups) > 1 else next(iter(groups), None),
        "cgroup_controllers": groups or None,
        "lsm": _security_modules(tree),
        "clocksource": tree.text(CLOCKSOURCE),
        "clocksources": (tree.text("sys/devices/system/clocksource/clocksource0/available_clocksource") or "").split()
        or None,
    }


def hierarchy(tree: Tree = HERE) -> cgroup.Hierarchy:
    """The mounted cgroup trees; none without /proc or where the kernel has no control groups."""
    try:
        return cgroup.detect(str(tree.root / "proc/self"))
    except OSError:
        return cgroup.Hierarchy(())


def _control_groups(tree: Tree) -> dict[str, list[str]]:
    """Version (`v1`, `v2`) -> the controllers it serves; a version that is not mounted has no entry."""
    groups: dict[str, list[str]] = {}
    for mounted in hierarchy(tree).trees:
        groups.setdefault(f"v{mounted.version}", []).extend(n for n in mounted.controllers if "=" not in n)
    return {version: sorted(groups[version]) for version in sorted(groups)}


def _processor(tree: Tree) -> dict[str, Any]:
    cpu = tree.fields("proc/cpuinfo")
    governors = {
        text for name in tree.names(CPU) if (text := tree.text(f"{CPU}/{name}/cpufreq/scaling_governor")) is not None
    }
    smt = tree.text(f"{CPU}/smt/active")
    return {
        "cpu": cpu.get("model name") or cpu.get("Model"),
        "cpus": os.cpu_count(),
        "microcode": cpu.get("microcode"),
        "mitigations": mitigations(tree),
        "governor": ", ".join(sorted(governors)) or None,
        "turbo": _turbo(tree),
        "smt": None if smt is None else smt == "1",
        "page_size": os.sysconf("SC_PAGE_SIZE"),
    }


def mitigations(tree: Tree = HERE) -> dict[str, str | None] | None:
    """Vulnerability -> what the kernel does about it."""
    folder = f"{CPU}/vulnerabilities"
    return {name: tree.text(f"{folder}/{name}") for name in tree.names(folder)} or None


def _turbo(tree: Tree) -> bool | None:
    """Whether the CPU may clock above its base frequency, where the driver tells."""
    refused = tree.number(f"{CPU}/intel_pstate/no_turbo")
    allowed = tree.number(f"{CPU}/cpufreq/boost")
    if refused is not None:
        return refused == 0
    return None if allowed is None else allowed == 1


def _surroundings(tree: Tree) -> dict[str, Any]:
    release = (tree.text("proc/sys/kernel/osrelease") or "").lower()
    return {
        "virtualised": _virtualised(tree),
        "hypervisor": _hypervisor(tree),
        "container": _container(tree),
        "wsl": "microsoft" in release or "wsl" in release,
        "init": tree.text("proc/1/comm"),
    }


def _virtualised(tree: Tree) -> bool | None:
    """By the CPU's `hypervisor` flag; a hypervisor that hides it is found by its DMI names."""
    if _hypervisor(tree) is not None:
        return True
    flags = tree.fields("proc/cpuinfo").get("flags")
    return None if flags is None else "hypervisor" in flags.split()


def _hypervisor(tree: Tree) -> str | None:
    """Its name, by what the firmware, the hypervisor's own folder or the kernel's clocks say."""
    if (kind := tree.text("sys/hypervisor/type")) is not None:
        return kind
    dmi = " ".join(
        tree.text(f"sys/class/dmi/id/{name}") or "" for name in ("sys_vendor", "product_name", "bios_vendor")
    )
    clocks = tree.text("sys/devices/system/clocksource/clocksource0/available_clocksource") or ""
    flagged = "hypervisor" in tree.fields("proc/cpuinfo").get("flags", "").split()
    for word, name in HYPERVISORS.items():
        # Microsoft and Google also sell laptops, Amazon bare metal: their name alone proves nothing.
        if word in dmi.lower() and (flagged or word not in {"microsoft", "google", "amazon ec2"}):
            return name
    for clock, name in (("kvm-clock", "kvm"), ("hyperv", "hyperv"), ("xen", "xen")):
        if clock in clocks:
            return name
    return None


def _container(tree: Tree) -> str | None:
    """The container's kind where we are inside one, else None.

    Marker files alone deceive: an image unpacked as a machine's disk brings its `/.dockerenv` along. So where the
    process still has every namespace that the kernel booted with, it is in none.
    """
    marker = tree.text("run/systemd/container")
    for variable in (tree.text("proc/1/environ") or "").split("\0"):
        if variable.startswith("container="):
            marker = marker or variable.removeprefix("container=")
    if marker is None and tree.exists("run/.containerenv"):
        marker = "podman"
    if marker is None and tree.exists(".dockerenv"):
        marker = "docker"
    links = {kind: tree.link(f"proc/self/ns/{kind}") for kind in INITIAL_NAMESPACES}
    own = {kind for kind, link in links.items() if link not in {None, f"{kind}:[{INITIAL_NAMESPACES[kind]}]"}}
    if own or not any(links.values()):
        return marker or ("unknown" if "pid" in own else None)
    return None


def _security_modules(tree: Tree) -> list[str] | None:
    """Names of the active ones. Where securityfs is not mounted, those that show elsewhere."""
    if (text := tree.text("sys/kernel/security/lsm")) is not None:
        return text.split(",")
    found = []
    if tree.text("sys/module/apparmor/parameters/enabled") == "Y":
        found.append("apparmor")
    if tree.exists("sys/fs/selinux/enforce"):
        found.append("selinux")
    return found or None


def _memory(tree: Tree) -> dict[str, Any]:
    sizes = {
        name: int(value.split()[0]) << 10 for name, value in tree.fields("proc/meminfo").items() if value[-2:] == "kB"
    }
    daemons = "sys/kernel/mm/damon/admin/kdamonds"
    damon = [tree.text(f"{daemons}/{name}/state") for name in tree.names(daemons)]
    damon += [tree.text(f"sys/module/damon_{name}/parameters/enabled") for name in ("reclaim", "lru_sort", "stat")]
    ksm = tree.number("sys/kernel/mm/ksm/run")
    return {
        "memory_bytes": sizes.get("MemTotal"),
        "memory_available_bytes": sizes.get("MemAvailable"),
        "swap_bytes": sizes.get("SwapTotal"),
        "swap_used_bytes": sizes["SwapTotal"] - sizes["SwapFree"]
        if {"SwapTotal", "SwapFree"} <= sizes.keys()
        else None,
        "thp": tree.chosen(THP),
        "ksm": None if ksm is None else ksm == 1,
        "damon": bool({"on", "Y"} & set(damon)) if any(damon) or tree.exists(daemons) else None,
    }


def _load(tree: Tree) -> dict[str, Any]:
    ticks = [int(word) for word in tree.fields("proc/stat", " ").get("cpu", "").split()]
    load = (tree.text("proc/loadavg") or "").split()[:3]
    return {
        "load_average": [float(word) for word in load] or None,
        "steal_ticks": ticks[7] if len(ticks) > 7 else None,
        "cpu_ticks": sum(ticks[:8]) or None,
    }


def _disks(scratch: str, tree: Tree) -> dict[str, Any]:
    """File systems of / and of the scratch folder, and the block device that carries the latter."""
    folder = next(path for path in (Path(scratch), *Path(scratch).absolute().parents) if path.exists())
    number = os.stat(folder).st_dev
    mounts = list(mount_lines(tree.text("proc/self/mountinfo") or ""))
    root = next((mount for mount in reversed(mounts) if mount.point == "/"), None)
    own = next((mount for mount in mounts if mount.device == f"{os.major(number)}:{os.minor(number)}"), None)
    # Btrfs and overlay give their files device numbers that no mount bears: go by the longest mount point.
    above = [mount for mount in mounts if folder.absolute().is_relative_to(mount.point)]
    home = own or max(above, key=lambda mount: len(mount.point), default=None)
    device = tree.link(f"sys/dev/block/{home.device}") if home else None
    queue = f"sys/dev/block/{home.device}/queue" if home else ""
    if home and not tree.exists(queue):
        queue = f"sys/dev/block/{home.device}/../queue"  # a partition's queue is its disk's
    rotational = tree.number(f"{queue}/rotational")
    return {
        "root_filesystem": root.kind if root else None,
        "scratch": str(folder),
        "scratch_filesystem": home.kind if home else None,
        "scratch_options": home.options if home else None,
        "scratch_device": os.path.basename(device) if device else (home.source if home else None),
        "scratch_rotational": None if rotational is None else rotational == 1,
        "scratch_scheduler": tree.chosen(f"{queue}/scheduler"),
    }


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of /proc/self/mountinfo (proc(5))."""

    device: str
    """`major:minor`"""
    point: str
    options: str
    kind: str
    source: str


def mount_lines(mountinfo: str) -> Iterator[Mount]:
    for line in mountinfo.splitlines():
        words = line.split()
        if "-" not in words[6:]:
            continue
        kind, source = words[words.index("-", 6) + 1 :][:2]
        yield Mount(words[2], _unescape(words[4]), words[5], kind, source)


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


_TOOLS: Mapping[str, tuple[str, ...]] = {
    "qemu": ("qemu-system-x86_64", "--version"),
    "qemu-img": ("qemu-img", "--version"),
    "fio": ("fio", "--version"),
    "bwrap": ("bwrap", "--version"),
    "runc": ("runc", "--version"),
    "crun": ("crun", "--version"),
    "gcc": ("gcc", "--version"),
    "busybox": ("busybox", "--help"),
    "systemd": ("systemctl", "--version"),
    "util-linux": ("unshare", "--version"),
    "podman": ("podman", "--version"),
    "docker": ("docker", "--version"),
    "runsc": ("runsc", "--version"),
    "lxc": ("lxc-start", "--version"),
}
_DISTRIBUTIONS = (
    "tare-bench", "libvirt-python", "pytest", "pytest-benchmark", "numpy", "scipy", "pandas", "pyarrow", "matplotlib",
)  # fmt: skip


def tool_versions() -> dict[str, str]:
    """Name -> what the tool says of its version, for those that are installed; also of our Python packages.

    All are asked at the same time; one that has not answered after `TOOLS_TIMEOUT_S` is killed and left out.
    """
    running = {
        name: _ask((path, *command[1:]))
        for name, command in _TOOLS.items()
        if (path := shutil.which(command[0])) is not None
    }
    deadline = time.monotonic() + TOOLS_TIMEOUT_S
    found = {"python": sys.version.split()[0]}
    for name, process in running.items():
        with process:
            try:
                output, _ = process.communicate(timeout=max(COLLECT_TIMEOUT_S, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                continue
        if output.strip():
            found[name] = output.strip().splitlines()[0].strip()
    if (version := libvirt_version()) is not None:
        found["libvirt"] = version
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(metadata.PackageNotFoundError):  # an absent one is left out
            found[name] = metadata.version(name)
    return found


def _ask(command: tuple[str, ...]) -> subprocess.Popen[str]:
    none, english = subprocess.DEVNULL, {**os.environ, "LC_ALL": "C"}
    return subprocess.Popen(
        command, stdin=none, stdout=subprocess.PIPE, stderr=none, text=True, errors="replace", env=english
    )


def libvirt_version(tree: Tree = HERE) -> str | None:
    """Of the library, by its file's name, since loading it costs more than everything else here.

    `libvirt.so.0.9000.0` is 9.0.0: the second number is 1000 x major + minor. Source: so_version in meson.build.
    """
    folders = ("usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib", "usr/local/lib")
    for folder in folders:
        for name in tree.names(folder):
            if match := re.fullmatch(r"libvirt\.so\.\d+\.(\d+)\.(\d+)", name):
                return f"{int(match[1]) // 1000}.{int(match[1]) % 1000}.{match[2]}"
    return None
