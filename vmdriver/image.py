"""Guest kernel, initramfs and disks: made once by set-up, cached by content, checked before use.

The kernel is the distribution's own cloud kernel, downloaded and unpacked, never installed on the host.  Standard
library only, since set-up calls this before the environment exists; `apt-get`, `dpkg-deb` and `mke2fs` do the work.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from isolation.api import Unsupported

BOOT_MODULES = ("virtio_pci", "virtio_console")
"""Loaded by the payload before it can speak."""
STORAGE_MODULES = ("virtio_blk", "ext4")
"""In the initramfs, loaded only when a disk is to be mounted, so that plain launches do not pay for them."""

META_PACKAGES = {"debian": "linux-image-cloud-amd64", "ubuntu": "linux-image-virtual"}
_KERNEL_PACKAGE = re.compile(r"linux-(image|modules)-\d")
_SETUP = "run `nox -s setup`"


@dataclass(frozen=True, slots=True)
class KernelFiles:
    """An unpacked kernel package. `modules` is its folder of modules for this release."""

    package: str
    version: str
    release: str
    vmlinuz: Path
    modules: Path


@dataclass(frozen=True, slots=True)
class Guest:
    """What a guest boots from. Module paths are those inside the initramfs, in the order of loading."""

    kernel: str
    initramfs: str
    release: str
    boot_modules: tuple[str, ...]
    storage_modules: tuple[str, ...]
    kernel_sha256: str
    initramfs_sha256: str
    payload_sha256: str

    @property
    def identity(self) -> str:
        """Hash over the bytes of kernel and initramfs."""
        return hashlib.sha256(f"{self.kernel_sha256} {self.initramfs_sha256}".encode()).hexdigest()


def fetch_kernel(cache: Path) -> KernelFiles:
    """Download the distribution's cloud kernel with `apt-get download`, unpack it with `dpkg-deb -x`.

    The meta package is followed to the packages it stands for: one on Debian, image and modules on Ubuntu.  The
    folder under `cache` is named after package and version, so a second call only asks apt for the version.  Seen
    working on Debian 12; the names for Ubuntu 24.04 and Debian 13 are taken from their package lists, untried.

    Raises Unsupported where this is neither, apt has no such package, or the download fails.
    """
    meta = META_PACKAGES[_distribution()]
    packages = _kernel_packages(meta)
    image = next(name for name in packages if name.startswith("linux-image-"))
    version = _candidate(image)
    folder = cache / "kernel" / f"{image}_{version.replace(':', '%3a')}"
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent) as work:
            _run(["apt-get", "download", *packages], cwd=work)
            unpacked = Path(work, "unpacked")
            for archive in sorted(Path(work).glob("*.deb")):
                _run(["dpkg-deb", "-x", str(archive), str(unpacked)])
            unpacked.rename(folder)
    return _kernel_files(folder, image, version)


def build_initramfs(kernel: KernelFiles, payload: Path, cache: Path) -> Path:
    """Make the minimal guest: the payload as `/probe` and `/init`, the modules it needs, `/dev/console`.

    Not compressed: no difference was seen at this size (medians of 8 to the first byte, emulated: plain 1.85 s,
    gzip 1.92, lz4 2.00; fastest 1.74, 1.70, 1.76).  The same input gives the same bytes.  Beside the file lies
    `<name>.json`, the `Guest`, and `current_guest(cache)` finds it from now on.

    Raises Unsupported where the kernel lacks a module or its compression has no tool here.
    """
    library = _ModuleLibrary(kernel)
    boot = library.closure(BOOT_MODULES)
    storage = [path for path in library.closure((*BOOT_MODULES, *STORAGE_MODULES)) if path not in boot]
    program = payload.read_bytes()
    archive = _initramfs([(path, library.read(path)) for path in (*boot, *storage)], boot, storage, program)
    digest = hashlib.sha256(archive).hexdigest()
    target = cache / "guest" / f"{kernel.release}-{digest[:16]}.cpio"
    guest = Guest(
        kernel=str(kernel.vmlinuz),
        initramfs=str(target),
        release=kernel.release,
        boot_modules=tuple(_inside(path) for path in boot),
        storage_modules=tuple(_inside(path) for path in storage),
        kernel_sha256=_sha256(kernel.vmlinuz),
        initramfs_sha256=digest,
        payload_sha256=hashlib.sha256(program).hexdigest(),
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    _replace(target, archive)
    _replace(_sidecar(target), json.dumps(asdict(guest), indent=1).encode())
    _replace(_current(cache), target.name.encode())
    return target


def current_guest(cache: Path) -> Guest | None:
    """The guest that was built last, as recorded; None where none was. Nothing is hashed."""
    try:
        initramfs = cache / "guest" / _current(cache).read_text().strip()
    except FileNotFoundError:
        return None
    return recorded_guest(initramfs)


def recorded_guest(initramfs: Path) -> Guest:
    """The guest as set-up recorded it beside this initramfs; nothing is hashed. Raises Unsupported as `load_guest`."""
    path = _sidecar(initramfs)
    try:
        record = json.loads(path.read_text())
        record |= {name: tuple(record[name]) for name in ("boot_modules", "storage_modules")}
        return Guest(**record)
    except OSError as error:
        raise Unsupported("not_installed", f"guest record {path}: {error.strerror}; {_SETUP}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise Unsupported("image_corrupt", f"guest record {path} is not readable: {error}; {_SETUP}") from error


def load_guest(kernel: str, initramfs: str) -> Guest:
    """The guest of these two files, after comparing their SHA-256 with what set-up recorded.

    Raises Unsupported (`not_installed`, `image_corrupt`).
    """
    guest = recorded_guest(Path(initramfs))
    for path, expected in ((kernel, guest.kernel_sha256), (initramfs, guest.initramfs_sha256)):
        try:
            found = _sha256(Path(path))
        except OSError as error:
            raise Unsupported("not_installed", f"guest image {path}: {error.strerror}; {_SETUP}") from error
        if found != expected:
            raise Unsupported(
                "image_corrupt", f"{path}: SHA-256 is {found[:16]}..., set-up recorded {expected[:16]}...; {_SETUP}"
            )
    return guest


def build_disk(source_dir: Path, target: Path, size_bytes: int) -> None:
    """Make `target` a raw ext4 image of `size_bytes` holding the content of `source_dir`, without mounting.

    Every block is allocated and the inode tables are written, so that neither the host's file system nor the guest's
    lazy initialisation works on it while something is timed.

    Raises Unsupported where mke2fs is missing or the content does not fit.
    """
    program = shutil.which("mke2fs", path=os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin")
    if program is None:
        raise Unsupported("not_installed", "mke2fs is missing, disk images need it; install the package e2fsprogs")
    with target.open("wb") as file:
        file.truncate(size_bytes)
    options = "lazy_itable_init=0,lazy_journal_init=0,nodiscard,root_owner=0:0"
    try:
        _run([program, "-q", "-F", "-t", "ext4", "-m", "0", "-E", options, "-d", str(source_dir), str(target)])
    except Unsupported:
        target.unlink()
        raise
    with target.open("r+b") as file:  # only now: mke2fs gives back what it need not write
        os.posix_fallocate(file.fileno(), 0, size_bytes)


# The kernel package


def _distribution() -> str:
    text = Path("/etc/os-release").read_text()
    release: dict[str, str] = dict(re.findall(r'^(\w+)="?([^"\n]*)"?$', text, re.MULTILINE))
    for name in (release.get("ID", ""), *release.get("ID_LIKE", "").split()):
        if name in META_PACKAGES:
            return name
    known = " and ".join(META_PACKAGES)
    raise Unsupported("not_installed", f"no guest kernel known for {release.get('ID')!r}, only for {known}")


def _kernel_packages(meta: str) -> tuple[str, ...]:
    """The packages that the meta package leads to, those that hold a kernel or its modules."""
    found: list[str] = []
    pending = [meta]
    while pending:
        listing = _run(["apt-cache", "depends", "--important", pending.pop()])
        for name in re.findall(r"Depends: (\S+)", listing):
            if _KERNEL_PACKAGE.match(name) and name not in found:
                found.append(name)
                pending.append(name)
    if not any(name.startswith("linux-image-") for name in found):
        raise Unsupported("not_installed", f"apt knows no kernel behind {meta}; run `apt-get update`")
    return tuple(found)


def _candidate(package: str) -> str:
    match = re.search(r"Candidate: (\S+)", _run(["apt-cache", "policy", package]))
    if match is None or match[1] == "(none)":
        raise Unsupported("not_installed", f"apt has no candidate for {package}; run `apt-get update`")
    return match[1]


def _kernel_files(folder: Path, package: str, version: str) -> KernelFiles:
    images = sorted(folder.glob("boot/vmlinuz-*"))
    if len(images) != 1:
        raise Unsupported("image_corrupt", f"{folder}/boot holds {len(images)} kernels, not one; remove {folder}")
    release = images[0].name.removeprefix("vmlinuz-")
    for parent in ("usr/lib/modules", "lib/modules"):
        modules = folder / parent / release
        if modules.is_dir():
            return KernelFiles(package, version, release, images[0], modules)
    raise Unsupported("image_corrupt", f"{folder} holds no modules of {release}; remove it")


def _run(command: list[str], cwd: str | None = None) -> str:
    """Run a program to its end and return its output. Raises Unsupported with the last line of its error."""
    environment = {**os.environ, "LC_ALL": "C"}
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, cwd=cwd, capture_output=True, text=True, env=environment, check=True
        )
    except FileNotFoundError as error:
        raise Unsupported("not_installed", f"{command[0]} is missing") from error
    except subprocess.CalledProcessError as error:
        last = error.stderr.strip().splitlines()[-1:] or ["no message"]
        raise Unsupported("setup_failed", f"{' '.join(command)}: exit {error.returncode}: {last[0]}") from error
    return done.stdout


# Modules


class _ModuleLibrary:
    """The modules of one kernel, and what each depends on.

    The package has no modules.dep (its postinst runs depmod), so dependencies come from `depends=` in each module's
    .modinfo section, which is where depmod's symbol resolution agrees with the build (scripts/mod/modpost.c).
    """

    def __init__(self, kernel: KernelFiles) -> None:
        self._release = kernel.release
        self._files = {_module_name(path): path for path in sorted(kernel.modules.glob("kernel/**/*.ko*"))}
        self._built_in = {_module_name(Path(line)) for line in (kernel.modules / "modules.builtin").read_text().split()}

    def closure(self, names: Iterable[str]) -> list[Path]:
        """The files of these modules and of all they need, each after what it needs. Built-in ones have none."""
        order: list[Path] = []
        for name in names:
            self._visit(name, order)
        return order

    def _visit(self, name: str, order: list[Path]) -> None:
        if name in self._built_in:
            return
        path = self._files.get(name)
        if path is None:
            raise Unsupported("kernel_lacks", f"guest kernel {self._release} has no module {name}")
        if path in order:
            return
        for needed in _depends(self.read(path)):
            self._visit(needed, order)
        order.append(path)

    def read(self, path: Path) -> bytes:
        """The module's bytes, unpacked."""
        match path.suffix:
            case ".ko":
                return path.read_bytes()
            case ".xz":
                return lzma.decompress(path.read_bytes())
            case ".zst":
                if (program := shutil.which("zstd")) is None:
                    raise Unsupported("not_installed", f"zstd is missing, {path.name} needs it; install zstd")
                unpacked = subprocess.run([program, "-dcq", str(path)], capture_output=True, check=True)
                return bytes(unpacked.stdout)
            case other:
                raise Unsupported("kernel_lacks", f"{path}: no way to unpack {other}")


