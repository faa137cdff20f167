"""Logs as files: Parquet.

The rows of the file are those of `log.segments`, for any program that reads Parquet. What nbtcp
itself reads is in the file's metadata, which other programs take for text: `bytes(log)`, compressed
to xz, whose checksum tells damage.
"""

import base64
import io
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from .log import EventLog, LogFileError

VERSION = 4  # of `bytes(log)`: another when FIELDS change
_KEY = b"nbtcp"
_DAMAGE = (OSError, ValueError, LookupError, TypeError, RecursionError, lzma.LZMAError)
_SACK = pa.list_(pa.list_(pa.int64()))


def save(log: EventLog, path: Path) -> Path:
    """Write `log` to `path`; OSError when it cannot be written."""
    segments = log.segments
    table = pa.Table.from_pandas(segments.drop(columns="sack"), preserve_index=False)
    blocks = pa.array(segments["sack"], _SACK)
    table = table.add_column(segments.columns.get_loc("sack"), "sack", blocks)
    packed = base64.b64encode(lzma.compress(bytes(log), preset=1)).decode()
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata({_KEY: json.dumps({"version": VERSION, "log": packed})})
    return path


def load(path: Path) -> EventLog:
    """Read a log; OSError when the file cannot be read, LogFileError when it is something else."""
    content = path.read_bytes()
    try:
        metadata = pq.read_metadata(io.BytesIO(content)).metadata
        if not metadata or _KEY not in metadata:
            raise ValueError("it is a Parquet file, but not one that nbtcp saved")
        saved: dict[str, Any] = json.loads(metadata[_KEY])
        if saved["version"] != VERSION:
            raise ValueError(f"it is of version {saved['version']}, and this nbtcp reads {VERSION}")
        return EventLog.from_bytes(lzma.decompress(base64.b64decode(saved["log"])))
    except (pa.ArrowException, *_DAMAGE) as problem:
        reason = " ".join(str(problem).split())
        raise LogFileError(f"{path} is no log saved by nbtcp, or damaged: {reason}") from None
