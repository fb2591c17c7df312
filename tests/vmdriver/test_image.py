"""Images: same input, same bytes; damage is noticed; a disk holds what its folder held."""

import dataclasses
import io
import lzma
import shutil
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from isolation.api import Unsupported
from vmdriver import image

MODULES = {
    "virtio": ("virtio_ring",),
    "virtio_ring": (),
    "virtio_pci": ("virtio_ring", "virtio"),
    "virtio_console": ("virtio",),
    "virtio-blk": ("virtio",),
}


@pytest.fixture
def small_kernel(tmp_path: Path) -> image.KernelFiles:
    """A kernel package in miniature: modules with dependencies, one packed, ext4 built in."""
    modules = tmp_path / "lib/modules/6.0"
    drivers = modules / "kernel/drivers"
    drivers.mkdir(parents=True)
    for name, needed in MODULES.items():
        content = b"\x7fELF\0license=GPL\0depends=" + ",".join(needed).encode() + b"\0name=x\0"
        if name == "virtio":
            (drivers / f"{name}.ko.xz").write_bytes(lzma.compress(content))
        else:
            (drivers / f"{name}.ko").write_bytes(content)
    (modules / "modules.builtin").write_text("kernel/fs/ext4/ext4.ko\n")
    (tmp_path / "vmlinuz").write_bytes(b"kernel")
    return image.KernelFiles("linux", "1", "6.0", tmp_path / "vmlinuz", modules)


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "probe"
    path.write_bytes(b"the payload")
    return path


def unpacked(archive: bytes) -> dict[str, tuple[int, bytes]]:
    """Name -> (mode, content) of a newc archive, read independently of the writer."""
    stream, found = io.BytesIO(archive), {}
    while True:
        header = stream.read(110)
        assert header[:6] == b"070701"
        fields = [int(header[start : start + 8], 16) for start in range(6, 110, 8)]
        mode, mtime, size, name_size = fields[1], fields[5], fields[6], fields[11]
        name = stream.read(name_size).rstrip(b"\0").decode()
        stream.read(-stream.tell() % 4)
        content = stream.read(size)
        stream.read(-stream.tell() % 4)
        if name == "TRAILER!!!":
            return found
        assert mtime == 0
        found[name] = (mode, content)


def test_modules_come_after_what_they_need(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    files = unpacked(image.build_initramfs(small_kernel, program, tmp_path / "cache").read_bytes())
    boot = files["modules/boot"][1].decode().split()
    assert boot == [f"/modules/{name}.ko" for name in ("virtio_ring", "virtio", "virtio_pci", "virtio_console")]
    assert files["modules/storage"][1] == b"/modules/virtio_blk.ko\n"
    assert all(files[path.lstrip("/")][1].startswith(b"\x7fELF") for path in (*boot, "modules/virtio_blk.ko"))


def test_the_payload_is_init_byte_for_byte(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    files = unpacked(image.build_initramfs(small_kernel, program, tmp_path / "cache").read_bytes())
    assert files["probe"][1] == program.read_bytes()
    assert files["probe"][0] & 0o111
    assert stat.S_ISLNK(files["init"][0])
    assert files["init"][1] == b"probe"
    assert stat.S_ISCHR(files["dev/console"][0])


def test_the_same_input_gives_the_same_bytes(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    first = image.build_initramfs(small_kernel, program, tmp_path / "one")
    second = image.build_initramfs(small_kernel, program, tmp_path / "two")
    assert first.name == second.name
    assert first.read_bytes() == second.read_bytes()


def test_another_payload_is_another_guest(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    first = image.build_initramfs(small_kernel, program, cache)
    program.write_bytes(b"another payload")
    second = image.build_initramfs(small_kernel, program, cache)
    assert first != second
    found = image.current_guest(cache)
    assert found is not None
    assert found.initramfs == str(second)
    assert found.identity != image.recorded_guest(first).identity


def test_a_guest_that_was_touched_is_refused(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    initramfs = image.build_initramfs(small_kernel, program, tmp_path / "cache")
    kernel = str(small_kernel.vmlinuz)
    assert image.load_guest(kernel, str(initramfs)).release == "6.0"
    initramfs.write_bytes(initramfs.read_bytes()[:-1] + b"x")
    with pytest.raises(Unsupported, match=r"SHA-256 .*nox -s setup") as caught:
        image.load_guest(kernel, str(initramfs))
    assert caught.value.reason == "image_corrupt"


@pytest.mark.parametrize("record", [b"{", b"[]", b'{"kernel": 1}'])
def test_a_torn_record_is_refused(
    record: bytes, small_kernel: image.KernelFiles, program: Path, tmp_path: Path
) -> None:
    initramfs = image.build_initramfs(small_kernel, program, tmp_path / "cache")
    Path(f"{initramfs}.json").write_bytes(record)
    with pytest.raises(Unsupported) as caught:
        image.load_guest(str(small_kernel.vmlinuz), str(initramfs))
    assert caught.value.reason == "image_corrupt"


def test_no_guest_built_yet(tmp_path: Path) -> None:
    assert image.current_guest(tmp_path) is None


def test_a_kernel_without_the_driver_is_named(small_kernel: image.KernelFiles, program: Path, tmp_path: Path) -> None:
    (small_kernel.modules / "kernel/drivers/virtio_console.ko").unlink()
    with pytest.raises(Unsupported, match=r"6\.0 has no module virtio_console") as caught:
        image.build_initramfs(small_kernel, program, tmp_path / "cache")
    assert caught.value.reason == "kernel_lacks"


def test_a_disk_holds_the_folder_and_every_block(tmp_path: Path) -> None:
    debugfs = shutil.which("debugfs", path="/usr/sbin:/sbin:/usr/bin")
    if debugfs is None:
        pytest.skip("e2fsprogs is not installed")
    source, target = tmp_path / "source", tmp_path / "disk.img"
    source.mkdir()
    (source / "data").write_bytes(b"hello")
    image.build_disk(source, target, 16 << 20)
    shown = subprocess.run([debugfs, "-R", "cat /data", str(target)], capture_output=True, check=True).stdout
    assert shown == b"hello"
    assert target.stat().st_size == 16 << 20
    assert target.stat().st_blocks * 512 >= 16 << 20
    (magic,) = struct.unpack_from("<H", target.read_bytes()[:4096], 1024 + 56)
    assert magic == 0xEF53


def test_what_does_not_fit_leaves_no_disk(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "disk.img"
    source.mkdir()
    (source / "data").write_bytes(b"x" * (12 << 20))
    with pytest.raises(Unsupported, match="mke2fs"):
        image.build_disk(source, target, 8 << 20)
    assert not target.exists()


@pytest.mark.slow
def test_the_distributions_kernel_comes_from_the_cache_the_second_time(kernel: image.KernelFiles) -> None:
    assert kernel.vmlinuz.stat().st_size > 1 << 20
    before = kernel.vmlinuz.stat().st_mtime_ns
    again = image.fetch_kernel(kernel.vmlinuz.parents[3])
    assert dataclasses.astuple(again) == dataclasses.astuple(kernel)
    assert again.vmlinuz.stat().st_mtime_ns == before
