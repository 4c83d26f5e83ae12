"""A release: all files that serve together, in one folder that appears complete or not at all.

    <releases>/r-0123456789ab/     catalogue/, towers/, index/, ranking/, ... and manifest.json
    <releases>/current             one line: the version that serves

Takes a staging folder with files of any kind, gives a checked, read-only `Release`. A version is named after its
content: the checksum of its manifest, which holds the checksum of every file. So training again on the same data gives
the same release under the same name, and a file from another release is always detected.
It does not know what the files mean.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version as library_version
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError

from recsys.errors import ReleaseError
from recsys.features import spec

FORMAT = 5
"""Version of the folder's layout. Since 5 an index names the vectors it was built from."""

LIBRARIES = ("faiss-cpu", "lightgbm", "numpy", "pyarrow", "torch")
MANIFEST = "manifest.json"

_VERSION = re.compile(r"r-[0-9a-f]{12}")
_REMEDY = "run `recsys train` to make it again"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FileEntry(_Strict):
    """Size and checksum of one file of a release."""

    size: int
    """Bytes."""
    sha256: str


class Manifest(_Strict):
    """Description of a release. It holds no wall time, so the same data gives the same bytes."""

    format: int
    fingerprint: str
    """`features.spec.fingerprint()` of the code that made the release."""
    files: dict[str, FileEntry]
    """Path inside the folder -> size and checksum."""
    config: dict[str, JsonValue]
    """The resolved settings."""
    metrics: dict[str, JsonValue]
    libraries: dict[str, str]
    logs_end: int
    """Microseconds; the time of the last event in the training logs."""
    watermark: str
    """Stream position that its online snapshot reflects; empty for none."""
    world: bool
    """Whether the logs come from the synthetic world. Serving then uses the world's clock."""

    def encoded(self) -> bytes:
        return json.dumps(self.model_dump(), indent=1, sort_keys=True, allow_nan=False).encode()


@dataclass(frozen=True, slots=True)
class Release:
    """A release that passed all checks."""

    path: Path
    manifest: Manifest

    @property
    def version(self) -> str:
        return self.path.name


@contextmanager
def staging(releases_path: Path) -> Iterator[Path]:
    """Make an empty folder beside the releases, to fill and then `publish`.

    Deletes the folder when the block ends, also on Ctrl-C, unless it was published. A lock marks the folder as in use
    while its process lives; folders of dead processes are deleted first.
    """
    releases_path.mkdir(parents=True, exist_ok=True)
    with _locked(releases_path):
        for stale in releases_path.glob(".staging-*"):
            _remove_if_abandoned(stale)
        folder = releases_path / f".staging-{os.getpid()}-{secrets.token_hex(4)}"
        folder.mkdir()
        owner = os.open(folder, os.O_RDONLY)
        fcntl.flock(owner, fcntl.LOCK_EX)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(owner)


def publish(
    folder: Path,
    *,
    config: Mapping[str, Any],
    metrics: Mapping[str, Any],
    logs_end: int,
    watermark: str = "",
    world: bool = False,
) -> Release:
    """Turn a staging folder into a release: write the manifest, flush every file, rename the folder.

    Args:
        folder: from `staging`; it no longer exists afterwards.
        config: the resolved settings, as JSON (`config.model_dump(mode="json")`).
        metrics: training figures, as JSON; nothing that differs between two equal runs.
        logs_end: microseconds, the time of the last event in the training logs.
    Returns: the release. If an intact release with the same content exists, returns that one.
    Raises: ReleaseError when the folder is empty, holds a link, or a figure is not JSON.
    """
    paths = _files(folder)
    if not paths:
        raise ReleaseError(
            f"a release needs at least one file, got none in {folder}; fill the folder before publishing it"
        )
    try:
        manifest = Manifest(
            format=FORMAT,
            fingerprint=str(spec.fingerprint()),
            files={name: FileEntry(size=path.stat().st_size, sha256=_checksum(path)) for name, path in paths.items()},
            config=dict(config),
            metrics=dict(metrics),
            libraries={name: library_version(name) for name in LIBRARIES},
            logs_end=logs_end,
            watermark=watermark,
            world=world,
        )
        encoded = manifest.encoded()
    except ValueError as error:
        reason = " ".join(str(error).split())
        raise ReleaseError(f"config and metrics of a release must be JSON without NaN: {reason}") from None
    (folder / MANIFEST).write_bytes(encoded)
    for path in [*paths.values(), folder / MANIFEST, *(p for p in folder.rglob("*") if p.is_dir()), folder]:
        _flush(path)
    releases_path, version = folder.parent, _name(encoded)
    target = releases_path / version
    with _locked(releases_path):
        if target.exists():
            try:
                return load(releases_path, version)
            except ReleaseError:
                # The existing copy of the same content is damaged: replace it.
                os.rename(target, releases_path / f".staging-damaged-{secrets.token_hex(4)}")
        os.rename(folder, target)
        _flush(releases_path)
    return Release(target, manifest)


def use(releases_path: Path, version: str) -> None:
    """Make a release the current one. Readers see either the old or the new name.

    Raises: ReleaseError when the release does not exist or a file is missing or altered.
    """
    load(releases_path, version)
    with _locked(releases_path):
        new = releases_path / ".current.new"
        new.write_text(version + "\n")
        _flush(new)
        os.replace(new, releases_path / "current")
        _flush(releases_path)


