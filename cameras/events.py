"""What cameras confirmed, kept in a database: SQLite in a file, or PostgreSQL by its address.

Nothing is kept unless a person names the database (WATCH_EVENTS). What is kept has an end: after the days of
retention an event and its picture are deleted for good.

EventsError (RuntimeError)  the database cannot be read or written; str() says why, without its password
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    DateTime,
    LargeBinary,
    String,
    Text,
    create_engine,
    delete,
    event,
    func,
    select,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, deferred, mapped_column
from sqlalchemy.types import TypeDecorator

from schemas import Verdict

Review = Literal["confirmed", "dismissed"]
LensTrouble = Literal["black", "covered", "frozen"]
REVIEWED = ("review", "reviewed_by", "reviewed_at", "why")  # what a person writes, and no watcher
CLOCK_JUMP_S = 3600.0  # by which the wall's clock may leave the monotonic one before nothing is deleted by it


class EventsError(RuntimeError):
    """The database cannot be read or written."""


class _Utc(TypeDecorator[datetime]):
    """A time in UTC; SQLite keeps no zone with it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class _Base(DeclarativeBase):
    pass


class Event(_Base):
    """One object that a camera's frames confirmed.

    Attributes:
        verdict: "alarm" or "unsure", the highest it reached.
        started_at, ended_at: its first and last frame.
        track: number of the object since the watcher's start.
        frames: how many saw it.
        label, box: of its best frame: class name, and xyxy pixels of picture.
        score, best_score: the padded median that confirmed it, and that of its best frame.
        scores: (seconds from started_at, score) of the frames that saw it, the last SCORES_KEPT of them.
        quiet: whether it began in the camera's quiet hours.
        picture: its best frame, a JPEG file.
        review, reviewed_by, reviewed_at, why: what a person said of it.
    """

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=lambda: uuid.uuid4().hex)
    camera: Mapped[str] = mapped_column(String(64), index=True)
    verdict: Mapped[Verdict] = mapped_column(String(8))
    started_at: Mapped[datetime] = mapped_column(_Utc, index=True)
    ended_at: Mapped[datetime] = mapped_column(_Utc, index=True)
    track: Mapped[int]
    frames: Mapped[int]
    label: Mapped[str] = mapped_column(String(64))
    box: Mapped[list[float]] = mapped_column(JSON)
    score: Mapped[float]
    best_score: Mapped[float]
    scores: Mapped[list[list[float]]] = mapped_column(JSON)
    quiet: Mapped[bool] = mapped_column(default=False)
    model_name: Mapped[str] = mapped_column(String(128))
    model_version: Mapped[str | None] = mapped_column(String(32))
    weights_sha256: Mapped[str] = mapped_column(String(64))
    alarm_point: Mapped[float]
    unsure_point: Mapped[float]
    width: Mapped[int]
    height: Mapped[int]
    picture: Mapped[bytes] = deferred(mapped_column(LargeBinary))
    review: Mapped[Review | None] = mapped_column(String(16), default=None)
    reviewed_by: Mapped[str] = mapped_column(String(128), default="")
    reviewed_at: Mapped[datetime | None] = mapped_column(_Utc, default=None)
    why: Mapped[str] = mapped_column(Text, default="")


class Trouble(_Base):
    """A time in which a camera gave pictures and could see nothing: an event of the lens, not of an object.

    Attributes:
        kind: "black", "covered" or "frozen".
        started_at, ended_at: when that was noticed first and last.
    """

    __tablename__ = "troubles"

    id: Mapped[str] = mapped_column(String(32), primary_key=True)
    camera: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[LensTrouble] = mapped_column(String(8))
    started_at: Mapped[datetime] = mapped_column(_Utc, index=True)
    ended_at: Mapped[datetime] = mapped_column(_Utc, index=True)


