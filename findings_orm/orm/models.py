"""The tables, declared once. `Finding` mirrors the fields of the document; what the store itself knows is beside it.

Applications have these classes from `findings_orm.orm`.

Every primary key, unique constraint and foreign key of what belongs to a project starts with `project_id`: the rows
of one project lie together, and the tables can be distributed by it. The revisions below ``alembic/`` make these
tables; a test compares the two.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, ClassVar, cast

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    ColumnElement,
    Double,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    and_,
    case,
    event,
    select,
    text,
    union_all,
)
from sqlalchemy.ext.hybrid import hybrid_property
from sqlalchemy.orm import DeclarativeBase, InstrumentedAttribute, Mapped, mapped_column, relationship

from findings_orm.fields import Kind
from findings_orm.finding import FIELD_KINDS, FindingDocument, Severity, Status, format_time, is_uuid
from findings_orm.orm.attributes import (
    MappedList,
    MappedObject,
    MappedSeverity,
    MappedStatus,
    typed_column,
)
from findings_orm.orm.frozen import freeze_json, thaw_json
from findings_orm.orm.types import (
    Json,
    JsonList,
    RankedWord,
    SortedText,
    Timestamp,
    Uuid,
    Word,
    severity_rank,
)

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(referred_table_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
}


class Base(DeclarativeBase):
    """Base of the models; its metadata has the naming convention."""

    metadata = MetaData(naming_convention=NAMING)


metadata = Base.metadata


def _project_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["project_id"], ["finding_projects.project_id"], ondelete="CASCADE")


def _finding_reference() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(
        ["project_id", "finding_id"], ["findings.project_id", "findings.id"], ondelete="CASCADE"
    )


def _related(**options: Any) -> Any:
    """Return a relationship to read. What may be large is loaded where a statement asks for it (``selectinload``), never by
    looking at an attribute."""
    return relationship(viewonly=True, **options)


class Project(Base):
    """A project, and the number of writes to it so far."""

    __tablename__ = "finding_projects"
    __table_args__ = (CheckConstraint("length(project_id) BETWEEN 1 AND 255", name="project_id"),)

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    revision: Mapped[int] = mapped_column(BigInteger)

    findings: Mapped[list[Finding]] = _related(back_populates="project", lazy="raise")
    runs: Mapped[list[Run]] = _related(back_populates="project", lazy="raise", order_by="Run.number")


def _findings_index(
    name: str, *columns: str, only: str | None = None, using: str | None = None, **where: str
) -> Index:
    """Return an index of `findings`: with a condition by dialect, or on databases of one dialect only."""
    info = {} if only is None else {"dialect": only}
    options: dict[str, Any] = {f"{dialect}_where": text(condition) for dialect, condition in where.items()}
    if using is not None:
        operators = dict.fromkeys(columns, "jsonb_path_ops")
        options |= {"postgresql_using": using, "postgresql_ops": operators}
    index = Index(f"ix_findings_{name}", *columns, info=info, **options)
    return index if only is None else index.ddl_if(dialect=only)


INDEXED = 400
"""The longest text, in characters, that is in an index on PostgreSQL, whose limit is 2704 bytes an entry. What is longer is in
an index of such findings alone."""

_FITS = f"length({{}}) <= {INDEXED}"
_LONG = f"length({{}}) > {INDEXED}"
SORTED_TEXTS = ("detector_id", "resource", "title")
"""The texts that findings can be sorted by."""

_INDEXES = (
    _findings_index("severity", "project_id", "severity", "status", "id"),
    _findings_index("status", "project_id", "status", "severity", "created_at", "id"),
    *(
        _findings_index(name, "project_id", name, "created_at", "id", postgresql=_FITS.format(name))
        for name in ("detector_id", "rule_id")
    ),
    _findings_index(
        "run_id",
        "project_id",
        "run_id",
        "created_at",
        "id",
        sqlite="run_id IS NOT NULL",
        postgresql="run_id IS NOT NULL",
    ),
    *(
        _findings_index(f"by_{name}", "project_id", name, "id", postgresql=_FITS.format(name))
        for name in SORTED_TEXTS
    ),
    *(
        _findings_index(f"long_{name}", "project_id", "id", only="postgresql", postgresql=_LONG.format(name))
        for name in SORTED_TEXTS
    ),
    _findings_index("lists", "cwe_ids", "cve_ids", "tags", only="postgresql", using="gin"),
    *(
        _findings_index(name, "project_id", name, "created_at", "id", only="sqlite", sqlite=f"{name} <> '[]'")
        for name in ("cwe_ids", "cve_ids", "tags")
    ),
)


class Finding(Base):
    """A finding: the fields of the document (`findings_orm.Finding`) and nothing else.

    `severity` is compared by rank, `Finding.severity >= "high"`; to sort by it, sort by `severity_rank`: a database orders its
    text. Lists have ``has(value)`` and ``has_any(values)``. What is JSON can't be changed in place.
    """

    __tablename__ = "findings"
    __table_args__ = (
        _project_reference(),
        CheckConstraint("length(title) >= 1", name="title"),
        CheckConstraint("length(detector_id) >= 1", name="detector_id"),
        CheckConstraint("severity IN ('info', 'low', 'medium', 'high', 'critical')", name="severity"),
        CheckConstraint(
            "status IN ('open', 'triaged', 'in_progress', 'resolved', 'false_positive', 'risk_accepted', 'archived')",
            name="status",
        ),
        CheckConstraint("confidence BETWEEN 0 AND 100", name="confidence"),
        CheckConstraint("cvss BETWEEN 0 AND 10", name="cvss"),
        Index(None, "project_id", "created_at", "id"),
        *_INDEXES,
    )

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    finding_schema_version: Mapped[str] = mapped_column(Text)
    detector_id: Mapped[str] = mapped_column(SortedText)
    title: Mapped[str] = mapped_column(SortedText)
    severity: MappedSeverity = typed_column(RankedWord)
    resource: Mapped[str] = mapped_column(SortedText)
    created_at: Mapped[datetime] = mapped_column(Timestamp)
    run_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)
    cwe_ids: MappedList[int] = typed_column(JsonList)
    owasp: MappedList[str] = typed_column(JsonList)
    cve_ids: MappedList[str] = typed_column(JsonList)
    cvss: Mapped[float | None] = mapped_column(Double)
    mitre_attack: MappedList[str] = typed_column(JsonList)
    poc_links: MappedList[str] = typed_column(JsonList)
    evidence: MappedObject = typed_column(Json)
    provenance: MappedObject = typed_column(Json)
    status: MappedStatus = typed_column(Word(Status), server_default=text("'open'"))
    rule_id: Mapped[str | None] = mapped_column(SortedText)
    fingerprint: Mapped[str | None] = mapped_column(SortedText)
    location: Mapped[Mapping[str, Any] | None] = mapped_column(Json)
    confidence: Mapped[float | None] = mapped_column(Double)
    tags: MappedList[str] = typed_column(JsonList, server_default=text("'[]'"))

    project: Mapped[Project] = _related(back_populates="findings")
    identity: Mapped[Identity | None] = _related(back_populates="finding", uselist=False)
    sightings: Mapped[list[Sighting]] = _related(
        back_populates="finding", lazy="raise", order_by="Sighting.first_run"
    )
    events: Mapped[list[Event]] = _related(
        primaryjoin="and_(Finding.project_id == foreign(Event.project_id), Finding.id == foreign(Event.finding_id))",
        back_populates="finding",
        lazy="raise",
        order_by="[Event.revision, Event.position]",
    )

    runs: ClassVar[InstrumentedAttribute[list[Run]]]
    """The runs that saw it, the first one first; loaded where a statement asks for it."""

    @hybrid_property
    def first_seen(self) -> datetime | None:
        """When a store first had it; in a statement, read from its identity, as the next two."""
        return None if self.identity is None else self.identity.first_seen

    @first_seen.inplace.expression
    @classmethod
    def _first_seen(cls) -> ColumnElement[datetime | None]:
        return _of_identity(cls, Identity.first_seen)

    @hybrid_property
    def last_seen(self) -> datetime | None:
        """When an import or a save last had it."""
        return None if self.identity is None else self.identity.last_seen

    @last_seen.inplace.expression
    @classmethod
    def _last_seen(cls) -> ColumnElement[datetime | None]:
        return _of_identity(cls, Identity.last_seen)

    @hybrid_property
    def closed_at(self) -> datetime | None:
        """When it was closed; None while it is open."""
        return None if self.identity is None else self.identity.closed_at

    @closed_at.inplace.expression
    @classmethod
    def _closed_at(cls) -> ColumnElement[datetime | None]:
        return _of_identity(cls, Identity.closed_at)

    @hybrid_property
    def severity_rank(self) -> int:
        """0 for `info` up to 4 for `critical`; in a statement, what `severity` is sorted by."""
        return Severity(self.severity).rank

    @severity_rank.inplace.expression
    @classmethod
    def _severity_rank(cls) -> ColumnElement[int]:
        return severity_rank(cls.severity)

    def document(self) -> FindingDocument:
        """Return the document, as a store returns it."""
        document = {
            name: None if (value := getattr(self, name)) is None else _PLAIN[kind](value)
            for name, kind in FIELD_KINDS.items()
        }
        return cast("FindingDocument", document)


def _of_identity(finding: type[Finding], column: Any) -> ColumnElement[datetime | None]:
    """Return a column of the identity of each finding of a statement.

    The condition always holds: it brings the findings into a statement that names nothing else of them.
    """
    found = select(column).where(Identity.project_id == finding.project_id, Identity.finding_id == finding.id)
    value = found.correlate_except(Identity).scalar_subquery()
    return case((finding.id.is_not(None), value)).label(column.key)


def _plain_number(number: float) -> float:
    return int(number) if number == int(number) else number


_PLAIN: dict[Kind, Callable[[Any], Any]] = {
    Kind.TEXT: str,
    Kind.UUID: str,
    Kind.TIME: lambda time: format_time(time) if isinstance(time, datetime) else time,
    Kind.INTEGER: int,
    Kind.NUMBER: _plain_number,
    Kind.FLOAT: float,
    Kind.LIST: thaw_json,
    Kind.OBJECT: thaw_json,
    Kind.RECORD: thaw_json,
}
"""What makes the value of an attribute plain, as it is in a document."""

_COLUMN_TYPES: dict[Kind, type | tuple[type, ...]] = {
    Kind.TEXT: (Text, Word),
    Kind.UUID: Uuid,
    Kind.TIME: Timestamp,
    Kind.INTEGER: Integer,
    Kind.NUMBER: Double,
    Kind.FLOAT: Double,
    Kind.LIST: JsonList,
    Kind.OBJECT: Json,
    Kind.RECORD: Json,
}


def _check_columns() -> None:
    """Refuse a field without a column, or with one that its values don't fit: rows are made by the kinds of fields."""
    columns = Finding.__table__.columns
    for name, kind in FIELD_KINDS.items():
        wanted = _COLUMN_TYPES[kind]
        found = type(columns[name].type) if name in columns else object
        if not issubclass(found, wanted) or (wanted is Json and found is JsonList):
            names = getattr(wanted, "__name__", wanted)
            raise TypeError(f"Finding.{name}: a field of kind {kind} needs a column of {names}")


