"""Logs as files: Parquet.

One file holds a whole log. Its rows are those of `log.segments`, so that any program that reads
Parquet shows them; the other tables and the metadata are in the file's metadata under "nbtcp", as
Parquet and JSON.
"""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from ..errors import NbtcpError
from .frame import BUILDERS
from .log import EventLog

VERSION = 1
_KEY = b"nbtcp"
_SACK = pa.list_(pa.list_(pa.int64()))
_OTHERS = tuple(name for name in BUILDERS if name != "segments")


class LogFileError(NbtcpError, ValueError):
    """The file is no log that nbtcp saved."""


def save(log: EventLog, path: Path) -> Path:
    """Write `log` to `path`; OSError when it cannot be written."""
    others = {name: _encode(_frame(log, name)) for name in _OTHERS}
    head = json.dumps({"version": VERSION, "meta": log.meta, "hosts": log.hosts, "tables": others})
    segments = _frame(log, "segments")
    segments.attrs = {}
    table = pa.Table.from_pandas(segments.drop(columns="sack"), preserve_index=False)
    blocks = pa.array([[list(block) for block in row] for row in segments["sack"]], _SACK)
    table = table.add_column(segments.columns.get_loc("sack"), "sack", blocks)
    metadata = {**(table.schema.metadata or {}), _KEY: head.encode()}
    with path.open("wb") as file:
        pq.write_table(table.replace_schema_metadata(metadata), file, compression="zstd")
    return path


def load(path: Path) -> EventLog:
    """Read a log; OSError when the file cannot be read, LogFileError when it is something else."""
    with path.open("rb") as file:
        content = file.read()
    try:
        table = pq.read_table(io.BytesIO(content))
    except pa.ArrowException as problem:
        reason = "it is empty" if not content else str(problem).splitlines()[0]
        raise LogFileError(
            f"{path} is no log saved by nbtcp, which are Parquet files: {reason}"
        ) from None
    head = (table.schema.metadata or {}).get(_KEY)
    if head is None:
        raise LogFileError(f"{path} is a Parquet file, but not one that nbtcp saved")
    described: dict[str, Any] = json.loads(head)
    if described["version"] != VERSION:
        version = described["version"]
        raise LogFileError(f"{path} is of version {version}, this nbtcp reads {VERSION}")
    segments = table.to_pandas()
    segments["sack"] = [tuple(map(tuple, blocks)) for blocks in segments["sack"]]
    frames = {name: _decode(text) for name, text in described["tables"].items()}
    return EventLog.from_frames(
        {"segments": segments, **frames}, described["hosts"], described["meta"]
    )


def _frame(log: EventLog, name: str) -> pd.DataFrame:
    tables = {
        "segments": log.segments,
        "events": log.events,
        "samples": log.rtt(),
        "connections": log.connections,
    }
    return tables[name].copy()


def _encode(frame: pd.DataFrame) -> str:
    frame.attrs = {}
    buffer = io.BytesIO()
    table = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(table, buffer, compression="zstd")
    return base64.b64encode(buffer.getvalue()).decode()


def _decode(text: str) -> pd.DataFrame:
    return pd.read_parquet(io.BytesIO(base64.b64decode(text)))
