"""Logs as files: Parquet.

The rows of the file are those of `log.segments`, for any program that reads Parquet. What nbtcp
itself reads is in the file's metadata: the packed rows of all tables, as they were recorded.
"""

import base64
import io
import json
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .log import FIELDS, LAYOUTS, ConnectionRecord, EventLog, LogFileError, plain

VERSION = 2  # of the packed rows: another when FIELDS change
_KEY = b"nbtcp"
_SACK = pa.list_(pa.list_(pa.int64()))


def save(log: EventLog, path: Path) -> Path:
    """Write `log` to `path`; OSError when it cannot be written."""
    segments = log.segments
    segments.attrs = {}
    table = pa.Table.from_pandas(segments.drop(columns="sack"), preserve_index=False)
    blocks = pa.array([[list(block) for block in row] for row in segments["sack"]], _SACK)
    table = table.add_column(segments.columns.get_loc("sack"), "sack", blocks)
    with (
        path.open("wb") as file,
        pq.ParquetWriter(file, table.schema, compression="zstd") as writer,
    ):
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: _pack(log)})
    return path


def load(path: Path) -> EventLog:
    """Read a log; OSError when the file cannot be read, LogFileError when it is something else."""
    content = path.read_bytes()
    try:
        head = (pq.read_metadata(io.BytesIO(content)).metadata or {}).get(_KEY)
    except (pa.ArrowException, OSError, ValueError):
        reason = "it is no Parquet file" if content else "it is empty"
        raise LogFileError(f"{path} is no log saved by nbtcp: {reason}") from None
    if head is None:
        raise LogFileError(f"{path} is a Parquet file, but not one that nbtcp saved")
    try:
        return _unpack(head)
    except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as problem:
        raise LogFileError(f"{path} is a damaged log, or one of another nbtcp: {problem}") from None


def _pack(log: EventLog) -> bytes:
    packed = {
        "meta": log.meta,
        "hosts": log.hosts,
        "names": log.names,
        "records": [{**asdict(record), "flow": record.flow.hex()} for record in log.records],
        "sack": list(log.sack.items()),
        "rows": {name: _squeeze(name, rows) for name, rows in log.rows.items()},
    }
    text = json.dumps(packed, default=plain)
    return json.dumps({"version": VERSION, "crc": zlib.crc32(text.encode()), "log": text}).encode()


def _unpack(head: bytes) -> EventLog:
    envelope: dict[str, Any] = json.loads(head)
    if envelope["version"] != VERSION:
        raise ValueError(f"it is of version {envelope['version']}, and this nbtcp reads {VERSION}")
    if envelope["crc"] != zlib.crc32(envelope["log"].encode()):
        raise ValueError("its checksum is wrong")
    packed: dict[str, Any] = json.loads(envelope["log"])
    log = EventLog(**packed["meta"])
    log.hosts += packed["hosts"]
    for record in packed["records"]:
        record["flow"] = bytes.fromhex(record["flow"])
        log.records.append(ConnectionRecord(**record))
    for row, blocks in packed["sack"]:
        log.sack[row] = tuple(map(tuple, blocks))
    for name in FIELDS:
        log.rows[name] += _expand(name, packed["rows"][name])
    log.restore_names(packed["names"])
    return log


def _squeeze(name: str, rows: bytearray) -> str:
    """Packed rows, compressed with the first octets of all rows together, then the second ones."""
    table = np.frombuffer(bytes(rows), np.uint8).reshape(-1, LAYOUTS[name].size)
    return base64.b64encode(zlib.compress(table.T.tobytes())).decode()


def _expand(name: str, text: str) -> bytes:
    octets = np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8)
    return octets.reshape(LAYOUTS[name].size, -1).T.tobytes()
