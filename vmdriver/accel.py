"""Which acceleration really works here, found by booting the real guest.

A `/dev/kvm` that opens proves little: there are hosts where a one-instruction VM runs and a Linux guest hangs.  So
the guest itself must speak under KVM within a time limit; else the guest is emulated (TCG).  What was found is kept,
for this kernel, QEMU, CPU and guest, since finding out anew may take the whole limit.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import textwrap
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from isolation.api import IsolationError, Lane
from vmdriver.channel import console_tail
from vmdriver.domain import DomainConfig
from vmdriver.hypervisor import Domain, Hypervisor
from vmdriver.image import Guest, current_guest

EMULATOR = "qemu-system-x86_64"
LIMIT_S = 20.0
"""Bound of the proof. The guest takes 2.2 s where it is emulated, less than 1 s under KVM that works."""
_KVM = "/dev/kvm"
_EVIDENCE_LENGTH = 300
_NONCE = "5eed"


@dataclass(frozen=True, slots=True)
class Proof:
    """How guests run here, and how that is known: `evidence` is one line, `seconds` the time until it was known."""

    lane: Lane
    evidence: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What a proof holds for: another kernel, QEMU, CPU or guest needs another."""

    kernel: str
    qemu: str
    cpu: str
    guest: str

    @property
    def key(self) -> str:
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:16]


def circumstances(guest: Guest, cpuinfo: str) -> Circumstances:
    """Those of this host, with `cpuinfo` the text of /proc/cpuinfo."""
    fields = dict(re.findall(r"^(\S[^\t:]*?)\s*: (.*)$", cpuinfo.split("\n\n")[0], re.MULTILINE))
    cpu = ", ".join(f"{name} {fields.get(name, '-')}" for name in ("model name", "stepping", "microcode"))
    return Circumstances(os.uname().release, qemu_version(), cpu, guest.identity)


def qemu_version() -> str:
    """First line of `qemu-system-x86_64 --version`; empty where there is none."""
    program = shutil.which(EMULATOR)
    if program is None:
        return ""
    done = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    return done.stdout.partition("\n")[0]


def cached_proof(cache: Path, guest: Guest | None = None) -> Proof | None:
    """What is known without booting, for `guest` or the one that set-up built last; None where a boot must tell.

    Without a /dev/kvm that opens no boot is needed.
    """
    if (obstacle := _obstacle()) is not None:
        return Proof("tcg", obstacle, 0.0)
    guest = guest or current_guest(cache)
    if guest is None:
        return None
    try:
        record = json.loads(_path(cache, circumstances(guest, _cpuinfo())).read_text())
        return Proof(**record["proof"])
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError):
        return None  # torn or of another version: as good as none, and the next proof replaces it


def prove(cache: Path, guest: Guest, hypervisor: Hypervisor) -> Proof:
    """Boot `guest` under KVM and keep what was seen. Takes at most LIMIT_S."""
    obstacle = _obstacle()
    if obstacle is not None:
        return Proof("tcg", obstacle, 0.0)
    here = circumstances(guest, _cpuinfo())
    began = time.monotonic()
    speaks, evidence = _attempt(guest, hypervisor)
    seconds = round(time.monotonic() - began, 3)
    lane: Lane = "tcg"
    if speaks:
        lane = "nested" if _is_virtualised(_cpuinfo()) else "kvm"
    proof = Proof(lane, textwrap.shorten(evidence, _EVIDENCE_LENGTH), seconds)
    path = _path(cache, here)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump({"circumstances": asdict(here), "proof": asdict(proof)}, file, indent=1)
        os.fchmod(file.fileno(), 0o644)
    os.replace(file.name, path)
    return proof


def _attempt(guest: Guest, hypervisor: Hypervisor) -> tuple[bool, str]:
    """Whether the guest spoke under KVM, and what was seen, in one line."""
    with tempfile.TemporaryDirectory(prefix="proof-", dir=hypervisor.root) as folder:
        console = os.path.join(folder, "console")
        config = DomainConfig(
            name=f"tare-proof-{os.getpid()}",
            kind="kvm",
            memory_bytes=256 << 20,
            kernel=guest.kernel,
            initramfs=guest.initramfs,
            payload_arguments=(f"nonce={_NONCE}",),
            channel=os.path.join(folder, "channel"),
            console=console,
        )
        try:
            domain = hypervisor.launch(config)
        except IsolationError as error:
            return False, f"a guest does not start under KVM: {error.detail}"
        try:
            speaks, seen = _listen(domain, f"Tare/1 {_NONCE}\n".encode())
            lines = console_tail(console)
        finally:
            _end(domain)
    if speaks:
        return True, seen
    return False, f"under KVM the guest {seen}; console: {' | '.join(lines[-3:]) or 'empty'}"


def _listen(domain: Domain, expected: bytes) -> tuple[bool, str]:
    deadline = time.monotonic() + LIMIT_S
    poller = select.poll()
    poller.register(domain.read_fd, select.POLLIN)
    poller.register(domain.pidfd, select.POLLIN)
    heard = b""
    while not heard.startswith(expected):
        ready = poller.poll(max(0.0, deadline - time.monotonic()) * 1000)
        if not ready:
            return False, f"did not speak within {LIMIT_S:g} s"
        chunk = os.read(domain.read_fd, len(expected)) if domain.read_fd in dict(ready) else b""
        if not chunk:
            return False, "ended without speaking"
        heard += chunk
        if not expected.startswith(heard[: len(expected)]):
            return False, f"said {heard[:40]!r}"
    return True, "the guest spoke under KVM"


def _end(domain: Domain) -> None:
    poller = select.poll()
    poller.register(domain.pidfd, select.POLLIN)
    with contextlib.suppress(ProcessLookupError):
        domain.kill()
    poller.poll(5000)
    domain.reap()
    os.close(domain.read_fd)
    os.close(domain.write_fd)
    domain.destroy()


def _obstacle(opens: Callable[[str, int], int] = os.open) -> str | None:
    """Why KVM is out of the question, without a boot."""
    try:
        os.close(opens(_KVM, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return f"{_KVM} does not open: {error.strerror}"
    return None


def _cpuinfo() -> str:
    return Path("/proc/cpuinfo").read_text()


def _is_virtualised(cpuinfo: str) -> bool:
    flags = re.search(r"^flags\s*: (.*)$", cpuinfo, re.MULTILINE)
    return flags is not None and "hypervisor" in flags[1].split()


def _path(cache: Path, here: Circumstances) -> Path:
    return cache / "acceleration" / f"{here.key}.json"
