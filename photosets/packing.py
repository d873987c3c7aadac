"""Data roots -> few files of a bounded size, for a machine that takes little luggage; and how much is lost.

A pack is a folder: data-1.tar.gz, data-2.tar.gz, ... and SHA256SUMS. Unpacked one over the other into one
folder, in any order, the parts give every root again, under its own name, as Pascal VOC:

    sha256sum -c SHA256SUMS && for part in data-*.tar.gz; do tar xzf $part -C FOLDER; done

Pictures are made smaller and re-encoded as WebP, upright, and their annotations with them. File stems stay,
and with them recordings, splits and all that is decided by name. Boxes of one class that come to lie within a
pixel of each other are read as one. Names of objects stay as somebody wrote them.

A Pascal VOC file with something wrong goes in as it is, so that whoever reads it finds the same wrong. Other
layouts keep many annotations in one file: there such a picture is left out, and told.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from detection import imaging
from detection.detections import BACKGROUND, Classes
from photosets import voc, voc_folders
from photosets.annotations import MIN_BOX_SIDE, Boxes, BrokenAnnotation, Source, annotate
from photosets.classes import class_rule
from photosets.found import Root, find_root
from photosets.layout import FOLDERS, SIDES, DatasetError
from photosets.pairs import Pair
from photosets.unpacking import SUMS

TOGETHER = 64  # pictures under way at once: bounds the memory
TIMED = 50  # pictures whose decoding is timed, before and after
# A member costs more than its bytes: a header of 512, and what gzip adds to pixels that no longer shrink.
HEADER = 1024


class UnusablePack(DatasetError):
    """The roots cannot be packed as asked."""


@dataclass
class Packed:
    """What packing came to.

    Attributes:
        parts: file -> its bytes.
        pictures: how many were packed.
        kept: how many of them as they were: small enough already, or not readable.
        left_out: a sentence for each picture that could not be packed.
        bytes_before: of the pictures.
        bytes_after: of the pictures.
        decode_ms: to decode one picture, before and after; processor time.
    """

    parts: dict[Path, int] = field(default_factory=dict)
    pictures: int = 0
    kept: int = 0
    left_out: list[str] = field(default_factory=list)
    bytes_before: int = 0
    bytes_after: int = 0
    decode_ms: tuple[float, float] = (0.0, 0.0)


Member = tuple[str, bytes]  # path in the archive, content


def pack(
    roots: Sequence[Path],
    folder: Path,
    *,
    longer_side: int,
    quality: int,
    part_bytes: int,
    advance: Callable[[], object] = lambda: None,
) -> Packed:
    """Write roots into folder as parts of at most part_bytes each. The same roots give the same files.

    Args:
        roots: as for read_samples; each has a folder name of its own.
        folder: new, or an earlier pack, which is replaced.
        longer_side: of the packed pictures at most, pixels; smaller ones keep their size.
        quality: of WebP, 1 to 100.
        part_bytes: of each part at most.
        advance: called after each picture.

    Raises:
        WrongLayout, DuplicateStem: a root cannot be read.
        UnusablePack: two roots have one name, there is no picture, a picture alone fills a part, or folder
            holds other files.
    """
    pairs = list(_pairs(roots))
    if not pairs:
        raise UnusablePack(f"there is no picture in {', '.join(map(str, roots))}")
    _empty(folder)
    result, timed = Packed(), max(1, len(pairs) // TIMED)
    milliseconds: list[tuple[float, float]] = []

    def members_of(pair: _Packable) -> list[Member] | _LeftOut:
        try:
            return _members(pair, longer_side, quality)
        except _LeftOut as error:
            return error

    with ThreadPoolExecutor() as pool, _Parts(folder, part_bytes) as parts:
        for start in range(0, len(pairs), TOGETHER):
            for i, members in enumerate(pool.map(members_of, pairs[start : start + TOGETHER]), start):
                if isinstance(members, _LeftOut):
                    result.left_out.append(str(members))
                    advance()
                    continue
                before, (_, after) = pairs[i].image_path.read_bytes(), members[0]
                parts.add(members)
                result.pictures += 1
                result.kept += before == after
                result.bytes_before += len(before)
                result.bytes_after += len(after)
                if i % timed == 0 and before != after:
                    milliseconds.append((_decode_ms(before), _decode_ms(after)))
                advance()
    result.parts = parts.sizes
    if milliseconds:
        before_ms, after_ms = np.median(milliseconds, axis=0).tolist()
        result.decode_ms = (before_ms, after_ms)
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in result.parts]
    (folder / SUMS).write_text("".join(sums))
    return result


@dataclass(frozen=True, slots=True)
class _Packable:
    """A picture that goes into the archive.

    Attributes:
        within: its root, as it is called in the archive.
        pair: it and its annotation.
        image_path: its file.
        is_voc: its annotation has a file of its own, which can go in as it is.
    """

    within: str
    pair: Pair
    image_path: Path
    is_voc: bool

    @property
    def stem(self) -> str:
        """What it is called there: other layouts may keep pictures of one name in several folders."""
        return self.image_path.stem if self.is_voc else self.pair.stem


class _LeftOut(ValueError):
    """A picture cannot be packed; the message says which and why."""


def _pairs(roots: Sequence[Path]) -> Iterator[_Packable]:
    """Yield each picture."""
    found = {root: find_root(root) for root in dict.fromkeys(path.resolve() for path in roots)}
    names = [root.name for root in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise UnusablePack(
            f"expected roots with different folder names, got {', '.join(twice)} more than once: rename one"
        )
    for given, root in found.items():
        yield from _pairs_of("/".join((given.name, *root.path.relative_to(given).parts)), root)


def _pairs_of(within: str, root: Root) -> Iterator[_Packable]:
    is_voc = root.kind == voc_folders.KIND
    for pair in root.find_pairs(SIDES, negatives=True):
        if pair.image_path is not None:
            yield _Packable(within, pair, pair.image_path, is_voc)


def _members(one: _Packable, longer_side: int, quality: int) -> list[Member]:
    """Return what is packed of a picture, itself first.

    Raises:
        _LeftOut: it has something wrong and no annotation of its own to go in as it is.
    """
    pair, images, xmls = one.pair, *(f"{one.within}/{name}" for name in FOLDERS[one.pair.side])
    content = one.image_path.read_bytes()
    xml = None
    if one.is_voc and pair.annotation is not None:
        xml = pair.annotation.path.read_bytes()
    picture = (f"{one.stem}{one.image_path.suffix}", content)
    try:
        if pair.problem is not None:
            raise BrokenAnnotation(pair.problem.detail)
        header = imaging.read_header(content)
        small = imaging.shrink(imaging.decode_image(content), longer_side)
        size_wh = (small.shape[1], small.shape[0])
        if pair.annotation is not None:
            xml = _annotation(pair.annotation, f"{one.stem}.webp", header, size_wh)
        encoded = imaging.encode_image(small, "WEBP", quality=quality)
        if header.orientation != 1 or size_wh != header.size_wh or len(encoded) < len(content):
            picture = (f"{one.stem}.webp", encoded)
    except (imaging.ImageError, BrokenAnnotation, _NoBoxLeft) as error:
        if not one.is_voc:
            raise _LeftOut(f"{one.image_path}: {error}") from error
    members = [(f"{images}/{picture[0]}", picture[1])]
    return members if xml is None else [*members, (f"{xmls}/{pair.stem}.xml", xml)]


class _NoBoxLeft(ValueError):
    """None of an annotation's boxes can be used."""


