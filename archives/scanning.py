"""One pass over an archive: list what is there, leave out what is done, look at the rest, keep the rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc

from archives.rows import Parts, failed, fingerprint
from archives.sources import LISTED, Broken, listed

TELL_SECONDS = 5.0  # between two lines about how far it is
Tell = Callable[[str], None]
LookAt = Callable[[pa.Table], Iterator[pa.Table]]


@dataclass
class Progress:
    """How far a pass is.

    Attributes:
        total: photos to look at.
        over: those that have a row by now, failures included.
        failures: those that gave no answer.
        alarms: those with a possible weapon.
        unsure: those that a person should look at closely.
    """

    total: int
    over: int = 0
    failures: int = 0
    alarms: int = 0
    unsure: int = 0
    began: float = field(default_factory=time.monotonic)
    told: float = 0.0

    def add(self, rows: pa.Table) -> None:
        """Count rows."""
        self.over += len(rows)
        self.failures += pc.sum(pc.is_valid(rows["error"])).as_py() or 0
        self.alarms += pc.sum(pc.equal(rows["verdict"], "alarm")).as_py() or 0
        self.unsure += pc.sum(pc.equal(rows["verdict"], "unsure")).as_py() or 0

    @property
    def rate(self) -> float:
        """Photos a second."""
        return self.over / max(1e-9, time.monotonic() - self.began)

    def sentence(self) -> str:
        """Return how far it is, how fast, and for how long it will go on."""
        left = (self.total - self.over) / self.rate if self.over else 0.0
        return (
            f"{self.over:,} of {self.total:,} photos, {self.rate:.1f} a second, {duration(left)} to go; "
            f"{self.alarms:,} alarms, {self.unsure:,} unsure, {self.failures:,} failed"
        )


def duration(seconds: float) -> str:
    """Return a time in the two units that matter."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    first = next((i for i, (count, _) in enumerate(parts) if count), 3)
    return " ".join(f"{count} {unit}" for count, unit in parts[first : first + 2])


def missing(sources: Sequence[str], parts: Parts, tell: Tell) -> tuple[pa.Table, list[Broken]]:
    """Return the photos at sources that have no row yet, each once, and the shards that are broken.

    Raises:
        ArchiveError: a source cannot be listed.
    """
    done, seen, tables, broken = parts.done(), 0, list[pa.Table](), list[Broken]()
    before = len(done)
    for source in sources:
        for found in listed(source):
            names = [found.photo] if isinstance(found, Broken) else found["photo"].to_pylist()
            fresh = []
            for name in names:
                number = fingerprint(name)
                fresh.append(number not in done)
                done.add(number)
            if isinstance(found, Broken):
                broken += [found] if fresh[0] else []
                continue
            seen += len(found)
            tables.append(found.filter(pa.array(fresh, pa.bool_())))
        tell(f"{source}: {seen:,} photos found so far")
    left = pa.concat_tables(tables) if tables else LISTED.empty_table()
    if before:
        tell(f"{seen - len(left):,} of them have a row from an earlier start")
    return left, broken


def scan(sources: Sequence[str], parts: Parts, look: LookAt, tell: Tell) -> Progress:
    """Look at every photo that has no row yet.

    Whatever ends it, the rows so far are written, and the same call goes on.

    Args:
        sources: folders, tar shards, addresses.
        parts: where rows are kept.
        look: photos -> their rows, in any order.
        tell: takes a sentence.

    Raises:
        ArchiveError: the archive cannot be listed, looked at or written.
    """
    photos, broken = missing(sources, parts, tell)
    progress = Progress(len(photos))
    try:
        parts.add_failures(failed(one.photo, "broken-shard", f"{one.sentence}.") for one in broken)
        for one in broken:
            tell(f"{one.photo}: {one.sentence}; the photos before that are looked at")
        if len(photos):
            for rows in look(photos):
                parts.add(rows)
                progress.add(rows)
                if time.monotonic() - progress.told > TELL_SECONDS:
                    progress.told = time.monotonic()
                    tell(progress.sentence())
    finally:
        parts.flush()
    progress.failures += len(broken)
    return progress