_check_columns()


class Identity(Base):
    """What the store knows of a finding: its identity, and when it was seen. One narrow row a finding."""

    __tablename__ = "finding_identities"
    __table_args__ = (
        _finding_reference(),
        Index("uq_finding_identities_project_id_finding_id", "project_id", "finding_id", unique=True),
        Index(
            "ix_finding_identities_closed",
            "project_id",
            "closed_at",
            "finding_id",
            sqlite_where=text("closed_at IS NOT NULL"),
            postgresql_where=text("closed_at IS NOT NULL"),
        ),
    )

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    fingerprint: Mapped[bytes] = mapped_column(LargeBinary, primary_key=True)
    ordinal: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    finding_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    fingerprint_version: Mapped[int] = mapped_column(SmallInteger)
    content: Mapped[bytes] = mapped_column(LargeBinary)
    reported: Mapped[str] = mapped_column(Text)
    line: Mapped[int | None] = mapped_column(Integer)
    first_seen: Mapped[datetime] = mapped_column(Timestamp)
    last_seen: Mapped[datetime] = mapped_column(Timestamp)
    first_run: Mapped[int] = mapped_column(BigInteger)
    last_run: Mapped[int] = mapped_column(BigInteger)
    closed_as: Mapped[str | None] = mapped_column(Text)
    closed_at: Mapped[datetime | None] = mapped_column(Timestamp)

    finding: Mapped[Finding] = _related(back_populates="identity")


