"""Slow queries: statements (or, where a store has none, operations) that took longer than a threshold are logged."""

from __future__ import annotations

import inspect
import logging
from types import FrameType

from findings_orm.arguments import checked
from findings_orm.errors import StorageValidationError
from findings_orm.metrics.observed import ObservedStore, Operation, outcome_of
from findings_orm.observe import Ended, Observer, Statement
from findings_orm.port import FindingStore

LOGGER = "findings_orm.slow"
_INSIDE = ("findings_orm.", "sqlalchemy.", "contextlib", "functools")


class SlowQueries(ObservedStore):
    """A store that logs what is slow, as warnings of the logger ``findings_orm.slow``.

    A record names the statement (marks in place of values), its time in the database, its rows, the operation and the
    application's line that called it. The same is there for handlers that write JSON, as attributes of the record:
    ``statement``, ``seconds``, ``rows``, ``batch``, ``operation``, ``caller``, ``plan``, ``error``.

    Args:
        inner: the store that does the work; it is closed with this one.
        threshold: seconds from which on a statement is slow. 0 logs all.
        plan: ask the database for its plan of a slow statement, and log it. A plan may show values of findings.

    Raises:
        StorageValidationError: the threshold is negative.
    """

    @checked
    def __init__(self, inner: FindingStore, *, threshold: float = 0.5, plan: bool = False) -> None:
        if threshold < 0:
            raise StorageValidationError.of_field("threshold", "must be seconds, 0 or more", threshold)
        super().__init__(inner, _Slow(self))
        self.threshold = threshold
        self.plan = plan
        self._log = logging.getLogger(LOGGER)

    def _begin_operation(self, name: str) -> Operation:
        return _Named(name, self)

    def _log_slow_query(
        self, record: dict[str, object], plan: list[str], error: BaseException | None
    ) -> None:
        record |= {
            "caller": _find_caller(),
            "plan": plan,
            "error": "" if error is None else outcome_of(error),
        }
        lines = "".join(f"\n    {line}" for line in plan)
        text = "slow: %(seconds).3f s, %(rows)d rows, in %(operation)s, called from %(caller)s: %(statement)s"
        self._log.warning("%s%s", text % record, lines, extra=record)


class _Named(Operation):
    """Lets statements know which operation they belong to, and is slow itself where it has none."""

    __slots__ = ("_before", "_local", "_store", "_told")

    def __init__(self, name: str, store: SlowQueries) -> None:
        super().__init__(name)
        self._store = store
        self._told = 0

    def __enter__(self) -> None:
        self._local = self._store._local
        self._before = getattr(self._local, "operation", None)
        self._local.operation = self
        super().__enter__()

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._local.operation = self._before

    def count_statement(self) -> None:
        """Take notice of a statement."""
        self._told += 1

    def end(self, result: object, error: BaseException | None) -> None:
        if self._told or self.name == "transaction" or self.seconds < self._store.threshold:
            return
        rows = result if isinstance(result, int) else len(result) if isinstance(result, list) else 0
        record = {"statement": "", "seconds": self.seconds, "rows": rows, "batch": 1, "operation": self.name}
        self._store._log_slow_query(record, [], error)


class _Slow(Observer):
    def __init__(self, store: SlowQueries) -> None:
        self._store = store

    def statement(self, statement: Statement) -> Ended:
        store = self._store
        operation = getattr(store._local, "operation", None)
        if operation is not None:
            operation.count_statement()
        name = operation.name if operation is not None else "(none)"

        def log_if_slow(seconds: float, rows: int, error: BaseException | None) -> None:
            if seconds < store.threshold:
                return
            plan = statement.explain() if store.plan and statement.explain and error is None else []
            record = {
                "statement": statement.text,
                "seconds": seconds,
                "rows": rows,
                "batch": statement.batch,
                "operation": name,
            }
            store._log_slow_query(record, plan, error)

        return log_if_slow


def _find_caller() -> str:
    """Return file, line and function of the nearest frame outside of this package and the libraries below it."""
    frame: FrameType | None = inspect.currentframe()
    while frame is not None:
        module = f"{frame.f_globals.get('__name__', '')}."
        if not module.startswith(_INSIDE):
            return f"{frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_name}"
        frame = frame.f_back
    return ""
