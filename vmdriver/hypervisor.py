"""libvirt without a daemon: `qemu:///embed`, its event loop, and the domains it runs.

Lives in a slim process, since the embedded driver forks QEMU from whoever calls it.  `Reaper` collects the QEMUs;
never call waitpid(-1) beside it, which would take libvirt's own children away.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import quote

from isolation.api import Exit, IsolationError, LaunchFailed, Unsupported
from vmdriver.channel import accept, listening
from vmdriver.domain import MACHINE, DomainConfig, domain_xml
from vmdriver.reaper import Reaper, start_ticks

_SETTINGS = (
    'user = "root"',  # who else might open /dev/kvm is unknown; libvirt drops its cache of capabilities if it may not
    'group = "root"',
    "dynamic_ownership = 0",
    "remember_owner = 0",
    'stdio_handler = "file"',  # else it looks for the daemon virtlogd
    "cgroup_controllers = []",  # QEMU stays in its caller's groups
    'security_driver = "none"',  # profiles come with libvirt-daemon-system, which must not be needed
)
_REAP_TIMEOUT_S = 5.0
_event_loop: threading.Thread | None = None


def import_libvirt() -> ModuleType:
    """libvirt-python, told not to write to stderr. Raises Unsupported where it is not installed."""
    os.environ.setdefault("LIBVIRT_LOG_OUTPUTS", "4:file:/dev/null")  # read on import; errors are raised as well
    try:
        import libvirt
    except ImportError as error:
        raise Unsupported("not_installed", f"libvirt-python cannot be imported: {error}") from error
    module: ModuleType = libvirt
    module.registerErrorHandler(_ignore, None)
    return module


def _ignore(_context: None, _error: tuple[Any, ...]) -> None:
    return


def _start_event_loop(libvirt: ModuleType) -> None:
    """Run libvirt's own loop in a thread, for the life of the process: it can be registered once only."""
    global _event_loop
    if _event_loop is not None:
        return
    libvirt.virEventRegisterDefaultImpl()

    def run() -> None:
        while True:
            libvirt.virEventRunDefaultImpl()

    _event_loop = threading.Thread(target=run, name="libvirt events", daemon=True)
    _event_loop.start()


def _one_line(error: Exception) -> str:
    """The message of libvirt, which may quote lines of QEMU's stderr."""
    return " ".join(str(error).split())


class Hypervisor:
    """A connection whose state (sockets, logs, capability cache) lies in the folder `root`. Close it."""

    def __init__(self, root: Path) -> None:
        """Write the configuration, connect, let libvirt probe QEMU. Raises Unsupported."""
        self._libvirt = import_libvirt()
        self.root = root
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "qemu.conf").write_text("".join(f"{line}\n" for line in _SETTINGS))
        self.reaper = Reaper.shared()
        _start_event_loop(self._libvirt)
        try:
            self._connection = self._libvirt.open(f"qemu:///embed?root={quote(str(root))}")
            # Probes QEMU now, so that no launch has to.
            self._connection.getDomainCapabilities(None, "x86_64", MACHINE, "qemu")
        except self._libvirt.libvirtError as error:
            self.reaper.close()
            why = f"libvirt's QEMU driver does not work: {_one_line(error)}; run `nox -s setup`"
            raise Unsupported("not_installed", why) from error

    def launch(self, config: DomainConfig) -> Domain:
        """Start a guest; its channel is connected when this returns.

        Raises LaunchFailed where QEMU does not start, Unsupported where libvirt or QEMU lacks what is asked for.
        """
        xml = domain_xml(config)
        with listening(config.channel) as listener:
            handle = self._create(xml)
            descriptor = accept(listener)  # QEMU connected while libvirt waited for its monitor
        if descriptor is None:
            self.remove(handle, config.name)
            raise LaunchFailed("exited_early", "QEMU started and did not connect to its channel")
        try:
            return Domain(self, handle, config.name, xml, descriptor)
        except (FileNotFoundError, ProcessLookupError) as error:
            os.close(descriptor)
            self.remove(handle, config.name)
            raise LaunchFailed("vmm_killed", "QEMU ended right after its start") from error

    def _create(self, xml: str) -> Any:
        try:
            return self._connection.createXML(xml, 0)  # the embedded driver has no autodestroy
        except self._libvirt.libvirtError as error:
            lacks = (self._libvirt.VIR_ERR_CONFIG_UNSUPPORTED, self._libvirt.VIR_ERR_NO_SUPPORT)
            if error.get_error_code() in lacks:
                raise Unsupported("kernel_lacks", _one_line(error)) from error
            raise LaunchFailed("exited_early", f"QEMU did not start: {_one_line(error)}") from error

    def remove(self, handle: Any, name: str) -> None:
        """End the domain if it runs and return when libvirt has forgotten it. Raises IsolationError (`leak`)."""
        gone = (self._libvirt.VIR_ERR_NO_DOMAIN, self._libvirt.VIR_ERR_OPERATION_INVALID)
        try:
            handle.destroy()  # waits for the clean-up that QEMU's exit may have started already
        except self._libvirt.libvirtError as error:
            if error.get_error_code() not in gone:
                raise IsolationError("leak", f"domain {name} does not end: {_one_line(error)}") from error
        (self.root / "log" / "qemu" / f"{name}.log").unlink(missing_ok=True)
        if name in self.domains():
            raise IsolationError("leak", f"libvirt still lists domain {name}")

    def pid(self, name: str) -> int:
        """QEMU's process, from the file that libvirt's driver keeps in its run folder (virPidFileBuildPath)."""
        return int((self.root / "run" / "qemu" / f"{name}.pid").read_text())

    def last_words(self, name: str) -> str:
        """What QEMU itself printed last, from libvirt's log of the domain; empty where it said nothing."""
        try:
            lines = (self.root / "log" / "qemu" / f"{name}.log").read_text(errors="replace").splitlines()
        except FileNotFoundError:
            return ""
        said = [line for line in lines if "qemu-system" in line and "terminating on signal" not in line]
        return said[-1] if said and not said[-1].startswith("/") else ""

    def domains(self) -> tuple[str, ...]:
        """Names of all domains."""
        return tuple(domain.name() for domain in self._connection.listAllDomains())

    def close(self) -> None:
        """Disconnect. Domains that still run are lost to libvirt: destroy them before."""
        self._connection.close()
        self.reaper.close()


class Domain:
    """A running guest: QEMU's process and the two ends of its channel."""

    def __init__(self, hypervisor: Hypervisor, handle: Any, name: str, xml: str, channel: int) -> None:
        self._hypervisor = hypervisor
        self._handle = handle
        self.name = name
        self.xml = xml
        self.pid = hypervisor.pid(name)
        self._start_ticks = start_ticks(self.pid)
        self.pidfd = os.pidfd_open(self.pid)
        self.read_fd = channel
        self.write_fd = os.dup(channel)

    def kill(self) -> None:
        """SIGKILL to QEMU."""
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def reap(self) -> Exit:
        """Status and CPU time of QEMU, which has ended."""
        return self._hypervisor.reaper.collect(self.pid, self._start_ticks, _REAP_TIMEOUT_S)

    def last_words(self) -> str:
        """What QEMU itself printed last."""
        return self._hypervisor.last_words(self.name)

    def destroy(self) -> None:
        """Return when libvirt has forgotten the domain. The channel's descriptors are the caller's to close."""
        os.close(self.pidfd)
        self._hypervisor.remove(self._handle, self.name)
