"""How a database is opened, and what is wrong with one, in a word and a sentence: SQLite and PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import DateTime, Engine, MetaData, create_engine, event
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.pool import NullPool
from sqlalchemy.types import TypeDecorator

Kind = Literal["address", "busy", "full", "gone", "read-only", "unreadable"]  # what is wrong with a database
# What SQLite and PostgreSQL call it (the error's name; the beginning of SQLSTATE), and what it is.
KINDS: dict[str, Kind] = {
    "SQLITE_BUSY": "busy", "SQLITE_LOCKED": "busy", "SQLITE_FULL": "full", "SQLITE_CANTOPEN": "gone",
    "SQLITE_READONLY": "read-only", "55P03": "busy", "53300": "busy", "53100": "full", "42P01": "gone",
    "25006": "read-only", "42501": "read-only", "08": "gone", "28": "gone", "3D": "gone", "57": "gone",
}  # fmt: skip


class Utc(TypeDecorator[datetime]):
    """A time in UTC; SQLite keeps no zone with it."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Return what is written."""
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Any) -> datetime | None:  # noqa: ARG002
        """Return what was read, with its zone."""
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


def connect(url: URL, wait_s: float) -> Engine:
    """Return the way to a database; nothing is opened yet.

    SQLite's file is opened anew each time: one that was taken away would go on to be written to by nobody.

    Args:
        url: its address.
        wait_s: how long to wait for a lock that another holds, and for a server that does not answer.

    Raises:
        ArgumentError: the address names no database that there is.
        ImportError: what speaks to such a database is not installed.
    """
    if url.get_backend_name() == "sqlite":
        is_file = url.database not in (None, "", ":memory:")
        pool = {"poolclass": NullPool} if is_file else {}
        engine = create_engine(url, hide_parameters=True, connect_args={"timeout": wait_s}, **pool)
        event.listen(engine, "connect", _delete_for_good)
        return engine
    waits: dict[str, Any] = {}
    if url.get_backend_name() == "postgresql":
        waits = {"connect_timeout": max(2, round(wait_s)), "options": f"-c lock_timeout={wait_s:.0f}s"}
    return create_engine(url, hide_parameters=True, connect_args=waits, pool_pre_ping=True)


def _delete_for_good(connection: Any, _: Any) -> None:
    """Let SQLite overwrite what it deletes: a picture must not be found in the file's free pages."""
    connection.execute("PRAGMA secure_delete = ON")


def make_tables(engine: Engine, tables: MetaData) -> None:
    """Make those of tables that are not there yet; several processes may do so at once."""
    try:
        tables.create_all(engine)
    except DBAPIError as error:
        if "already exists" not in str(error):
            raise
        tables.create_all(engine)


def what_is_wrong(error: SQLAlchemyError) -> tuple[Kind, str]:
    """Return what is wrong, as far as the database says so, in a word and in its own words."""
    of_driver = getattr(error, "orig", None)
    reason = str(of_driver or type(error).__name__).strip().partition("\n")[0]
    if reason.startswith("no such table"):
        return "gone", "its file was taken away; an empty one is in its place now"
    code = getattr(of_driver, "sqlite_errorname", None) or getattr(of_driver, "sqlstate", None) or ""
    found = next((kind for beginning, kind in KINDS.items() if code.startswith(beginning)), None)
    never_reached = not code and type(of_driver).__name__ == "OperationalError"  # psycopg: no server, no code
    return found or ("gone" if never_reached else "unreadable"), reason
