"""What cameras confirmed, kept in a database: SQLite in a file, or PostgreSQL by its address.

Nothing is kept unless a person names the database (WATCH_EVENTS). What is kept has an end: after the days of
retention an event and its picture are deleted for good.

EventsError (RuntimeError)  the database cannot be read or written; str() says why, without its password
  EventGone                 the event was deleted meanwhile
  ReviewedMeanwhile         somebody else was first to say something of the event
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

from sqlalchemy import (
    JSON,
    ForeignKey,
    LargeBinary,
    Select,
    String,
    Text,
    delete,
    func,
    select,
    union,
    update,
)
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, defer, deferred, mapped_column, relationship

from cameras.database import Kind, Utc, connect, make_tables, what_is_wrong
from schemas import Verdict

Review = Literal["confirmed", "dismissed"]
LensTrouble = Literal["black", "covered", "frozen"]
Place = Literal["before", "after"]
Between = tuple[datetime, datetime]  # from the first on, before the second
REVIEWED = ("review", "reviewed_by", "reviewed_at", "why")  # what a person writes, and no watcher
CLOCK_JUMP_S = 3600.0  # by which the wall's clock may leave the monotonic one before nothing is deleted by it


class EventsError(RuntimeError):
    """The database cannot be read or written.

    Attributes:
        kind: what is wrong with it, for those who say it in words of their own.
    """

    def __init__(self, words: str, kind: Kind = "unreadable") -> None:
        super().__init__(words)
        self.kind: Kind = kind


class EventGone(EventsError):
    """The event was deleted meanwhile."""


class ReviewedMeanwhile(EventsError):
    """Somebody else was first to say something of the event.

    Attributes:
        event: as it stands now.
    """

    def __init__(self, event: Event) -> None:
        said = f"{event.review} by {event.reviewed_by}" if event.review else "open again"
        super().__init__(f"event {event.id} is {said} meanwhile")
        self.event = event


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
        scenes: what was to be seen a little before and after that, where there was something.
        review, reviewed_by, reviewed_at, why: what a person said of it.
    """

    __tablename__ = "events"

    id: Mapped[str] = mapped_column(String(32), primary_key=True, default=lambda: uuid.uuid4().hex)
    camera: Mapped[str] = mapped_column(String(64), index=True)
    verdict: Mapped[Verdict] = mapped_column(String(8))
    started_at: Mapped[datetime] = mapped_column(Utc, index=True)
    ended_at: Mapped[datetime] = mapped_column(Utc, index=True)
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
    reviewed_at: Mapped[datetime | None] = mapped_column(Utc, default=None)
    why: Mapped[str] = mapped_column(Text, default="")
    scenes: Mapped[list[Scene]] = relationship(lazy="raise")


class Scene(_Base):
    """What a camera saw a little before, or after, the best frame of an event.

    Attributes:
        apart_s: seconds between the two.
        picture: a small JPEG file.
    """

    __tablename__ = "scenes"

    event_id: Mapped[str] = mapped_column(ForeignKey("events.id", ondelete="CASCADE"), primary_key=True)
    place: Mapped[Place] = mapped_column(String(8), primary_key=True)
    apart_s: Mapped[float]
    picture: Mapped[bytes] = mapped_column(LargeBinary)


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
    started_at: Mapped[datetime] = mapped_column(Utc, index=True)
    ended_at: Mapped[datetime] = mapped_column(Utc, index=True)


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
    created_at: Mapped[datetime] = mapped_column(Utc, index=True)
    body: Mapped[dict[str, Any]] = mapped_column(JSON)
    picture: Mapped[bytes] = mapped_column(LargeBinary)
    sent_at: Mapped[datetime | None] = mapped_column(Utc, default=None)


