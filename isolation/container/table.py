"""Operations written down as a flat table of system calls, so that a child has next to nothing left to think."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from isolation.container.operations import Operation
from isolation.syscalls import Argument, System


@dataclass(frozen=True, slots=True)
class Note:
    """What a call was for: only looked at where it fails."""

    operation: Operation
    tried: str
    tolerated: int


class Encoder(System):
    """Appends calls instead of making them.

    The numbers of descriptors are known beforehand: the kernel gives the lowest one free, and `InheritOnly` has
    closed all from `first_free` up.
    """

    def __init__(self, first_free: int) -> None:
        self.calls: list[tuple[Argument, ...]] = []
        self.notes: list[Note] = []
        self._first_free = first_free
        self._open: set[int] = set()
        self._operation: Operation

    def encode(self, operations: Iterable[Operation]) -> None:
        for operation in operations:
            self._operation = operation
            operation.execute(self)

    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        self.calls.append((number, *arguments))
        self.notes.append(Note(self._operation, tried, tolerated))
        return 0

    def opening(self, tried: str, number: int, *arguments: Argument) -> int:
        self.call(tried, number, *arguments)
        descriptor = self._first_free
        while descriptor in self._open:
            descriptor += 1
        self._open.add(descriptor)
        return descriptor

    def close(self, descriptor: int) -> None:
        super().close(descriptor)
        self._open.remove(descriptor)
