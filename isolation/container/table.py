"""Operations written down as a flat table of system calls, so that a child has next to nothing left to think."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

from isolation.container.operations import Operation
from isolation.syscalls import Argument, System

REPORT_FD = 3
FIRST_FREE = 4
"""0, 1, 2 are the channel, 3 is the pipe that tells of a failure."""


@dataclass(frozen=True, slots=True)
class Note:
    """What a call was for: only looked at where it fails."""

    operation: Operation
    tried: str
    tolerated: int


@dataclass(frozen=True, slots=True)
class Table:
    """Calls in order (number, then arguments), and what each was for."""

    calls: tuple[tuple[Argument, ...], ...]
    notes: tuple[Note, ...]


class Encoder(System):
    """Appends calls instead of making them.

    The numbers of descriptors are known beforehand: the kernel gives the lowest one free, and `InheritOnly` has
    closed all from `FIRST_FREE` up.
    """

    def __init__(self, operation: Operation) -> None:
        self.calls: list[tuple[Argument, ...]] = []
        self.notes: list[Note] = []
        self._operation = operation
        self._open: set[int] = set()

    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        self.calls.append((number, *arguments))
        self.notes.append(Note(self._operation, tried, tolerated))
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


@lru_cache(maxsize=256)
def _encoded(operation: Operation) -> Table:
    """Operations are values: one that every instance has in common is encoded once."""
    encoder = Encoder(operation)
    operation.execute(encoder)
    return Table(tuple(encoder.calls), tuple(encoder.notes))


def encode(operations: Iterable[Operation]) -> Table:
    """The calls of all operations, one after the other. Each has closed by its end what it opened."""
    tables = [_encoded(operation) for operation in operations]
    return Table(
        tuple(chain.from_iterable(table.calls for table in tables)),
        tuple(chain.from_iterable(table.notes for table in tables)),
    )
