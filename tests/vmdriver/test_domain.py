"""The XML is what libvirt's own schema allows, and carries any name without breaking."""

import dataclasses
from xml.etree import ElementTree

import pytest

from isolation.api import Unsupported
from vmdriver.domain import Disk, DomainConfig, command_line, disk_device, domain_xml
from vmdriver.hypervisor import import_libvirt
from vmdriver.machine import Machine

CONFIG = DomainConfig(
    name="tare-run-vm-1",
    kind="qemu",
    memory_bytes=256 << 20,
    kernel="/cache/vmlinuz",
    initramfs="/cache/guest.cpio",
    payload_arguments=("nonce=5eed", "delay_ns=1000"),
    channel="/run/tare/channel",
    console="/logs/vm-1.console",
    disks=(Disk("/scratch/volume.img"), Disk("/cache/layer.img", read_only=True)),
)


def parsed(**changes: object) -> ElementTree.Element:
    return ElementTree.fromstring(domain_xml(dataclasses.replace(CONFIG, **changes)))


@pytest.mark.libvirt
@pytest.mark.root
@pytest.mark.slow
def test_libvirts_schema_accepts_it(machine: Machine) -> None:
    assert machine._prepared is not None
    hypervisor = machine._prepared.hypervisor
    libvirt = import_libvirt()
    defined = hypervisor._connection.defineXMLFlags(domain_xml(CONFIG), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
    defined.undefine()
    broken = domain_xml(CONFIG).replace("<vcpu>1", "<vcpu>one")
    with pytest.raises(libvirt.libvirtError, match="validate"):
        hypervisor._connection.defineXMLFlags(broken, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)


def test_the_payload_gets_its_words_behind_the_kernels() -> None:
    line = parsed().findtext("os/cmdline")
    assert line is not None
    kernel, _, payload = line.partition(" -- ")
    assert payload == "nonce=5eed delay_ns=1000 guest=1"
    assert "mitigations" not in kernel


def test_disks_appear_in_order_and_layers_are_read_only() -> None:
    disks = parsed().findall("devices/disk")
    assert [disk.find("target").get("dev") for disk in disks] == ["vda", "vdb"]
    assert [disk.find("readonly") is not None for disk in disks] == [False, True]
    assert {(disk.find("driver").get("cache"), disk.find("driver").get("type")) for disk in disks} == {("none", "raw")}


def test_markup_in_names_and_paths_stays_text() -> None:
    hostile = "/a/<source file='/etc/shadow'/>&\"'"
    domain = parsed(name="<x>&", console=hostile)
    assert domain.findtext("name") == "<x>&"
    assert domain.find("devices/serial/source").get("path") == hostile


def test_only_kvm_passes_the_hosts_cpu_through() -> None:
    assert parsed(kind="kvm").find("cpu").get("mode") == "host-passthrough"
    assert parsed(kind="qemu").find("cpu") is None


def test_the_same_config_gives_the_same_text() -> None:
    assert domain_xml(CONFIG) == domain_xml(dataclasses.replace(CONFIG))


@pytest.mark.parametrize("word", ["a=b c", "a='b'", 'a="b"', "a=ä", "a=\n"])
def test_a_word_that_the_kernel_would_split_is_refused(word: str) -> None:
    with pytest.raises(ValueError, match="kernel command line"):
        command_line((word,))


def test_a_line_that_the_kernel_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="2047"):
        command_line(("nonce=" + "a" * 2048,))


def test_there_are_26_disks() -> None:
    assert disk_device(25) == "vdz"
    with pytest.raises(Unsupported, match="26"):
        disk_device(26)
