"""Throughput of a file on the host's disk, from inside: fio for the load, the host's clock for the time.

The file is laid out with random data beforehand; a VM finds it on a preallocated raw disk (`cache=none`), all others
on the host's file system.  fio and its libraries come from a tree of their own in every backend.

Throughput is the slope of host time over bytes.  A run of fio costs about 0.2 s whatever it moves (it calibrates a
clock, then sleeps for 0.1 s), the same for all cases: so one of them, the reference, is run with two byte counts,
their line gives the time at no bytes, and that is the first point of every other case.  fio notices the end of its
job every 10 ms; counts differ from block to block by more than that, so that the error has no direction.

Buffered: reads stay in a part of the file that was read beforehand, so they find cached pages; writes touch no block
twice and end with fsync; writeback is drained before and after.  Containers are limited to the guest's memory; the
bare process is not, which does not matter at this size.  Direct: the host's block device must have moved what fio
claims.
"""

from __future__ import annotations

import json
import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.assets import locate
from bench.payload.protocol import ExecReply
from bench.workloads.base import Live, Reading, Slot
from bench.workloads.fio import CACHED_BYTES, CASES, FILE, FILE_BYTES, KINDS, Case, FioError, Toolbox, arguments, parse
from isolation.api import Medium, Site, Unsupported, Volume
from vmdriver.image import build_disk

DATA, TOOLS = "/mnt", "/srv"
"""Where the data and the tools are mounted: folders that the shared root filesystem has."""
DISK_BYTES = FILE_BYTES + (32 << 20)
RUN_MS = 40
"""Aim of one run's I/O."""
FIRST_SHARE = (1 / RUN_MS, 11 / RUN_MS)
"""The first byte count of the reference, as a share of the second: drawn over fio's 10 ms."""
SECOND_SHARE = (1 - 6 / RUN_MS, 1 + 6 / RUN_MS)
"""Of the count that takes RUN_MS: drawn over more than fio's 10 ms."""
TRIAL_BYTES = {"4k_direct": 1 << 20, "4k_buffered": 8 << 20, "1m_direct": 32 << 20, "1m_buffered": 32 << 20}
LARGEST_BYTES = 512 << 20
LARGEST_SYNCED_BYTES = FILE_BYTES * 5 // 8
"""Leaves room for the control's further half."""
REFERENCE = Case("randread_4k_buffered")
"""The case that is run with two byte counts: no device, no flush, so its time is the steadiest."""
SECTOR_BYTES = 512


@dataclass(frozen=True, slots=True)
class Run:
    """One run of fio to be made: `claimed` bytes count, `asked` bytes are moved (the control moves more)."""

    case: Case
    first: bool
    claimed: int
    asked: int


@dataclass(frozen=True, slots=True)
class Point:
    """Bytes and host time of one run; `device_bytes` is what the host's block device moved meanwhile, if known."""

    run: Run
    elapsed_ns: int
    device_bytes: int | None
    t_ns: int


@dataclass(frozen=True, slots=True)
class Failure:
    """A run that fio did not do: the other cases go on."""

    detail: str
    t_ns: int


Outcome = Point | Failure


def count_for(case: Case, moved_bytes: int, runtime_ms: int) -> int:
    """The byte count that takes RUN_MS, from a short trial."""
    largest = LARGEST_SYNCED_BYTES if case.ends_with_fsync else LARGEST_BYTES
    return case.whole_blocks(min(moved_bytes * RUN_MS / max(runtime_ms, 1), largest / SECOND_SHARE[1]))


def runs(counts: Mapping[str, int], dose: float, rng: random.Random) -> tuple[Run, ...]:
    """All runs of a slot, kind by kind, in random order within each."""
    planned = []
    for case in CASES:
        second = case.whole_blocks(counts[case.name] * rng.uniform(*SECOND_SHARE))
        planned.append(Run(case, False, second, case.whole_blocks(second * (1 + dose))))
        if case == REFERENCE:
            first = case.whole_blocks(second * rng.uniform(*FIRST_SHARE))
            planned.append(Run(case, True, first, case.whole_blocks(first * (1 + dose))))
    rng.shuffle(planned)
    return tuple(sorted(planned, key=lambda run: KINDS.index(run.case.kind)))


def at_no_bytes_ns(first: Point, second: Point) -> float:
    """Where the line through the reference's two points meets zero bytes."""
    slope = (second.elapsed_ns - first.elapsed_ns) / (second.run.claimed - first.run.claimed)
    return first.elapsed_ns - slope * first.run.claimed


