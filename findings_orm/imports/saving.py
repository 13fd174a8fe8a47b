"""Writing known findings by their id, with identity and history: documents to save, new statuses, removal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from findings_orm.clock import now
from findings_orm.errors import StorageValidationError
from findings_orm.finding import (
    DEFAULTS,
    FIELDS,
    TRANSITIONS,
    FindingDocument,
    Status,
    content_of,
    size_of_provenance,
    validate_content,
)
from findings_orm.fingerprint import VERSION, changed_fields, content_digest, fingerprint
from findings_orm.imports.encoding import Encoder
from findings_orm.imports.intake import current_document
from findings_orm.imports.matching import events_of, with_status
from findings_orm.limits import Limits, count_values
from findings_orm.port import Event
from findings_orm.records import Identity, Records, StatusChange, Stored

_KEPT = ("title", "severity", "status", "detector_id", "rule_id", "resource", "created_at")
"""What history keeps of a finding that is removed."""


def accept_document(given: Mapping[str, object], limits: Limits) -> FindingDocument:
    """Return a document that comes in, valid and no larger than it may be."""
    Encoder(limits).bytes_of(given)
    current = current_document(given)
    content = content_of(current) if isinstance(current, dict) else b""
    document, _ = validate_content(current, plain=bool(content))
    check_size(document, content or content_of(document), limits)
    return document


def check_size(document: Mapping[str, object], content: bytes, limits: Limits) -> None:
    """Refuse a document that is too large; `content` is what `content_of` gives for it.

    Raises:
        LimitExceededError: its content is larger than a document may be, or it has more values.
    """
    try:
        size = len(content) + (size_of_provenance(document) if content else 0)
        limits.check("max_document_bytes", size, "the size of the document, in bytes")
        if size + len(FIELDS) > limits.max_document_values:  # a value takes a byte of content, or is a field
            limits.check(
                "max_document_values",
                count_values({**DEFAULTS, **document}),
                "the number of values in the document",
            )
    except StorageValidationError as error:
        error.field = "document"
        raise


def save(
    unit: Records,
    project_id: str,
    documents: list[FindingDocument],
    *,
    actor: str = "save",
    revision: int | None = None,
) -> None:
    """Store valid documents of one project; of several with one id, each replaces the one before.

    Args:
        unit: the records.
        project_id: the project of all documents.
        documents: what to store.
        actor: who changes what is known already, for its history.
        revision: what `Records.advance` gave, if it was called.
    """
    at = now()
    if revision is None:
        revision = unit.advance(project_id, at).now
    ordinals = Ordinals(unit, project_id)
    for group in _distinct_groups(documents):
        known = unit.stored(project_id, [document["id"] for document in group])
        identified = [(document, fingerprint(document)) for document in group]
        ordinals.load_taken(
            {
                digest
                for document, (digest, _) in identified
                if _has_new_fingerprint(known.get(document["id"]), digest)
            }
        )
        insert: list[Stored] = []
        replace: list[Stored] = []
        reidentify: list[Identity] = []
        events: list[Event] = []
        for document, (digest, line) in identified:
            old = known.get(document["id"])
            time = old.not_before(at) if old else at
            identity = saved_identity(document, digest, line, time, old, ordinals)
            if old is None:
                insert.append(Stored(document, identity))
                continue
            changed = changed_fields(old.document, document, FIELDS)
            if changed or _has_new_fingerprint(old, identity.fingerprint):
                replace.append(Stored(document, identity))
            else:
                reidentify.append(identity)
            events += events_of(document["id"], changed, time, actor)
        if insert:
            unit.insert(project_id, insert)
        if replace:
            unit.replace(project_id, replace)
        if reidentify:
            unit.reidentify(project_id, reidentify)
        if events:
            unit.add_events(project_id, revision, events)


def status_events(document: FindingDocument, status: str, at: str, actor: str, comment: str) -> list[Event]:
    """Return the history entries of a decision about a finding; none where it changes nothing.

    Raises:
        StorageValidationError: the status can't follow the present one.
    """
    old = Status(document["status"])
    new = Status(status)
    if old == new:
        return [Event(document["id"], at, actor, "comment", {}, comment)] if comment else []
    if new not in TRANSITIONS[old]:
        allowed = ", ".join(name for name in Status if name in TRANSITIONS[old])
        raise StorageValidationError.of_field(
            "status", f"must be one of {allowed} after {old.value}", new.value
        )
    changed: dict[str, list[object]] = {"status": [old.value, new.value]}
    return events_of(document["id"], changed, at, actor, comment=comment)


def decide(
    unit: Records,
    project_id: str,
    revision: int,
    found: Stored,
    status: Status,
    actor: str,
    comment: str = "",
) -> None:
    """Give a known finding a status, or a comment with the one that it has.

    Raises:
        StorageValidationError: the status can't follow the present one.
    """
    at = found.not_before(now())
    events = status_events(found.document, status, at, actor, comment)
    if found.document["status"] != status:
        identity = with_status(found.identity, status.value, at)
        change = StatusChange(identity.finding_id, status.value, identity.closed_as, identity.closed_at)
        unit.change_status(project_id, [change])
    unit.add_events(project_id, revision, events)


def remove(unit: Records, project_id: str, revision: int, found: list[Stored], actor: str = "purge") -> None:
    """Remove known findings; their history stays, and says last what they were."""
    at = now()
    events = [
        Event(
            one.identity.finding_id,
            one.not_before(at),
            actor,
            "purge",
            {
                **{name: one.document[name] for name in _KEPT},  # type: ignore[literal-required]  # fields
                "fingerprint": one.identity.fingerprint.hex(),
            },
        )
        for one in found
    ]
    unit.remove(project_id, [one.identity.finding_id for one in found])
    unit.add_events(project_id, revision, events)


def renew_fingerprints(unit: Records, project_id: str, former: set[bytes]) -> None:
    """Bring findings that an older version of the algorithm identified, by one of these digests, to the present version.

    Id, status, history and times stay. Called in an import, so after `Records.advance`.
    """
    old = [one for one in unit.identities(project_id, former) if one.version < VERSION]
    if not old:
        return
    stored = unit.stored(project_id, [one.finding_id for one in old])
    renewed = [(row, fingerprint(row.document)) for row in stored.values()]
    ordinals = Ordinals(unit, project_id)
    ordinals.load_taken({digest for row, (digest, _) in renewed if _has_new_fingerprint(row, digest)})
    replace = []
    for row, (digest, line) in sorted(renewed, key=lambda one: one[0].identity.ordinal):
        identity = row.identity._replace(version=VERSION, line=line)
        if _has_new_fingerprint(row, digest):
            identity = identity._replace(fingerprint=digest, ordinal=ordinals.take_ordinal(digest))
        replace.append(Stored(row.document, identity))
    unit.replace(project_id, replace)


def _has_new_fingerprint(old: Stored | None, fingerprint: bytes) -> bool:
    """Return whether a document gets a fingerprint that its finding, if it is known, does not have."""
    return old is None or old.identity.fingerprint != fingerprint


class Ordinals:
    """Hands out the ordinals of fingerprints while documents are saved."""

    def __init__(self, unit: Records, project_id: str) -> None:
        self._unit = unit
        self._project_id = project_id
        self._next: dict[bytes, int] = {}

    def load_taken(self, digests: set[bytes]) -> None:
        """Look up what is taken."""
        new = digests - self._next.keys()
        if not new:
            return
        self._next.update(dict.fromkeys(new, 0))
        for identity in self._unit.identities(self._project_id, new):
            self._next[identity.fingerprint] = max(self._next[identity.fingerprint], identity.ordinal + 1)

    def take_ordinal(self, digest: bytes) -> int:
        """Return the next free ordinal."""
        ordinal = self._next[digest]
        self._next[digest] = ordinal + 1
        return ordinal


def saved_identity(
    document: FindingDocument,
    digest: bytes,
    line: int | None,
    at: str,
    old: Stored | None,
    ordinals: Ordinals,
) -> Identity:
    """Return the identity of a document that is saved in the place of `old`."""
    status = document["status"]
    content = content_digest(content_of(document))
    if old is None:
        ordinal = ordinals.take_ordinal(digest)
        fresh = Identity(
            document["id"], digest, ordinal, VERSION, content, status, line, at, at, 0, 0, None, None
        )
        return with_status(fresh, status, at)
    kept = old.identity
    if _has_new_fingerprint(old, digest):
        kept = kept._replace(fingerprint=digest, ordinal=ordinals.take_ordinal(digest), version=VERSION)
    if old.document["status"] != status:
        kept = with_status(kept, status, at)
    return kept._replace(content=content, reported=status, line=line, last_seen=at)


def _distinct_groups(documents: list[FindingDocument]) -> Iterator[list[FindingDocument]]:
    """Split documents into groups in which no id occurs twice, in their order."""
    group: dict[str, FindingDocument] = {}
    for document in documents:
        if document["id"] in group:
            yield list(group.values())
            group = {}
        group[document["id"]] = document
    yield list(group.values())