class Alert(_Base):
    """What one destination is to be told of an event; it waits here until that has worked.

    Attributes:
        id: of event, verdict and destination: there is never a second one.
        camera: whose watcher brings it: several may share the database.
        body: what is told, JSON: see alerts.alerts_of.
        picture: the crop that goes with it, a JPEG file; emptied once it is sent.
        sent_at: None while it waits.
    """

    __tablename__ = "alerts"

    id: Mapped[str] = mapped_column(String(160), primary_key=True)
    destination: Mapped[str] = mapped_column(String(64), index=True)
    camera: Mapped[str] = mapped_column(String(64))
    created_at: Mapped[datetime] = mapped_column(_Utc, index=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    picture: Mapped[bytes] = mapped_column(LargeBinary)
    sent_at: Mapped[datetime | None] = mapped_column(_Utc, default=None)


class EventStore:
    """The database of events; safe to share between threads.

    Args:
        address: a file for SQLite, or what SQLAlchemy takes, such as postgresql+psycopg://user:password@host/db.
        days: an event is kept so long after its last frame.
        clock: the wall's clock, UTC.

    Raises:
        EventsError: the database cannot be opened.
    """

    def __init__(
        self, address: str, *, days: float = 30.0, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self.days, self._clock = days, clock
        self._began = (clock(), time.monotonic())
        try:
            url = make_url(address if "://" in address else f"sqlite:///{address}")
            self.shown = url.render_as_string(hide_password=True)
            if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = create_engine(url, hide_parameters=True, pool_pre_ping=True)
        except (ArgumentError, ImportError) as error:
            raise EventsError(
                "the events' address: expected a file, or an address such as "
                f"postgresql+psycopg://user:password@host/database ({type(error).__name__})"
            ) from error
        except OSError as error:
            raise EventsError(f"the events' folder cannot be made: {error.strerror}") from error
        if url.get_backend_name() == "sqlite":
            event.listen(self._engine, "connect", _delete_for_good)
        with self._told():
            _Base.metadata.create_all(self._engine)

    def save(self, kept: Event, alerts: Sequence[Alert] = (), *, per_hour: int = 0) -> int:
        """Keep an event, or what is new of it, and the alerts of it, all or nothing.

        Args:
            kept: what a person said of it meanwhile stays.
            alerts: to be sent; those that are there already stay as they are.
            per_hour: a destination gets at most so many in any hour; 0 is no limit.

        Returns:
            How many alerts were held back because their destination had enough in this hour.

        Raises:
            EventsError: it could not be written.
        """
        values = {name: getattr(kept, name) for name in _columns(Event) if name not in REVIEWED}
        held_back = 0
        with self._session() as session:
            found = session.get(Event, kept.id)
            if found is None:
                session.add(Event(**values))
            else:
                for name, value in values.items():
                    setattr(found, name, value)
            for alert in alerts:
                if session.get(Alert, alert.id) is not None:
                    continue
                if per_hour and self._in_this_hour(session, alert) >= per_hour:
                    held_back += 1
                else:
                    session.add(Alert(**{name: getattr(alert, name) for name in _columns(Alert)}))
        return held_back

    def save_trouble(self, trouble: Trouble) -> None:
        """Keep a trouble of a lens, or how long it lasts by now."""
        with self._session() as session:
            session.merge(Trouble(**{name: getattr(trouble, name) for name in _columns(Trouble)}))

    def troubles(self) -> list[Trouble]:
        """Return the troubles of lenses, newest first."""
        with self._session() as session:
            return list(session.scalars(select(Trouble).order_by(Trouble.started_at.desc())))

    @staticmethod
    def _in_this_hour(session: Session, alert: Alert) -> int:
        now = alert.created_at
        within = Alert.created_at.between(now - timedelta(hours=1) + timedelta(microseconds=1), now)
        counted = select(func.count()).select_from(Alert)
        # What a clock that was ahead wrote lies after now: it must not hold back all that comes until then.
        return session.scalar(counted.where(Alert.destination == alert.destination, within)) or 0

    def waiting(self, destination: str, cameras: Collection[str] | None = None) -> list[Alert]:
        """Return the alerts of cameras, or of all, that a destination has not got yet, oldest first."""
        wanted = select(Alert).where(Alert.destination == destination, Alert.sent_at.is_(None))
        if cameras is not None:
            wanted = wanted.where(Alert.camera.in_(cameras))
        with self._session() as session:
            return list(session.scalars(wanted.order_by(Alert.created_at)))

    def sent(self, alert_id: str) -> None:
        """Note that an alert has arrived, or is given up; its picture goes."""
        with self._session() as session:
            found = session.get(Alert, alert_id)
            if found is not None:
                found.sent_at, found.picture = self._clock(), b""

    def events(self, *, camera: str | None = None, review: Review | None = None) -> list[Event]:
        """Return the events, newest first, without their pictures."""
        wanted = select(Event).order_by(Event.started_at.desc())
        if camera is not None:
            wanted = wanted.where(Event.camera == camera)
        if review is not None:
            wanted = wanted.where(Event.review == review)
        with self._session() as session:
            return list(session.scalars(wanted))

    def picture(self, event_id: str) -> bytes:
        """Return an event's best frame, a JPEG file; b"" where there is no such event any more."""
        with self._session() as session:
            return session.scalar(select(Event.picture).where(Event.id == event_id)) or b""

    def judge(self, event_id: str, review: Review, *, by: str, why: str = "") -> None:
        """Note what a person says of an event.

        Raises:
            EventsError: there is no such event, or it could not be written.
        """
        with self._session() as session:
            found = session.get(Event, event_id)
            if found is None:
                raise EventsError(f"there is no event {event_id}")
            found.review, found.reviewed_by, found.why = review, by, why
            found.reviewed_at = self._clock()

    def delete_old(self) -> int:
        """Delete for good what is older than the days of retention, and return how many events.

        Raises:
            EventsError: they could not be deleted, or the clock has jumped, so that nobody knows what is old.
        """
        now = self._clock()
        jumped = (now - self._began[0]).total_seconds() - (time.monotonic() - self._began[1])
        if abs(jumped) > CLOCK_JUMP_S:
            raise EventsError(
                f"the clock has jumped by {jumped / 3600:+.1f} hours: no event is deleted until watch.py is "
                "started again with a clock that is right"
            )
        before = now - timedelta(days=self.days)
        old = delete(Event).where(Event.ended_at < before)
        with self._session() as session:
            session.execute(delete(Alert).where(Alert.created_at < before))
            session.execute(delete(Trouble).where(Trouble.ended_at < before))
            return int(session.execute(old).rowcount)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let go of the database."""
        self._engine.dispose()

    @contextmanager
    def _session(self) -> Iterator[Session]:
        with self._told(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except SQLAlchemyError as error:
            reason = str(getattr(error, "orig", None) or type(error).__name__).strip().partition("\n")[0]
            raise EventsError(f"the events in {self.shown} cannot be read or written: {reason}") from error


def _columns(table: type[_Base]) -> list[str]:
    return [column.key for column in table.__table__.columns]


def _delete_for_good(connection: Any, _: Any) -> None:
    """Let SQLite overwrite what it deletes: a picture must not be found in the file's free pages."""
    connection.execute("PRAGMA secure_delete = ON")
    connection.execute("PRAGMA busy_timeout = 30000")
