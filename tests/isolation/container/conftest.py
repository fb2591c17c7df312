"""A recording double for system calls, a small root file system with the real payload, and a way to launch."""

import os
import pathlib
import select
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

import pytest

from bench.payload.build import build
from bench.payload.protocol import Channel
from isolation.api import Exit, Limits, Site, Spec
from isolation.container import cgroup
from isolation.container.container import Container, ContainerInstance
from isolation.syscalls import Argument, System

TIMEOUT_S = 20.0


class Recorder(System):
    """Makes no call: `tried` holds what was to be done, in order; descriptors are counted up from 100."""

    def __init__(self) -> None:
        self.tried: list[str] = []
        self.numbers: list[int] = []
        self._next = 100

    def call(self, tried: str, number: int, *arguments: Argument, tolerated: int = 0) -> int:
        self.tried.append(tried)
        self.numbers.append(number)
        return 0

    def opening(self, tried: str, number: int, *arguments: Argument) -> int:
        self.call(tried, number, *arguments)
        self._next += 1
        return self._next


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tree = cgroup.detect().tree("memory")
    version = tree.version if tree else 0
    for item in items:
        if item.get_closest_marker("root") and os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason="needs root on the host"))
        for wanted in (1, 2):
            if item.get_closest_marker(f"cgroup_v{wanted}") and version != wanted:
                reason = f"the memory controller is on cgroup v{version} here, not v{wanted}"
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def rootfs(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The payload at /probe, a static busybox at /bin/busybox, empty directories."""
    folder = tmp_path_factory.mktemp("container")
    build(folder / "probe")
    root = folder / "rootfs"
    for name in ("proc", "dev", "sys", "tmp", "bin", "etc"):
        (root / name).mkdir(parents=True)
    shutil.copy(folder / "probe", root / "probe")
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.fail("busybox is missing: install the package busybox-static (`nox -s setup` does)")
    shutil.copy(busybox, root / "bin" / "busybox")
    return root


@pytest.fixture
def site(tmp_path: pathlib.Path, rootfs: pathlib.Path) -> Iterator[Site]:
    """A run of its own, with everything of it removed afterwards."""
    run_id = f"test-{uuid.uuid4().hex[:8]}"
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    group = cgroup.run_group(run_id)
    yield Site(run_id, str(scratch), str(tmp_path), str(rootfs / "probe"), str(rootfs), cgroup=group)
    if os.geteuid() == 0:
        cgroup.remove_tree(group)


@dataclass(frozen=True)
class Running:
    """A launched and greeted instance."""

    instance: ContainerInstance
    channel: Channel

    def ask(self, *words: str) -> Mapping[str, Any]:
        return self.channel.request(*words, timeout_s=TIMEOUT_S)

    def shell(self, script: str) -> str:
        """Output of a busybox script run inside, which must succeed."""
        reply = self.ask("exec", "20000", "/bin/busybox", "sh", "-c", script)
        assert reply["code"] == 0, reply
        return reply["stdout"]

    def end(self) -> Exit:
        """Tell it to quit by closing the channel, wait for its end, collect it, remove it."""
        self.channel.close()
        await_end(self.instance)
        ended = self.instance.reap()
        self.instance.destroy()
        return ended


def await_end(instance: ContainerInstance) -> None:
    poller = select.poll()
    poller.register(instance.pidfd, select.POLLIN)
    assert poller.poll(TIMEOUT_S * 1000), "the instance does not end"


@pytest.fixture
def started(site: Site) -> Callable[..., Running]:
    """Start an instance of a backend, greeted; the caller ends it."""

    def start(backend: str, name: str = "one", **fields: Any) -> Running:
        container = Container(backend)
        container.prepare(site)
        values = {"limits": Limits(memory_bytes=128 << 20, pids=32), "cgroup": f"{site.cgroup}/{name}", **fields}
        instance = container.start(Spec(name, "5eed", timeout_s=TIMEOUT_S, **values))
        channel = Channel(instance.read_fd, instance.write_fd)
        channel.greet("5eed", TIMEOUT_S, first_byte_read=False)
        return Running(instance, channel)

    return start


@pytest.fixture
def launch(started: Callable[..., Running]) -> Callable[..., AbstractContextManager[Running]]:
    """`with launch("container", volumes=...) as running:`; killed and removed if the block fails."""

    @contextmanager
    def launcher(backend: str, name: str = "one", **fields: Any) -> Iterator[Running]:
        running = started(backend, name, **fields)
        try:
            yield running
        except BaseException:
            running.instance.kill()
            running.end()
            raise
        assert running.end() == Exit(0, None, cpu_ns=ANY)

    return launcher
