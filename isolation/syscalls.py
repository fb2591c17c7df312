"""Linux system calls by number, through ctypes set up once: one thin method per call.

`System` turns each call into a number and arguments; what happens then is up to the subclass.  `Direct` makes the
call at once, and its failures are OSErrors whose message names what was tried, on which path, and the errno's
meaning.  `isolation.container.table.Encoder` writes it down for a child to make later; tests only record it.

Numbers are those of x86-64.  Structures are packed bytes, which ctypes passes as a pointer.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

# include/uapi/linux/sched.h
CLONE_NEWTIME = 0x00000080
CLONE_VM = 0x00000100
CLONE_PIDFD = 0x00001000
CLONE_VFORK = 0x00004000
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
MS_SLAVE = 1 << 19
MNT_DETACH = 2
OPEN_TREE_CLONE = 1
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
_MOVE_MOUNT_EMPTY_PATHS = 0x04 | 0x40

# include/uapi/linux/fcntl.h, openat2.h, prctl.h, capability.h, if.h, sockios.h, asm-generic/signal-defs.h
AT_FDCWD = -100
AT_RECURSIVE = 0x8000
PR_SET_PDEATHSIG = 1
PR_SET_NO_NEW_PRIVS = 38
CAP_SYS_ADMIN = 21
_AT_EMPTY_PATH = 0x1000
_RESOLVE_NO_SYMLINKS_BENEATH = 0x04 | 0x08
_CAPABILITY_VERSION_3 = 0x20080522
_SIOCSIFFLAGS, _IFF_UP, _AF_INET, _SOCK_DGRAM = 0x8914, 1, 2, 2
_SIG_SETMASK, _SIGNAL_SET_BYTES = 2, 8
_PROT_READ_EXECUTE = 1 | 4
_ALL_DESCRIPTORS = 0xFFFFFFFF

_ALL_SIGNALS = b"\xff" * _SIGNAL_SET_BYTES
NO_SIGNALS = bytes(_SIGNAL_SET_BYTES)

# arch/x86/entry/syscalls/syscall_64.tbl
_WRITE, _CLOSE, _MPROTECT, _RT_SIGACTION, _RT_SIGPROCMASK, _IOCTL = 1, 3, 10, 13, 14, 16
_DUP2, _SOCKET, _EXECVE, _EXIT, _CHDIR, _MKDIR = 33, 41, 59, 60, 80, 83
_SYMLINK, _UMASK, _SETSID, _MKNOD, _PIVOT_ROOT, _PRCTL = 88, 95, 112, 133, 155, 157
_MOUNT, _UMOUNT2, _SETHOSTNAME, _CAPGET, _CAPSET = 165, 166, 170, 125, 126
_OPENAT, _MKDIRAT, _UNSHARE, _SETNS = 257, 258, 272, 308
_OPEN_TREE, _MOVE_MOUNT, _CLOSE_RANGE, _OPENAT2, _MOUNT_SETATTR = 428, 429, 436, 437, 442

Argument = int | bytes | ctypes.Array[Any]
"""A number, bytes to point at, or a C array to point at."""

_syscall: Any = ctypes.CDLL(None, use_errno=True)["syscall"]
_syscall.restype = ctypes.c_long


def _path(path: str) -> bytes:
    encoded = os.fsencode(path)
    if b"\0" in encoded:
        raise ValueError(f"path {path!r} holds a NUL byte")
    return encoded


class System(ABC):
    """The calls, one method each. Those that open something return a descriptor."""

    @abstractmethod
    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        """Do call `number`, in words `tried`. The errno `tolerated` is no failure."""

    @abstractmethod
    def opening(self, tried: str, number: int, *arguments: Argument) -> int:
        """A `call` that returns a new descriptor."""

    def close(self, descriptor: int) -> None:
        self.call(f"close descriptor {descriptor}", _CLOSE, descriptor)

    # Mounts

    def mount(self, source: str, target: str, filesystem: str, flags: int, data: str) -> None:
        tried = f"mount {filesystem or source} on {target} (flags {flags:#x}, options {data!r})"
        self.call(tried, _MOUNT, _path(source), _path(target), filesystem.encode(), flags, _path(data))

    def umount2(self, target: str, flags: int) -> None:
        self.call(f"umount {target} (flags {flags:#x})", _UMOUNT2, _path(target), flags)

    def pivot_root(self, new_root: str, put_old: str) -> None:
        self.call(f"pivot_root to {new_root}, old root at {put_old}", _PIVOT_ROOT, _path(new_root), _path(put_old))

    def open_tree(self, path: str, flags: int) -> int:
        """A descriptor of the mount at `path`; with OPEN_TREE_CLONE of a detached copy of it."""
        return self.opening(f"open_tree {path}", _OPEN_TREE, AT_FDCWD, _path(path), flags | os.O_CLOEXEC)

    def mount_setattr(self, tree: int, attributes: int, path: str) -> None:
        """Set MOUNT_ATTR_* on the whole mount tree behind the descriptor; `path` is for the message."""
        structure = struct.pack("=4Q", attributes, 0, 0, 0)
        flags = _AT_EMPTY_PATH | AT_RECURSIVE
        tried = f"mount_setattr {attributes:#x} on {path}"
        self.call(tried, _MOUNT_SETATTR, tree, b"", flags, structure, len(structure))

    def move_mount(self, tree: int, target: int, path: str) -> None:
        """Attach the detached mount on the file that `target` holds; `path` is for the message."""
        self.call(f"move_mount on {path}", _MOVE_MOUNT, tree, b"", target, b"", _MOVE_MOUNT_EMPTY_PATHS)

    # Namespaces and privileges

    def unshare(self, flags: int) -> None:
        self.call(f"unshare namespaces {flags:#x}", _UNSHARE, flags)

    def setns(self, descriptor: int, flags: int) -> None:
        self.call(f"setns to namespaces {flags:#x} of descriptor {descriptor}", _SETNS, descriptor, flags)

    def sethostname(self, name: str) -> None:
        encoded = name.encode()
        self.call(f"sethostname {name}", _SETHOSTNAME, encoded, len(encoded))

    def prctl(self, option: int, argument: int) -> None:
        self.call(f"prctl option {option}, argument {argument}", _PRCTL, option, argument, 0, 0, 0)

    def setsid(self) -> None:
        self.call("setsid", _SETSID)

    def capset(self, capabilities: Capabilities) -> None:
        """Set those of the calling thread."""
        sets = (capabilities.effective, capabilities.permitted, capabilities.inheritable)
        data = struct.pack("=6I", *(mask & 0xFFFFFFFF for mask in sets), *(mask >> 32 for mask in sets))
        self.call(f"capset to {capabilities}", _CAPSET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)

    def raise_loopback(self) -> None:
        """Set IFF_UP on `lo` of the present network namespace (netdevice 7)."""
        descriptor = self.opening("socket for netdevice", _SOCKET, _AF_INET, _SOCK_DGRAM | os.O_CLOEXEC, 0)
        request = struct.pack("=16sH22x", b"lo", _IFF_UP)
        self.call("bring the loopback interface up", _IOCTL, descriptor, _SIOCSIFFLAGS, request)
        self.close(descriptor)

    def make_executable(self, address: int, length: int) -> None:
        """Pages that were written become executable instead."""
        self.call("make memory executable", _MPROTECT, address, length, _PROT_READ_EXECUTE)

    # Files

    def chdir(self, path: str) -> None:
        self.call(f"chdir {path}", _CHDIR, _path(path))

    def mkdir(self, path: str, mode: int) -> None:
        self.call(f"mkdir {path}", _MKDIR, _path(path), mode)

    def symlink(self, content: str, path: str) -> None:
        self.call(f"symlink {path} to {content}", _SYMLINK, _path(content), _path(path))

    def umask(self, mask: int) -> None:
        self.call(f"umask {mask:o}", _UMASK, mask)

    def make_device(self, path: str, major: int, minor: int) -> None:
        """A character device that everybody may read and write, as far as the umask goes."""
        mode = stat.S_IFCHR | 0o666
        self.call(f"mknod {path} ({major}, {minor})", _MKNOD, _path(path), mode, os.makedev(major, minor))

    def make_file(self, path: str) -> None:
        """An empty file that did not exist."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self.close(self.opening(f"create {path}", _OPENAT, AT_FDCWD, _path(path), flags, 0o666))

    def write_file(self, path: str, text: str) -> None:
        """One `write` of `text` to the existing file `path`, as kernel interfaces want it."""
        encoded = text.encode()
        descriptor = self.opening(f"open {path}", _OPENAT, AT_FDCWD, _path(path), os.O_WRONLY | os.O_CLOEXEC)
        self.call(f"write {text!r} to {path}", _WRITE, descriptor, encoded, len(encoded))
        self.close(descriptor)

    def open_beneath(self, path: str, flags: int) -> int:
        """Open `path` below the working directory; a symbolic link anywhere in it is refused with ELOOP."""
        how = struct.pack("=3Q", flags | os.O_CLOEXEC, 0, _RESOLVE_NO_SYMLINKS_BENEATH)
        tried = f"open {path} below the new root, symbolic links refused"
        return self.opening(tried, _OPENAT2, AT_FDCWD, _path(path), how, len(how))

    def make_beneath(self, path: str, is_directory: bool) -> None:
        """Make `path` below the working directory, a directory or an empty file, with its parents, where missing.

        Symbolic links in it are refused with ELOOP or ENOTDIR.
        """
        *parents, last = path.split("/")
        walk = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        at = self.opening(f"open the new root for {path}", _OPENAT, AT_FDCWD, b".", walk, 0)
        for name in (*parents, last) if is_directory else parents:
            self.call(f"mkdir {name} of {path}", _MKDIRAT, at, _path(name), 0o755, tolerated=errno.EEXIST)
            below = self.opening(f"open {name} of {path}, a directory", _OPENAT, at, _path(name), walk, 0)
            self.close(at)
            at = below
        if not is_directory:
            flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.close(self.opening(f"create {path}", _OPENAT, at, _path(last), flags, 0o644))
        self.close(at)

    # From a child to its program

    def dup2(self, descriptor: int, number: int) -> None:
        self.call(f"dup2 {descriptor} to {number}", _DUP2, descriptor, number)

    def close_from(self, first: int) -> None:
        """Close every descriptor from `first` up (Linux 5.9)."""
        self.call(f"close descriptors from {first} up", _CLOSE_RANGE, first, _ALL_DESCRIPTORS, 0)

    def default_signal(self, number: int) -> None:
        """SIG_DFL. What is ignored would stay so over exec."""
        self.call(f"default action for signal {number}", _RT_SIGACTION, number, bytes(32), 0, _SIGNAL_SET_BYTES)

    def set_blocked_signals(self, mask: bytes) -> None:
        self.call("set the signal mask", _RT_SIGPROCMASK, _SIG_SETMASK, mask, 0, _SIGNAL_SET_BYTES)

    def execve(self, path: str, argv: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> None:
        variables = tuple(f"{name}={value}" for name, value in environment)
        self.call(f"execve {path}", _EXECVE, _path(path), _strings(argv), _strings(variables))

    def exit(self, code: int) -> None:
        self.call(f"exit {code}", _EXIT, code)


def _strings(words: tuple[str, ...]) -> ctypes.Array[Any]:
    """A null-terminated array of C strings; it keeps them alive."""
    return (ctypes.c_char_p * (len(words) + 1))(*map(_path, words), None)


def failure(number: int, tried: str) -> OSError:
    return OSError(number, f"{tried}: {os.strerror(number)}")


class Direct(System):
    """Calls made at once, in this process. Raises OSError."""

    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        words = (ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments)
        result: int = _syscall(number, *words)
        if result < 0 and ctypes.get_errno() != tolerated:
            raise failure(ctypes.get_errno(), tried)
        return result

    def opening(self, tried: str, number: int, *arguments: Argument) -> int:
        return self.call(tried, number, *arguments)


direct = Direct()
umount2 = direct.umount2


def write_file(path: str, text: str) -> None:
    """One `write` to an existing file, the descriptor closed also on failure. Raises OSError."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    except OSError as error:
        raise failure(error.errno or 0, f"write {text!r} to {path}") from None
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Capabilities:
    """Capability sets as bit masks (capabilities 7)."""

    effective: int
    permitted: int
    inheritable: int


def capget() -> Capabilities:
    """Those of the calling thread."""
    data = ctypes.create_string_buffer(24)
    direct.call("capget of this thread", _CAPGET, struct.pack("=Ii", _CAPABILITY_VERSION_3, 0), data)
    low, high = struct.unpack("=6I", data.raw)[:3], struct.unpack("=6I", data.raw)[3:]
    return Capabilities(*(first | second << 32 for first, second in zip(low, high, strict=True)))


def block_all_signals() -> bytes:
    """Block them in this thread; the mask to give to `set_blocked_signals` afterwards."""
    before = ctypes.create_string_buffer(_SIGNAL_SET_BYTES)
    direct.call("block all signals", _RT_SIGPROCMASK, _SIG_SETMASK, _ALL_SIGNALS, before, _SIGNAL_SET_BYTES)
    return before.raw
