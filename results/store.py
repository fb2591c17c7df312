"""The run folder (DESIGN section 3): written block by block so that a crash loses at most the block under way.

While a run goes on, each finished block is appended to `samples.jsonl` and fsynced; Parquet, whose footer is written
last, is the finished form, and the lines go once it is safely there (a partial run keeps them, to be resumed).  Files
that replace others are written beside them, fsynced and renamed.
"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from results.schema import SCHEMA_VERSION, BackendRecord, Manifest, Sample

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

    from results.lines import Lines

MANIFEST, LINES, TABLE, LATEST = "manifest.json", "samples.jsonl", "samples.parquet", "latest"
_PLAIN_TEXT = ("instance", "detail")
"""String columns with too many different values to be kept as categories."""


class StoreError(Exception):
    """One line that names the file, what is wrong with it and what to do (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back. `samples` has the columns of DESIGN section 3; `notes` say what had to be salvaged, and
    `lost_bytes` is above 0 where records were lost.
    """

    path: Path
    manifest: Manifest
    samples: pd.DataFrame
    notes: tuple[str, ...]
    lost_bytes: int = 0


class Store:
    """One run's folder, open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path, manifest: Manifest) -> Store:
        """Make `parent/<run id>` with its manifest and logs folder. Raises StoreError."""
        store = cls(parent / manifest.run_id)
        try:
            parent.mkdir(parents=True, exist_ok=True)
            store.path.mkdir()
            store.logs.mkdir()
            (store.path / LINES).touch()
            store.write_manifest(manifest)
            _sync(parent)
        except OSError as error:
            raise _unwritable(store.path, error) from error
        return store

    @classmethod
    def reopen(cls, path: Path) -> Store:
        """Go on with a run that was cut short: a torn block is cut off, to be measured again. Raises StoreError."""
        from results.lines import whole_blocks

        lines = path / LINES
        try:
            with open(lines, "r+b") as file:
                file.truncate(len(whole_blocks(file.read())))
                os.fsync(file.fileno())
            (path / TABLE).unlink(missing_ok=True)  # it would hide what is appended from now on
            _sync(path)
        except OSError as error:
            raise _unwritable(lines, error) from error
        return cls(path)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def append_block(self, samples: Sequence[Sample]) -> None:
        """Append one block in one write and fsync it. Raises StoreError; what was written before stays readable."""
        from results.lines import encode

        data = encode(samples)
        path = self.path / LINES
        try:
            with open(path, "ab", buffering=0) as file:  # a buffer would be written again on closing, after the cut
                start = file.tell()
                try:
                    rest = memoryview(data)
                    while rest:
                        rest = rest[file.write(rest) :]
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), start)  # no half block stays behind a full disk
                    raise
        except OSError as error:
            raise _unwritable(path, error) from error

    def write_manifest(self, manifest: Manifest) -> None:
        write_whole(self.path / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())

    def finish(self, manifest: Manifest) -> None:
        """Write the Parquet form and the last manifest; `latest` points to a finished run. Raises StoreError.

        Where lines are damaged, the manifest's notes say so and the lines stay.
        """
        import pyarrow.parquet as pq

        lines = _read_lines(self.path / LINES)
        if lines.words:
            manifest = replace(manifest, notes=(*manifest.notes, f"{LINES}: {lines.words}"))
        # Checksums of pages let a reader notice a flipped bit, not only a missing end.
        _replace(self.path / TABLE, lambda file: pq.write_table(lines.table, file, write_page_checksum=True))
        self.write_manifest(manifest)
        if manifest.state == "finished":
            _point_latest(self.path)
        if manifest.state == "finished" and not lines.words:
            try:
                (self.path / LINES).unlink()
            except OSError as error:
                raise _unwritable(self.path / LINES, error) from error

    def finished_blocks(self) -> frozenset[tuple[str, int]]:
        """(workload, block) of the blocks stored; an invalid one that was to be done again does not count."""
        import pyarrow.compute as pc

        table = _read_lines(self.path / LINES).table
        done = table.filter((pc.field("status") != "invalid") & (pc.field("workload") != "checks"))
        pairs = done.group_by(["workload", "block"]).aggregate([])
        return frozenset(zip(pairs["workload"].to_pylist(), pairs["block"].to_pylist(), strict=True))


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, wholly or not at all. Raises StoreError."""
    _replace(path, lambda file: file.write(data))


def _replace(path: Path, write: Callable[[BinaryIO], object]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    try:
        try:
            with open(temporary, "wb") as file:
                write(file)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            _sync(path.parent)
        except OSError:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise _unwritable(path, error) from error


def run_path(run: str | Path, parent: Path) -> Path:
    """The folder of a run given by id, path or `latest`. Raises StoreError naming what was looked for."""
    candidates = (parent / run, Path(run))
    for candidate in candidates:
        if os.path.lexists(candidate / MANIFEST):
            return candidate.resolve()
    if str(run) == LATEST:
        raise StoreError(f"{parent / LATEST}: there is no finished run yet; `tare run` makes one")
    for candidate in candidates:
        if candidate.is_dir():
            open_manifest(candidate)  # says why it cannot be read
    raise StoreError(f"{run}: no run of that id below {parent}, and no run folder of that path")


def open_manifest(path: Path) -> Manifest:
    """Raises StoreError where it is unreadable, broken, or of a newer schema.

    An unknown key is refused: what a manifest holds changes only together with SCHEMA_VERSION.
    """
    file = path / MANIFEST
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(file, error) from error
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{file}: not JSON ({error}); the samples beside it may still be read by hand") from error
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if not isinstance(version, int) or not 1 <= version <= SCHEMA_VERSION:
        raise StoreError(f"{file}: schema version {version!r}, this Tare knows up to {SCHEMA_VERSION}: use a newer one")
    try:
        backends = tuple(_backend(record) for record in stored.pop("backends"))
        return Manifest(**{**stored, "notes": tuple(stored["notes"]), "backends": backends})
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest of schema {version} ({error!r})") from error


def open_run(path: Path) -> Run:
    """Read a run: Parquet where it is whole, else the lines, salvaged. Raises StoreError naming the file."""
    manifest = open_manifest(path)
    notes: list[str] = []
    table: pa.Table | None = None
    lost = 0
    if (path / TABLE).exists():
        try:
            table = _read_table(path / TABLE)
        except StoreError as error:
            if not (path / LINES).exists():
                raise
            notes.append(f"{error}; read {path / LINES} instead")
    if table is None:
        lines = _read_lines(path / LINES)
        table, lost = lines.table, lines.lost
        notes += [f"{path / LINES}: {lines.words}"] if lines.words else []
    return Run(path, manifest, _frame(table), tuple(notes), lost)


def _backend(record: dict[str, Any]) -> BackendRecord:
    return BackendRecord(**{**record, "shared": tuple(record["shared"]), "owned": tuple(record["owned"])})


def _read_lines(path: Path) -> Lines:
    from results.lines import decode

    try:
        content = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    return decode(content)


def _read_table(path: Path) -> pa.Table:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from results.lines import SCHEMA

    try:
        with open(path, "rb") as file:
            table = pq.read_table(file, page_checksum_verification=True)
        found = {field.name: field.type for field in table.schema}
    except (OSError, ValueError, pa.ArrowException) as error:  # ValueError: a name in the footer that is no UTF-8
        if isinstance(error, OSError) and error.errno is not None:
            raise _unreadable(path, error) from error
        reason = " ".join(str(error).split())
        raise StoreError(
            f"{path}: truncated or damaged ({reason}): restore it from a copy, or measure again"
        ) from error
    for field in SCHEMA:
        if found.get(field.name) != field.type:
            raise StoreError(f"{path}: no column {field.name} of type {field.type}: not a table of Tare's samples")
    return table.select(SCHEMA.names)


def _frame(table: pa.Table) -> pd.DataFrame:
    """Strings with few values become categories: a million rows then take tens of megabytes."""
    import pyarrow as pa

    for place, field in enumerate(table.schema):
        if pa.types.is_string(field.type) and field.name not in _PLAIN_TEXT:
            table = table.set_column(place, field.name, table[field.name].dictionary_encode())
    frame: pd.DataFrame = table.unify_dictionaries().to_pandas()
    return frame


def _point_latest(run: Path) -> None:
    latest = run.parent / LATEST
    temporary = run.parent / f".{LATEST}.new"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.name)
        temporary.replace(latest)
        _sync(run.parent)
    except OSError as error:
        raise _unwritable(latest, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _unwritable(path: Path, error: OSError) -> StoreError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    advice = "free space there, or give another place with --out" if full else "give another place with --out"
    return StoreError(f"{path}: cannot be written: {error.strerror or error}: {advice}")


def _unreadable(path: Path, error: OSError) -> StoreError:
    refused = error.errno in (errno.EACCES, errno.EPERM)
    advice = "read it as its owner or as root" if refused else "give a run id, the folder of a run, or `latest`"
    return StoreError(f"{path}: cannot be read: {error.strerror or error}: {advice}")
