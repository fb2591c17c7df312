"""System packages: which are needed here, which are missing, and how they come in without starting anything.

Standard library only: set-up runs this under the system's Python, and the installing half as root.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Purpose = Literal["bench", "tests", "lint"]

BUILD = ("gcc", "libc6-dev", "pkg-config", "libvirt-dev")
"""What the environment and the payload are compiled with."""
MEASURE = (
    "busybox-static", "fio", "bubblewrap", "runc", "qemu-system-x86", "qemu-utils",
    "libvirt-daemon-driver-qemu", "e2fsprogs", "zstd",
)  # fmt: skip
"""The root filesystem, the load generator and the runtimes. libvirt comes as a driver library, without a daemon."""
TESTING = ("chromium", "fonts-dejavu-core", "strace")
"""What the report's tests open it in, and what shows a test the payload's first system calls."""

RELEASES: Mapping[str, Mapping[str, str | None]] = {
    "debian 12": {},
    "debian 13": {},
    # Ubuntu's chromium is a snap, which neither root nor a container can start.
    "ubuntu 24.04": {"chromium": None},
}
"""Distribution -> what a package of Debian 12 is called there; None where there is none."""

LIBVIRT_USER = "libvirt-qemu"
"""libvirt's QEMU driver parses this name at start, and only libvirt-daemon-system creates it, with a service."""

_POLICY = Path("/usr/sbin/policy-rc.d")
_POLICY_TEXT = "#!/bin/sh\n# By the set-up of tare-bench, while it installs packages; may be removed.\nexit 101\n"


class SetupError(Exception):
    """Set-up cannot go on: one line or several that say what was tried and what to do."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What only root can do here."""

    packages: tuple[str, ...]
    user: bool

    def __bool__(self) -> bool:
        return bool(self.packages or self.user)

    def commands(self) -> list[str]:
        """The same as plain commands, for who would rather type them."""
        install = f"apt-get install --no-install-recommends {' '.join(self.packages)}"
        return [*([install] if self.packages else []), *([" ".join(command) for command in _USER] if self.user else [])]


_USER = (
    ("groupadd", "--system", LIBVIRT_USER),
    (
        "useradd", "--system", "--gid", LIBVIRT_USER, "--no-create-home", "--home-dir", "/var/lib/libvirt",
        "--shell", "/usr/sbin/nologin", LIBVIRT_USER,
    ),
)  # fmt: skip


def release(os_release: str) -> str:
    """`debian 12` from the text of /etc/os-release."""
    fields = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', os_release, re.MULTILINE))
    return f"{fields.get('ID', 'unknown')} {fields.get('VERSION_ID', '')}".strip()


def wanted(purpose: Purpose, system: str, python: str | None) -> tuple[str, ...]:
    """Packages for a purpose on a distribution. `python` is the `python3.N` of the system where that is ours."""
    names = list(BUILD)
    if python:
        names += [f"{python}-dev", f"{python}-venv"]
    if purpose in ("bench", "tests"):
        names += MEASURE
    if purpose == "tests":
        names += TESTING
    renamed = RELEASES.get(system, {})
    return tuple(name for name in (renamed.get(name, name) for name in names) if name)


def system_python() -> str | None:
    """`python3.N` where this interpreter is the distribution's own; others bring their headers and venv along."""
    return f"python3.{sys.version_info.minor}" if sys.base_prefix == "/usr" else None


def missing(names: Sequence[str]) -> tuple[str, ...]:
    """Those that dpkg does not have installed."""
    listing = subprocess.run(
        ["dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n", *names],
        capture_output=True, text=True, check=False,
    ).stdout  # fmt: skip
    installed = {line.split()[1] for line in listing.splitlines() if line.startswith("installed ")}
    return tuple(name for name in names if name not in installed)


def look(purpose: Purpose) -> Needs:
    """What this machine lacks. Raises SetupError on a distribution whose package names we do not know."""
    system = release(Path("/etc/os-release").read_text())
    names = wanted(purpose, system, system_python())
    if system not in RELEASES or shutil.which("dpkg-query") is None:
        raise SetupError(f"package names of {system} are not known; by Debian's names it needs: {' '.join(names)}")
    return Needs(missing(names), purpose != "lint" and not _has_user())


def _has_user() -> bool:
    try:
        pwd.getpwnam(LIBVIRT_USER)
    except KeyError:
        return False
    return True


def supply(needs: Needs) -> Iterator[str]:
    """As root: install and create what is needed; yields a line for each thing done. Raises SetupError."""
    if needs.packages:
        before = _autostarts()
        with _nothing_starts():
            _install(needs.packages)
        yield f"packages: installed {' '.join(needs.packages)}"
        for name in _disable(_autostarts() - before):
            yield f"packages: {name} would start with the machine: disabled"
    if needs.user and not _has_user():
        for command in _USER:
            # The group may be there without the user.
            if command[0] != "groupadd" or subprocess.run(["getent", "group", LIBVIRT_USER], check=False).returncode:
                _run(command)
        yield f"user: created the system user and group {LIBVIRT_USER}, a name that libvirt's QEMU driver looks up"


def _install(names: Sequence[str]) -> None:
    command = ("apt-get", "-y", "-o", "DPkg::Lock::Timeout=300", "install", "--no-install-recommends", *names)
    try:
        _run(command)
    except SetupError:
        _run(("apt-get", "-o", "DPkg::Lock::Timeout=300", "update"))  # the package lists were missing or old
        _run(command)


def _run(command: Sequence[str]) -> None:
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        tail = "\n  ".join(done.stdout.strip().splitlines()[-10:])
        raise SetupError(f"{' '.join(command)}: exit {done.returncode}\n  {tail}")


@contextlib.contextmanager
def _nothing_starts() -> Iterator[None]:
    """Packages' scripts ask policy-rc.d before they start a service; 101 forbids it (invoke-rc.d(8)).

    Whoever wrote one before us has the say. One of ours that a killed set-up left is replaced.
    """
    if _POLICY.exists() and _POLICY.read_text() != _POLICY_TEXT:
        yield
        return
    _POLICY.write_text(_POLICY_TEXT)
    _POLICY.chmod(0o755)
    try:
        yield
    finally:
        _POLICY.unlink()


def _autostarts(etc: Path = Path("/etc")) -> frozenset[Path]:
    """What systemd and the rc scripts would start at boot. policy-rc.d has no say in that."""
    return frozenset(
        link
        for pattern in ("systemd/system/*.wants/*", "systemd/system/*.requires/*", "rc[2-5].d/S*")
        for link in etc.glob(pattern)
    )


def _disable(links: frozenset[Path]) -> list[str]:
    """Take these out of the boot; returns the names. Units of systemd itself stay, where it has just come in."""
    names = set()
    for link in sorted(links):
        if link.parent.name.startswith("rc"):
            name = re.sub(r"^S\d\d", "", link.name)
            _run(("update-rc.d", name, "disable"))
        else:
            name = link.name
            unit = f"*/{link.readlink().name}"  # getty@tty1.service leads to getty@.service
            owner = subprocess.run(["dpkg-query", "-S", unit], capture_output=True, text=True, check=False)
            if owner.stdout.startswith("systemd"):
                continue
            # deb-systemd-helper takes a missing link for the administrator's wish and keeps to it on upgrades.
            link.unlink(missing_ok=True)
        names.add(name.removesuffix(".service"))
    return sorted(names)