def throughput(point: Point, empty_ns: float) -> float | None:
    """Bytes per second between none and the point's; None where the run took no longer than an empty one."""
    return point.run.claimed / (point.elapsed_ns - empty_ns) * 1e9 if point.elapsed_ns > empty_ns else None


def readings(outcomes: Mapping[tuple[str, bool], Outcome], dose: float, instance: str) -> Iterator[Reading]:
    """One row a case, and for direct ones the block device's word on it."""
    for case in CASES:
        needed = [outcomes[key] for key in ((case.name, False), (REFERENCE.name, True), (REFERENCE.name, False))]
        failures = [outcome for outcome in needed if isinstance(outcome, Failure)]
        if failures:
            yield Reading(case.name, None, instance, failures[0].t_ns, {}, "failed", "fio_failed", failures[0].detail)
            continue
        point, first, second = (outcome for outcome in needed if isinstance(outcome, Point))
        yield reading(point, at_no_bytes_ns(first, second), dose, instance)
        if case.mode == "direct":
            yield block_counters(point, instance)


def reading(point: Point, empty_ns: float, dose: float, instance: str) -> Reading:
    """The case's throughput, for what it claimed."""
    run = point.run
    parameters: dict[str, Any] = {"bytes": run.claimed, "file_bytes": FILE_BYTES}
    if dose:
        parameters |= {"dose": dose, "asked_bytes": run.asked}
    value = throughput(point, empty_ns)
    if value is None:
        detail = f"{run.claimed} bytes took no longer than none"
        return Reading(run.case.name, None, instance, point.t_ns, parameters, "invalid", "span_too_short", detail)
    return Reading(run.case.name, value, instance, point.t_ns, parameters)


def block_counters(point: Point, instance: str) -> Reading:
    """Bytes moved by the device over bytes that fio claims, minus 1."""
    of = {"of": f"storage/{point.run.case.name}"}
    if point.device_bytes is None:
        detail = "the file system of the run's scratch folder is on no block device of its own (overlay, tmpfs, btrfs)"
        return Reading(
            "block_counters", None, instance, point.t_ns, of, "unsupported", "no_block_device", detail, "checks"
        )
    value = point.device_bytes / point.run.asked - 1
    return Reading("block_counters", value, instance, point.t_ns, of, workload="checks")


def device_of(path: str) -> str | None:
    """The `stat` file of the block device that holds a file; None for a file system without one."""
    device = os.stat(path).st_dev
    file = f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat"
    return file if os.path.exists(file) else None


def moved_bytes(stat: str, *, written: bool) -> int:
    """Bytes read or written so far (Documentation/block/stat.rst: sectors are fields 3 and 7)."""
    return int(stat.split()[6 if written else 2]) * SECTOR_BYTES


@dataclass(frozen=True, slots=True)
class _Bench:
    """One instance with its data and tools where they are seen inside."""

    live: Live
    host_file: str
    shares_cache: bool
    file: str
    fio: tuple[str, ...]
    device: str | None
    timeout_s: float

    def run(self, run: Run) -> tuple[Point, int]:
        """The point, and fio's own run time in ms. Raises FioError where fio failed or claims other bytes."""
        if run.case.ends_with_fsync:
            self.live.channel.request("sync", timeout_s=self.timeout_s)
        before = self._device_bytes(run.case)
        words = (*self.fio, *arguments(run.case, run.asked, self.file))
        t_ns = time.monotonic_ns()
        timed = self.live.channel.timed("exec", str(int(self.timeout_s * 1000)), *words, timeout_s=self.timeout_s + 5)
        after = self._device_bytes(run.case)
        reply = ExecReply.parse(timed.reply)
        if reply.timeout:
            raise TimeoutError(f"fio did not end within {self.timeout_s:g} s")
        if reply.code != 0:
            said = (reply.stderr or reply.stdout).decode(errors="replace").strip().splitlines()
            raise FioError(f"fio: exit code {reply.code}, signal {reply.signal}: {said[-1] if said else 'no word'}")
        report = parse(run.case, reply.stdout.decode(errors="replace"))
        if report.claimed_bytes != run.asked:
            raise FioError(f"fio claims {report.claimed_bytes} bytes and was asked for {run.asked}")
        moved = None if before is None or after is None else after - before
        return Point(run, timed.elapsed_ns, moved, t_ns), report.runtime_ms

    def _device_bytes(self, case: Case) -> int | None:
        if self.device is None:
            return None
        return moved_bytes(Path(self.device).read_text(), written=case.writes)

    def outcome(self, run: Run) -> Outcome:
        try:
            return self.run(run)[0]
        except FioError as error:
            return Failure(str(error), time.monotonic_ns())

    def warm_up(self) -> None:
        """Bring fio, its libraries and the part of the file that is read buffered into the page cache.

        A guest has a cache of its own; all others share the host's, which is filled from here more quickly.
        """
        if self.shares_cache:
            with open(self.host_file, "rb") as file:
                file.read(CACHED_BYTES)
            return
        self.run(Run(Case("read_1m_buffered"), True, CACHED_BYTES, CACHED_BYTES))

    def trial(self, case: Case) -> int:
        """The byte count of a case; where fio fails, the trial's own, with which each slot will say why it fails."""
        size = TRIAL_BYTES[f"{case.block_size}_{case.mode}"]
        try:
            _, runtime_ms = self.run(Run(case, True, size, size))
        except FioError:
            return size
        return count_for(case, size, runtime_ms)


