"""What is kept of an archive: one row a photo, in Parquet files that are whole or not there."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyarrow import fs

from archives.errors import ArchiveError
from archives.sources import first_line, opened, shown

BOX = pa.list_(pa.float32(), 4)
ROWS = pa.schema(
    [
        ("photo", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("verdict", pa.string()),
        ("alarm", pa.bool_()),
        ("weapon_score", pa.float32()),  # the best of any weapon, however low
        ("labels", pa.list_(pa.string())),  # of the detections that the API would answer, best first
        ("dangerous", pa.list_(pa.bool_())),
        ("scores", pa.list_(pa.float32())),
        ("boxes", pa.list_(BOX)),  # xyxy pixels of the upright picture
        ("notes", pa.list_(pa.string())),
        ("brightness", pa.float32()),  # mean shade, 0 to 255
        ("sharpness", pa.float32()),  # variance of the Laplacian, see detection/appearance.py
        ("runtime", pa.string()),
        ("error", pa.string()),  # kind of failure; null where there is none
        ("sentence", pa.string()),
    ]
)
PART = "part-"
SETTINGS_FILE = "_archive.json"  # readers of Parquet folders pass over a name that begins so
PART_ROWS, PART_SECONDS = 50_000, 60.0  # what is lost at most when the machine goes down


def failed(photo: str, error: str, sentence: str) -> dict[str, Any]:
    """Return the row of a photo that gave no answer."""
    return {"photo": photo, "error": error, "sentence": sentence}


def fingerprint(photo: str) -> int:
    """Return a number for a photo's name: millions of them take a tenth of the names' memory."""
    return int.from_bytes(hashlib.blake2b(photo.encode(), digest_size=8).digest(), "big")


class Parts:
    """The Parquet files of one archive.

    Args:
        address: folder or bucket that holds them.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        self._system, self._folder = opened(address)
        self._waiting: list[pa.Table] = []
        self._since = time.monotonic()
        self._number = 0
        self._started = time.strftime("%Y%m%d-%H%M%S", time.gmtime()) + f"-{time.time_ns() % 10**6:06d}"

    def settle(self, settings: Mapping[str, object]) -> None:
        """Write down what makes two rows comparable, or see that it is what is written down.

        Raises:
            ArchiveError: another model or other settings made what is there, or nothing can be written.
        """
        path = f"{self._folder}/{SETTINGS_FILE}"
        try:
            self._system.create_dir(self._folder, recursive=True)
            if self._system.get_file_info(path).type == fs.FileType.NotFound:
                self._write(path, json.dumps(settings, indent=2).encode())
            before = self.settings()
        except (OSError, pa.ArrowException) as error:
            raise ArchiveError(
                f"expected a folder or bucket to write to at {shown(self.address)}: {first_line(error)}"
            ) from error
        different = [name for name, value in settings.items() if before.get(name) != value]
        if different:
            raise ArchiveError(
                f"{shown(self.address)} holds an archive with another {' and '.join(different)}, and rows of "
                "both could not be compared: choose another --output"
            )

    def settings(self) -> dict[str, Any]:
        """Return what settle wrote down."""
        path = f"{self._folder}/{SETTINGS_FILE}"
        try:
            with self._system.open_input_file(path) as file:
                found: dict[str, Any] = json.loads(bytes(file.read()))
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ArchiveError(
                f"{shown(self.address)} is no archive, there is no readable {SETTINGS_FILE}: make one with "
                "`python archive.py scan`"
            ) from error
        return found

    def paths(self) -> list[str]:
        """Return the files that hold rows, in order."""
        found = self._system.get_file_info(fs.FileSelector(self._folder, allow_not_found=True))
        return sorted(
            str(info.path) for info in found
            if info.base_name.startswith(PART) and info.base_name.endswith(".parquet")
        )  # fmt: skip

    def tables(self, columns: Sequence[str] | None = None) -> Iterator[pa.Table]:
        """Yield the rows file by file, only those columns.

        Raises:
            ArchiveError: a file is damaged.
        """
        for path in self.paths():
            try:
                yield pq.read_table(path, columns=columns, filesystem=self._system, partitioning=None)
            except (OSError, pa.ArrowException) as error:
                raise ArchiveError(
                    f"{path} is damaged ({first_line(error)}): delete it, and the same command fills the gap"
                ) from error

    def done(self) -> set[int]:
        """Return the fingerprints of the photos that have a row."""
        return {
            fingerprint(photo) for table in self.tables(["photo"]) for photo in table["photo"].to_pylist()
        }

    def forget_failures(self) -> int:
        """Take the rows of photos that failed out, so that they are looked at again; return how many."""
        forgotten = 0
        for path, table in zip(self.paths(), self.tables(), strict=True):
            kept = table.filter(pc.is_null(table["error"]))
            if len(kept) < len(table):
                forgotten += len(table) - len(kept)
                self._write_table(path, kept)
        return forgotten

    def add(self, rows: pa.Table) -> None:
        """Keep rows; they are written now and then, and at flush."""
        self._waiting.append(rows)
        late = time.monotonic() - self._since > PART_SECONDS
        if late or sum(map(len, self._waiting)) >= PART_ROWS:
            self.flush()

    def add_failures(self, failures: Iterable[Mapping[str, Any]]) -> None:
        """Keep the rows of what failed before anybody looked at it."""
        made = list(failures)
        if made:
            self.add(pa.Table.from_pylist(made, schema=ROWS))

    def flush(self) -> None:
        """Write what waits."""
        if self._waiting:
            self._write_table(
                f"{self._folder}/{PART}{self._started}-{self._number:06d}.parquet",
                pa.concat_tables(self._waiting),
            )
            self._number += 1
        self._waiting, self._since = [], time.monotonic()

    def _write_table(self, path: str, table: pa.Table) -> None:
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd")
        self._write(path, sink.getvalue())

    def _write(self, path: str, content: Any) -> None:
        """Write a file that is whole or not there. A bucket has it so by itself."""
        local = isinstance(self._system, fs.LocalFileSystem)
        arriving = f"{path}.arriving" if local else path
        with self._system.open_output_stream(arriving) as file:
            file.write(content)
        if local:
            self._system.move(arriving, path)
