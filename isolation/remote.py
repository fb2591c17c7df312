"""The harness's end of a launcher: starts the slim process, asks it, takes the channel's descriptors."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from isolation.api import Availability, Finished, IsolationError, Launched, LaunchFailed, Site, Spec, Unsupported
from isolation.messages import (
    Describe,
    Factory,
    Finish,
    Launch,
    Load,
    Message,
    Prepare,
    Probe,
    Reply,
    Tool,
    Words,
    receive,
    send,
)

BOOT = "import sys; sys.path.insert(0, sys.argv[1]); from isolation.launcher import main; main(int(sys.argv[2]))"
ROOT = Path(__file__).resolve().parent.parent
GRACE_S = 15.0
"""On top of the bound that the launcher itself keeps: beyond it, the launcher is held for hung."""


@dataclass(frozen=True, slots=True)
class Started:
    """A launched instance and its channel's ends."""

    launched: Launched
    read_fd: int
    write_fd: int


class LauncherLost(LaunchFailed):
    """The launcher died or hangs; the caller makes a new one."""


class Launcher:
    """A slim process that hosts backends. Close it, or use it as a context manager."""

    def __init__(
        self, factories: Sequence[Factory], *, site_packages: bool = False, environment: Mapping[str, str] | None = None
    ) -> None:
        self.names = tuple(factory.name for factory in factories)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        flags = ["-I"] if site_packages else ["-I", "-S"]
        # A session of its own: the terminal's signals reach the harness only.
        self._process = subprocess.Popen(
            [sys.executable, *flags, "-c", BOOT, str(ROOT), str(theirs.fileno())],
            pass_fds=(theirs.fileno(),),
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env={
                "PATH": os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin",
                "LANG": "C.UTF-8",
                **(environment or {}),
            },
            cwd="/",
        )
        theirs.close()
        self._socket = ours
        self._pending = False
        """A question without its answer yet: where an interrupt cuts in, the next answer would be the wrong one."""
        try:
            self._call(Load(tuple(factories)), 30)
        except BaseException:
            self.close()
            raise

    @property
    def pid(self) -> int:
        return self._process.pid

    def probe(self) -> tuple[Availability, ...]:
        found: tuple[Availability, ...] = self._call(Probe(), 120)[0]
        return found

    def prepare(self, backend: str, site: Site) -> Availability:
        found: Availability = self._call(Prepare(backend, site), 120)[0]
        return found

    def describe(self, backend: str) -> Words:
        words: Words = self._call(Describe(backend), 10)[0]
        return words

    def launch(self, backend: str, specs: Sequence[Spec], *, accounting: bool = False) -> tuple[Started, ...]:
        """Start instances at once: for each its stamps and the channel's descriptors, the caller's to close.

        Raises LaunchFailed, Unsupported or LauncherLost; none of the instances then stays.
        """
        timeout_s = max(spec.timeout_s for spec in specs)
        launched, descriptors = self._call(Launch(backend, tuple(specs), accounting), timeout_s)
        pairs = zip(descriptors[::2], descriptors[1::2], strict=True)
        return tuple(Started(one, *pair) for one, pair in zip(launched, pairs, strict=True))

    def finish(self, instance: str, *, timeout_s: float, force: bool = False) -> Finished:
        finished: Finished = self._call(Finish(instance, timeout_s, force), timeout_s)[0]
        return finished

    def tool(self, backend: str, *, timeout_s: float) -> int | None:
        value: int | None = self._call(Tool(backend, timeout_s), timeout_s)[0]
        return value

    def close(self) -> None:
        """End the launcher with all it started; by force where it does not go."""
        self._socket.close()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, message: Message, timeout_s: float) -> tuple[Any, list[int]]:
        if self._pending:
            raise LauncherLost("interrupted", "an interrupt cut off the launcher's last answer")
        self._pending = True
        try:
            send(self._socket, message)
            poller = select.poll()
            poller.register(self._socket, select.POLLIN)
            if not poller.poll((timeout_s + GRACE_S) * 1000):
                raise LauncherLost("never_ready", f"the launcher gave no answer within {timeout_s + GRACE_S:g} s")
            reply, descriptors = receive(self._socket)
        except (EOFError, ConnectionError) as error:
            raise LauncherLost("killed", "the launcher process ended unexpectedly") from error
        self._pending = False
        return _value(reply), descriptors


def _value(reply: Reply) -> Any:
    failure = reply.failure
    if failure is None:
        return reply.value
    for kind in (LaunchFailed, Unsupported, IsolationError):
        if failure.kind == kind.__name__:
            raise kind(failure.reason, failure.detail)
    raise RuntimeError(f"bug in the launcher:\n{failure.detail}")