def _annotation(source: Source, name: str, header: imaging.ImageHeader, size_wh: tuple[int, int]) -> bytes:
    """Return the annotation of a picture, upright and shrunk to size_wh, called name."""
    names = (BACKGROUND, *sorted(source.names()))  # whatever they mean, they mean the same there
    annotation = annotate(source, class_rule(classes=Classes(names, ())), header)
    if annotation.objects and not len(annotation.labels):
        raise _NoBoxLeft("none of its boxes covers a pixel")
    scale = np.array([new / old for new, old in zip(size_wh, header.size_wh, strict=True)] * 2)
    boxes = _at_least_a_pixel(annotation.boxes * scale, size_wh)
    return voc.annotation_xml(
        name, size_wh, [names[label] for label in annotation.labels],
        boxes.round(2).tolist(), annotation.difficult.tolist(),
    )  # fmt: skip


def _at_least_a_pixel(boxes: Boxes, size_wh: tuple[int, int]) -> Boxes:
    """Widen sides that shrank below what a reader takes, about their middle and inside the picture."""
    middle, half = (boxes[:, :2] + boxes[:, 2:]) / 2, (boxes[:, 2:] - boxes[:, :2]) / 2
    half = np.maximum(half, MIN_BOX_SIDE / 2 + 0.01)  # 0.01: what is written is rounded
    middle = middle.clip(half, np.maximum(np.array(size_wh) - half, half))
    widened: Boxes = np.concatenate([middle - half, middle + half], axis=1)
    return widened


