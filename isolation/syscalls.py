"""Linux system calls that Python lacks: ctypes set up once, one thin function per call.

Every failure is an OSError whose message names what was tried, on which path, and the errno's meaning.  Numbers
are those of x86-64; calls that Python's `os` has are used from there.  Together with the few thin functions at the
end, this module is the real `isolation.container.operations.System`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import stat
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000
CLONE_CLEAR_SIGHAND = 0x100000000
CLONE_INTO_CGROUP = 0x200000000

# include/uapi/linux/mount.h
MS_RDONLY = 1
MS_NOSUID = 2
MS_NODEV = 4
MS_NOEXEC = 8
MS_BIND = 4096
MS_REC = 16384
MS_PRIVATE = 1 << 18
MS_SLAVE = 1 << 19
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
MOVE_MOUNT_F_EMPTY_PATH = 0x04
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4

# include/uapi/linux/fcntl.h, openat2.h, close_range.h, prctl.h, capability.h
AT_FDCWD = -100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
CLOSE_RANGE_CLOEXEC = 4
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAP_SYS_ADMIN = 21
CAPABILITY_VERSION_3 = 0x20080522

_SIGCHLD = 17
_AF_INET, _SOCK_DGRAM, _SIOCSIFFLAGS, _IFF_UP = 2, 2, 0x8914, 1
_ALL_DESCRIPTORS = 0xFFFFFFFF


class _CloneArguments(ctypes.Structure):
    _fields_ = tuple(
        (name, ctypes.c_uint64)
        for name in (
            "flags",
            "pidfd",
            "child_tid",
            "parent_tid",
            "exit_signal",
            "stack",
            "stack_size",
            "tls",
            "set_tid",
            "set_tid_size",
            "cgroup",
        )
    )


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class _MountAttributes(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint64) for name in ("set", "clear", "propagation", "userns_fd"))


class _CapabilityHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapabilityData(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_uint32) for name in ("effective", "permitted", "inheritable"))


_libc = ctypes.CDLL(None, use_errno=True)
# clone3 must not give up the GIL: another thread could take it, and the child would wait for a thread it has not.
_libc_holding_gil = ctypes.PyDLL(None, use_errno=True)

_INT, _UINT, _LONG = ctypes.c_int, ctypes.c_uint, ctypes.c_long
_ULONG, _PATH, _POINTER = ctypes.c_ulong, ctypes.c_char_p, ctypes.c_void_p


def _function(name: str, *arguments: type) -> Callable[..., int]:
    function = _libc[name]
    function.argtypes, function.restype = arguments, _INT
    return function


def _numbered(number: int, *arguments: type, library: ctypes.CDLL = _libc) -> Callable[..., int]:
    """A system call by number; `library["syscall"]` is a new object each time, so argtypes are its own."""
    function: Any = library["syscall"]
    function.argtypes, function.restype = (_LONG, *arguments), _LONG

    def call(*values: Any) -> int:
        return function(number, *values)  # type: ignore[no-any-return]

    return call


_mount = _function("mount", _PATH, _PATH, _PATH, _ULONG, _PATH)
_umount2 = _function("umount2", _PATH, _INT)
_unshare = _function("unshare", _INT)
_setns = _function("setns", _INT, _INT)
_sethostname = _function("sethostname", _PATH, ctypes.c_size_t)
_prctl = _function("prctl", _INT, _ULONG, _ULONG, _ULONG, _ULONG)
_clone3 = _numbered(435, _POINTER, ctypes.c_size_t, library=_libc_holding_gil)
_close_range = _numbered(436, _UINT, _UINT, _UINT)
_openat2 = _numbered(437, _INT, _PATH, _POINTER, ctypes.c_size_t)
_pivot_root = _numbered(155, _PATH, _PATH)
_open_tree = _numbered(428, _INT, _PATH, _UINT)
_move_mount = _numbered(429, _INT, _PATH, _INT, _PATH, _UINT)
_mount_setattr = _numbered(442, _INT, _PATH, _UINT, _POINTER, ctypes.c_size_t)
_capget = _numbered(125, _POINTER, _POINTER)
_capset = _numbered(126, _POINTER, _POINTER)


def _failure(tried: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{tried}: {os.strerror(number)}")


def clone3(flags: int, cgroup: int | None = None) -> tuple[int, int]:
    """Fork with `flags` and a pidfd: (pid, pidfd) in the parent, (0, -1) in the child.

    `cgroup` is a descriptor of a cgroup v2 directory in which the child is born.  The child has default signal
    handlers; as after `os.fork` it holds a copy of everything else, and Python's own locks are put right.  The C
    library's are not: call it from a process with one thread only (man clone 2, fork(2) in glibc's manual).
    """
    pidfd = ctypes.c_int(-1)
    arguments = _CloneArguments(
        flags=flags | CLONE_PIDFD | CLONE_CLEAR_SIGHAND | (0 if cgroup is None else CLONE_INTO_CGROUP),
        pidfd=ctypes.addressof(pidfd),
        exit_signal=_SIGCHLD,
        cgroup=cgroup or 0,
    )
    address, size = ctypes.addressof(arguments), ctypes.sizeof(arguments)
    python = ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = _clone3(address, size)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0, -1
    error = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone3 with flags {flags:#x}: {os.strerror(error)}")
    return pid, pidfd.value


def unshare(flags: int) -> None:
    if _unshare(flags):
        raise _failure(f"unshare namespaces {flags:#x}")


def setns(descriptor: int, flags: int) -> None:
    if _setns(descriptor, flags):
        raise _failure(f"setns to namespaces {flags:#x} of descriptor {descriptor}")


def mount(source: str, target: str, filesystem: str, flags: int, data: str) -> None:
    if _mount(os.fsencode(source), os.fsencode(target), filesystem.encode(), flags, os.fsencode(data)):
        raise _failure(f"mount {filesystem or source} on {target} (flags {flags:#x}, options {data!r})")


def umount2(target: str, flags: int) -> None:
    if _umount2(os.fsencode(target), flags):
        raise _failure(f"umount {target} (flags {flags:#x})")


def pivot_root(new_root: str, put_old: str) -> None:
    if _pivot_root(os.fsencode(new_root), os.fsencode(put_old)):
        raise _failure(f"pivot_root to {new_root}, old root at {put_old}")


def open_tree(path: str, flags: int) -> int:
    """A descriptor of the mount at `path`; with OPEN_TREE_CLONE of a detached copy of it."""
    descriptor = _open_tree(AT_FDCWD, os.fsencode(path), flags | os.O_CLOEXEC)
    if descriptor < 0:
        raise _failure(f"open_tree {path} (flags {flags:#x})")
    return descriptor


def move_mount(tree: int, target: int, path: str) -> None:
    """Attach the detached mount `tree` on the directory or file that `target` holds; `path` is for the message."""
    flags = MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    if _move_mount(tree, b"", target, b"", flags):
        raise _failure(f"move_mount on {path}")


def mount_setattr(tree: int, attributes: int, path: str) -> None:
    """Set MOUNT_ATTR_* on the whole mount tree behind the descriptor; `path` is for the message."""
    structure = _MountAttributes(set=attributes)
    flags = AT_EMPTY_PATH | AT_RECURSIVE
    if _mount_setattr(tree, b"", flags, ctypes.addressof(structure), ctypes.sizeof(structure)):
        raise _failure(f"mount_setattr {attributes:#x} on {path}")


def open_beneath(path: str, flags: int) -> int:
    """Open `path` below the working directory; a symbolic link anywhere in it is refused with ELOOP."""
    how = _OpenHow(flags=flags | os.O_CLOEXEC, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
    descriptor = _openat2(AT_FDCWD, os.fsencode(path), ctypes.addressof(how), ctypes.sizeof(how))
    if descriptor < 0:
        raise _failure(f"open {path} inside the new root, refusing symbolic links")
    return descriptor


def sethostname(name: str) -> None:
    raw = name.encode()
    if _sethostname(raw, len(raw)):
        raise _failure(f"sethostname {name}")


def prctl(option: int, argument: int) -> None:
    if _prctl(option, argument, 0, 0, 0):
        raise _failure(f"prctl option {option}, argument {argument}")


def mark_close_on_exec(first: int) -> None:
    """Every descriptor from `first` up is closed by the next exec, also those inherited without the flag."""
    if _close_range(first, _ALL_DESCRIPTORS, CLOSE_RANGE_CLOEXEC):
        raise _failure(f"close_range from {first} with CLOEXEC (Linux 5.11)")


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capability sets as bit masks (capabilities 7)."""

    effective: int
    permitted: int
    inheritable: int


