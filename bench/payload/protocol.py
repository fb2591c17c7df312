"""The host's side of the payload's protocol, laid down in this package's docstring.

Standard library only.  Bad replies and broken channels are `ProtocolError`; silence is the builtin TimeoutError.
"""

from __future__ import annotations

import json
import os
import select
import urllib.parse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self, TypeVar

from bench.clock import now_ns

MAX_REPLY = 16 << 20
"""Bytes of one reply line: `exec` keeps 1 MiB of each of two outputs, and an escaped byte takes six."""
MAX_REQUEST = 64 << 10
WRITE_BYTES = select.PIPE_BUF
"""Once poll(2) says writable, a pipe takes this much without blocking (pipe(7)). The descriptors stay blocking, since
O_NONBLOCK would be shared with the launcher, which holds the same open files."""
READ_BYTES = 64 << 10

Reason = Literal["garbage", "exited_early", "refused"]


class ProtocolError(Exception):
    """The other end did not keep to the protocol: `reason` is a code of DESIGN section 3, `detail` one line."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason: Reason = reason
        self.detail = detail


class Refused(ProtocolError):
    """The payload understood and answered `{"ok":false}`; `detail` is its error line. The channel stays usable."""

    def __init__(self, detail: str) -> None:
        super().__init__("refused", detail)


@dataclass(frozen=True, slots=True)
class Timed:
    """A reply with host CLOCK_MONOTONIC stamps: before the request's write, after the read that completed the line."""

    reply: Mapping[str, Any]
    sent_ns: int
    received_ns: int

    @property
    def elapsed_ns(self) -> int:
        return self.received_ns - self.sent_ns


@dataclass(frozen=True, slots=True)
class LoopReply:
    """Reply to `loop`; `elapsed_ns` is by the payload's own clock: a cross-check, never a sample."""

    count: int
    elapsed_ns: int

    @classmethod
    def parse(cls, reply: Mapping[str, Any]) -> Self:
        """Raises ProtocolError (`garbage`) where a field is missing or not of its type."""
        return _parse(reply, lambda: cls(int(reply["count"]), int(reply["elapsed_ns"])))


@dataclass(frozen=True, slots=True)
class ExecReply:
    """Reply to `exec`. Either `code` or `signal` is set; `truncated` says that output over 1 MiB was dropped."""

    code: int | None
    signal: int | None
    timeout: bool
    stdout: bytes
    stderr: bytes
    truncated: bool
    elapsed_ns: int
    cpu_ns: int

    @classmethod
    def parse(cls, reply: Mapping[str, Any]) -> Self:
        """Raises ProtocolError (`garbage`) where a field is missing or not of its type."""
        return _parse(
            reply,
            lambda: cls(
                code=None if reply["code"] is None else int(reply["code"]),
                signal=None if reply["signal"] is None else int(reply["signal"]),
                timeout=bool(reply["timeout"]),
                stdout=reply["stdout"].encode("latin-1"),
                stderr=reply["stderr"].encode("latin-1"),
                truncated=bool(reply["truncated"]),
                elapsed_ns=int(reply["elapsed_ns"]),
                cpu_ns=int(reply["cpu_ns"]),
            ),
        )


_Parsed = TypeVar("_Parsed")


def _parse(reply: Mapping[str, Any], convert: Callable[[], _Parsed]) -> _Parsed:
    try:
        return convert()
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(
            "garbage", f"reply lacks a field or has a wrong one: {error!r} in {reply!r:.200}"
        ) from error


def encode(*words: str) -> bytes:
    """One request line: the words percent-encoded (RFC 3986) with single spaces between.

    Bytes that are no UTF-8 travel as Python's surrogate escapes, as in `os.fsdecode`. Raises ValueError for what no
    payload can take: no word at all, a zero byte, a line over 64 KiB.
    """
    if not words:
        raise ValueError("a request needs at least one word")
    if any("\0" in word for word in words):
        raise ValueError(f"a request cannot carry a zero byte: {words!r:.200}")
    line = " ".join(urllib.parse.quote(word, errors="surrogateescape") for word in words).encode("ascii") + b"\n"
    if len(line) > MAX_REQUEST:
        raise ValueError(f"request of {len(line)} bytes: the payload takes at most {MAX_REQUEST}")
    return line


