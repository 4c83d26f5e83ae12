"""Parquet encodings by column type: the fastest to write at about the size of pyarrow's default.

Takes an Arrow schema, gives options of `pyarrow.parquet.write_table`. `recsys/bench/results/offline.md` has the
measurements. It does not know tables or files.
"""

from __future__ import annotations

from typing import Any

import pyarrow as pa


def encodings(schema: pa.Schema) -> dict[str, Any]:
    """Options for `pq.write_table` and `pq.ParquetWriter`.

    Integers and times: differences (DELTA_BINARY_PACKED), lz4. Floats: bytes split by significance
    (BYTE_STREAM_SPLIT), lz4. Text: a dictionary, zstd. Lists: as their elements, but zstd for floats, which make up
    most of a file's bytes. Statistics for times only: query engines prune by them.
    """
    dictionary, encoding, codec, statistics = [], {}, {}, []
    for column in schema:
        path, kind = column.name, column.type
        nested = pa.types.is_list(kind)
        if nested:
            path, kind = f"{path}.list.element", kind.value_type
        text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        if text:
            dictionary.append(path)
        elif pa.types.is_integer(kind) or pa.types.is_timestamp(kind):
            encoding[path] = "DELTA_BINARY_PACKED"
        elif pa.types.is_floating(kind):
            encoding[path] = "BYTE_STREAM_SPLIT"
        codec[path] = "zstd" if text or (nested and pa.types.is_floating(kind)) else "lz4"
        if pa.types.is_timestamp(kind):
            statistics.append(path)
    return {
        "use_dictionary": dictionary or False,
        "column_encoding": encoding,
        "compression": codec,
        "compression_level": {path: 1 for path, name in codec.items() if name == "zstd"},
        "write_statistics": statistics or False,
    }
