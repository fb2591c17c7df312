"""Payload, root filesystem, tools and guest image: made once, each in a folder named after what it was made from.

`.venv`'s Python runs this as set-up's last stage. A folder appears whole, by one rename, or not at all.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.assets import Assets
from bench.paths import CHECKOUT
from bench.payload.build import SOURCE, BuildError
from bench.payload.build import build as build_payload
from isolation.api import IsolationError, Unsupported
from vmdriver import image

_FOLDERS = (
    "bin", "sbin", "usr/bin", "usr/sbin", "usr/lib", "lib", "lib64", "etc", "root", "home", "var/log", "mnt", "srv",
    "proc", "sys", "dev", "dev/pts", "dev/shm", "run",
)  # fmt: skip
_STICKY = ("tmp", "var/tmp")
_FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "etc/group": "root:x:0:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/hostname": "tare\n",
    "etc/resolv.conf": "",
    "etc/nsswitch.conf": "passwd: files\ngroup: files\nhosts: files\n",
    "etc/os-release": "ID=tare\nPRETTY_NAME=Tare root filesystem\n",
}
_FLOOR = CHECKOUT / "bench" / "suite" / "spawn_floor.c"


def build(cache: Path, before: Assets, say: Callable[[str], None]) -> Assets:
    """Make what is missing and say a line for each; what fails is None in the result, with its reason."""
    cache.mkdir(parents=True, exist_ok=True)
    made: dict[str, Path] = {}
    reasons: dict[str, str] = {}

    def step(names: tuple[str, ...], make: Callable[[], tuple[Path, ...]]) -> None:
        try:
            made.update(zip(names, make(), strict=True))
        except (BuildError, IsolationError, OSError, subprocess.CalledProcessError) as error:
            reasons.update(dict.fromkeys(names, _reason(error)))
        except KeyError as missing:
            reasons.update(dict.fromkeys(names, f"needs {missing.args[0]}, which was not made"))
        for name in names:
            if name in reasons:
                say(f"{name}: not made: {reasons[name]}")
            else:
                say(f"{name}: {'up to date' if made[name] == getattr(before, name) else f'made {made[name]}'}")

    step(("payload",), lambda: (payload(cache),))
    step(("rootfs",), lambda: (rootfs(cache, made["payload"]),))
    step(("tools_tree",), lambda: (tools_tree(cache),))
    step(("tools_image",), lambda: (tools_image(cache, made["tools_tree"]),))
    step(("kernel", "initramfs"), lambda: guest(cache, made["payload"]))
    step(("spawn_floor",), lambda: (spawn_floor(cache),))
    return Assets(**made, reasons=reasons)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        words = " ".join(map(str, error.cmd))
        return f"{words}: exit {error.returncode}: {(error.stderr or '').strip()[-500:]}"
    return error.detail if isinstance(error, IsolationError) else str(error)


def _once(parent: Path, ingredients: Iterable[bytes | str], make: Callable[[Path], None]) -> Path:
    """The folder below `parent` for these ingredients, and this file as their recipe; `make` fills it if it is new."""
    digest = hashlib.sha256(Path(__file__).read_bytes())
    for item in ingredients:
        digest.update(hashlib.sha256(item.encode() if isinstance(item, str) else item).digest())
    folder = parent / digest.hexdigest()[:16]
    if folder.is_dir():
        return folder
    parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".new-", dir=parent) as work:
        new = Path(work, "folder")
        new.mkdir()
        make(new)
        try:
            new.rename(folder)
        except OSError:
            if not folder.is_dir():  # another checkout's set-up was faster otherwise
                raise
    return folder


def payload(cache: Path) -> Path:
    """The probe, in a folder of its source, so that two checkouts do not build it in turns."""
    target = cache / "payload" / hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16] / "probe"
    build_payload(target)
    return target


def rootfs(cache: Path, probe: Path) -> Path:
    """A small Linux: static busybox with its links, the payload as `/probe`, and every mount point a runtime needs."""
    busybox = next((path for path in map(Path, ("/usr/bin/busybox", "/bin/busybox")) if path.exists()), None)
    if busybox is None or b"ld-linux" in busybox.read_bytes()[:4096]:
        raise BuildError("no statically linked busybox; install busybox-static")
    listing = subprocess.run([busybox, "--list-full"], capture_output=True, text=True, check=True).stdout

    def fill(root: Path) -> None:
        for name in _FOLDERS:
            Path(root, name).mkdir(parents=True, exist_ok=True)
        for name in _STICKY:
            Path(root, name).mkdir()
            Path(root, name).chmod(0o1777)
        for name, text in _FILES.items():
            Path(root, name).write_text(text)
            Path(root, name).chmod(0o444)
        for source, name in ((busybox, "bin/busybox"), (probe, "probe")):
            shutil.copyfile(source, root / name)
            Path(root, name).chmod(0o555)
        for name in listing.split():
            link = root / name
            if not os.path.lexists(link):
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to("/bin/busybox")

    return _once(cache / "rootfs", (busybox.read_bytes(), probe.read_bytes()), fill)


def tools_tree(cache: Path) -> Path:
    """fio, its libraries and the loader, copied to where they lie on this host."""
    fio = shutil.which("fio")
    if fio is None:
        raise BuildError("fio is missing; install fio")
    listing = subprocess.run(["ldd", fio], capture_output=True, text=True, check=True).stdout
    files = [fio, *sorted(set(re.findall(r"(?:=> |^\s*)(/\S+)", listing, re.MULTILINE)))]
    stats = [os.stat(name) for name in files]

    def fill(root: Path) -> None:
        for name in files:
            target = root / name[1:]
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(name, target)
            target.chmod(0o555)

    return _once(
        cache / "tools",
        (f"{name} {stat.st_size} {stat.st_mtime_ns}" for name, stat in zip(files, stats, strict=True)),
        fill,
    )


def tools_image(cache: Path, tree: Path) -> Path:
    """The same as a raw ext4 image: a disk for VMs."""
    size = sum(path.stat().st_size for path in tree.rglob("*") if path.is_file())
    room = (size * 5 // 4 + (24 << 20)) >> 20 << 20  # inode tables, journal

    def fill(folder: Path) -> None:
        image.build_disk(tree, folder / "tools.ext4", room)

    return _once(cache / "tools-image", (tree.name,), fill) / "tools.ext4"


def guest(cache: Path, probe: Path) -> tuple[Path, Path]:
    """Kernel and initramfs, compared with their recorded SHA-256; a damaged kernel is fetched again."""
    recipe = hashlib.sha256(probe.read_bytes() + Path(image.__file__).read_bytes()).hexdigest()
    stamp = cache / "guest" / "made-from"
    try:
        known = image.current_guest(cache)
        if known is not None:
            image.load_guest(known.kernel, known.initramfs)
            if stamp.exists() and stamp.read_text() == recipe:
                return Path(known.kernel), Path(known.initramfs)
    except Unsupported as error:
        if error.reason == "image_corrupt":
            shutil.rmtree(cache / "kernel", ignore_errors=True)
    kernel = image.fetch_kernel(cache)
    initramfs = image.build_initramfs(kernel, probe, cache)
    stamp.write_text(recipe)
    return kernel.vmlinuz, initramfs


def spawn_floor(cache: Path) -> Path:
    """The C program that a launch through the launcher is compared with."""

    def fill(folder: Path) -> None:
        command = ["cc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(folder / "spawn_floor"), str(_FLOOR)]
        subprocess.run(command, capture_output=True, text=True, check=True)

    return _once(cache / "floor", (_FLOOR.read_bytes(),), fill) / "spawn_floor"