class Sighting(Base):
    """An earlier unbroken streak of runs that saw a finding."""

    __tablename__ = "finding_sightings"
    __table_args__ = (_finding_reference(),)

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    finding_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    first_run: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    last_run: Mapped[int] = mapped_column(BigInteger)

    finding: Mapped[Finding] = _related(back_populates="sightings")


class Run(Base):
    """One import, and what tells whether the same report comes again (`findings_orm.records.Receipt`)."""

    __tablename__ = "finding_runs"
    __table_args__ = (
        _project_reference(),
        Index("uq_finding_runs_project_id_number", "project_id", "number", unique=True),
    )

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    run_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
    started_at: Mapped[datetime] = mapped_column(Timestamp)
    detectors: MappedList[str] = typed_column(JsonList)
    tool: MappedObject = typed_column(Json)
    counts: MappedObject = typed_column(Json)
    revision_before: Mapped[int | None] = mapped_column(BigInteger)
    revision_after: Mapped[int | None] = mapped_column(BigInteger)
    digests: Mapped[bytes | None] = mapped_column(LargeBinary)
    category: Mapped[str] = mapped_column(SortedText, server_default=text("''"))
    categories: Mapped[Mapping[str, Any] | None] = typed_column(Json, nullable=True)

    project: Mapped[Project] = _related(back_populates="runs")


