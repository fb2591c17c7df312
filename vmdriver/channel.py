"""Both lines out of a guest: the virtio-serial port as a connected socket, and the console's last lines."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

TAIL_BYTES = 4096


@contextmanager
def listening(path: str) -> Iterator[socket.socket]:
    """A Unix socket that listens at `path`; gone from the file system on leaving."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(path)
        try:
            listener.listen(1)
            yield listener
        finally:
            os.unlink(path)


def accept(listener: socket.socket) -> int | None:
    """A descriptor of the connection that waits at `listener`; None where none does. Does not block."""
    poller = select.poll()
    poller.register(listener, select.POLLIN)
    if not poller.poll(0):
        return None
    connection, _ = listener.accept()
    return connection.detach()


def console_tail(path: str, start: int = 0) -> tuple[str, ...]:
    """The last lines that the guest's kernel printed into `path` from byte `start` on, blank ones left out."""
    try:
        with open(path, "rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(start, size - TAIL_BYTES))
            text = file.read().decode("utf-8", "replace")
    except FileNotFoundError:
        return ()
    return tuple(line for line in map(str.strip, text.splitlines()) if line)
