"""A pooled engine for SQLite, with the settings and functions that the store relies on."""

from __future__ import annotations

import os
import pathlib
import re
import sqlite3
from collections.abc import Generator
from contextlib import suppress
from functools import lru_cache
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit

from pydantic_core import from_json
from sqlalchemy import URL, Connection, Engine, StaticPool, create_engine, event

from findings_orm.driver_errors import keep_dropped
from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.freetext import folded_text, holds_all
from findings_orm.orm.pools import AskedPool
from findings_orm.private import Access, give_access

Synchronous = Literal["FULL", "NORMAL"]


@lru_cache(8)
def _parse_words(words: str) -> tuple[str, ...]:
    return tuple(from_json(words))


def _hold_words(given: str) -> bool:
    words, texts, location = given.split("\0")  # which no text of a finding has
    document = {"location": from_json(location)} if location else {}
    return holds_all(_parse_words(words), folded_text(texts, document))


def _word_answers() -> Generator[object, str]:
    """Yield what `_hold_words` says of each text that is sent.

    SQLite drops what a function raises, also what a handler of signals raises as a Python function begins. A generator is
    resumed inside of its `try`: what comes is kept for `first_cause`, and the statement fails as its answer can't be stored.
    """
    answer: object = None
    while True:
        try:
            while True:
                answer = _hold_words((yield answer))
        except GeneratorExit:
            return
        except BaseException as error:  # noqa: BLE001  # raised again where the statement fails
            keep_dropped(error)
            answer = _UNSTORABLE


_UNSTORABLE = object()


def prepare_driver(driver: Any) -> None:
    """Give a connection of the driver the functions that statements call."""
    answers = _word_answers()
    next(answers)
    driver.create_function("findings_hold_words", 1, answers.send, deterministic=True)


def sqlite_engine(
    url: URL,
    *,
    synchronous: Synchronous = "FULL",
    busy_timeout: float = 60.0,
    pool_size: int = 10,
    opened: set[object],
) -> Engine:
    """Return an engine for a SQLite database, with the settings that the store relies on.

    The driver's own transaction handling is off (``isolation_level=None``), so that a transaction begins where the
    store says so, and DDL is part of it. All connections that are open, or being opened, are in `opened`.
    """
    arguments: dict[str, object] = {
        "timeout": busy_timeout,
        "check_same_thread": False,
        "isolation_level": None,
    }
    if in_memory(url):
        engine = create_engine(url, poolclass=StaticPool, connect_args={**arguments, "factory": Lasting})
    else:
        engine = create_engine(
            url, poolclass=AskedPool, pool_size=pool_size, max_overflow=-1, connect_args=arguments
        )

    _count_connections(engine, opened)

    @event.listens_for(engine, "connect")
    def apply_settings(driver: Any, _record: object) -> None:
        try:
            if not reads_only(url):
                driver.execute("PRAGMA journal_mode = WAL")
            driver.execute(f"PRAGMA synchronous = {synchronous}")
            driver.execute("PRAGMA foreign_keys = ON")
            driver.execute("PRAGMA trusted_schema = OFF")
            driver.execute("PRAGMA cache_size = -16000")
            prepare_driver(driver)
            if not in_memory(url) and not reads_only(url):
                share_files(str(url.database))
        except BaseException:  # SQLAlchemy would leave it open
            opened.discard(driver)
            sqlite3.Connection.close(driver)
            raise

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        """For an application that uses this engine itself; the store has begun already."""
        driver: Any = connection.connection.driver_connection
        if not driver.in_transaction:
            driver.execute("BEGIN")
            if isinstance(driver, Lasting):
                driver.changes_before = driver.total_changes

    return engine


class Lasting(sqlite3.Connection):
    """A connection to a database in memory, which goes with it. SQLAlchemy closes one whose work was interrupted.

    Attributes:
        changes_before: how many changes there were before the last transaction that an application began on it.
    """

    changes_before = 0

    def close(self) -> None:
        """Stay open; `end` closes it."""

    def end(self) -> None:
        """Close the connection."""
        super().close()