class Event(Base):
    """One entry of the audit trail. It outlives its finding, so it refers to the project only."""

    __tablename__ = "finding_events"
    __table_args__ = (
        _project_reference(),
        CheckConstraint("kind IN ('status', 'change', 'comment', 'purge')", name="kind"),
    )

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    finding_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    revision: Mapped[int] = mapped_column(BigInteger, primary_key=True, autoincrement=False)
    position: Mapped[int] = mapped_column(Integer, primary_key=True, autoincrement=False)
    at: Mapped[datetime] = mapped_column(Timestamp)
    actor: Mapped[str] = mapped_column(Text)
    kind: Mapped[str] = mapped_column(Text)
    changes: MappedObject = typed_column(Json)
    comment: Mapped[str] = mapped_column(Text)
    run_id: Mapped[uuid.UUID | None] = mapped_column(Uuid)

    finding: Mapped[Finding | None] = _related(
        primaryjoin="and_(Finding.project_id == foreign(Event.project_id), Finding.id == foreign(Event.finding_id))",
        back_populates="events",
    )


class Rejected(Base):
    """A document that an import refused, kept whole."""

    __tablename__ = "finding_rejected"
    __table_args__ = (_project_reference(),)

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    rejected_id: Mapped[uuid.UUID] = mapped_column(Uuid, primary_key=True)
    run_id: Mapped[uuid.UUID] = mapped_column(Uuid)
    position: Mapped[int] = mapped_column(BigInteger)
    at: Mapped[datetime] = mapped_column(Timestamp)
    field: Mapped[str] = mapped_column(Text)
    reason: Mapped[str] = mapped_column(Text)
    original: Mapped[str] = mapped_column(Text)


class Access(Base):
    """A project that a database role was granted. PostgreSQL only: its policies ask this table."""

    __tablename__ = "finding_access"
    __table_args__ = ({"info": {"dialect": "postgresql"}},)

    project_id: Mapped[str] = mapped_column(SortedText, primary_key=True)
    role: Mapped[str] = mapped_column(SortedText, primary_key=True)


OPTIONAL_INDEXES = ("ix_findings_text", "ix_findings_text_other")
"""What `text_index` makes on PostgreSQL when an operator wants it: neither missing nor unknown in any schema."""

TABLES: tuple[Table, ...] = tuple(Base.metadata.sorted_tables)
"""Our tables, each behind those that it refers to. What an application declares on `Base` later is its own."""

for _table in TABLES:
    _table.info["policy"] = Access.__tablename__  # of row-level security on PostgreSQL


def _runs_of_findings() -> Any:
    """Return the relationship of findings to the runs that saw them: those of their detector in one of their streaks."""
    streaks = union_all(
        *(
            select(kind.project_id, kind.finding_id, kind.first_run, kind.last_run)
            for kind in (Identity, Sighting)
        )
    ).subquery()
    seen = (
        select(Finding.project_id, Finding.id, Finding.detector_id, streaks.c.first_run, streaks.c.last_run)
        .join(streaks, and_(streaks.c.project_id == Finding.project_id, streaks.c.finding_id == Finding.id))
        .subquery("seen")
    )
    of_detector: Any = Run.__table__.c.detectors
    return relationship(
        Run,
        secondary=seen,
        primaryjoin=and_(Finding.project_id == seen.c.project_id, Finding.id == seen.c.id),
        secondaryjoin=and_(
            Run.project_id == seen.c.project_id,
            Run.number.between(seen.c.first_run, seen.c.last_run),
            of_detector.comparator.has(seen.c.detector_id),
        ),
        viewonly=True,
        lazy="raise",
        order_by=Run.number,
    )


Finding.runs = _runs_of_findings()


def _freeze(_target: object, value: Any, _old: object, _initiator: object) -> Any:
    return freeze_json(value)


def _take_uuid(_target: object, value: Any, _old: object, _initiator: object) -> Any:
    """A session knows objects by their keys, so one given as text has to be the same at once."""
    return uuid.UUID(value) if is_uuid(value) else value


for _mapper in Base.registry.mappers:
    for _attribute in _mapper.column_attrs:
        _type = _attribute.columns[0].type
        if isinstance(_type, Json):  # what is assigned is not to be changed afterwards either
            event.listen(_attribute.class_attribute, "set", _freeze, retval=True)
        elif isinstance(_type, Uuid):
            event.listen(_attribute.class_attribute, "set", _take_uuid, retval=True)


def exists_on(item: Table | Index, dialect: str) -> bool:
    """Return whether databases of a dialect have a table, or an index."""
    return bool(item.info.get("dialect", dialect) == dialect)
