"""A real guest: the kernel from set-up's cache, an initramfs of the payload as it is now, a backend that is ready."""

import os
import secrets
import select
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.paths import cache_folder
from bench.payload.build import build
from bench.payload.protocol import Channel
from isolation.api import Site, Spec
from vmdriver import image
from vmdriver.machine import Machine, RunningMachine

WAIT_S = 60.0


@pytest.fixture(scope="session")
def payload(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("payload") / "probe"
    build(target)
    return target


@pytest.fixture(scope="session")
def kernel() -> image.KernelFiles:
    return image.fetch_kernel(cache_folder())


@pytest.fixture(scope="session")
def guest_cache(kernel: image.KernelFiles, payload: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache = tmp_path_factory.mktemp("cache")
    image.build_initramfs(kernel, payload, cache)
    return cache


@pytest.fixture(scope="session")
def site(guest_cache: Path, payload: Path) -> Iterator[Site]:
    guest = image.current_guest(guest_cache)
    assert guest is not None
    # pytest's own folders have names too long for a Unix socket's path
    runtime = tempfile.mkdtemp(prefix="tare-", dir="/run")
    scratch = tempfile.mkdtemp(prefix="tare-test-", dir="/var/tmp")
    yield Site("run", scratch, runtime, str(payload), "/", guest.kernel, guest.initramfs)
    shutil.rmtree(scratch)
    os.rmdir(runtime)


@pytest.fixture(scope="session")
def machine(site: Site, guest_cache: Path) -> Iterator[Machine]:
    """The backend, with its acceleration proved (where KVM only seems to work, that takes the proof's whole limit)."""
    if os.geteuid() != 0:
        pytest.skip("libvirt's embedded QEMU driver needs root")
    backend = Machine("vm", cache=str(guest_cache))
    backend.prepare(site)
    yield backend
    backend.close()


@dataclass
class Session:
    """One launched guest and what a launcher does with it."""

    instance: RunningMachine
    spec: Spec
    channel: Channel

    def greet(self) -> None:
        self.channel.greet(self.spec.nonce, timeout_s=WAIT_S, first_byte_read=False)

    def ended(self, timeout_s: float = WAIT_S) -> bool:
        poller = select.poll()
        poller.register(self.instance.pidfd, select.POLLIN)
        return bool(poller.poll(timeout_s * 1000))

    def quit(self) -> None:
        os.write(self.instance.write_fd, b"quit\n")


class Guests:
    """Launches guests, and ends those that a test left."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._machine = machine
        self._folder = folder
        self._alive: list[Session] = []

    def launch(self, **changes: object) -> Session:
        name = f"vm-{secrets.token_hex(3)}"
        spec = Spec(instance=name, nonce=secrets.token_hex(8), log=str(self._folder / f"{name}.console"), **changes)
        instance = self._machine.start(spec)
        session = Session(instance, spec, Channel(os.dup(instance.read_fd), os.dup(instance.write_fd)))
        self._alive.append(session)
        return session

    def finish(self, session: Session) -> None:
        """Descriptors and domain, after `reap`."""
        self._alive.remove(session)
        session.channel.close()
        os.close(session.instance.read_fd)
        os.close(session.instance.write_fd)
        session.instance.destroy()

    def end_all(self) -> None:
        for session in list(self._alive):
            session.instance.kill()
            assert session.ended()
            session.instance.reap()
            self.finish(session)


@pytest.fixture
def guests(machine: Machine, tmp_path: Path) -> Iterator[Guests]:
    launcher = Guests(machine, tmp_path)
    yield launcher
    launcher.end_all()
