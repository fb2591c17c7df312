"""One cell's turn: launches for a workload, greets the payload, tears down, whatever happens."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count

from bench.fleet import Fleet
from bench.journal import LABEL
from bench.payload.protocol import Channel
from bench.plan import Cell, Plan
from isolation.api import Finished, Launched, LaunchFailed, Limits, Medium, Site, Spec, Volume
from isolation.messages import Words
from results.schema import Role


@dataclass(slots=True)
class LiveInstance:
    """A greeted instance. `finish` is what a workload that measures the end calls; else the slot ends it."""

    launched: Launched
    channel: Channel
    fleet: Fleet
    timeout_s: float
    finished: Finished | None = None

    def finish(self) -> Finished:
        """Quit, exit, gone. Raises LaunchFailed where it ended otherwise than told."""
        finished = self._end(force=False)
        if finished.trouble is not None:
            raise LaunchFailed(*finished.trouble)
        return finished

    def abandon(self) -> None:
        """End it by force if nothing has ended it. Raises LaunchFailed where something of it stays."""
        if self.finished is None and (trouble := self._end(force=True).trouble):
            raise LaunchFailed(*trouble)

    def _end(self, *, force: bool) -> Finished:
        launched = self.launched
        self.finished = self.fleet.finish(launched.backend, launched.instance, timeout_s=self.timeout_s, force=force)
        return self.finished


@dataclass(frozen=True, slots=True)
class Slot:
    """What a workload sees of its turn (the protocol `bench.workloads.base.Slot`)."""

    fleet: Fleet
    plan: Plan
    cell: Cell
    block: int
    words: Words
    site: Site
    folder: str
    dose: float
    typical: Mapping[str, float]
    numbers: count[int]
    logs: str
    prefix: str = ""
    """Of instance names: tells those of parity and pilot from the measured ones."""

    @property
    def workload(self) -> str:
        return self.cell.workload

    @property
    def backend(self) -> str:
        return self.cell.backend

    @property
    def role(self) -> Role:
        return self.cell.role

    @property
    def medium(self) -> Medium:
        return "disk" if self.words.medium == "disk" else "directory"

    @property
    def repeats(self) -> int:
        return self.plan.pace(self.workload).repeats if self.words.cheap else 1

    @property
    def timeout_s(self) -> float:
        return self.plan.timeout_s

    @property
    def settle_s(self) -> float:
        return self.plan.settle_s

    def shared_dir(self) -> str:
        return self.folder

    def tool(self) -> int | None:
        return self.fleet.tool(self.backend, timeout_s=self.timeout_s)

    @contextmanager
    def launch(
        self,
        *,
        arguments: tuple[str, ...] = (),
        limits: Limits | None = None,
        volumes: tuple[Volume, ...] = (),
        accounting: bool = False,
        prime: bool = False,
    ) -> Iterator[LiveInstance]:
        """Start and greet one instance; it is ended on leaving. Raises LaunchFailed, Unsupported, ProtocolError."""
        if prime and self.words.cheap:
            with self._alive([self._spec(arguments, limits, volumes)], accounting=accounting) as (primer,):
                primer.finish()
        time.sleep(self.settle_s)  # the washout of DESIGN section 5: a pause by design, not a wait for an event
        with self._alive([self._spec(arguments, limits, volumes)], accounting=accounting) as (live,):
            yield live

    @contextmanager
    def launch_all(self, count: int, *, accounting: bool = False) -> Iterator[tuple[LiveInstance, ...]]:
        """Start `count` instances at once and greet them; they are ended on leaving. Raises as `launch`."""
        time.sleep(self.settle_s)
        specs = [self._spec((), None, ()) for _ in range(count)]
        with self._alive(specs, accounting=accounting) as lives:
            yield lives

    @contextmanager
    def _alive(self, specs: Sequence[Spec], *, accounting: bool) -> Iterator[tuple[LiveInstance, ...]]:
        started = self.fleet.launch(self.backend, specs, accounting=accounting)
        lives = tuple(
            LiveInstance(one.launched, Channel(one.read_fd, one.write_fd), self.fleet, self.timeout_s)
            for one in started
        )
        try:
            for live, spec in zip(lives, specs, strict=True):
                live.channel.greet(spec.nonce, timeout_s=self.timeout_s, first_byte_read=True)
                for request in self._mount_requests(spec):
                    live.channel.request(*request, timeout_s=self.timeout_s)
            yield lives
        except Exception:
            _abandon(lives)
            raise
        else:
            _abandon(lives)
        finally:  # on an interrupt nothing is asked of launchers any more: closing them ends their instances
            for live in lives:
                live.channel.close()

    def _mount_requests(self, spec: Spec) -> tuple[tuple[str, ...], ...]:
        """A guest mounts its disks when asked, after it is ready: its start stays that of a guest without disks."""
        if self.medium == "directory" or not spec.volumes:
            return ()
        from vmdriver.machine import mount_requests

        return mount_requests(spec, self.site)

    def _spec(self, arguments: tuple[str, ...], limits: Limits | None, volumes: tuple[Volume, ...]) -> Spec:
        instance = f"{self.prefix}{self.backend}-{next(self.numbers)}"
        log = f"{self.logs}/{self.backend}.stderr" if self.words.cheap else f"{self.logs}/{instance}.console"
        return Spec(
            instance=instance,
            nonce=secrets.token_hex(8),
            arguments=arguments,
            environment=((LABEL, self.site.run_id),),
            limits=limits or Limits(memory_bytes=self.plan.memory_bytes, pids=self.plan.pids),
            volumes=volumes,
            memory_bytes=self.plan.memory_bytes,
            log=log,
            timeout_s=self.plan.timeout_s,
        )


def _abandon(lives: Sequence[LiveInstance]) -> None:
    """End those that still live, all of them, then raise the first trouble met."""
    troubles = []
    for live in lives:
        try:
            live.abandon()
        except LaunchFailed as error:
            troubles.append(error)
    if troubles:
        raise troubles[0]