class Channel:
    """A conversation with one payload over two descriptors, which it owns and closes.

    One request, one reply. After a time-out or garbage a late reply could pass for the next one's, so from then on
    every request is refused as `garbage` without being sent.
    """

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self._fds = {read_fd, write_fd}
        self._read_fd = read_fd
        self._write_fd = write_fd
        self._readable = select.poll()
        self._readable.register(read_fd, select.POLLIN)
        self._writable = select.poll()
        self._writable.register(write_fd, select.POLLOUT)
        self._pending = bytearray()
        self._in_step = False

    def greet(self, nonce: str, timeout_s: float, first_byte_read: bool = True) -> None:
        """Read the first line, `Tare/1 NONCE`, whose first byte is gone already where the launcher took its stamp.

        Wrong from any byte on is found at that byte, not after a time-out. Raises ProtocolError or TimeoutError.
        """
        wanted = f"Tare/1 {nonce}\n".encode("ascii")[1 if first_byte_read else 0 :]
        deadline_ns = _deadline_ns(timeout_s)
        while bytes(self._pending) != wanted:
            if not wanted.startswith(self._pending):
                raise ProtocolError("garbage", f"first line is {_shown(self._pending)}, not {_shown(wanted)}")
            self._fill(deadline_ns, "its first line")
        self._pending.clear()
        self._in_step = True

    def request(self, *words: str, timeout_s: float) -> Mapping[str, Any]:
        """Ask and return the reply's fields. Raises Refused, ProtocolError or TimeoutError; ValueError as `encode`."""
        return self.timed(*words, timeout_s=timeout_s).reply

    def timed(self, *words: str, timeout_s: float) -> Timed:
        """Like `request`, with stamps of the host's clock around it; encoding and decoding lie outside them."""
        line = encode(*words)
        if not self._in_step or self._pending:
            raise ProtocolError("garbage", f"cannot ask for {words[0]}: an earlier exchange did not end as it should")
        self._in_step = False
        deadline_ns = _deadline_ns(timeout_s)
        sent_ns = self._send(line, deadline_ns, words[0])
        reply_line, received_ns = self._take_line(deadline_ns, words[0])
        reply = _decode(reply_line)
        self._in_step = True
        if reply["ok"] is False:
            raise Refused(str(reply.get("error", "no reason given")))
        return Timed(reply, sent_ns, received_ns)

    def close(self) -> None:
        """Close both descriptors, which tells the payload to quit. Idempotent."""
        self._in_step = False
        while self._fds:
            os.close(self._fds.pop())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, line: bytes, deadline_ns: int, what: str) -> int:
        """Write it all; return the stamp taken just before the first write."""
        _await(self._writable, deadline_ns, f"room to send {what}")
        sent_ns = now_ns()
        try:
            left = memoryview(line)[os.write(self._write_fd, line[:WRITE_BYTES]) :]
            while left:
                _await(self._writable, deadline_ns, f"room to send {what}")
                left = left[os.write(self._write_fd, left[:WRITE_BYTES]) :]
        except (BrokenPipeError, ConnectionResetError) as error:
            raise ProtocolError("exited_early", f"channel closed while sending {what}: {error.strerror}") from error
        return sent_ns

    def _take_line(self, deadline_ns: int, what: str) -> tuple[bytes, int]:
        """The next line without its newline, and the stamp of the read that completed it."""
        searched = 0
        while True:
            received_ns = self._fill(deadline_ns, f"the reply to {what}")
            end = self._pending.find(b"\n", searched)
            if end >= 0:
                line = bytes(self._pending[:end])
                del self._pending[: end + 1]
                return line, received_ns
            searched = len(self._pending)
            if searched > MAX_REPLY:
                raise ProtocolError("garbage", f"over {MAX_REPLY >> 20} MiB in one line as reply to {what}")

    def _fill(self, deadline_ns: int, what: str) -> int:
        """Read once; return the stamp taken just after."""
        _await(self._readable, deadline_ns, what)
        try:
            chunk = os.read(self._read_fd, READ_BYTES)
        except ConnectionResetError:
            chunk = b""
        received_ns = now_ns()
        if not chunk:
            raise ProtocolError("exited_early", f"channel closed before {what}; so far {_shown(self._pending)}")
        self._pending += chunk
        return received_ns


def _deadline_ns(timeout_s: float) -> int:
    return now_ns() + int(timeout_s * 1e9)


def _await(poll: select.poll, deadline_ns: int, what: str) -> None:
    """Wait until the descriptor is ready or broken (then the next call on it says how)."""
    while True:
        left_ms = max(0, -(-(deadline_ns - now_ns()) // 1_000_000))
        if poll.poll(left_ms):
            return
        if now_ns() >= deadline_ns:
            raise TimeoutError(f"the payload did not give {what} in time")


def _decode(line: bytes) -> Mapping[str, Any]:
    try:
        reply = json.loads(line.decode("ascii"))
    except ValueError as error:
        raise ProtocolError("garbage", f"reply is not JSON: {_shown(line)}") from error
    if not isinstance(reply, dict) or not isinstance(reply.get("ok"), bool):
        raise ProtocolError("garbage", f"reply is no object with `ok`: {_shown(line)}")
    return reply


def _shown(data: bytes | bytearray) -> str:
    return repr(bytes(data[:80])) + (f" ... ({len(data)} bytes)" if len(data) > 80 else "")
