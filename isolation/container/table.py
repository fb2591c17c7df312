"""Operations written down as a flat table of system calls, which the executor's child only has to make."""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from isolation.container.operations import Operation
from isolation.syscalls import Argument, System

ENTRY_BYTES = 64
"""Eight words: number, six arguments, negated errno that is tolerated (0: none)."""
FIRST_FREE = 3
"""The lowest descriptor free in the child: 0, 1, 2 are the channel, all others closed."""

_WORDS = ENTRY_BYTES // 8
_MASK = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Note:
    """What a call was for: looked at where it fails."""

    operation: Operation
    tried: str


@dataclass(frozen=True, slots=True)
class Table:
    """Entries in order, a note for each, and the memory that their pointers lead to."""

    entries: bytes
    notes: tuple[Note, ...]
    memory: tuple[ctypes.Array[ctypes.c_char], ...]


class Encoder(System):
    """Appends calls instead of making them.

    The numbers of descriptors are known beforehand, since the kernel gives the lowest one free.
    """

    def __init__(self, operation: Operation) -> None:
        self._operation = operation
        self._words: list[int] = []
        self._notes: list[Note] = []
        self._memory: list[ctypes.Array[ctypes.c_char]] = []
        self._open: set[int] = set()

    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        words = [number, *map(self._word, arguments)]
        self._words += words + [0] * (_WORDS - 1 - len(words)) + [-tolerated & _MASK]
        self._notes.append(Note(self._operation, tried))
        return 0

    def opening(self, tried: str, number: int, *arguments: Argument) -> int:
        self.call(tried, number, *arguments)
        descriptor = FIRST_FREE
        while descriptor in self._open:
            descriptor += 1
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._open.remove(descriptor)

    def table(self) -> Table:
        entries = struct.pack(f"={len(self._words)}Q", *self._words)
        return Table(entries, tuple(self._notes), tuple(self._memory))

    def _word(self, argument: Argument) -> int:
        if isinstance(argument, int):
            return argument & _MASK
        memory = ctypes.create_string_buffer(argument) if isinstance(argument, bytes) else argument
        self._memory.append(memory)
        return ctypes.addressof(memory)


@lru_cache(maxsize=256)
def _encoded(operation: Operation) -> Table:
    """Operations are values: what every instance has in common is encoded once."""
    encoder = Encoder(operation)
    operation.execute(encoder)
    return encoder.table()


def encode(operations: Iterable[Operation]) -> Table:
    """The calls of all operations, one after the other. Each has closed by its end what it opened."""
    tables = [_encoded(operation) for operation in operations]
    return Table(
        b"".join(table.entries for table in tables),
        tuple(chain.from_iterable(table.notes for table in tables)),
        tuple(chain.from_iterable(table.memory for table in tables)),
    )