def _decode_ms(content: bytes) -> float:
    start = time.thread_time()  # others encode meanwhile
    imaging.decode_image(content)
    return 1000 * (time.thread_time() - start)


def _empty(folder: Path) -> None:
    """Make folder, or remove an earlier pack from it."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = [*folder.glob("data-*.tar.gz"), *folder.glob(SUMS)]
    if strangers := sorted(path.name for path in folder.iterdir() if path not in earlier):
        raise UnusablePack(
            f"expected a new folder or an earlier pack, {folder} holds {', '.join(strangers[:5])}: choose "
            "another"
        )
    for path in earlier:
        path.unlink()


class _Parts(ExitStack):
    """Archives of a bounded size: a new one is begun when what comes next might not fit.

    Attributes:
        sizes: file -> its bytes; complete when the block has ended.
    """

    def __init__(self, folder: Path, part_bytes: int) -> None:
        super().__init__()
        self.folder, self.part_bytes = folder, part_bytes
        self.sizes: dict[Path, int] = {}
        self._file: io.BufferedWriter | None = None

    def add(self, members: Sequence[Member]) -> None:
        """Write a picture and its annotation, which stay together."""
        wanted = sum(len(content) + HEADER for _, content in members)
        if wanted + HEADER > self.part_bytes:
            raise UnusablePack(
                f"{members[0][0]} alone takes {wanted:,} bytes, a part holds {self.part_bytes:,}: allow "
                "larger parts or a lower quality"
            )
        if self._file is None or self._packed() + wanted + HEADER > self.part_bytes:
            self._next()
        for name, content in members:
            header = tarfile.TarInfo(name)  # no date and no owner: the same pictures give the same bytes
            header.size, header.mode = len(content), 0o644
            self._tar.addfile(header, io.BytesIO(content))

    def _packed(self) -> int:
        """Return the bytes of the part so far, with all that is still on its way to the disk."""
        self._gzip.flush()
        assert self._file is not None
        return self._file.tell()

    def _next(self) -> None:
        self.close()
        path = self.folder / f"data-{len(self.sizes) + 1}.tar.gz"
        self.sizes[path] = 0
        self._file = path.open("wb")
        self.callback(self._finish, path, self._file)
        self._gzip = gzip.GzipFile("", "wb", 6, self._file, mtime=0)
        self._tar = tarfile.open(fileobj=self._gzip, mode="w", format=tarfile.PAX_FORMAT)  # noqa: SIM115

    def _finish(self, path: Path, file: io.BufferedWriter) -> None:
        self._tar.close()
        self._gzip.close()
        file.close()
        self.sizes[path] = path.stat().st_size
