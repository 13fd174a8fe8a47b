"""The errors of the package: one tree, `StorageError` at its root.

No exception of a driver, of SQLAlchemy or of the operating system crosses the port: each is translated
into one of these, with the original chained as ``__cause__``.
"""

from __future__ import annotations

import reprlib
from typing import Self

from findings_orm.secrecy import hide_secrets

_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80
_SHORT.maxdict = _SHORT.maxlist = 4
_SHORT.maxlevel = 3


_PLACE = 200


def readable(value: object) -> str:
    """Return `value` as text for a message, cut to a readable length."""
    try:
        return _SHORT.repr(value)
    except Exception:  # noqa: BLE001  # a value's own repr may fail in any way; the message must still be made
        return f"<{type(value).__name__}>"


def readable_place(place: str) -> str:
    """Return a path in a document, whose names anybody may have made up, cut to a readable length."""
    return place if len(place) <= _PLACE else f"{place[:_PLACE]}…"


class StorageError(Exception):
    """Base of all errors of this package. Catch it to catch them all. Its message shows no password."""

    def __init__(self, *args: object) -> None:
        super().__init__(*(hide_secrets(each) if isinstance(each, str) else each for each in args))


class StorageValidationError(StorageError):
    """Data was refused: nothing of the call was written.

    Attributes:
        field: where in the document, as a dotted path (``location.start_line``), or None.
        rule: the rule that was broken, in words.
        value: the offending value as it was given.
        index: position of the document in the sequence that was given, or None.
    """

    def __init__(
        self,
        message: str,
        *,
        field: str | None = None,
        rule: str | None = None,
        value: object = None,
        index: int | None = None,
    ) -> None:
        super().__init__(message)
        self.field = field
        self.rule = rule
        self.value = value
        self.index = index

    @classmethod
    def of_field(
        cls, field: str, rule: str, value: object, *, index: int | None = None
    ) -> StorageValidationError:
        """Return the error for one broken rule, its message made of place, rule and value."""
        place = readable_place(field)
        if index is not None:
            place = f"document {index}: {place}"
        return cls(
            f"{place}: {rule} (got {readable(value)})", field=field, rule=rule, value=value, index=index
        )

    def at(self, index: int) -> Self:
        """Return the same error, naming the position of the document in a sequence."""
        message = f"document {index}: {self}"
        return type(self)(message, field=self.field, rule=self.rule, value=self.value, index=index)


class LimitExceededError(StorageValidationError):
    """Something is larger than a limit (`findings_orm.limits.Limits`) allows: it was refused before it was built.

    `rule` names the limit, its value, and how to raise it; `value` is what was found.
    """


class SchemaVersionError(StorageError):
    """A schema version is missing, malformed, unknown or newer than this package knows."""


class FindingNotFoundError(StorageError):
    """The finding that a call is about does not exist."""


class StorageConflictError(StorageError):
    """A concurrent change won, or an id is already that of another finding.

    Attributes:
        retryable: True where a concurrent change won: the same call, or the same unit of work from its beginning, may succeed.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class ReadOnlyError(StorageError):
    """A write in a unit of work that was opened for reading, ``transaction(read_only=True)``. Nothing of it was written."""


class UncheckedWriteError(StorageError):
    """A write of an application's session that would go past the rules of the store. Nothing of it was written; the message
    names the calls to use instead."""


class StorageIntegrityError(StorageError):
    """What is stored is damaged, or breaks a rule that the store itself keeps."""


class StorageUnavailableError(StorageError):
    """The storage can't be reached or used: server gone, database locked, disk full, no permission.

    Attributes:
        retryable: True where the same call may succeed later without anybody changing anything.
    """

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable
