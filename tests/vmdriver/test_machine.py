"""Real guests: what a launcher sees of a good one, and how each kind of bad one is told apart."""

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from isolation.api import LaunchFailed, Site, Spec, Unsupported, Volume
from vmdriver import image
from vmdriver.machine import Machine, mount_requests

if TYPE_CHECKING:
    from conftest import Guests

pytestmark = [pytest.mark.libvirt, pytest.mark.root, pytest.mark.slow]


def qemu_processes(site: Site) -> list[int]:
    """Pids whose command line names our folder, and zombies of ours that nobody has waited for."""
    found = []
    zombie = f"(qemu-system-x86) Z {os.getpid()} "
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            process = Path("/proc", name)
            if site.runtime.encode() in (process / "cmdline").read_bytes() or zombie in (process / "stat").read_text():
                found.append(int(name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def nothing_is_left(machine: Machine, site: Site) -> bool:
    assert machine._prepared is not None
    assert machine._prepared.hypervisor.domains() == ()
    assert qemu_processes(site) == []
    assert not os.path.exists(f"{site.runtime}/vm/channel")
    assert not [name for name in os.listdir(f"{site.runtime}/vm/run/qemu") if name.startswith("tare-")]
    return True


def test_a_guest_has_its_own_kernel_and_leaves_nothing(guests: "Guests", machine: Machine, site: Site) -> None:
    session = guests.launch(arguments=("delay_ns=1000",))
    assert session.instance.processes() == tuple(qemu_processes(site))
    session.greet()
    where = session.channel.request("where", timeout_s=30)
    assert where["kernel"] == image.recorded_guest(Path(site.initramfs or "")).release
    assert where["kernel"] != os.uname().release
    assert where["boot_id"] != Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert where["pid"] == 1
    assert where["memory_total_bytes"] < session.spec.memory_bytes
    assert where["mitigations"] is not None
    session.quit()
    assert session.ended()
    ended = session.instance.reap()
    assert (ended.code, ended.signal) == (0, None)
    assert ended.cpu_ns is not None
    assert ended.cpu_ns > 10_000_000
    assert session.instance.diagnose() is None
    guests.finish(session)
    assert nothing_is_left(machine, site)


def test_volumes_and_layers_are_mounted_on_request(guests: "Guests", site: Site, tmp_path: Path) -> None:
    folder = tmp_path / "content"
    folder.mkdir()
    (folder / "marker").write_text("from the host")
    volume, layer = Path(site.scratch, "volume.img"), Path(site.scratch, "layer.img")
    image.build_disk(folder, volume, 8 << 20)
    image.build_disk(folder, layer, 8 << 20)
    session = guests.launch(volumes=(Volume(str(volume), "/data"),), layers=(str(layer),))
    session.greet()
    requests = mount_requests(session.spec, site)
    assert requests[0][0] == "insmod"
    for words in requests:
        session.channel.request(*words, timeout_s=30)
    mounts = {mount["target"]: mount for mount in session.channel.request("where", timeout_s=30)["mounts"]}
    assert mounts["/data"]["source"] == "/dev/vda"
    assert mounts["/data"]["options"].startswith("rw")
    assert mounts["/layers/0"]["source"] == "/dev/vdb"
    assert mounts["/layers/0"]["options"].startswith("ro")


def test_a_spec_without_disks_needs_no_request(site: Site) -> None:
    assert mount_requests(Spec("vm-1", "5eed"), site) == ()


def test_a_killed_qemu_is_told(guests: "Guests", machine: Machine, site: Site) -> None:
    session = guests.launch()
    session.greet()
    os.kill(session.instance.processes()[0], signal.SIGKILL)
    assert session.ended()
    assert session.instance.reap().signal == signal.SIGKILL
    assert session.instance.diagnose() == ("vmm_killed", "QEMU was killed by SIGKILL")
    assert Path(f"{session.spec.log}.xml").read_text().startswith("<domain")
    guests.finish(session)
    assert nothing_is_left(machine, site)


def test_a_guest_that_does_not_answer_is_told(guests: "Guests", machine: Machine, site: Site) -> None:
    session = guests.launch(arguments=("delay_ns=600000000000",))
    assert not session.ended(3)
    session.instance.kill()
    assert session.ended()
    session.instance.reap()
    diagnosis = session.instance.diagnose()
    assert diagnosis is not None
    assert diagnosis[0] == "guest_hang"
    guests.finish(session)
    assert nothing_is_left(machine, site)


@pytest.fixture
def other_guest(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes later launches boot from other files than those that were checked."""

    def change(**files: str) -> None:
        prepared = machine._prepared
        assert prepared is not None
        guest = dataclasses.replace(prepared.guest, **files)
        monkeypatch.setattr(machine, "_prepared", dataclasses.replace(prepared, guest=guest))

    return change


def test_a_panic_is_told_in_the_kernels_own_words(
    guests: "Guests", other_guest: Callable[..., None], kernel: image.KernelFiles, tmp_path: Path
) -> None:
    no_program = tmp_path / "probe"
    no_program.write_bytes(b"not a program")
    other_guest(initramfs=str(image.build_initramfs(kernel, no_program, tmp_path / "cache")))
    session = guests.launch()
    assert session.ended()
    session.instance.reap()
    diagnosis = session.instance.diagnose()
    assert diagnosis is not None
    assert diagnosis[0] == "guest_panic"
    assert "Kernel panic" in diagnosis[1]
    guests.finish(session)


def test_a_file_that_is_no_kernel_is_a_failed_launch(
    guests: "Guests", other_guest: Callable[..., None], machine: Machine, site: Site, tmp_path: Path
) -> None:
    no_kernel = tmp_path / "vmlinuz"
    no_kernel.write_bytes(b"no kernel\n" * 1000)
    other_guest(kernel=str(no_kernel))
    with pytest.raises(LaunchFailed) as caught:
        guests.launch()
    assert caught.value.reason == "exited_early"
    assert "kernel" in caught.value.detail
    assert "\n" not in caught.value.detail
    assert nothing_is_left(machine, site)


def test_a_damaged_image_is_refused_before_any_boot(guest_cache: Path, site: Site, tmp_path: Path) -> None:
    damaged = tmp_path / "guest.cpio"
    damaged.write_bytes(Path(site.initramfs or "").read_bytes()[:-1] + b"x")
    Path(f"{damaged}.json").write_bytes(Path(f"{site.initramfs}.json").read_bytes())
    with pytest.raises(Unsupported) as caught:
        Machine("vm", cache=str(guest_cache)).prepare(dataclasses.replace(site, initramfs=str(damaged)))
    assert caught.value.reason == "image_corrupt"


def test_availability_names_lane_version_and_evidence(machine: Machine) -> None:
    found = machine.availability()
    assert found.available
    assert found.lane in ("kvm", "nested", "tcg")
    assert found.version is not None
    assert "QEMU" in found.version
    assert found.evidence
    assert found.fix is None


def test_twenty_launches_leak_no_descriptor(guests: "Guests", machine: Machine, site: Site) -> None:
    def once() -> int:
        session = guests.launch()
        session.instance.kill()
        assert session.ended()
        session.instance.reap()
        guests.finish(session)
        return len(os.listdir("/proc/self/fd"))

    once()
    before = once()
    for _ in range(18):
        after = once()
    assert after <= before  # libvirt closes some of the last domain's a little later
    assert nothing_is_left(machine, site)