def _module_name(path: Path) -> str:
    return path.name.split(".ko")[0].replace("-", "_")


def _depends(module: bytes) -> Iterator[str]:
    match = re.search(rb"\0depends=([\w,-]+)\0", module)
    if match:
        for name in match[1].decode().split(","):
            yield name.replace("-", "_")


def _inside(path: Path) -> str:
    return f"/modules/{_module_name(path)}.ko"


# The archive


def _initramfs(modules: list[tuple[Path, bytes]], boot: list[Path], storage: list[Path], program: bytes) -> bytes:
    def listing(paths: list[Path]) -> bytes:
        return "".join(f"{_inside(path)}\n" for path in paths).encode()

    entries: list[tuple[str, int, bytes, tuple[int, int]]] = [
        ("dev", stat.S_IFDIR | 0o755, b"", (0, 0)),
        ("dev/console", stat.S_IFCHR | 0o600, b"", (5, 1)),
        ("init", stat.S_IFLNK | 0o777, b"probe", (0, 0)),
        ("modules", stat.S_IFDIR | 0o755, b"", (0, 0)),
        ("modules/boot", stat.S_IFREG | 0o444, listing(boot), (0, 0)),
        ("modules/storage", stat.S_IFREG | 0o444, listing(storage), (0, 0)),
        ("probe", stat.S_IFREG | 0o555, program, (0, 0)),
        ("proc", stat.S_IFDIR | 0o555, b"", (0, 0)),
        ("sys", stat.S_IFDIR | 0o555, b"", (0, 0)),
        ("tmp", stat.S_IFDIR | 0o1777, b"", (0, 0)),
        *((_inside(path)[1:], stat.S_IFREG | 0o444, content, (0, 0)) for path, content in modules),
    ]
    entries.sort()
    entries.append(("TRAILER!!!", 0, b"", (0, 0)))
    return b"".join(_cpio_entry(inode, *entry) for inode, entry in enumerate(entries, 1))


def _cpio_entry(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    """One file in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst); mtime 0."""
    encoded = name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(mode) else 1
    fields = (inode, mode, 0, 0, links, 0, len(content), 0, 0, *device, len(encoded), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return _padded(header) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)


# Records


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sidecar(initramfs: Path) -> Path:
    return initramfs.with_name(initramfs.name + ".json")


def _current(cache: Path) -> Path:
    return cache / "guest" / "current"


def _replace(target: Path, content: bytes) -> None:
    """Write whole or not at all."""
    with tempfile.NamedTemporaryFile(dir=target.parent, delete=False) as file:
        file.write(content)
        os.fchmod(file.fileno(), 0o644)
        os.fsync(file.fileno())
    os.replace(file.name, target)
