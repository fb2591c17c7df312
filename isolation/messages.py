"""What harness and launcher say to each other: one pickled value a packet over a SEQPACKET socket pair.

Pickle is safe here: both ends are our own processes over an unnamed socket that nobody else holds.
"""

from __future__ import annotations

import pickle
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from isolation.api import Site, Spec

PACKET_BYTES = 1 << 20
MAX_DESCRIPTORS = 253
"""SCM_MAX_FD: the kernel passes no more beside one packet, so one Launch starts at most 126 instances."""


@dataclass(frozen=True, slots=True)
class Factory:
    """Where the launcher finds a backend: `module:Class`, called with the name and `options`."""

    target: str
    name: str
    options: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Load:
    factories: tuple[Factory, ...]


@dataclass(frozen=True, slots=True)
class Probe:
    """Asks every loaded backend for its availability: reply is a tuple of Availability."""


@dataclass(frozen=True, slots=True)
class Prepare:
    backend: str
    site: Site


@dataclass(frozen=True, slots=True)
class Launch:
    """Start instances at once, then wait for the first byte of each: reply is a tuple of Launched, in order."""

    backend: str
    specs: tuple[Spec, ...]
    accounting: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    """End an instance: politely (`quit` written, waited for) or by force."""

    instance: str
    timeout_s: float
    force: bool = False


@dataclass(frozen=True, slots=True)
class Tool:
    backend: str
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Describe:
    backend: str


@dataclass(frozen=True, slots=True)
class Words:
    """A backend's words about itself."""

    medium: str
    cheap: bool
    shared: tuple[str, ...]
    owned: tuple[str, ...]
    before_first_byte: str


@dataclass(frozen=True, slots=True)
class Failure:
    """`kind` names an exception class of isolation.api (or `Error` for a bug, with a traceback in detail)."""

    kind: str
    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Reply:
    value: Any = None
    failure: Failure | None = None


Message = Load | Probe | Prepare | Launch | Finish | Tool | Describe


def send(sock: socket.socket, value: object, descriptors: Sequence[int] = ()) -> None:
    packet = pickle.dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    if descriptors:
        socket.send_fds(sock, [packet], list(descriptors))
    else:
        sock.send(packet)


def receive(sock: socket.socket) -> tuple[Any, list[int]]:
    """One packet and the descriptors beside it, close-on-exec. Raises EOFError where the other end is gone."""
    packet, descriptors, _, _ = socket.recv_fds(sock, PACKET_BYTES, MAX_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC)
    if not packet:
        raise EOFError("the other end of the launcher's socket is closed")
    return pickle.loads(packet), descriptors  # noqa: S301 - our own process, see the module's docstring
