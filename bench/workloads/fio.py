"""fio, the load of the storage workload: where it lies inside an instance, its command lines, what it reports."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from results.schema import STORAGE_CASES, STORAGE_MODES

FILE = "file"
FILE_BYTES = 128 << 20
CACHED_BYTES = 64 << 20
"""The part of the file that buffered reads stay in; a guest's memory has room for it."""
BLOCK_BYTES = {"4k": 4 << 10, "1m": 1 << 20}


class FioError(Exception):
    """fio did not do what it was asked; the message is one line."""


@dataclass(frozen=True, slots=True)
class Case:
    """One of the eight kinds of load, named as its metric."""

    name: str

    @property
    def mode(self) -> str:
        return self.name.rpartition("_")[2]

    @property
    def pattern(self) -> str:
        """The word for `rw`: randread randwrite read write."""
        return self.name.split("_")[0]

    @property
    def block_size(self) -> str:
        return self.name.split("_")[1]

    @property
    def block_bytes(self) -> int:
        return BLOCK_BYTES[self.block_size]

    @property
    def writes(self) -> bool:
        return self.pattern.endswith("write")

    @property
    def ends_with_fsync(self) -> bool:
        return self.writes and self.mode == "buffered"

    @property
    def kind(self) -> str:
        """Cases of one kind are run together."""
        return "direct" if self.mode == "direct" else f"buffered {'writes' if self.writes else 'reads'}"

    def whole_blocks(self, count_bytes: float) -> int:
        return max(round(count_bytes / self.block_bytes), 1) * self.block_bytes


KINDS = ("buffered reads", "buffered writes", "direct")
"""In the order of running: writes may push cached pages out, direct writes drop them."""
CASES = tuple(Case(f"{case}_{mode}") for mode in STORAGE_MODES for case in STORAGE_CASES)


def arguments(case: Case, io_bytes: int, file: str) -> tuple[str, ...]:
    """Words for one run over the file that lies there already: one thread, one request at a time.

    `invalidate=0` keeps the page cache as it is, so buffered reads are reads of cached pages, always.
    """
    size = CACHED_BYTES if case.kind == "buffered reads" else FILE_BYTES
    return (
        "--name=tare", f"--filename={file}", f"--size={size}", f"--io_size={io_bytes}",
        f"--rw={case.pattern}", f"--bs={case.block_size}", f"--direct={int(case.mode == 'direct')}",
        f"--end_fsync={int(case.ends_with_fsync)}", "--invalidate=0", "--ioengine=psync", "--iodepth=1", "--thread",
        "--clocksource=clock_gettime", "--disk_util=0", "--eta=never", "--output-format=json",
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Report:
    """What fio says of its run. `runtime_ms` is by the clock inside: good for choosing counts, never a sample."""

    claimed_bytes: int
    runtime_ms: int


def parse(case: Case, stdout: str) -> Report:
    """Raises FioError where this is not the report of one job that did what `case` says."""
    try:
        (job,) = json.loads(stdout[stdout.index("{") :])["jobs"]
        if job["error"]:
            raise FioError(f"fio ended with error {job['error']}")
        side = job["write" if case.writes else "read"]
        return Report(int(side["io_bytes"]), int(side["runtime"]))
    except (ValueError, KeyError, TypeError) as error:
        raise FioError(f"fio's report cannot be read ({error!r}): {stdout[:200]!r}") from error


@dataclass(frozen=True, slots=True)
class Toolbox:
    """fio with its loader and libraries in a tree of their own, run in place: no file of the host is used.

    Paths are relative to the tree, which lies elsewhere in each backend.
    """

    program: str
    loader: str
    libraries: tuple[str, ...]

    @classmethod
    def of(cls, tree: Path) -> Toolbox:
        """Raises FioError where the tree lacks something."""
        program = next(tree.glob("**/bin/fio"), None)
        loader = next(tree.glob("**/ld-linux-*.so.*"), None)
        if program is None or loader is None:
            raise FioError(f"no {'fio' if program is None else 'loader'} in {tree}")
        folders = {path.parent.relative_to(tree) for path in tree.glob("**/*.so*")}
        libraries = tuple(sorted(map(str, folders)))
        return cls(str(program.relative_to(tree)), str(loader.relative_to(tree)), libraries)

    def command(self, root: str) -> tuple[str, ...]:
        """The words before fio's own, where the tree lies at `root`."""
        path = ":".join(f"{root}/{folder}" for folder in self.libraries)
        return (f"{root}/{self.loader}", "--library-path", path, f"{root}/{self.program}")
