"""The backend `vm`: a minimal guest through libvirt, one transient domain for each instance.

The payload is the guest's PID 1.  Volumes and layers are further disks, attached from the start and mounted by
request once the payload is ready (`mount_requests`), so that they are no part of the time to ready.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from isolation.api import (
    Availability,
    Exit,
    Instance,
    Lane,
    Medium,
    Site,
    Spec,
    Unsupported,
)
from vmdriver.accel import EMULATOR, Proof, cached_proof, prove, qemu_version
from vmdriver.channel import console_tail
from vmdriver.domain import Disk, DomainConfig, disk_device
from vmdriver.hypervisor import Domain, Hypervisor, import_libvirt
from vmdriver.image import Guest, current_guest, load_guest, recorded_guest

_MS_RDONLY = 1
_SETUP = "nox -s setup"


def mount_requests(spec: Spec, site: Site) -> tuple[tuple[str, ...], ...]:
    """What to ask the payload once it is ready, so that the disks of `spec` are mounted: modules, then mounts.

    Layers are mounted at `/layers/0`, `/layers/1` and so on. Raises Unsupported where the guest has no record.
    """
    if not (spec.volumes or spec.layers):
        return ()
    if site.initramfs is None:
        raise Unsupported("not_installed", f"no guest image; run `{_SETUP}`")
    modules = recorded_guest(Path(site.initramfs)).storage_modules
    targets = [(volume.target, volume.read_only) for volume in spec.volumes]
    targets += [(f"/layers/{index}", True) for index in range(len(spec.layers))]
    return (
        *(("insmod", module) for module in modules),
        *(
            ("mount", f"/dev/{disk_device(index)}", target, "ext4", str(_MS_RDONLY if read_only else 0), "-")
            for index, (target, read_only) in enumerate(targets)
        ),
    )


@dataclass(frozen=True, slots=True)
class _Prepared:
    site: Site
    guest: Guest
    hypervisor: Hypervisor
    proof: Proof
    folder: Path


class Machine:
    """isolation.api.Backend for a guest of one vCPU through `qemu:///embed`."""

    medium: Medium = "disk"
    cheap = False
    shared = (
        "guest kernel and initramfs, checked by SHA-256",
        "libvirt connection, with QEMU's capabilities probed",
        "proof of acceleration",
        "disk images of volumes and layers",
    )
    owned = ("Unix socket of the channel", "libvirt domain (createXML)", "QEMU process", "console file")
    before_first_byte = (
        "libvirt builds the command line and starts QEMU; firmware, kernel and initramfs are loaded; PID 1 mounts "
        "/dev, /proc and /sys, loads the virtio modules and opens the port"
    )

    def __init__(self, name: str, cache: str) -> None:
        self.name = name
        self._cache = Path(cache)
        self._prepared: _Prepared | None = None

    def availability(self) -> Availability:
        """What can be told without a boot. Until `prepare` has proved it, an unproved lane reads `tcg`."""
        try:
            version = self._version()
            guest = self._prepared.guest if self._prepared else current_guest(self._cache)
        except Unsupported as error:
            return self._missing(error.reason, error.detail, _SETUP)
        if os.geteuid() != 0:
            return self._missing("no_permission", "libvirt's embedded QEMU driver needs root", "use sudo")
        if guest is None:
            return self._missing("not_installed", "no guest image has been built", _SETUP)
        proof = self._prepared.proof if self._prepared else cached_proof(self._cache, guest)
        lane: Lane = proof.lane if proof else "tcg"
        evidence = proof.evidence if proof else "not proved yet for this kernel, QEMU, CPU and guest"
        fix = None if proof else "tare doctor --prove"
        return Availability(self.name, True, lane, version, fix=fix, evidence=evidence)

    def _version(self) -> str:
        libvirt = import_libvirt()
        if shutil.which(EMULATOR) is None:
            raise Unsupported("not_installed", f"{EMULATOR} is not on the PATH")
        number = libvirt.getVersion()
        return f"{qemu_version()}, libvirt {number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"

    def _missing(self, reason: str, detail: str, fix: str) -> Availability:
        return Availability(self.name, False, reason=reason, detail=detail, fix=fix)

    def prepare(self, site: Site) -> None:
        """Check the image, connect, and prove the acceleration where it is not known: that may take 20 s.

        Raises Unsupported.
        """
        if site.kernel is None or site.initramfs is None:
            raise Unsupported("not_installed", f"no guest image; run `{_SETUP}`")
        guest = load_guest(site.kernel, site.initramfs)
        with open(site.payload, "rb") as file:
            payload = hashlib.file_digest(file, "sha256").hexdigest()
        if payload != guest.payload_sha256:
            raise Unsupported("image_corrupt", f"{site.initramfs} holds another payload than {site.payload}; {_SETUP}")
        folder = Path(site.runtime, self.name)
        hypervisor = Hypervisor(folder)
        try:
            proof = cached_proof(self._cache, guest) or prove(self._cache, guest, hypervisor)
        except BaseException:
            hypervisor.close()
            raise
        self._prepared = _Prepared(site, guest, hypervisor, proof, folder)

    def start(self, spec: Spec) -> Instance:
        """Create the domain. Raises LaunchFailed or Unsupported."""
        t0_ns = time.monotonic_ns()
        prepared = self._prepared
        if prepared is None:
            raise Unsupported("not_installed", "not prepared")
        console = spec.log or os.devnull
        kind: Literal["kvm", "qemu"] = "qemu" if prepared.proof.lane == "tcg" else "kvm"
        try:
            config = DomainConfig(
                name=f"tare-{prepared.site.run_id}-{spec.instance}",
                kind=kind,
                memory_bytes=spec.memory_bytes,
                kernel=prepared.guest.kernel,
                initramfs=prepared.guest.initramfs,
                payload_arguments=spec.payload_arguments(),
                channel=str(prepared.folder / "channel"),
                console=console,
                disks=(
                    *(Disk(volume.source, volume.read_only) for volume in spec.volumes),
                    *(Disk(layer, read_only=True) for layer in spec.layers),
                ),
            )
            console_start = os.stat(console).st_size if os.path.exists(console) else 0
            domain = prepared.hypervisor.launch(config)
        except ValueError as error:
            raise Unsupported("kernel_lacks", str(error)) from error
        return RunningMachine(t0_ns, domain, console, console_start)

    def tool(self) -> None:
        """No command is run: libvirt is a library here."""
        return

    def close(self) -> None:
        """Disconnect and remove libvirt's folder."""
        if self._prepared is None:
            return
        self._prepared.hypervisor.close()
        shutil.rmtree(self._prepared.folder)
        self._prepared = None