class EventStore:
    """The database of events; safe to share between threads.

    Args:
        address: a file for SQLite, or what SQLAlchemy takes, such as postgresql+psycopg://user:password@host/db.
        days: an event is kept so long after its last frame.
        clock: the wall's clock, UTC.
        wait_s: how long one waits for a lock that another holds, and for a server that does not answer.

    Raises:
        EventsError: the database cannot be opened.
    """

    def __init__(
        self, address: str, *, days: float = 30.0, wait_s: float = 30.0,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:  # fmt: skip
        self.days, self._clock = days, clock
        self._began = (clock(), time.monotonic())
        try:
            url = make_url(address if "://" in address else f"sqlite:///{address}")
            self.shown = url.render_as_string(hide_password=True)
            if url.get_backend_name() == "sqlite" and url.database not in (None, "", ":memory:"):
                Path(url.database).parent.mkdir(parents=True, exist_ok=True)
            self._engine = connect(url, wait_s)
        except (ArgumentError, ImportError) as error:
            raise EventsError(
                "the events' address: expected a file, or an address such as "
                f"postgresql+psycopg://user:password@host/database ({type(error).__name__})",
                "address",
            ) from error
        except OSError as error:
            raise EventsError(f"the events' folder cannot be made: {error.strerror}", "gone") from error
        with self._told():
            make_tables(self._engine, _Base.metadata)

    def save(self, kept: Event, alerts: Sequence[Alert] = (), *, per_hour: int = 0) -> int:
        """Keep an event, or what is new of it, and the alerts of it, all or nothing.

        Args:
            kept: with its scenes; what a person said of it meanwhile stays.
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
            session.flush()  # scenes refer to it
            places = [scene.place for scene in kept.scenes]
            session.execute(delete(Scene).where(Scene.event_id == kept.id, Scene.place.not_in(places)))
            for scene in kept.scenes:
                session.merge(
                    Scene(event_id=kept.id, place=scene.place, apart_s=scene.apart_s, picture=scene.picture)
                )
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

    def troubles(self, *, camera: str | None = None, between: Between | None = None) -> list[Trouble]:
        """Return the troubles of lenses, newest first."""
        wanted = select(Trouble).order_by(Trouble.started_at.desc())
        if camera is not None:
            wanted = wanted.where(Trouble.camera == camera)
        if between is not None:
            wanted = wanted.where(Trouble.started_at >= between[0], Trouble.started_at < between[1])
        with self._session() as session:
            return list(session.scalars(wanted))

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

    def events(
        self, *, camera: str | None = None, review: Review | Literal["open"] | None = None,
        verdict: Verdict | None = None, between: Between | None = None,
    ) -> list[Event]:  # fmt: skip
        """Return the events, newest first, without their pictures and the history of their scores.

        Args:
            camera: only its.
            review: only those that a person said this of, or "open": nothing yet.
            verdict: only these.
            between: only those that began then.
        """
        wanted = select(Event).options(defer(Event.scores, raiseload=True))
        wanted = wanted.order_by(Event.started_at.desc(), Event.id)
        if camera is not None:
            wanted = wanted.where(Event.camera == camera)
        if review is not None:
            wanted = wanted.where(Event.review.is_(None) if review == "open" else Event.review == review)
        if verdict is not None:
            wanted = wanted.where(Event.verdict == verdict)
        if between is not None:
            wanted = wanted.where(Event.started_at >= between[0], Event.started_at < between[1])
        with self._session() as session:
            return list(session.scalars(wanted))

    def event(self, event_id: str) -> Event | None:
        """Return one event without its pictures; None where there is no such event any more."""
        with self._session() as session:
            return session.get(Event, event_id)

    def counts(self) -> dict[str, int]:
        """Return how many events are open, confirmed, dismissed, and kept at all."""
        with self._session() as session:
            by_review = select(Event.review, func.count().label("events")).group_by(Event.review)
            counted = {row.review: row.events for row in session.execute(by_review)}
        return {
            "open": counted.get(None, 0),
            "confirmed": counted.get("confirmed", 0),
            "dismissed": counted.get("dismissed", 0),
            "all": sum(counted.values()),
        }

    def cameras(self) -> list[str]:
        """Return the names of the cameras of which something is kept."""
        with self._session() as session:
            return sorted(session.scalars(union(select(Event.camera), select(Trouble.camera))))

    def starts(self) -> list[datetime]:
        """Return when the events and the troubles of lenses began, in no order."""
        with self._session() as session:
            return [*session.scalars(select(Event.started_at)), *session.scalars(select(Trouble.started_at))]

    def state(self) -> str:
        """Return what differs once there is something new to see: an event, a scene, a review."""
        counted: tuple[Select[*tuple[Any, ...]], ...] = (
            select(func.count(), func.count(Event.review), func.max(Event.started_at)),
            select(func.count(), func.max(Event.reviewed_at)).where(Event.review.is_not(None)),
            select(func.count()).where(Event.verdict == "alarm"),
            select(func.count()).select_from(Scene),
            select(func.count(), func.max(Trouble.started_at)),
        )
        with self._session() as session:
            return repr([tuple(session.execute(each).one()) for each in counted])

    def picture(self, event_id: str) -> bytes:
        """Return an event's best frame, a JPEG file; b"" where there is no such event any more."""
        with self._session() as session:
            return session.scalar(select(Event.picture).where(Event.id == event_id)) or b""

    def scenes(self, event_id: str) -> list[Scene]:
        """Return what was to be seen before and after an event's best frame, in this order."""
        wanted = select(Scene).where(Scene.event_id == event_id).order_by(Scene.place.desc())
        with self._session() as session:
            return list(session.scalars(wanted))

    def judge(
        self, event_id: str, review: Review | None, *, by: str, why: str = "", seen_at: datetime | None = None
    ) -> None:
        """Note what a person says of an event, unless another was first.

        Args:
            event_id: which.
            review: None takes back what was said.
            by: who says so.
            why: the reason, for the record.
            seen_at: reviewed_at of the event as this person saw it.

        Raises:
            EventGone: there is no such event any more.
            ReviewedMeanwhile: another has said something of it since this person saw it.
            EventsError: it could not be written.
        """
        said = {"review": review, "reviewed_by": by, "why": why, "reviewed_at": self._clock()}
        if review is None:
            said = {"review": None, "reviewed_by": "", "why": "", "reviewed_at": None}
        as_seen = Event.reviewed_at.is_(None) if seen_at is None else Event.reviewed_at == seen_at
        with self._session() as session:
            written = session.execute(update(Event).where(Event.id == event_id, as_seen).values(said))
            found = None if written.rowcount else session.get(Event, event_id)  # type: ignore[attr-defined]
        if found is not None:
            raise ReviewedMeanwhile(found)
        if not written.rowcount:  # type: ignore[attr-defined]
            raise EventGone(f"there is no event {event_id}")

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
            of_old = select(Event.id).where(Event.ended_at < before)
            session.execute(delete(Scene).where(Scene.event_id.in_(of_old)))
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
            kind, reason = what_is_wrong(error)
            if kind == "gone" and self._engine.dialect.name == "sqlite":
                with suppress(SQLAlchemyError):  # what is confirmed from now on is kept in a new file
                    make_tables(self._engine, _Base.metadata)
            raise EventsError(
                f"the events in {self.shown} cannot be read or written: {reason}", kind
            ) from error


def _columns(table: type[_Base]) -> list[str]:
    return [column.key for column in table.__table__.columns]
