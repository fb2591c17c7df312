"""One run from beginning to end: what `tare run` does once its words are understood.

lock -> journal -> fleet -> what can run here -> parity -> blocks -> store -> report
"""

from __future__ import annotations

import hashlib
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import filelock

from bench import engine, host, parity
from bench.assets import Assets, locate
from bench.backends import registry
from bench.engine import Bench, Missing, Progress
from bench.fleet import Fleet
from bench.journal import LABEL, Journal, journal_folder, journals, remove, remove_dead, start_ticks
from bench.payload.protocol import ProtocolError
from bench.plan import Cell, Pace, Plan
from bench.slot import Slot
from bench.supervisor import Terminated
from isolation.api import Availability, IsolationError, Launched, Site, Unsupported
from isolation.container import cgroup
from isolation.messages import Words
from results.schema import SCHEMA_VERSION, BackendRecord, Manifest, Sample
from results.store import Store
from vmdriver.image import recorded_guest

SCRATCH_PARENT = Path("/var/tmp")
PAYLOAD_NAME = "probe"
FAILED = frozenset({"failed", "timeout", "killed"})
"""Statuses of a cell that did not do its work; `invalid` ones did, and are shown with their reason."""


class CannotRun(Exception):
    """One line that says what stands in the way and what to do (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run came to. `interrupted` is 130 or 143 where it was ended early."""

    path: Path
    manifest: Manifest
    failed_rows: int
    unavailable: tuple[Availability, ...]
    interrupted: int | None


@dataclass(frozen=True, slots=True)
class _Ready:
    """What was found before the first block."""

    bench: Bench
    records: tuple[BackendRecord, ...]
    unavailable: tuple[Availability, ...]


@contextmanager
def only_run() -> Iterator[None]:
    """Hold the machine's lock: two runs at once would measure each other. Raises CannotRun naming the holder."""
    folder = journal_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        holders = [f"{j.run_id} (pid {j.supervisor})" for j in journals() if j.alive()] or ["an unknown process"]
        raise CannotRun(f"another run holds {folder / 'lock'}: {', '.join(holders)}; wait for it to end") from None
    try:
        yield
    finally:
        lock.release()


def measure(plan: Plan, parent: Path, progress: Progress, *, resume: Path | None = None) -> Outcome:
    """Carry out a plan into a run folder below `parent`; with `resume`, the rest of that run into its own folder.

    Raises CannotRun, StoreError; ends early on KeyboardInterrupt and Terminated with the finished blocks kept.
    """
    assets = _assets()
    with only_run(), ExitStack() as stack:
        progress.begun()
        for dead, troubles in remove_dead():
            progress.say(f"removed what run {dead} left behind", *troubles)
        run_id = resume.name if resume else _new_id()
        site = _site(run_id, assets)
        journal = Journal(run_id, os.getppid(), start_ticks(os.getppid()) or 0, site.scratch, site.runtime, site.cgroup)
        journal.write()
        # The supervisor does the same should we not come to it; without a supervisor (killed), only we are left.
        stack.callback(remove, journal)
        for folder in (site.scratch, site.runtime):
            os.makedirs(folder, mode=0o700, exist_ok=True)
        manifest = _manifest(run_id, plan)
        store = Store.reopen(resume) if resume else Store.create(parent, manifest)
        done = store.finished_blocks() if resume else frozenset()
        fleet = stack.enter_context(Fleet(_backends(plan), environment={LABEL: run_id}))
        interrupted = None
        unavailable: tuple[Availability, ...] = ()
        failed = 0

        def append(samples: Sequence[Sample]) -> None:
            nonlocal failed
            failed += sum(sample.status in FAILED for sample in samples)
            store.append_block(samples)

        try:
            ready = _prepare(plan, site, fleet, str(store.logs))
            unavailable = ready.unavailable
            manifest = replace(manifest, backends=ready.records)
            store.write_manifest(manifest)
            remarks = engine.run(ready.bench, append, progress, done=done)
            manifest = replace(manifest, state="finished", notes=remarks)
        except KeyboardInterrupt:
            interrupted = 130
        except Terminated:
            interrupted = 143
        if interrupted:
            manifest = replace(manifest, state="partial", notes=(f"ended early (exit code {interrupted})",))
        manifest = replace(manifest, finished=_now())
        store.finish(manifest)
        return Outcome(store.path, manifest, failed, unavailable, interrupted)


def _assets() -> Assets:
    assets = locate()
    if assets.payload is None or assets.rootfs is None:
        raise CannotRun("the payload or the root filesystem is not built: run `./noxw -s setup`")
    return assets


def _new_id() -> str:
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{secrets.token_hex(2)}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _site(run_id: str, assets: Assets) -> Site:
    return Site(
        run_id=run_id,
        scratch=str(SCRATCH_PARENT / f"tare-{run_id}"),
        runtime=str(journal_folder() / run_id),
        payload=str(assets.payload),
        rootfs=str(assets.rootfs),
        kernel=str(assets.kernel) if assets.kernel else None,
        initramfs=str(assets.initramfs) if assets.initramfs else None,
        cgroup=cgroup.run_group(run_id),
    )


def _manifest(run_id: str, plan: Plan) -> Manifest:
    return Manifest(
        schema_version=SCHEMA_VERSION,
        run_id=run_id,
        state="running",
        seed=plan.seed,
        started=_now(),
        finished=None,
        plan=plan.as_mapping(),
        host=host.facts(),
        tools=host.tool_versions(),
        backends=(),
    )


def _backends(plan: Plan) -> tuple[str, ...]:
    return tuple(dict.fromkeys(cell.backend for cell in plan.cells))


def _prepare(plan: Plan, site: Site, fleet: Fleet, logs: str) -> _Ready:
    """Find out what can run, and with what it really runs."""
    words: dict[str, Words] = {}
    missing: dict[str, Missing] = {}
    found: dict[str, Availability] = {}
    for availability in fleet.availability():
        name = availability.backend
        if availability.available:
            try:
                availability = fleet.prepare(name, site)
                words[name] = fleet.describe(name)
            except Unsupported as error:
                availability = replace(availability, available=False, reason=error.reason, detail=error.detail)
        if not availability.available:
            missing[name] = Missing(availability.reason or "unknown", availability.detail or "no reason given")
        found[name] = availability
    missing_workloads = engine.prepare_workloads(plan.workloads, site)
    lanes = {name: item.lane or _usual_lane(name) for name, item in found.items()}
    bench = Bench(plan, site, fleet, words, lanes, missing, missing_workloads, logs)
    records = tuple(_record(bench, availability) for availability in found.values())
    return _Ready(bench, records, tuple(item for item in found.values() if not item.available))


def _usual_lane(backend: str) -> str:
    """The lane that a missing backend would have had: its unsupported rows stand where its figures would."""
    return "kvm" if registry()[backend].host == "vm" else "native"


def _record(bench: Bench, availability: Availability) -> BackendRecord:
    """The manifest's entry of one backend: parity read from a launched instance, inside and outside."""
    name = availability.backend
    record = BackendRecord(
        backend=name,
        available=availability.available,
        lane=availability.lane,
        version=availability.version,
        reason=availability.reason,
        detail=availability.detail,
        fix=availability.fix,
    )
    if name not in bench.words:
        return record
    words = bench.words[name]
    record = replace(record, shared=words.shared, owned=words.owned, before_first_byte=words.before_first_byte)
    cell = Cell("parity", name)
    one_pace = replace(bench.plan, paces=(("parity", Pace(1, 1)),))
    slot = Slot(
        fleet=bench.fleet, plan=one_pace, cell=cell, block=0, words=words, site=bench.site, folder=bench.site.scratch,
        dose=0.0, typical={}, numbers=count(), logs=bench.logs, prefix="parity-",
    )  # fmt: skip
    try:
        with slot.launch() as live:
            where = live.channel.request("where", timeout_s=bench.plan.timeout_s)
            facts: dict[str, Any] = parity.parity(where, live.launched, parity.outside(live.launched))
            digest = _payload_digest(live.launched, bench.site)
            live.finish()
    except (IsolationError, ProtocolError, TimeoutError) as error:
        return replace(record, detail=f"parity could not be read: {error}")
    return replace(record, parity=facts, payload_sha256=digest)


def _payload_digest(launched: Launched, site: Site) -> str | None:
    """SHA-256 of the program that runs as payload: read behind the host process, or from the guest image's record.

    The driver has checked the image against that record, and the record against the host's payload.
    """
    for pid in launched.processes:
        if Path(f"/proc/{pid}/comm").read_text(encoding="ascii").strip() == PAYLOAD_NAME:
            with open(f"/proc/{pid}/exe", "rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
    return recorded_guest(Path(site.initramfs)).payload_sha256 if site.initramfs else None
