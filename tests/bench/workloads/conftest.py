"""A small real slot: the payload as a plain process over two pipes, stamped as the launcher stamps it."""

from __future__ import annotations

import os
import secrets
import select
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from bench.payload.build import build
from bench.payload.protocol import Channel
from bench.workloads.base import Live
from isolation.api import Exit, Finished, Launched, Limits, Medium, Site, Volume
from isolation.container.cgroup import Group, detect, establish
from results.schema import Role

TIMEOUT_S = 30.0


@dataclass
class PlainLive:
    """A payload that was started by `subprocess`."""

    launched: Launched
    channel: Channel
    process: subprocess.Popen[bytes]
    group: Group | None

    def finish(self) -> Finished:
        tq_ns = time.monotonic_ns()
        self.channel.close()  # end of file means quit
        pidfd = os.pidfd_open(self.process.pid)
        poller = select.poll()
        poller.register(pidfd, select.POLLIN)
        assert poller.poll(TIMEOUT_S * 1000)
        t2_ns = time.monotonic_ns()
        os.close(pidfd)
        code = self.process.wait(TIMEOUT_S)
        if self.group:
            self.group.remove()
        return Finished(self.launched.instance, tq_ns, t2_ns, time.monotonic_ns(), Exit(code, None, 1_000_000))


@dataclass
class PlainSlot:
    """`bench.workloads.base.Slot` for the bare process; remembers what was launched."""

    site: Site
    folder: Path
    workload: str = "-"
    backend: str = "process"
    role: Role = "subject"
    block: int = 0
    repeats: int = 1
    medium: Medium = "directory"
    dose: float = 0.0
    typical: Mapping[str, float] = field(default_factory=dict)
    timeout_s: float = TIMEOUT_S
    settle_s: float = 0.0
    tool_ns: int | None = None
    launches: list[tuple[tuple[str, ...], bool]] = field(default_factory=list)

    def shared_dir(self) -> str:
        return str(self.folder)

    def tool(self) -> int | None:
        return self.tool_ns

    @contextmanager
    def launch(
        self,
        *,
        arguments: tuple[str, ...] = (),
        limits: Limits | None = None,
        volumes: tuple[Volume, ...] = (),
        accounting: bool = False,
        prime: bool = False,
    ) -> Iterator[Live]:
        self.launches.append((arguments, prime))
        nonce = secrets.token_hex(8)
        instance = f"process-{len(self.launches)}"
        group = self._group(instance) if accounting else None
        t0_ns = time.monotonic_ns()
        process = subprocess.Popen(
            [self.site.payload, f"nonce={nonce}", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, preexec_fn=group.join_self if group else None,
        )  # fmt: skip
        assert process.stdin
        assert process.stdout
        fds = [os.dup(stream.fileno()) for stream in (process.stdout, process.stdin)]
        process.stdin.close()
        process.stdout.close()
        assert os.read(fds[0], 1) == b"T"
        launched = Launched(
            instance, "process", "native", t0_ns, time.monotonic_ns(), (process.pid,), group.path if group else ""
        )
        live = PlainLive(launched, Channel(*fds), process, group)
        try:
            live.channel.greet(nonce, TIMEOUT_S)
            yield live
        finally:
            if process.poll() is None:
                live.finish()

    @contextmanager
    def launch_all(self, count: int, *, accounting: bool = False) -> Iterator[tuple[Live, ...]]:
        with ExitStack() as stack:
            yield tuple(stack.enter_context(self.launch(accounting=accounting)) for _ in range(count))

    def _group(self, instance: str) -> Group:
        hierarchy = detect()
        establish(self.site.cgroup, hierarchy, ("memory",))
        group = Group.at(f"{self.site.cgroup}/{instance}", hierarchy, ("memory",))
        group.create(Limits())
        return group


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    probe = tmp_path_factory.mktemp("payload") / "probe"
    build(probe)
    return probe


@pytest.fixture
def slot(payload: Path, tmp_path: Path) -> PlainSlot:
    site = Site(
        run_id="workloads", scratch=str(tmp_path), runtime=str(tmp_path), payload=str(payload), rootfs="/",
        cgroup=f"tare/workloads-{os.getpid()}",
    )  # fmt: skip
    return PlainSlot(site, tmp_path)
