"""From a frozen description of a guest to libvirt's domain XML. Pure; https://libvirt.org/formatdomain.html.

The guest has what the payload needs and nothing else: one vCPU, a serial console into a file, a virtio-serial port,
disks where asked.  No graphics, USB, balloon, network or pvpanic device: a panicking kernel reboots at once
(`panic=-1`), reboot ends QEMU, and the console's last lines say why, also where no pvpanic driver is loaded yet.

Machine `pc`: `q35` reached the first byte no later (1.97 and 1.92 s, medians of 6, emulated, within the noise), but
puts PCIe root ports between the guest and each disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal
from xml.etree import ElementTree

from isolation.api import CHANNEL_NAME, Unsupported

MACHINE = "pc"
KERNEL_WORDS = (
    "console=ttyS0",  # a panic's last lines; nothing else is printed
    "quiet",
    "loglevel=1",
    "panic=-1",
    "no_timer_check",  # an emulated timer on a busy host fails the check, and the kernel panics
    "cryptomgr.notests",  # self-tests of ciphers: a seventh of an emulated boot, no influence afterwards
)
"""The guest's kernel command line. Mitigations, security modules and the clock are left at the kernel's defaults."""
MAX_DISKS = 26
_MAX_COMMAND_LINE = 2047
"""COMMAND_LINE_SIZE of x86 less the final zero (arch/x86/include/asm/setup.h)."""


@dataclass(frozen=True, slots=True)
class Disk:
    """A raw image as a virtio-blk disk: the first one is /dev/vda in the guest, the second /dev/vdb."""

    source: str
    read_only: bool = False


@dataclass(frozen=True, slots=True)
class DomainConfig:
    """One guest. `kind` is libvirt's name for the acceleration: `kvm`, or `qemu` for TCG."""

    name: str
    kind: Literal["kvm", "qemu"]
    memory_bytes: int
    kernel: str
    initramfs: str
    payload_arguments: tuple[str, ...]
    channel: str
    """Unix socket on which we listen and QEMU connects, so that nothing the guest writes first is lost."""
    console: str
    disks: tuple[Disk, ...] = ()


def command_line(payload_arguments: tuple[str, ...]) -> str:
    """The kernel's words, then those for init behind `--`. Raises ValueError for a word that would not arrive whole."""
    for word in payload_arguments:
        if not word.isascii() or not word.isprintable() or any(character in word for character in " \"'"):
            raise ValueError(f"payload argument {word!r}: the kernel command line takes ASCII without blanks or quotes")
    line = " ".join((*KERNEL_WORDS, "--", *payload_arguments, "guest=1"))
    if len(line) > _MAX_COMMAND_LINE:
        raise ValueError(f"kernel command line of {len(line)} characters: the kernel takes {_MAX_COMMAND_LINE}")
    return line


def disk_device(index: int) -> str:
    """Name of the guest's disk number `index`, from 0, without `/dev/`. Raises Unsupported beyond the alphabet."""
    if index >= MAX_DISKS:
        raise Unsupported("too_many_disks", f"a guest takes {MAX_DISKS} disks")
    return f"vd{chr(ord('a') + index)}"


def domain_xml(config: DomainConfig) -> str:
    """The domain, for virDomainCreateXML. Raises ValueError for arguments that no command line can carry."""
    domain = ElementTree.Element("domain", type=config.kind)
    _add(domain, "name", config.name)
    _add(domain, "memory", str(config.memory_bytes), unit="bytes")
    _add(domain, "vcpu", "1")
    system = _add(domain, "os")
    _add(system, "type", "hvm", arch="x86_64", machine=MACHINE)
    _add(system, "kernel", config.kernel)
    _add(system, "initrd", config.initramfs)
    _add(system, "cmdline", command_line(config.payload_arguments))
    _add(_add(domain, "features"), "acpi")  # powers off by it
    if config.kind == "kvm":
        _add(domain, "cpu", mode="host-passthrough")
    # Whatever ends the guest ends QEMU: nothing is left paused or starts anew.
    for event in ("on_poweroff", "on_reboot", "on_crash"):
        _add(domain, event, "destroy")
    _devices(_add(domain, "devices"), config)
    return ElementTree.tostring(domain, encoding="unicode")


def _devices(devices: ElementTree.Element, config: DomainConfig) -> None:
    for index, disk in enumerate(config.disks):
        entry = _add(devices, "disk", type="file", device="disk")
        _add(entry, "driver", name="qemu", type="raw", cache="none", io="native")
        _add(entry, "source", file=disk.source)
        _add(entry, "target", dev=disk_device(index), bus="virtio")
        if disk.read_only:
            _add(entry, "readonly")
    _add(devices, "controller", type="usb", model="none")
    serial = _add(devices, "serial", type="file")
    _add(serial, "source", path=config.console, append="on")
    _add(serial, "target", port="0")
    channel = _add(devices, "channel", type="unix")
    _add(channel, "source", mode="connect", path=config.channel)
    _add(channel, "target", type="virtio", name=CHANNEL_NAME)
    _add(devices, "memballoon", model="none")


def _add(parent: ElementTree.Element, tag: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    child = ElementTree.SubElement(parent, tag, attributes)
    child.text = text
    return child