def clear_current(releases_path: Path) -> None:
    """Leave no release current, because the logs they were trained on are gone. Deletes no release."""
    (releases_path / "current").unlink(missing_ok=True)


def current(releases_path: Path) -> str | None:
    """Version of the current release, None if there is none."""
    try:
        return (releases_path / "current").read_text().strip()
    except FileNotFoundError:
        return None


def list_releases(releases_path: Path) -> list[str]:
    """Versions of all releases in the folder, newest first; their files are not checked."""
    paths = [p for p in releases_path.glob("r-*") if _VERSION.fullmatch(p.name)] if releases_path.is_dir() else []
    return [path.name for path in sorted(paths, key=lambda p: (-p.stat().st_mtime_ns, p.name))]


def load(releases_path: Path, version: str | None = None, verify: bool = True) -> Release:
    """Open a release after checking that it is complete, unaltered and made for this code.

    Args:
        version: None loads the current release.
        verify: compare the checksum of every file; otherwise only names and sizes.
    Raises: ReleaseError that names the file, what was expected, what was found, and the remedy.
    """
    known = list_releases(releases_path)
    version = version if version is not None else current(releases_path)
    if not known:
        raise ReleaseError(f"no release in {releases_path}; run `recsys train` to make one")
    if version is None:
        raise ReleaseError(f"no current release in {releases_path}; choose one with `recsys releases use {known[0]}`")
    if version not in known:
        raise ReleaseError(
            f"release {version!r} is not in {releases_path}, which holds {', '.join(known[:5])}; "
            "choose one with `recsys releases use`"
        )
    path = releases_path / version
    manifest = _read_manifest(path)
    if manifest.fingerprint != (expected := str(spec.fingerprint())):
        raise ReleaseError(
            f"release {version}: its features have fingerprint {manifest.fingerprint}, this code's have {expected}; "
            "run `recsys train` to make a release for this code"
        )
    found = _files(path)
    found.pop(MANIFEST, None)
    if surplus := sorted(found.keys() - manifest.files.keys()):
        raise ReleaseError(
            f"release {version}: {surplus[0]} is not in its manifest; parts of two releases are mixed, {_REMEDY}"
        )
    for name, entry in manifest.files.items():
        if name not in found:
            raise ReleaseError(f"release {version}: {name} is missing ({entry.size} bytes expected); {_REMEDY}")
        if (size := found[name].stat().st_size) != entry.size:
            raise ReleaseError(f"release {version}: {name} must have {entry.size} bytes, got {size}; {_REMEDY}")
        if verify and (sha256 := _checksum(found[name])) != entry.sha256:
            origin = _owner_of(releases_path, known, name, sha256)
            raise ReleaseError(
                f"release {version}: {name} must have sha256 {entry.sha256[:12]}…, "
                f"got {sha256[:12]}…{origin}; {_REMEDY}"
            )
    return Release(path, manifest)


def _read_manifest(path: Path) -> Manifest:
    try:
        encoded = (path / MANIFEST).read_bytes()
        format_found = json.loads(encoded)["format"]
        if format_found != FORMAT:
            raise ReleaseError(
                f"release {path.name}: its format is {format_found}, this code reads {FORMAT}; {_REMEDY}"
            )
        manifest = Manifest.model_validate_json(encoded)
    except FileNotFoundError:
        raise ReleaseError(f"release {path.name}: {MANIFEST} is missing; {_REMEDY}") from None
    except (OSError, ValueError, KeyError, TypeError, ValidationError):
        raise ReleaseError(f"release {path.name}: {MANIFEST} is not a readable manifest; {_REMEDY}") from None
    if (name := _name(encoded)) != path.name:
        raise ReleaseError(
            f"release {path.name}: its {MANIFEST} is that of {name}, so it was altered or swapped; {_REMEDY}"
        )
    return manifest


def _owner_of(releases_path: Path, known: list[str], name: str, sha256: str) -> str:
    """Name the release that a foreign file belongs to, as part of a sentence; empty if unknown."""
    for other in known:
        try:
            entry = _read_manifest(releases_path / other).files.get(name)
        except ReleaseError:
            continue
        if entry is not None and entry.sha256 == sha256:
            return f", which is that of release {other}: parts of two releases are mixed"
    return ""


def _name(manifest: bytes) -> str:
    return f"r-{hashlib.sha256(manifest).hexdigest()[:12]}"


def _files(folder: Path) -> dict[str, Path]:
    """All files below the folder, as relative name -> path, sorted by name."""
    entries = [path for path in sorted(folder.rglob("*")) if path.is_symlink() or not path.is_dir()]
    for path in entries:
        if path.is_symlink() or not path.is_file():
            raise ReleaseError(
                f"release {folder.name}: {path.relative_to(folder)} must be a file, got a link or device; {_REMEDY}"
            )
    return {path.relative_to(folder).as_posix(): path for path in entries}


def _checksum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold a lock on the folder. The system releases it when the process ends, so it cannot become stale."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _remove_if_abandoned(folder: Path) -> None:
    """Delete a staging folder unless a live process holds its lock."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    except BlockingIOError:
        pass
    finally:
        os.close(handle)