def _count_connections(engine: Engine, opened: set[object]) -> None:
    @event.listens_for(engine, "do_connect")
    def connect(dialect: Any, _record: object, arguments: Any, options: Any) -> object:
        for lasting in opened:
            if isinstance(lasting, Lasting):
                lasting.rollback()
                return lasting
        opening = object()
        opened.add(opening)
        try:
            if isinstance(engine.pool, AskedPool) and engine.pool.refuses_to_wait:
                options = {**options, "timeout": 0}
            driver = dialect.connect(*arguments, **options)
            opened.add(driver)
            return driver
        finally:
            opened.discard(opening)

    @event.listens_for(engine, "close")
    def close(driver: object, _record: object) -> None:
        if not isinstance(driver, Lasting):
            opened.discard(driver)


def share_files(database: str, new: Access | None = None) -> None:
    """Give the files of a database a new access; else those beside it its group: SQLite gives them its permissions, and only
    as root its group.

    Raises:
        StorageUnavailableError: that is not possible.
    """
    main, *others = files = sqlite_files(os.path.realpath(database))
    try:
        access = new or Access.of_stat(main.stat())
        if new or (access.mode & 0o060 and access.group != os.getegid()):
            give_access(files if new else others, access)
    except OSError as error:
        raise StorageUnavailableError(f"{error.filename or database}: {error.strerror}") from error


def sqlite_files(database: str | pathlib.Path) -> list[pathlib.Path]:
    """Return the files that a database consists of, those that may not exist too, the main one first."""
    return [pathlib.Path(f"{database}{ending}") for ending in ("", "-wal", "-shm", "-journal")]


def in_memory(url: URL) -> bool:
    """Return whether a URL is that of a private database in memory."""
    return url.database in (None, "", ":memory:")


READING = {"uri": ("true",), "mode": ("ro",), "immutable": ("1",)}
"""What the query of a URL ``sqlite:///file:PATH`` may say: nothing but that the file is opened for reading."""


def reads_only(url: URL) -> bool:
    """Return whether a URL opens a file for reading only."""
    return not READING.keys().isdisjoint(url.query)


def check_reading(url: URL) -> None:
    """Refuse a URL of SQLite's own form that does anything but open a file for reading, and what that would read wrong.

    Raises:
        StorageValidationError: it does.
        StorageUnavailableError: with ``immutable=1`` SQLite reads no journal, and one that is there has changes.
    """
    query = {name: value for name, value in url.query.items() if name in READING}
    is_reading = query.get("uri") == "true" and len(query) > 1
    if not is_reading or any(value not in READING[name] for name, value in query.items()):
        rule = "is sqlite:///PATH, or to read only sqlite:///file:PATH?mode=ro&uri=true, with &immutable=1 on read-only media"
        raise StorageValidationError.of_field("url", rule, str(url))
    if "immutable" in query:
        main = file_of(url)
        for journal in sqlite_files(main)[1::2]:
            if _has_content(journal):
                raise StorageUnavailableError(
                    f"{url}: {journal} has changes, which nobody reads with immutable=1: copy {main} and that file to a "
                    "place that can be written, and open the copy"
                )


def _has_content(file: pathlib.Path) -> bool:
    with suppress(OSError):  # SQLite says then what is the matter
        return file.stat().st_size > 0
    return False


def file_of(url: URL) -> str:
    """Return the real path of the file of a URL."""
    name = str(url.database)
    return os.path.realpath(unquote(urlsplit(name).path) if name.startswith("file:") else name)


def reading_url(file: str) -> str:
    """Return the URL that opens a file for reading. SQLAlchemy takes escapes out of it, and SQLite those that are left."""
    escaped = re.sub("[%?#]", lambda mark: quote(mark[0]), file)
    return f"sqlite:///file:{quote(escaped)}?mode=ro&uri=true"
