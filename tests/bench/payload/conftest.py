"""The real payload, built once, and ways to start it."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.payload.build import build
from bench.payload.protocol import Channel

NONCE = "c0ffee"
PATIENCE_S = 30.0


@dataclass
class Started:
    """A payload that runs, not greeted yet, and the channel to it."""

    process: subprocess.Popen[bytes]
    channel: Channel
    write_fd: int

    def greeted(self) -> Started:
        self.channel.greet(NONCE, PATIENCE_S, first_byte_read=False)
        return self

    def ask(self, *words: str):
        return self.channel.request(*words, timeout_s=PATIENCE_S)

    def quit(self) -> int:
        os.write(self.write_fd, b"quit\n")
        return self.process.wait(PATIENCE_S)


@pytest.fixture(scope="session")
def probe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler in PATH")
    path = tmp_path_factory.mktemp("payload") / "probe"
    build(path)
    return path


@pytest.fixture
def start(probe: Path) -> Iterator[Callable[..., Started]]:
    """Starts the payload behind a prefix of words such as `unshare ...`; ends what is left after the test."""
    everything: list[Started] = []

    def start(*words: str, prefix: Sequence[str] = ()) -> Started:
        command = [*prefix, str(probe), f"nonce={NONCE}", *words]
        their_in, our_out = os.pipe()
        our_in, their_out = os.pipe()
        process = subprocess.Popen(command, stdin=their_in, stdout=their_out)
        os.close(their_in)
        os.close(their_out)
        started = Started(process, Channel(our_in, our_out), our_out)
        everything.append(started)
        return started

    yield start
    for started in everything:
        started.channel.close()
        if started.process.poll() is None:
            started.process.kill()
        started.process.wait(PATIENCE_S)


@pytest.fixture
def process(start) -> Started:
    """An ordinary process, greeted."""
    return start().greeted()


@pytest.fixture
def container(start) -> Started:
    """PID 1 of a PID namespace, greeted."""
    if os.geteuid() != 0:
        pytest.skip("a PID namespace needs root")
    return start(prefix=("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")).greeted()


@pytest.fixture
def gone() -> Callable[[int], bool]:
    """Waits until a process, which need not be a child, has ended; False if it has not in time."""

    def gone(pid: int) -> bool:
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return True
        try:
            return bool(select.select([pidfd], [], [], PATIENCE_S)[0])
        finally:
            os.close(pidfd)

    return gone
