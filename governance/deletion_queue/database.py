"""One database under the queue: opened, migrated, written to in short transactions that repeat.

SQLite: WAL, ``synchronous=FULL`` (a committed request survives a power cut), a writer takes the
write lock when it begins, so that two writers wait for each other instead of failing. PostgreSQL:
READ COMMITTED with row locks; a transaction that lost a race is done again from its first read.
"""

from __future__ import annotations

import json
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql

from governance.errors import RequestError, StoreBusyError

REVISION = "0003"
"""The revision that this code works with; a test holds it to the newest migration."""

T = TypeVar("T")
_SEPARATOR = "\x1f"
_TRIES = 20
_LOST_RACES = {"40001", "40P01", "23505"}  # serialization, deadlock, unique violation
_PRAGMAS = (
    "synchronous=FULL",
    "foreign_keys=ON",
    "secure_delete=ON",
    "cache_size=-32768",
)


class Cursor(Protocol):
    """What the drivers of both databases have in common."""

    rowcount: int

    def execute(self, statement: str, parameters: Any = ...) -> Any:
        """Run one statement."""

    def executemany(self, statement: str, parameters: Iterable[Any]) -> Any:
        """Run one statement for each row."""

    def fetchall(self) -> list[Any]:
        """Return the rows of the last statement."""


class Database:
    """Transactions on one database."""

    def __init__(self, engine: sa.Engine) -> None:
        """Keep the engine; ``migrate`` brings the schema up to date."""
        self.engine = engine
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._kept = threading.local()

    def write(self, work: Callable[[sa.Connection], T]) -> T:
        """Run one transaction; one that lost a race is run again.

        Raises:
            RequestError: A constraint or trigger of the database refused the change.
            StoreBusyError: The database is busy or unreachable.
        """

        def transaction() -> T:
            with self.engine.begin() as connection:
                if self.is_sqlite:
                    connection.exec_driver_sql("BEGIN IMMEDIATE")
                return work(connection)

        return self._again(transaction)

    def write_raw(self, work: Callable[[Any], T]) -> T:
        """Run one transaction on the driver's own cursor, for what must be fast."""

        def transaction() -> T:
            connection = self._raw()
            try:
                cursor = connection.cursor()
                if self.is_sqlite:
                    cursor.execute("BEGIN IMMEDIATE")
                result = work(cursor)
                connection.commit()
                cursor.close()
                return result
            except BaseException:
                connection.rollback()
                raise
            finally:
                if not self.is_sqlite:
                    connection.close()

        return self._again(transaction)

    def _raw(self) -> Any:
        """Return a connection of the driver; a thread keeps that to SQLite.

        To hand it out and take it back costs a tenth of a durable insert.
        """
        if not self.is_sqlite:
            return self.engine.raw_connection()
        if not hasattr(self._kept, "connection"):
            self._kept.connection = self.engine.raw_connection()
        return self._kept.connection

    def dispose(self) -> None:
        """Close this thread's connections; those of other threads close with them."""
        if hasattr(self._kept, "connection"):
            self._kept.connection.close()
            del self._kept.connection
        self.engine.dispose()

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Read from one connection; never waits for a writer."""
        try:
            with self.engine.connect() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            raise _busy(error.orig) from error

    def truncate_log(self) -> None:
        """Empty SQLite's write-ahead log; PostgreSQL has none that we could empty."""
        if not self.is_sqlite:
            return
        connection = self.engine.raw_connection()
        try:
            busy = connection.cursor().execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        finally:
            connection.close()
        if busy:
            message = "deletion queue: expected to empty the write-ahead log, got a busy reader"
            raise StoreBusyError(message)

    def among(self, column: Any, values: Iterable[str]) -> sa.ColumnElement[bool]:
        """Return the condition that a column is one of many values, as one bound parameter."""
        many = list(values)
        if self.is_sqlite:
            found = sa.func.json_each(json.dumps(many)).table_valued("value")
            inside: sa.ColumnElement[bool] = column.in_(sa.select(found.c.value))
            return inside
        # One text and not an array: the driver would look at each of its values.
        joined: Any = sa.func.string_to_array(_SEPARATOR.join(many), _SEPARATOR)
        if any(_SEPARATOR in value for value in many):
            joined = sa.literal(many, postgresql.ARRAY(sa.Text))
        equal: sa.ColumnElement[bool] = column == sa.any_(joined)
        return equal

    def seconds(self, moment: sa.ColumnElement[Any]) -> sa.ColumnElement[float]:
        """Return the expression that makes seconds since 1970 of a stored moment."""
        if self.is_sqlite:
            days: sa.ColumnElement[float] = sa.func.julianday(moment, type_=sa.Double)
            return (days - 2440587.5) * 86400.0
        moment = sa.cast(moment, sa.TIMESTAMP(timezone=True))
        return sa.cast(sa.extract("epoch", moment), sa.Double)

    def _again(self, transaction: Callable[[], T]) -> T:
        for attempt in range(_TRIES):
            try:
                return transaction()
            except Exception as error:
                problem = error.orig if isinstance(error, sa.exc.DBAPIError) else error
                if not isinstance(problem, self.engine.dialect.dbapi.Error):  # type: ignore[union-attr]
                    raise
                if attempt == _TRIES - 1 or not self._lost_race(problem):
                    raise self._translated(problem) from error
                time.sleep(random.uniform(0.001, 0.02) * (attempt + 1))  # noqa: S311 - no secret
        raise AssertionError  # pragma: no cover - the loop returns or raises

    def _lost_race(self, problem: BaseException) -> bool:
        if self.is_sqlite:
            return False  # writers are one after the other
        return getattr(problem, "sqlstate", None) in _LOST_RACES

    def _translated(self, problem: BaseException) -> Exception:
        dbapi: Any = self.engine.dialect.dbapi
        if isinstance(problem, dbapi.IntegrityError):
            # The driver's text is left out: PostgreSQL's names the failing row.
            reason = str(problem).splitlines()[0] if self.is_sqlite else "constraint or trigger"
            return RequestError(f"deletion queue: the database refused the change ({reason})")
        if isinstance(problem, dbapi.OperationalError):
            return _busy(problem)
        return problem if isinstance(problem, Exception) else RuntimeError(str(problem))


