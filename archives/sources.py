"""Where photos lie: folders, buckets and tar shards, listed without being read, and read one by one.

A photo is a row of LISTED: its name, the address and path of the file that holds it and, in a tar shard, the
bytes of the file that are it.
"""

from __future__ import annotations

import tarfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
from pyarrow import fs

from archives.errors import ArchiveError
from detection.imaging import SUFFIXES

LISTED = pa.schema(
    [("photo", pa.string()), ("address", pa.string()), ("path", pa.string()), ("offset", pa.int64()),
     ("size", pa.int64())]
)  # fmt: skip
WHOLE = -1  # an offset: the photo is the whole file
MOST_BYTES = 200_000_000  # of one photo
SHARD = ".tar"
PACKED = (".tar.gz", ".tgz", ".tar.zst", ".tar.bz2", ".tar.xz")
SHARDS_AT_ONCE = 16  # whose tables of contents are read side by side: in a bucket each entry is a request
LISTED_AT_ONCE = 100_000  # photos in one table


class Unreadable(Exception):
    """One photo cannot be read where it lies; the message says why."""


@cache
def opened(address: str) -> tuple[Any, str]:
    """Return the file system of an address and the path in it.

    Raises:
        ArchiveError: the address is none.
    """
    if "://" not in address:
        return fs.LocalFileSystem(), str(Path(address).resolve())
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(address)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ArchiveError(
            f"expected a folder, a tar file or an address such as s3://bucket/folder, got {shown(address)}: "
            f"{first_line(error)}"
        ) from error
    return found


def shown(address: str) -> str:
    """Return an address without options and without keys."""
    head = address.partition("?")[0] if "://" in address else address
    scheme, separator, rest = head.partition("://")
    return scheme + separator + rest.rpartition("@")[2] if separator else head


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message."""
    return (str(error).splitlines() or [type(error).__name__])[0][:300]


@dataclass(frozen=True, slots=True)
class Broken:
    """A tar shard whose table of contents cannot be read to its end."""

    photo: str
    sentence: str


def listed(address: str) -> Iterator[pa.Table | Broken]:
    """Yield the photos at an address as tables of LISTED, sorted by path, and the shards that are broken.

    Raises:
        ArchiveError: there is nothing, or it may not be listed.
    """
    system, path = opened(address)
    files = _files(address, system, path)
    base = shown(address).rstrip("/")
    pictures = [
        (_name(base, path, info.path), info.path, WHOLE, info.size) for info in files
        if not info.path.endswith(SHARD)
    ]  # fmt: skip
    for start in range(0, len(pictures), LISTED_AT_ONCE):
        yield _table(address, pictures[start : start + LISTED_AT_ONCE])
    shards = [info.path for info in files if info.path.endswith(SHARD)]
    with ThreadPoolExecutor(SHARDS_AT_ONCE) as pool:
        for shard in pool.map(lambda one: _members(address, _name(base, path, one), one), shards):
            yield from shard


def _files(address: str, system: Any, path: str) -> list[Any]:
    """Return the pictures and shards below a path, or the one file that it is."""
    try:
        info = system.get_file_info(path)
        if info.type == fs.FileType.File:
            found = [info]
        else:
            found = system.get_file_info(fs.FileSelector(path, recursive=True))
    except (OSError, pa.ArrowException) as error:
        raise ArchiveError(
            f"{shown(address)} cannot be listed: {first_line(error)}. Expected a folder, a tar file or a "
            "bucket that this machine's keys may list"
        ) from error
    for one in found:
        if one.path.lower().endswith(PACKED):
            raise ArchiveError(
                f"{one.path} is a compressed tar file, in which no single photo can be reached: keep shards "
                "as plain .tar files; compression makes photos no smaller"
            )
    kept = [one for one in found if one.type == fs.FileType.File and _is_wanted(one.base_name)]
    if not kept:
        raise ArchiveError(f"expected photos or .tar shards at {shown(address)}, found none")
    return sorted(kept, key=lambda one: str(one.path))


def _is_wanted(name: str) -> bool:
    _, dot, suffix = name.rpartition(".")
    return not name.startswith(".") and f"{dot}{suffix.lower()}" in {*SUFFIXES, SHARD}


def _name(base: str, path: str, file: str) -> str:
    """Return what a file is called: the address that was given, and the path below it."""
    below = file.removeprefix(path.rstrip("/")).lstrip("/")
    return f"{base}/{below}" if below else base


def _table(address: str, rows: Sequence[tuple[str, str, int, int]]) -> pa.Table:
    names, paths, offsets, sizes = zip(*rows, strict=True) if rows else ((), (), (), ())
    return pa.table([names, [address] * len(rows), paths, offsets, sizes], schema=LISTED)


def _members(address: str, name: str, path: str) -> list[pa.Table | Broken]:
    """Return the photos of a tar shard, up to where it is broken."""
    system, _ = opened(address)
    rows: list[tuple[str, str, int, int]] = []
    found: list[pa.Table | Broken] = []
    try:
        with system.open_input_file(path) as file, tarfile.open(fileobj=file, mode="r:") as shard:
            for member in shard:
                if member.isfile() and _is_wanted(Path(member.name).name):
                    rows.append((f"{name}/{member.name}", path, member.offset_data, member.size))
                shard.members.clear()  # type: ignore[attr-defined]  # tarfile keeps all that it has seen
            # It takes an entry that is none for the end, which is a block of zeros.
            if any(file.read_at(tarfile.BLOCKSIZE, shard.offset)):
                found.append(Broken(name, "the shard's table of contents breaks off: an entry is damaged"))
    except (OSError, tarfile.TarError, pa.ArrowException) as error:
        found.append(Broken(name, f"the shard's table of contents breaks off: {first_line(error)}"))
    return [*([_table(address, rows)] if rows else []), *found]


def one_photo(path: Path) -> dict[str, Any]:
    """Return the row of LISTED of a file on this machine."""
    where = str(path.resolve())
    return {"photo": str(path), "address": where, "path": where, "offset": WHOLE, "size": path.stat().st_size}


def read_photo(address: str, path: str, offset: int, size: int) -> bytes:
    """Return the bytes of one photo.

    Raises:
        Unreadable: it is gone, forbidden, cut off or far too large.
    """
    if size > MOST_BYTES:
        raise Unreadable(f"the file has {size:,} bytes; at most {MOST_BYTES:,} are read")
    try:
        system, _ = opened(address)
        with system.open_input_file(path) as file:
            if offset == WHOLE:
                return bytes(file.read())
            content = bytes(file.read_at(size, offset))
    except (OSError, pa.ArrowException, ArchiveError) as error:
        raise Unreadable(f"the file cannot be read: {first_line(error)}") from error
    if len(content) < size:
        raise Unreadable(f"the shard ends {size - len(content):,} bytes before the photo does")
    return content
