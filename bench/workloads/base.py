"""What a workload is, and what it may use: a `Slot` that launches, times out and tears down."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Protocol

from bench.payload.protocol import Channel
from isolation.api import Finished, Launched, Limits, Medium, Site, Volume
from results.schema import Role, Status


@dataclass(frozen=True, slots=True)
class Reading:
    """One number of one instance, before the engine adds run, block, position, role and lane."""

    metric: str
    value: float | None
    instance: str
    t_ns: int
    parameters: Mapping[str, Any] = field(default_factory=dict)
    status: Status = "ok"
    reason: str = ""
    detail: str = ""
    workload: str | None = None
    """None is the slot's own workload; cross-checks say `checks`."""


class Live(Protocol):
    """A launched instance seen from the harness."""

    @property
    def launched(self) -> Launched: ...

    @property
    def channel(self) -> Channel:
        """Already greeted: the nonce was right."""

    def finish(self) -> Finished:
        """Tell it to quit and take the launcher's stamps.

        Raises isolation.api.LaunchFailed where it did not end as told (killed, OOM, hang, leak).
        """


class Slot(Protocol):
    """One cell's turn in a block."""

    @property
    def workload(self) -> str: ...

    @property
    def backend(self) -> str: ...

    @property
    def role(self) -> Role: ...

    @property
    def block(self) -> int: ...

    @property
    def repeats(self) -> int:
        """How often a cheap launch is recorded in this slot; 1 for others."""

    @property
    def medium(self) -> Medium: ...

    @property
    def dose(self) -> float:
        """Relative effect to inject (0.1 is 10 %); 0.0 unless role is `control`."""

    @property
    def typical(self) -> Mapping[str, float]:
        """Metric -> the controlled backend's own median seen in the pilot before the first block; empty before it."""

    @property
    def timeout_s(self) -> float: ...

    @property
    def settle_s(self) -> float: ...

    @property
    def site(self) -> Site: ...

    def launch(
        self,
        *,
        arguments: tuple[str, ...] = (),
        limits: Limits | None = None,
        volumes: tuple[Volume, ...] = (),
        accounting: bool = False,
        prime: bool = False,
    ) -> AbstractContextManager[Live]:
        """Start one instance; on leaving the block it is ended and removed if `finish` was not called.

        `prime` first does an untimed launch where the backend is cheap, then settles (DESIGN section 5,
        carry-over). `accounting` puts all the instance's processes into a memory group of its own, also for
        backends that have none. Raises isolation.api.LaunchFailed or Unsupported, with the reason code.
        """

    def launch_all(self, count: int, *, accounting: bool = False) -> AbstractContextManager[tuple[Live, ...]]:
        """Start `count` instances at once, wait for all; ended and removed as with `launch`."""

    def tool(self) -> int | None:
        """Nanoseconds from starting the runtime's version command to its first byte; None where it has none."""

    def shared_dir(self) -> str:
        """A folder of the run for what this workload shares between slots (data files), the same for all slots."""


class Workload(Protocol):
    """One file in this package each. `measure` yields readings; what it raises becomes the slot's failed rows."""

    @property
    def name(self) -> str: ...

    def available(self) -> tuple[str, str] | None:
        """(reason, detail) where the host lacks what it needs (fio), else None."""

    def prepare(self, shared_dir: str, site: Site) -> None:
        """Make what all slots share (data files), before the first block."""

    def measure(self, slot: Slot) -> Iterator[Reading]:
        """Do one slot. Raises LaunchFailed, Unsupported, ProtocolError or TimeoutError."""
