"""Storage: open a folder or URL as a filesystem and a path; write files whole or not at all.

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
    """Open a path or URL as a filesystem and the path on it: with pyarrow, or fsspec for schemes pyarrow lacks.

    Raises: DataError when neither can open it, naming the missing package if that is the reason.
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
    """Whether a file's bytes caused the error, not the system (permission, network, too many open files)."""
    return isinstance(error, pa.ArrowException) or (isinstance(error, OSError) and error.errno is None)


def is_damaged(filesystem: Any, path: str) -> bool:
    """Whether a file cannot be decoded; reads it whole, one row group in memory at a time."""
    try:
        with filesystem.open_input_file(path) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                file.read_row_group(group)
    except (pa.ArrowException, OSError) as error:
        return is_damage(error)
    return False


def digest(filesystem: Any, path: str) -> str:
    """Hash of the file's bytes, 32 hexadecimal digits."""
    with filesystem.open_input_stream(path) as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()[:32]


def remove(filesystem: Any, path: str) -> None:
    """Delete the file if it exists."""
    if is_file(filesystem, path):
        filesystem.delete_file(path)


def temporary_path(path: str) -> str:
    """A unique hidden path beside the file, which readers ignore."""
    folder, name = path.rsplit("/", 1)
    return f"{folder}/.{name.removesuffix('.parquet')}.{uuid.uuid4().hex[:8]}.tmp"


def write_parquet(filesystem: Any, path: str, rows: pa.Table, options: dict[str, Any]) -> None:
    """Write a file whole or not at all, replacing an older one."""
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = temporary_path(path)
    try:
        pq.write_table(rows, temporary, filesystem=filesystem, **options)
        filesystem.move(temporary, path)
    except BaseException:
        remove(filesystem, temporary)
        raise


def write_json(filesystem: Any, path: str, value: Any) -> None:
    """Write a file whole or not at all, replacing an older one."""
    filesystem.create_dir(path.rsplit("/", 1)[0], recursive=True)
    temporary = temporary_path(path)
    try:
        with filesystem.open_output_stream(temporary) as stream:
            stream.write(json.dumps(value, indent=1).encode())
        filesystem.move(temporary, path)
    except BaseException:
        remove(filesystem, temporary)
        raise


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
