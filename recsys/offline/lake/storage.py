"""Where files are: a folder or a URL as a filesystem and a path; and the one way in which a file comes to be.

Takes URLs and Arrow tables. It does not know what the files mean.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from recsys.errors import DataError


def open_url(url: str) -> tuple[Any, str]:
    """A filesystem and the path on it. pyarrow opens what it knows itself, fsspec the other schemes.

    Raises: DataError when neither can; it names the package that is missing where one is.
    """
    if "://" not in url:
        return fs.LocalFileSystem(), url
    try:
        filesystem, root = fs.FileSystem.from_uri(url)
        return filesystem, root.rstrip("/")
    except pa.ArrowInvalid as error:
        unknown = error
    except OSError as error:
        raise DataError(f"offline.url {url!r} cannot be opened: {_one_line(error)}") from None
    try:
        import fsspec  # type: ignore[import-untyped]
    except ImportError:
        raise DataError(f"offline.url {url!r} cannot be opened: {_one_line(unknown)}; install fsspec for it") from None
    try:
        filesystem, root = fsspec.core.url_to_fs(url)
    except (ImportError, ValueError, OSError) as error:
        raise DataError(f"offline.url {url!r} cannot be opened: {_one_line(error)}") from None
    return fs.PyFileSystem(fs.FSSpecHandler(filesystem)), root.rstrip("/")


def is_file(filesystem: Any, path: str) -> bool:
    return bool(filesystem.get_file_info(path).type == fs.FileType.File)


def is_damage(error: Exception) -> bool:
    """Whether a file's bytes are to blame, not the system that opens it (permission, network, too many open files)."""
    return isinstance(error, pa.ArrowException) or (isinstance(error, OSError) and error.errno is None)


def is_damaged(filesystem: Any, path: str) -> bool:
    """Whether a file cannot be decoded; reads all of it, a row group in memory at a time."""
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        return is_damage(error)
    return False


def digest(filesystem: Any, path: str) -> str:
    """Of the file's bytes, 32 hexadecimal digits."""
    with filesystem.open_input_stream(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def remove(filesystem: Any, path: str) -> None:
    """One that is gone already is none to remove."""
    if is_file(filesystem, path):
        filesystem.delete_file(path)


def temporary_for(path: str) -> str:
    """A hidden name beside it that nobody else uses and no reader takes for data."""
    folder, name = path.rsplit("/", 1)
    return f"{folder}/.{name.removesuffix('.parquet')}.{uuid.uuid4().hex[:8]}.tmp"


def write_parquet(filesystem: Any, path: str, rows: pa.Table, options: dict[str, Any]) -> None:
    """Write it whole or not at all; an older file of this name is replaced."""
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = temporary_for(path)
    try:
        pq.write_table(rows, temporary, filesystem=filesystem, **options)
        filesystem.move(temporary, path)
    except BaseException:
        remove(filesystem, temporary)
        raise


def write_json(filesystem: Any, path: str, value: Any) -> None:
    """Write it whole or not at all; an older file of this name is replaced."""
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = temporary_for(path)
    try:
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(json.dumps(value, indent=1).encode())
        filesystem.move(temporary, path)
    except BaseException:
        remove(filesystem, temporary)
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