def capget() -> Capabilities:
    """Those of the calling thread."""
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    data = (_CapabilityData * 2)()
    if _capget(ctypes.addressof(header), ctypes.addressof(data)):
        raise _failure("capget of this thread")
    low, high = data[0], data[1]
    return Capabilities(
        low.effective | high.effective << 32,
        low.permitted | high.permitted << 32,
        low.inheritable | high.inheritable << 32,
    )


def capset(capabilities: Capabilities) -> None:
    """Set those of the calling thread."""
    header = _CapabilityHeader(CAPABILITY_VERSION_3, 0)
    sets = (capabilities.effective, capabilities.permitted, capabilities.inheritable)
    data = (_CapabilityData * 2)(
        _CapabilityData(*(mask & 0xFFFFFFFF for mask in sets)),
        _CapabilityData(*(mask >> 32 for mask in sets)),
    )
    if _capset(ctypes.addressof(header), ctypes.addressof(data)):
        raise _failure(f"capset to effective {capabilities.effective:#x}, permitted {capabilities.permitted:#x}")


def write_file(path: str, text: str) -> None:
    """One `write` of `text` to the existing file `path`, as kernel interfaces want it."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise OSError(error.errno, f"write {text!r} to {path}: {os.strerror(error.errno or 0)}") from None
    finally:
        os.close(descriptor)


def make_device(path: str, major: int, minor: int) -> None:
    """A character device that everybody may read and write, as far as the umask goes."""
    os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(major, minor))


def make_file(path: str) -> None:
    """An empty file that did not exist."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))


def make_beneath(path: str, is_directory: bool) -> None:
    """Make `path` below the working directory, a directory or an empty file, with its parents, where missing.

    Symbolic links in it are refused with ELOOP.
    """
    *parents, last = path.split("/")
    at = os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in (*parents, last) if is_directory else parents:
            with contextlib.suppress(FileExistsError):  # a link in its place is refused by O_NOFOLLOW below
                os.mkdir(name, 0o755, dir_fd=at)
            below = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=at)
            os.close(at)
            at = below
        if not is_directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            os.close(os.open(last, flags, 0o644, dir_fd=at))
    finally:
        os.close(at)


def raise_loopback() -> None:
    """Set IFF_UP on `lo` of the present network namespace (netdevice 7)."""
    descriptor = _libc.socket(_AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0)
    if descriptor < 0:
        raise _failure("socket to configure the loopback interface")
    try:
        if _libc.ioctl(descriptor, _SIOCSIFFLAGS, b"lo".ljust(16, b"\0") + struct.pack("=H22x", _IFF_UP)):
            raise _failure("bring the loopback interface up")
    finally:
        os.close(descriptor)


chdir = os.chdir
close = os.close
is_directory = os.path.isdir
mkdir = os.mkdir
setsid = os.setsid
symlink = os.symlink
umask = os.umask
