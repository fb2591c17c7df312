"""The run folder (DESIGN section 3): written block by block so that a crash loses at most the block under way.

While a run goes on, each finished block is appended to `samples.jsonl` and fsynced; Parquet, whose footer is written
last, is the finished form.  Files that replace others are written beside them, fsynced and renamed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.schema import COLUMNS, SCHEMA_VERSION, BackendRecord, Manifest, Sample

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MANIFEST, LINES, TABLE, LATEST = "manifest.json", "samples.jsonl", "samples.parquet", "latest"


class StoreError(Exception):
    """One line that names the file, what is wrong with it and what to do (exit code 2)."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run as read back. `samples` has the columns of DESIGN section 3; `notes` say what had to be salvaged."""

    path: Path
    manifest: Manifest
    samples: pd.DataFrame
    notes: tuple[str, ...]


class Store:
    """One run's folder, open for writing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, parent: Path, manifest: Manifest) -> Store:
        """Make `parent/<run id>` with its manifest and logs folder. Raises StoreError."""
        store = cls(parent / manifest.run_id)
        try:
            store.logs.mkdir(parents=True)
            (store.path / LINES).touch()
        except OSError as error:
            raise _refused(store.path, error) from error
        store.write_manifest(manifest)
        return store

    @classmethod
    def reopen(cls, path: Path) -> Store:
        """Go on with a run that was cut short: a torn last line is cut off. Raises StoreError."""
        lines = path / LINES
        try:
            with open(lines, "r+b") as file:
                whole, lost = _whole_lines(file.read())
                if lost:
                    file.truncate(len(whole))
                    os.fsync(file.fileno())
        except OSError as error:
            raise _refused(lines, error) from error
        return cls(path)

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    def append_block(self, samples: Sequence[Sample]) -> None:
        """Append one block in one write and fsync it. Raises StoreError; what was written before stays readable."""
        data = "".join(json.dumps(asdict(sample), allow_nan=False) + "\n" for sample in samples).encode()
        path = self.path / LINES
        try:
            with open(path, "ab") as file:
                start = file.tell()
                try:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                except OSError:
                    os.ftruncate(file.fileno(), start)  # no half block stays behind a full disk
                    raise
        except OSError as error:
            raise _refused(path, error) from error

    def write_manifest(self, manifest: Manifest) -> None:
        write_whole(self.path / MANIFEST, (json.dumps(asdict(manifest), indent=1) + "\n").encode())

    def finish(self, manifest: Manifest) -> None:
        """Write the Parquet form and the last manifest; `latest` points to a finished run. Raises StoreError."""
        import pyarrow.parquet as pq

        rows, _ = _read_lines(self.path / LINES)
        table = _table(rows)
        temporary = self.path / f".{TABLE}.new"
        try:
            pq.write_table(table, temporary)
            _sync(temporary)
            temporary.replace(self.path / TABLE)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            raise _refused(self.path / TABLE, error) from error
        self.write_manifest(manifest)
        if manifest.state == "finished":
            _point_latest(self.path)

    def finished_blocks(self) -> frozenset[tuple[str, int]]:
        """(workload, block) of the blocks stored; an invalid one that was to be done again does not count."""
        rows, _ = _read_lines(self.path / LINES)
        done = [row for row in rows if row["status"] != "invalid" and row["workload"] != "checks"]
        return frozenset((row["workload"], row["block"]) for row in done)


def write_whole(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, wholly or not at all. Raises StoreError."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)
    except OSError as error:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:
            raise _refused(path, error) from error
        raise _refused(path, error) from error


def run_path(run: str | Path, parent: Path) -> Path:
    """The folder of a run given by id, path or `latest`. Raises StoreError naming what was looked for."""
    for candidate in (parent / run, Path(run)):
        if (candidate / MANIFEST).exists():
            return candidate.resolve()
    if str(run) == LATEST:
        raise StoreError(f"{parent / LATEST}: there is no finished run yet; `tare run` makes one")
    raise StoreError(f"{run}: no run of that id below {parent}, and no run folder of that path")


def open_manifest(path: Path) -> Manifest:
    """Raises StoreError where it is unreadable, broken, or of a newer schema."""
    file = path / MANIFEST
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise _refused(file, error) from error
    except ValueError as error:
        raise StoreError(f"{file}: not JSON ({error}); the samples beside it may still be read by hand") from error
    version = stored.get("schema_version") if isinstance(stored, dict) else None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        raise StoreError(f"{file}: schema version {version!r}, this Tare knows up to {SCHEMA_VERSION}: use a newer one")
    try:
        backends = tuple(_backend(record) for record in stored.pop("backends"))
        return Manifest(**{**stored, "notes": tuple(stored["notes"]), "backends": backends})
    except (KeyError, TypeError) as error:
        raise StoreError(f"{file}: not a manifest of schema {version} ({error!r})") from error


def open_run(path: Path) -> Run:
    """Read a run: Parquet where it is whole, else the lines, salvaged. Raises StoreError naming the file."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    manifest = open_manifest(path)
    notes: list[str] = []
    table: pa.Table | None = None
    parquet, lines = path / TABLE, path / LINES
    if parquet.exists():
        try:
            table = pq.read_table(parquet, schema=_schema())
        except (OSError, pa.ArrowException) as error:
            reason = " ".join(str(error).split())
            if not lines.exists():
                broken = f"{parquet}: truncated or not Parquet ({reason})"
                raise StoreError(f"{broken}, and no {LINES} beside it to fall back on") from error
            notes.append(f"{parquet} cannot be read ({reason}): read {lines} instead")
    if table is None:
        rows, lost = _read_lines(lines)
        if lost:
            notes.append(f"{lines}: the last {lost} bytes are torn and were left out")
        table = _table(rows)
    return Run(path, manifest, table.to_pandas(strings_to_categorical=True), tuple(notes))


def _backend(record: dict[str, Any]) -> BackendRecord:
    return BackendRecord(**{**record, "shared": tuple(record["shared"]), "owned": tuple(record["owned"])})


def _schema() -> pa.Schema:
    import pyarrow as pa

    types: dict[str, Any] = {"block": pa.int32(), "position": pa.int32(), "value": pa.float64(), "t_ns": pa.int64()}
    return pa.schema([(name, types.get(name, pa.string())) for name in COLUMNS])


def _table(rows: Iterable[dict[str, Any]]) -> pa.Table:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    for row in rows:
        for name, column in columns.items():
            column.append(row[name])
    return pa.table(columns, schema=_schema())


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The rows up to the last whole one, and how many bytes after it were left out."""
    try:
        whole, lost = _whole_lines(path.read_bytes())
    except OSError as error:
        raise _refused(path, error) from error
    return [json.loads(line) for line in whole.splitlines()], lost


def _whole_lines(data: bytes) -> tuple[bytes, int]:
    """Cut after the last line that is JSON with all columns; a crash can tear only the end."""
    end = data.rfind(b"\n") + 1
    while end:
        start = data.rfind(b"\n", 0, end - 1) + 1
        try:
            row = json.loads(data[start:end])
        except ValueError:
            end = start
            continue
        if isinstance(row, dict) and row.keys() == set(COLUMNS):
            break
        end = start
    return data[:end], len(data) - end


def _point_latest(run: Path) -> None:
    latest = run.parent / LATEST
    temporary = run.parent / f".{LATEST}.new"
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(run.name)
        temporary.replace(latest)
    except OSError as error:
        raise _refused(latest, error) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{path}: {error.strerror or error}: free space there, or give another place with --out")
