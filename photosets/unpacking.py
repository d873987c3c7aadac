"""A pack (see photosets/packing.py) -> the roots in it, checked and unpacked once."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path

from photosets.layout import DatasetError

SUMS = "SHA256SUMS"  # as sha256sum writes and checks it


class DamagedPack(DatasetError):
    """A pack is not what its sums say, or cannot be unpacked."""


def is_pack(folder: Path) -> bool:
    """Say whether a folder holds what dataset.py pack writes."""
    return (folder / SUMS).is_file() and any(folder.glob("data-*.tar.gz"))


def unpacked(pack: Path) -> list[Path]:
    """Return the roots of a pack, in a folder beside it or, where that cannot be written, a temporary one.

    Whoever calls next finds them there, as long as the sums are the same.

    Raises:
        DamagedPack: a part is missing or damaged, or there is no room.
    """
    content = (pack / SUMS).read_bytes()
    name = f"{pack.resolve().name}.unpacked-{hashlib.sha256(content).hexdigest()[:8]}"
    beside, elsewhere = pack.resolve().parent / name, Path(tempfile.gettempdir()) / name
    for place in (beside, elsewhere):
        if place.is_dir():
            return _roots(place)
    _check(pack, content.decode("utf-8", "replace"))
    place = beside if os.access(beside.parent, os.W_OK) else elsewhere
    made = Path(tempfile.mkdtemp(prefix=f"{name}.", dir=place.parent))
    try:
        for part in sorted(pack.glob("data-*.tar.gz")):
            with tarfile.open(part) as archive:
                archive.extractall(made, filter="data")
        made.rename(place)
    except (OSError, EOFError, zlib.error, tarfile.TarError) as error:
        if not place.is_dir():  # else another process was faster
            raise DamagedPack(f"{pack} cannot be unpacked to {place}: {error}") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return _roots(place)


def _check(pack: Path, sums: str) -> None:
    """Raise DamagedPack unless every part is there and what the sums say."""
    wanted = dict(re.findall(r"^([0-9a-f]{64}) [ *](\S.*)$", sums, re.M))
    listed = {name: digest for digest, name in wanted.items()}
    strangers = {path.name for path in pack.glob("data-*.tar.gz")} - listed.keys()
    for name, digest in listed.items():
        path = pack / name
        if not path.is_file():
            raise DamagedPack(f"{pack} lacks {name}, which {SUMS} lists: copy it again")
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                raise DamagedPack(f"{path} is not what {SUMS} says: copy it again")
    if strangers or not listed:
        raise DamagedPack(
            f"{pack}/{SUMS} does not list {', '.join(sorted(strangers)) or 'a part'}: copy it again"
        )


def _roots(place: Path) -> list[Path]:
    return sorted(path for path in place.iterdir() if path.is_dir())
