"""What type checkers know of the attributes of the models: SQLAlchemy's ``Mapped``, with the operators of their columns.

At run time there is nothing but ``Mapped``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, overload

from sqlalchemy.orm import Mapped, mapped_column

from findings_orm.finding import Severity

T = TypeVar("T")

typed_column: Callable[..., Any] = mapped_column
"""``mapped_column`` for the annotations of this module, of which it does not know."""

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement, SQLColumnExpression
    from sqlalchemy.orm import InstrumentedAttribute

    from findings_orm.finding import SeverityName, Status, StatusName

    GivenSeverity = Severity | SeverityName
    Compared = GivenSeverity | SQLColumnExpression[Severity]

    class SeverityColumn(InstrumentedAttribute[Severity]):
        """`findings_orm.orm.models.Finding.severity` in a statement: compared by rank."""

        def __lt__(self, other: Compared) -> ColumnElement[bool]: ...
        def __le__(self, other: Compared) -> ColumnElement[bool]: ...
        def __gt__(self, other: Compared) -> ColumnElement[bool]: ...
        def __ge__(self, other: Compared) -> ColumnElement[bool]: ...
        def between(  # type: ignore[override]
            self, cleft: Compared, cright: Compared, symmetric: bool = False
        ) -> ColumnElement[bool]: ...

    class ListColumn(InstrumentedAttribute[Sequence[T]]):
        """A list in a statement."""

        def has(self, value: T) -> ColumnElement[bool]: ...  # type: ignore[override]
        def has_any(self, values: Iterable[T]) -> ColumnElement[bool]: ...

    class MappedSeverity(Mapped[Severity]):
        """A severity; a name is taken for a value, too."""

        @overload
        def __get__(self, instance: None, owner: Any) -> SeverityColumn: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> Severity: ...
        def __get__(self, instance: object | None, owner: Any) -> Any: ...
        def __set__(self, instance: Any, value: GivenSeverity) -> None: ...  # type: ignore[override]

    class MappedStatus(Mapped[Status]):
        """A status; a name is taken for a value, too."""

        def __set__(self, instance: Any, value: Status | StatusName) -> None: ...  # type: ignore[override]

    class MappedList(Mapped[Sequence[T]]):
        """A list, which can't be changed in place."""

        @overload
        def __get__(self, instance: None, owner: Any) -> ListColumn[T]: ...
        @overload
        def __get__(self, instance: object, owner: Any) -> Sequence[T]: ...
        def __get__(self, instance: object | None, owner: Any) -> Any: ...

    MappedObject = Mapped[Mapping[str, Any]]
else:
    from findings_orm.finding import Status

    MappedSeverity = Mapped[Severity]
    MappedStatus = Mapped[Status]
    MappedList = Mapped
    MappedObject = Mapped[Mapping[str, Any]]