def open_database(url: str) -> Database:
    """Open a database by SQLAlchemy URL; a SQLite file is made on first use."""
    if url.startswith("sqlite:///"):
        Path(url.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(url, connect_args={"timeout": 60})
        sa.event.listen(engine, "connect", _durable_sqlite)
        return Database(engine)
    if url.startswith("postgresql://"):
        url = url.replace("postgresql://", "postgresql+psycopg://", 1)
    return Database(sa.create_engine(url, pool_pre_ping=True))


def migrate(database: Database, *, dataset: str) -> str | None:
    """Bring the schema to ``REVISION`` and return what it was before; none: there was no queue.

    Safe to call from many processes at once: one migrates, the others wait and find it done.

    Raises:
        RequestError: The database is of a newer version of this software.
    """
    with database.read() as connection:
        before = _revision(connection)
    if before != REVISION:
        before = database.write(lambda connection: _upgrade(database, connection, dataset))
    return before


def _upgrade(database: Database, connection: sa.Connection, dataset: str) -> str | None:
    from alembic import command  # noqa: PLC0415 - a tenth of a second, needed once in a schema's life
    from alembic.config import Config  # noqa: PLC0415
    from alembic.script import ScriptDirectory  # noqa: PLC0415

    if not database.is_sqlite:
        connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtext('r2u-queue-migration'))"))
    before = _revision(connection)
    if before == REVISION:
        return before
    with as_file(files("governance.deletion_queue") / "migrations") as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        config.attributes.update({"connection": connection, "dataset": dataset})
        known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
        if before is not None and before not in known:
            message = (
                f"deletion queue: expected a schema up to revision {REVISION}, got {before}; "
                "a newer version of this software made it: use that one"
            )
            raise RequestError(message)
        if before == "0001" and not _has(connection, "alembic_version"):
            command.stamp(config, "0001")
        command.upgrade(config, REVISION)
    return before


def _revision(connection: sa.Connection) -> str | None:
    if _has(connection, "alembic_version"):
        version = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
        return None if version is None else str(version)
    return "0001" if _has(connection, "leases") else None


def _has(connection: sa.Connection, table: str) -> bool:
    return sa.inspect(connection).has_table(table)


def _write_ahead(connection: Any) -> None:
    """Switch to the write-ahead log; two that make the file at once do not wait for each other."""
    for attempt in range(_TRIES):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError:
            if attempt == _TRIES - 1:
                raise
            time.sleep(random.uniform(0.001, 0.02) * (attempt + 1))  # noqa: S311 - no secret
        else:
            return


def _durable_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are ours: see Database.write
    _write_ahead(connection)
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")


def _busy(problem: BaseException | None) -> StoreBusyError:
    return StoreBusyError(f"deletion queue: the database is busy or unreachable ({problem})")