@dataclass(frozen=True, slots=True)
class Storage:
    """Bytes per second, direct and buffered, random and sequential."""

    name: str = "storage"

    def available(self) -> tuple[str, str] | None:
        assets = locate()
        return None if assets.tools_tree else ("not_installed", f"fio: {assets.reasons.get('tools_tree', 'missing')}")

    def prepare(self, shared_dir: str, site: Site) -> None:  # noqa: ARG002 - others may need it
        """Lay out the file with random data, and the disk image that holds the same file."""
        folder = Path(shared_dir, "data")
        folder.mkdir(exist_ok=True)
        with open(folder / FILE, "wb") as file:
            file.writelines(os.urandom(1 << 20) for _ in range(FILE_BYTES >> 20))
        if locate().tools_image:
            build_disk(folder, Path(shared_dir, "data.img"), DISK_BYTES)
        os.sync()

    def measure(self, slot: Slot) -> Iterator[Reading]:
        with slot.launch(volumes=_volumes(slot.medium, slot.shared_dir())) as live:
            bench = _bench(live, slot)
            counts = _counts(bench, Path(slot.shared_dir(), f"counts-{slot.medium}-{live.launched.lane}.json"))
            bench.warm_up()
            planned = runs(counts, slot.dose, random.Random(f"{slot.site.run_id}/{slot.block}"))
            outcomes = {(run.case.name, run.first): bench.outcome(run) for run in planned}
            live.channel.request("sync", timeout_s=slot.timeout_s)
            live.finish()
        yield from readings(outcomes, slot.dose, live.launched.instance)


def _volumes(medium: Medium, shared_dir: str) -> tuple[Volume, ...]:
    """The data and the tools. Raises Unsupported where set-up could not make the tools."""
    assets = locate()
    if medium == "disk":
        data, tools, name = f"{shared_dir}/data.img", assets.tools_image, "tools_image"
    else:
        data, tools, name = f"{shared_dir}/data", assets.tools_tree, "tools_tree"
    if tools is None:
        raise Unsupported("not_installed", f"fio for instances: {assets.reasons.get(name, 'missing')}")
    return (Volume(data, DATA), Volume(str(tools), TOOLS, read_only=True))


def _bench(live: Live, slot: Slot) -> _Bench:
    """Find data and tools inside. A payload that runs from the host's own file sees the host's paths."""
    data, tools = _volumes(slot.medium, slot.shared_dir())
    where = live.channel.request("where", timeout_s=slot.timeout_s)
    on_host = where["exe"] == os.path.realpath(slot.site.payload)
    data_root, tools_root = (data.source, tools.source) if on_host else (data.target, tools.target)
    tree = locate().tools_tree
    if tree is None:
        raise Unsupported("not_installed", "fio's tree is gone")
    host_file = f"{slot.shared_dir()}/data/{FILE}"
    return _Bench(
        live=live,
        host_file=host_file,
        shares_cache=slot.medium == "directory",
        file=f"{data_root}/{FILE}",
        fio=Toolbox.of(tree).command(tools_root),
        device=device_of(host_file),
        timeout_s=slot.timeout_s,
    )


def _counts(bench: _Bench, kept: Path) -> Mapping[str, int]:
    """Byte counts of the cases, found in a medium's first slot and the same for all its backends from then on."""
    if not kept.exists():
        bench.warm_up()
        found = {case.name: bench.trial(case) for case in sorted(CASES, key=lambda case: KINDS.index(case.kind))}
        kept.with_suffix(".new").write_text(json.dumps(found))
        kept.with_suffix(".new").replace(kept)
    counts: dict[str, int] = json.loads(kept.read_text())
    return counts
