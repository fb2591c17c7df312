"""The executor: starts a child in new namespaces which makes the calls of a table, the last of which is its exec.

The child shares the launcher's memory until its exec, and the launcher waits for that (CLONE_VM | CLONE_VFORK, as
posix_spawn does): no page table is copied, no page touched twice, and the launcher's size does not matter.  So no
Python may run in the child.  What runs is a loop of machine code, kept here as the assembler lists it.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

from isolation import syscalls
from isolation.container.operations import InheritOnly, Operation, UsualSignals
from isolation.container.table import ENTRY_BYTES, encode
from isolation.syscalls import CLONE_CLEAR_SIGHAND, CLONE_INTO_CGROUP, CLONE_PIDFD, CLONE_VFORK, CLONE_VM

_LISTING = """\
f3 0f 1e fa                   endbr64
49 89 d0                      mov  r8, rdx          ; the kernel keeps all registers but rax, rcx, r11
b8 b3 01 00 00                mov  eax, 435         ; clone3(rdi, rsi)
0f 05                         syscall
48 85 c0                      test rax, rax
74 01                         je   child
c3                            ret                   ; the launcher, once the child has become its program or ended
4d 89 c4              child:  mov  r12, r8          ; first entry: the answer
49 8d 58 40                   lea  rbx, [r8 + 64]
48 8b 03              next:   mov  rax, [rbx]       ; number, six arguments
48 8b 7b 08                   mov  rdi, [rbx + 8]
48 8b 73 10                   mov  rsi, [rbx + 16]
48 8b 53 18                   mov  rdx, [rbx + 24]
4c 8b 53 20                   mov  r10, [rbx + 32]
4c 8b 43 28                   mov  r8, [rbx + 40]
4c 8b 4b 30                   mov  r9, [rbx + 48]
0f 05                         syscall
48 85 c0                      test rax, rax
79 1b                         jns  done
48 3b 43 38                   cmp  rax, [rbx + 56]  ; the errno that is tolerated
74 15                         je   done
49 89 1c 24                   mov  [r12], rbx       ; which entry failed
49 89 44 24 08                mov  [r12 + 8], rax   ; and how
bf 7f 00 00 00                mov  edi, 127
b8 e7 00 00 00                mov  eax, 231         ; exit_group(127)
0f 05                         syscall
48 83 c3 40           done:   add  rbx, 64
eb bd                         jmp  next
"""
_CODE = bytes.fromhex("".join(line[:20] for line in _LISTING.splitlines()))
_CALLS_AT_ONCE = CLONE_PIDFD | CLONE_CLEAR_SIGHAND | CLONE_VM | CLONE_VFORK
_SIGCHLD = 17
_USUAL_SIGNALS = UsualSignals()


@dataclass(frozen=True, slots=True)
class Child:
    """A child that has become its program, or has ended as its last operation told it to."""

    pid: int
    pidfd: int


@cache
def _machine() -> Callable[[int, int, int], int]:
    """`_CODE` in memory of its own, first written, then executable (SELinux may refuse that: `execmem`).

    In C: long run(struct clone_args *, size_t, struct entry *), which gives the pid or a negative errno.
    """
    page = mmap.mmap(-1, mmap.PAGESIZE)
    page.write(_CODE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    syscalls.direct.make_executable(address, mmap.PAGESIZE)
    function = ctypes.CFUNCTYPE(ctypes.c_long, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p)(address)
    function.page = page  # type: ignore[attr-defined]  # lives as long as the function
    return function


def start(
    operations: tuple[Operation, ...], flags: int, standard: tuple[int, int, int], birthplace: int | None = None
) -> Child:
    """Start a child in namespaces `flags`, whose 0, 1, 2 are `standard`; back once it has become its program.

    `birthplace` is a descriptor of the version 2 group to be born in.  Raises OSError naming the operation that
    failed, on which path, and why; nothing is left then.
    """
    table = encode((InheritOnly(standard), _USUAL_SIGNALS, *operations))
    memory = ctypes.create_string_buffer(bytes(ENTRY_BYTES) + table.entries)
    address = ctypes.addressof(memory)
    pidfd = ctypes.c_int(-1)
    flags |= _CALLS_AT_ONCE | (0 if birthplace is None else CLONE_INTO_CGROUP)
    words = (flags, ctypes.addressof(pidfd), 0, 0, _SIGCHLD, 0, 0, 0, 0, 0, birthplace or 0)
    arguments = (ctypes.c_uint64 * len(words))(*words)
    machine = _machine()
    before = syscalls.block_all_signals()  # no handler of ours may run in the child, before its handlers are reset
    try:
        pid = machine(ctypes.addressof(arguments), ctypes.sizeof(arguments), address)
    finally:
        syscalls.direct.set_blocked_signals(before)
    if pid < 0:
        raise syscalls.failure(-pid, f"clone3 with flags {flags:#x}")
    failed, error = struct.unpack_from("=Qq", memory)
    if failed:
        os.waitpid(pid, 0)
        os.close(pidfd.value)
        note = table.notes[(failed - address) // ENTRY_BYTES - 1]
        raise syscalls.failure(-error, f"{note.operation.describe()}: {note.tried}")
    return Child(pid, pidfd.value)
