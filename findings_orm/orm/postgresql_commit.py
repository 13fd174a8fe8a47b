"""The end of a transaction on PostgreSQL, whatever comes while the server is asked for it."""

from __future__ import annotations

import time
from contextlib import suppress
from selectors import EVENT_READ, DefaultSelector
from typing import Any

import psycopg
from psycopg import errors
from psycopg.pq import ExecStatus, PipelineStatus, TransactionStatus
from psycopg.pq.abc import PGconn, PGresult

from findings_orm.orm.records import SqlRecords

SECONDS = 5.0
"""How long an interruption waits for the answer to a COMMIT or a cancel request."""

_DONE = b"COMMIT"
_WAITING = (TransactionStatus.IDLE, TransactionStatus.INTRANS, TransactionStatus.INERROR)
_INTERVAL = 0.1
"""Seconds after which a wait lets handlers of signals run where the system does not wake it (Windows)."""


def commit(driver: psycopg.Connection[Any], records: SqlRecords) -> None:
    """Commit, and let the records know when it is done.

    An interruption first waits for the answer of the server: what was asked for can't be taken back, and it has to be known.
    psycopg's own `commit` cancels the statement then, which a COMMIT hardly notices, and drops its answer.

    Raises:
        psycopg.Error: the server did not commit.
    """
    server = driver.pgconn
    failed = server.transaction_status != TransactionStatus.INTRANS
    answer: PGresult | None = None
    try:
        server.send_query(b"COMMIT")
        answer = _answer(server)
        records.committed = answer.command_status == _DONE  # no call in between
    except BaseException:
        if server.transaction_status == TransactionStatus.ACTIVE:
            with suppress(psycopg.Error, TimeoutError):
                answer = _answer(server, SECONDS)
        if answer is not None:
            records.committed = answer.command_status == _DONE
        else:  # it may have been read, and lost as the call returned
            idle = server.transaction_status == TransactionStatus.IDLE
            records.committed = idle and not failed and not server.error_message
        raise
    if answer.status == ExecStatus.COMMAND_OK and not records.committed:  # the answer is ROLLBACK
        raise errors.InFailedSqlTransaction(
            "a statement of this transaction had failed, so the server rolled it back instead"
        )
    if not records.committed:
        raise errors.error_from_result(answer, encoding=driver.info.encoding)


def _answer(server: PGconn, seconds: float = float("inf")) -> PGresult:
    """Wait for the answer to one statement; handlers of signals run meanwhile.

    Raises:
        TimeoutError: it did not come in time.
        psycopg.OperationalError: the connection broke.
    """
    end = time.monotonic() + seconds
    with DefaultSelector() as selector:
        selector.register(server.socket, EVENT_READ)
        while server.is_busy():
            server.flush()
            if selector.select(_INTERVAL):
                server.consume_input()
            elif time.monotonic() > end:
                raise TimeoutError("the server did not answer a COMMIT in time")
    answer = server.get_result()
    if answer is None:
        raise psycopg.OperationalError("the server gave no answer to a COMMIT")
    while server.get_result():
        pass
    return answer


def cancel(driver: Any) -> None:
    """Let the server give up the statement that it works on, if there is one: it would keep its locks until that ends."""
    if not isinstance(driver, psycopg.Connection) or driver.closed:
        return  # an application may have joined on another driver
    if driver.pgconn.transaction_status == TransactionStatus.ACTIVE:
        with suppress(psycopg.Error):
            driver.cancel_safe(timeout=SECONDS)


def is_usable(driver: Any) -> bool:
    """Return whether the server waits for a statement, in a transaction or not, and the answer to each is read at once."""
    if not isinstance(driver, psycopg.Connection):
        return True  # not known
    server = driver.pgconn
    return server.transaction_status in _WAITING and server.pipeline_status == PipelineStatus.OFF


def is_idle(driver: psycopg.Connection[Any]) -> bool:
    """Return whether a connection is usable and in no transaction."""
    return driver.pgconn.transaction_status == TransactionStatus.IDLE and is_usable(driver)
