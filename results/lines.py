"""`samples.jsonl`: one JSON object a line, bytes to table and back, no I/O.

The last line of a block has a blank before its newline, so that a block torn between two lines is told from a whole
one; to a reader of JSON it means nothing.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.json

from results.schema import COLUMNS, Sample

_NUMBERS = {"block": pa.int32(), "position": pa.int32(), "value": pa.float64(), "t_ns": pa.int64()}
SCHEMA = pa.schema([pa.field(name, _NUMBERS.get(name, pa.string()), nullable=name == "value") for name in COLUMNS])
"""Columns and types of `samples.parquet` (DESIGN section 3, fixed)."""
_LOOSE = pa.schema([field.with_nullable(True) for field in SCHEMA])
_CLOSED = b" \n"
_LONGEST_LINE = 16 << 20
"""pyarrow parses so many bytes at once, and no line may be longer."""


@dataclass(frozen=True, slots=True)
class Lines:
    """Every whole record as a table with SCHEMA, and the loss in words; `lost` counts its bytes."""

    table: pa.Table
    lost: int = 0
    words: str = ""


def encode(samples: Sequence[Sample]) -> bytes:
    """One block. A character that UTF-8 cannot hold (half a surrogate pair from foreign output) becomes `?`.

    Raises ValueError for a value that contradicts its status, or is not finite.
    """
    for sample in samples:
        sound = math.isfinite(sample.value) if sample.value is not None else sample.status != "ok"
        if not sound or (sample.value is not None and sample.status != "ok"):
            where = f"{sample.workload}/{sample.metric} of {sample.backend}"
            raise ValueError(f"{where}: value {sample.value} does not go with status {sample.status}")
    rows = ({name: getattr(sample, name) for name in COLUMNS} for sample in samples)
    text = "\n".join(json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in rows)
    return text.encode("utf-8", "replace") + _CLOSED if text else b""


def whole_blocks(content: bytes) -> bytes:
    """The part that ends with a whole block."""
    end = content.rfind(_CLOSED)
    return content[: end + len(_CLOSED)] if end >= 0 else b""


def decode(content: bytes) -> Lines:
    """All records. A crash tears the end; a damaged line elsewhere costs that line alone, and is told."""
    end = content.rfind(b"\n") + 1
    tail = content[end:]
    if tail and _record(tail) is None:
        torn = f"the last {len(tail)} bytes are torn and were left out"
        rest = decode(content[:end])
        return Lines(rest.table, rest.lost + len(tail), f"{rest.words}, {torn}" if rest.words else torn)
    table = _parsed(content)
    return Lines(table) if table is not None else _salvaged(content)


def _parsed(content: bytes) -> pa.Table | None:
    """All lines at once; None where one of them needs a closer look."""
    if not content.strip():
        return SCHEMA.empty_table()
    try:
        table = pyarrow.json.read_json(
            pa.BufferReader(content),
            read_options=pyarrow.json.ReadOptions(block_size=_LONGEST_LINE),
            parse_options=pyarrow.json.ParseOptions(explicit_schema=_LOOSE, unexpected_field_behavior="error"),
        )
    except pa.ArrowException:
        return None
    gaps = any(table[name].null_count for name in COLUMNS if name != "value")
    return None if gaps else table.select(COLUMNS).cast(SCHEMA)


def _salvaged(content: bytes) -> Lines:
    """Line by line: slow, and only where something is damaged."""
    rows: list[Mapping[str, Any]] = []
    bad: list[tuple[int, int]] = []
    for number, line in enumerate(content.split(b"\n"), start=1):
        row = _record(line) if line else None
        if row is not None:
            rows.append(row)
        elif line:
            bad.append((number, len(line)))
    lost = sum(size for _, size in bad)
    words = f"{len(bad)} damaged lines ({lost} bytes, the first is line {bad[0][0]}) were left out" if bad else ""
    return Lines(pa.Table.from_pylist(rows, schema=SCHEMA), lost, words)


def _record(line: bytes) -> Mapping[str, Any] | None:
    """One line as a row; None where it is none of ours."""
    try:
        row = json.loads(line)
        if not isinstance(row, dict) or set(row) != set(COLUMNS):
            return None
        pa.Table.from_pylist([row], schema=SCHEMA)
    except (ValueError, TypeError, OverflowError, RecursionError, pa.ArrowException):
        return None
    return None if any(row[name] is None for name in COLUMNS if name != "value") else row