class RunningMachine:
    """isolation.api.Instance whose leader is QEMU."""

    def __init__(self, t0_ns: int, domain: Domain, console: str, console_start: int) -> None:
        self.t0_ns = t0_ns
        self.read_fd = domain.read_fd
        self.write_fd = domain.write_fd
        self.pidfd = domain.pidfd
        self._domain = domain
        self._console = console
        self._console_start = console_start
        self._exit = Exit(None, None)
        self._killed_by_us = False

    def processes(self) -> tuple[int, ...]:
        """QEMU: libvirt is a library in the launcher and runs no process of its own for it."""
        return (self._domain.pid,)

    def reap(self) -> Exit:
        """QEMU's status and CPU time: guest and device emulation together."""
        self._exit = self._domain.reap()
        return self._exit

    def kill(self) -> None:
        """SIGKILL to QEMU."""
        self._killed_by_us = True
        with contextlib.suppress(ProcessLookupError):  # it ended meanwhile
            self._domain.kill()

    def diagnose(self) -> tuple[str, str] | None:
        """Why it ended, told from QEMU's status and the console's last lines; keeps the domain's XML beside them."""
        found = self._diagnosis()
        if found is not None and self._console != os.devnull:
            Path(f"{self._console}.xml").write_text(self._domain.xml)
        return found

    def _diagnosis(self) -> tuple[str, str] | None:
        console = console_tail(self._console, self._console_start)
        panic = next((line for line in console if "Kernel panic" in line), None)
        if panic is not None:
            return "guest_panic", panic
        if self._killed_by_us:
            return "guest_hang", f"the guest ran and did not answer; console: {' | '.join(console[-3:]) or 'empty'}"
        if self._exit.signal:
            return "vmm_killed", f"QEMU was killed by {signal.Signals(self._exit.signal).name}"
        if self._exit.code:
            return "vmm_killed", f"QEMU ended with code {self._exit.code}: {self._domain.last_words() or 'no message'}"
        return None

    def destroy(self) -> None:
        """Return when libvirt has forgotten the domain. Raises IsolationError (`leak`)."""
        self._domain.destroy()
