"""What was edited at an older version wins on the way up; everything else comes back, on documents and in databases."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
from corners import CORNER
from hypothesis import assume, given
from hypothesis import strategies as st
from rows import FIELDS_OF, REVISION_OF, TABLES, connection_to, documents_in, fill, findings_of, tables_in
from sqlalchemy import delete, insert, text, update

from findings_orm import SchemaMigrator, migrations, open_storage, validate_finding
from findings_orm.finding import KNOWN_VERSIONS, SCHEMA_VERSION
from findings_orm.migrations.rewriting import KEPT
from findings_orm.migrations.scripts import revision_chain
from findings_orm.testing import strategies
from findings_orm.testing.samples import assert_all_same, assert_same, finding, uuid_of, without_fields

Document = dict[str, Any]

migrate = SchemaMigrator().migrate
LATE = 3
"""How many of the known versions, from the newest down, have `cwe_ids`, ... in the form that `FULL` is written in."""
FULL: Document = {
    "status": "false_positive",
    "rule_id": "B608",
    "fingerprint": "f",
    "location": {"path": "a.py", "start_line": 3},
    "confidence": 90,
    "cwe_ids": [79, 89],
    "owasp": ["A05:2021", "A01"],
    "mitre_attack": ["T1059.001", "T1001", "T1059.002"],
    "tags": ["keep"],
    "provenance": {"tool": "x"},
}
NEWER = {"cwe": "cwe_ids", "pid": "project_id", "url": "resource"}
"""Fields of older versions by the names that the newest one has for them."""

_CATEGORIES = st.none() | st.sampled_from(["A01", "A05", "A09"])
_TECHNIQUES = st.lists(st.sampled_from(["T1059", "T1001", "T1190"]), max_size=3, unique=True)
_SEVERITIES = st.sampled_from(["low", "high"])
_TITLES = st.sampled_from(["An edited title", "ü"])
EDITS: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "0.3.0": {
        "title": _TITLES,
        "severity": _SEVERITIES,
        "url": st.sampled_from(["src/edited.py", "https://example.org/"]),
        "cwe": st.sampled_from(["CWE-79", "CWE-20"]),
        "owasp": st.sampled_from(["A05", "A09"]),
        "cvss": st.sampled_from([1.5, 9.0]),
    },
    "1.0.0": {
        "title": _TITLES,
        "severity": _SEVERITIES,
        "resource": st.sampled_from(["", "src/edited.py"]),
        "cwe": st.none() | st.sampled_from([79, 89, 20]),
        "owasp": _CATEGORIES,
        "cvss": st.none() | st.sampled_from([0, 9.5]),
        "mitre_attack": _TECHNIQUES,
        "cve_ids": st.lists(st.just("CVE-2024-1234"), max_size=1),
        "evidence": st.sampled_from([{}, {"b": 1, "a": 1.0}]),
    },
}
EDITS["1.1.0"] = {
    **EDITS["1.0.0"],
    "status": st.sampled_from(["open", "triaged"]),
    "rule_id": st.none() | st.just("R"),
    "confidence": st.none() | st.just(5),
    "tags": st.lists(st.sampled_from(["keep", "new"]), max_size=2),
    "location": st.none() | st.just({"path": "b.py"}),
}


@st.composite
def complete_documents(draw: st.DrawFn) -> Document:
    """Documents of the newest version with something of all that older ones have no room for, in any order."""
    document = draw(strategies.documents(sparse=False))
    for name, value in FULL.items():
        if draw(st.booleans()):
            document[name] = value
    if draw(st.integers(0, 3)) == 0:
        document["provenance"] = {
            CORNER: draw(st.sampled_from([None, "mine", {"version": "1.1.0", "fields": {}}]))
        }
    for name in draw(st.lists(st.sampled_from(list(FULL)), max_size=2)):
        document.pop(name, None)
    document["finding_schema_version"] = SCHEMA_VERSION
    return document


@given(data=st.data())
def test_untouched_fields_come_back_and_touched_ones_win(data: st.DataObject) -> None:
    """Any document, any way through older versions, any edits there, several at a time."""
    document = data.draw(complete_documents())
    here: str = SCHEMA_VERSION
    current = document
    touched: dict[str, tuple[str, str, Any]] = {}
    added = {}
    for version in data.draw(st.lists(st.sampled_from(list(EDITS)), min_size=1, max_size=4)):
        current = migrate(here, version, current)
        here = version
        shown = [name for name in EDITS[version] if name in current or name == "cvss"]
        # 0.3.0 has the members of `evidence` beside the fields, so that one may be the other.
        taken = document.get("evidence", {}).keys() | {"evidence"} if version == "0.3.0" else set()
        for name in data.draw(st.lists(st.sampled_from([*shown, "provenance"]), max_size=3)):
            if name in taken:
                continue
            if name == "provenance":
                added[f"edited {version}"] = data.draw(st.integers(0, 5))
                current = {**current, name: {**current.get(name, {}), **added}}
                continue
            value = data.draw(EDITS[version][name])
            if name not in current or json.dumps(current[name]) != json.dumps(value):
                current = {**current, name: value}
                touched[NEWER.get(name, name)] = (version, name, value)
    final = migrate(here, SCHEMA_VERSION, current)
    expected = {**document, "provenance": {**document.get("provenance", {}), **added}}
    if not added and "provenance" not in document:
        del expected["provenance"]
    for name in touched:
        expected.pop(name, None)
    assert_same(sorted_by_name(without_fields(final, *touched)), sorted_by_name(expected))
    if not touched and not added:
        assert_same(final, document)
    for version, name, value in touched.values():
        assert_same(migrate(SCHEMA_VERSION, version, final).get(name), value, name)


def sorted_by_name(document: Document) -> Document:
    return {name: document[name] for name in sorted(document)}


def test_an_edit_of_every_field_at_every_older_version() -> None:
    document = validate_finding(finding(**FULL))
    values = {"title": "x", "severity": "low", "resource": "x", "cvss": 1.5, "cwe": 20, "owasp": "A09",
              "mitre_attack": ["T1190"], "cve_ids": ["CVE-2024-1234"], "poc_links": ["urn:x"], "evidence": {"a": 1},
              "run_id": uuid_of(7), "created_at": "2020-01-01T00:00:00Z"}  # fmt: skip
    for version, (name, value) in itertools.product(("1.0.0", "1.1.0"), values.items()):
        edited = {**migrate(SCHEMA_VERSION, version, document), name: value}
        newer = NEWER.get(name, name)
        expected = {**document, newer: [value] if name in ("cwe", "owasp") else value}
        assert_same(migrate(version, SCHEMA_VERSION, edited), expected)


@pytest.mark.parametrize(
    ("name", "shown", "edited", "expected"),
    [
        ("mitre_attack", ["T1059", "T1001"], ["T1059"], ["T1059.001", "T1059.002"]),
        ("mitre_attack", ["T1059", "T1001"], ["T1190", "T1059"], ["T1190", "T1059.001", "T1059.002"]),
        ("mitre_attack", ["T1059", "T1001"], [], []),
        ("mitre_attack", ["T1059", "T1001"], ["T1059", "T1059"], ["T1059", "T1059"]),
        ("cwe", 79, 89, [89]),
        ("cwe", 79, 20, [20]),
        ("cwe", 79, None, []),
        ("owasp", "A05", "A01", ["A01"]),
        ("owasp", "A05", None, []),
    ],
)
def test_a_part_of_a_list(name: str, shown: Any, edited: Any, expected: Any) -> None:
    """What is still there comes back as what it was made of; what an edit writes anew is as it wrote it."""
    document = validate_finding(finding(**FULL))
    older = migrate(SCHEMA_VERSION, "1.0.0", document)
    assert older[name] == shown
    newer = migrate("1.0.0", SCHEMA_VERSION, {**older, name: edited})
    assert_same(newer, {**document, NEWER.get(name, name): expected})


def test_an_edit_that_takes_away() -> None:
    document = validate_finding(finding(**FULL))
    older = migrate(SCHEMA_VERSION, "1.0.0", document)
    assert_same(
        validate_finding(migrate("1.0.0", SCHEMA_VERSION, without_fields(older, "mitre_attack"))),
        {**document, "mitre_attack": []},
    )
    plain = validate_finding(migrate("1.0.0", SCHEMA_VERSION, without_fields(older, "provenance")))
    assert (plain["status"], plain["cwe_ids"], plain["provenance"]) == ("open", [79], {})


def test_a_corner_survives_what_others_do_to_provenance() -> None:
    """Keys before and after it, and `jsonb`, which sorts keys by their length."""
    document = validate_finding(finding(**FULL))
    for version in ("0.3.0", "1.0.0", "1.1.0"):
        older = migrate(SCHEMA_VERSION, version, document)
        provenance = sorted_as_jsonb({"note": 1, **older["provenance"], "zzzzzzzzzzzzzzzzzz": 2})
        found = migrate(version, SCHEMA_VERSION, {**older, "title": "x", "provenance": provenance})
        assert_same(
            found.pop("provenance"), sorted_as_jsonb({"tool": "x", "note": 1, "zzzzzzzzzzzzzzzzzz": 2})
        )
        assert_same(found, {**without_fields(document, "provenance"), "title": "x"})


def sorted_as_jsonb(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    return {key: sorted_as_jsonb(value[key]) for key in sorted(value, key=lambda key: (len(key), key))}


def test_a_legacy_document_is_edited_at_a_later_version() -> None:
    legacy = {
        "ts": 1672912800,
        "severity": "High",
        "pid": "p",
        "detector_id": "scan:x",
        "title": "t",
        "cwe": "CWE-079: XSS",
        "owasp": "A05:2021-Security Misconfiguration",
    }
    for version in ("1.0.0", "1.1.0", "2.0.0"):
        newer = migrate("0.3.0", version, legacy)
        assert_same(migrate(version, "0.3.0", newer), legacy)
        newer |= {"severity": "low", "fingerprint": "f"} if version != "1.0.0" else {"severity": "low"}
        older = migrate(version, "0.3.0", newer)
        assert_same(without_fields(older, "provenance"), {**legacy, "severity": "low"})
        back = migrate("0.3.0", version, older)
        assert_same(
            sorted_by_name(without_fields(back, "provenance")),
            sorted_by_name(without_fields(newer, "provenance")),
        )
        edited = {**older, "cwe": "CWE-020: other"}
        again = migrate("0.3.0", version, edited)
        assert again.get("fingerprint") == newer.get("fingerprint")
        assert_same(
            without_fields(migrate(version, "0.3.0", again), "provenance"),
            without_fields(edited, "provenance"),
        )


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0", "2.0.0"])
@pytest.mark.parametrize(
    "edit",
    [
        {"cvss": 5},
        {"created_at": "2024-01-01T00:00:00.500Z"},
        {"id": "ABCDEF00-0000-4000-8000-000000000001"},
        {"cve_ids": ["CVE-2021-44228", "CVE-2021-44228"]},
    ],
    ids=str,
)
def test_an_edit_may_be_written_otherwise_than_a_migration_writes_it(
    version: str, edit: dict[str, Any]
) -> None:
    legacy = {
        "pid": "p",
        "detector_id": "scan:x",
        "title": "t",
        "severity": "High",
        "cwe": "CWE-079",
        "mitre_attack": [],
    }
    older = migrate(version, "0.3.0", {**migrate("0.3.0", version, legacy), **edit})
    assert_same({name: older.get(name) for name in legacy}, legacy)
    back = migrate("0.3.0", version, older)
    assert_same({name: back[name] for name in edit}, edit)


WRITTEN: dict[str, list[Any]] = {
    "cvss": [0, 5, 1.5, None],
    "cve_ids": [[], ["CVE-2021-1234", "CVE-2021-1234"], ["CVE-2021-0000"]],
    "mitre_attack": [[], ["T1059"]],
    "resource": ["", "y"],
    "run_id": [None, "ABCDEF00-0000-4000-8000-000000000001"],
    "evidence": [
        {},
        {"title": 3},
        {"b": 1, "a": 2},
        {"evidence": {}},
        {"triage": {"status": "x"}},
        {"pid": 1},
    ],
    "status": ["open", "risk_accepted", "resolved", "triaged"],
    "tags": [[], ["a"], ["b", "b"]],
    "confidence": [None, 5, 0.5],
    "rule_id": [None, "r"],
    "fingerprint": [None, "f"],
    "location": [None, {}, {"path": "a"}],
}
"""Values that an edit may write in a document of legacy origin, in more forms than a migration writes."""


@given(data=st.data(), version=st.sampled_from(["1.0.0", "1.1.0", "2.0.0"]))
def test_what_is_edited_in_a_document_of_legacy_origin_comes_back(data: st.DataObject, version: str) -> None:
    """The old document may have said something of the edited field that has no place, beside members that were spread."""
    legacy = data.draw(strategies.legacy_documents())
    assume(isinstance(legacy.get("provenance", {}), dict))
    newer = migrate("0.3.0", version, legacy)
    names = data.draw(st.lists(st.sampled_from([name for name in WRITTEN if name in newer]), max_size=2))
    edited = {**newer, **{name: data.draw(st.sampled_from(WRITTEN[name]), name) for name in names}}
    back = migrate("0.3.0", version, migrate(version, "0.3.0", edited))
    for one in (back, edited):
        del one[
            "provenance"
        ]  # the order of members is not kept where an edit changed what stands beside them
    assert json.dumps(back, sort_keys=True) == json.dumps(edited, sort_keys=True)


# -- databases --------------------------------------------------------------------------------------------------------

OLDER = [version for version in FIELDS_OF if version != SCHEMA_VERSION]
PLAIN = {
    "title": "edited",
    "severity": "low",
    "resource": "src/edited.py",
    "cwe": 20,
    "owasp": "A09",
    "cvss": 1.5,
}
LISTS = {"mitre_attack": [["T1190"], ["T1059"], []], "cve_ids": [["CVE-2024-1234"]]}


def stored_documents(count: int) -> list[Document]:
    chosen = random.Random(count)
    found: list[Document] = []
    for number in range(1, count + 1):
        names = chosen.sample(sorted(FULL), chosen.randint(0, len(FULL)))
        found.append(dict(validate_finding(finding(number, **{name: FULL[name] for name in names}))))
    return [
        *found,
        dict(validate_finding(finding(count + 1, **{**FULL, "provenance": {CORNER: "mine", "a": 1.0}}))),
    ]


def in_form_of(version: str, fields: Document) -> Document:
    """Return fields of 1.0.0 as a later version has them."""
    if "cwe" in FIELDS_OF[version]:
        return fields
    return {
        NEWER.get(name, name): [value] if name in ("cwe", "owasp") else value
        for name, value in fields.items()
    }


def edits_of(document: Document, chosen: random.Random, version: str) -> Document:
    """Return changes of an older document, as its columns have them: any number, also none."""
    changes: Document = {name: PLAIN[name] for name in chosen.sample(sorted(PLAIN), chosen.randint(0, 3))}
    changes |= {name: chosen.choice(values) for name, values in LISTS.items() if chosen.random() < 0.3}
    if chosen.random() < 0.3:
        changes["provenance"] = {"first": 1, **document["provenance"], "last": 2}
    if version != "1.0.0" and chosen.random() < 0.5:
        changes |= {"status": "triaged", "tags": []}
    return in_form_of(version, changes)


@pytest.mark.no_cover
@pytest.mark.parametrize("version", OLDER)
def test_rows_that_were_edited(url: str, version: str) -> None:
    """A database does to an edited row what `SchemaMigrator` does to the document."""
    documents = stored_documents(60)
    chosen = random.Random(version)
    migrations.upgrade(url)
    fill(url, documents)
    migrations.downgrade(url, REVISION_OF[version])
    older = documents_in(url, version)
    edits = [edits_of(document, chosen, version) for document in older]
    table = findings_of(version)
    with connection_to(url) as connection:
        for document, changes in zip(older, edits, strict=True):
            if changes:
                connection.execute(update(table).where(table.c.id == document["id"]).values(changes))
    migrations.upgrade(url)
    expected = [
        validate_finding(migrate(version, SCHEMA_VERSION, {**document, **changes}))
        for document, changes in zip(older, edits, strict=True)
    ]
    assert_all_same(documents_in(url), expected)
    untouched = [n for n, changes in enumerate(edits) if not changes]
    assert untouched
    assert_all_same([expected[n] for n in untouched], [documents[n] for n in untouched])
    assert migrations.check(url) == []
    assert KEPT not in tables_in(url)


@pytest.mark.no_cover
@pytest.mark.parametrize("version", OLDER)
def test_an_import_of_an_older_release(url: str, version: str) -> None:
    """It writes the whole row from the scanner's report, where the corner is not, and a new one; and its identities."""
    documents = stored_documents(40)
    migrations.upgrade(url)
    fill(url, documents)
    with connection_to(url) as connection:
        connection.execute(text("UPDATE findings SET status = 'resolved' WHERE id = :id"), {"id": uuid_of(3)})
        connection.execute(
            text(
                "UPDATE finding_identities SET closed_as = 'resolved', closed_at = last_seen WHERE finding_id = :id"
            ),
            {"id": uuid_of(3)},
        )
    documents = documents_in(url)
    migrations.downgrade(url, REVISION_OF[version])
    reported = imported(url, version)
    migrations.upgrade(url)
    expected = [
        {
            **document,
            "evidence": {"again": 1},
            "provenance": {"scanner": "x"},
            "severity": "low",
            "run_id": uuid_of(9),
        }
        for document in documents
    ]
    expected[2]["status"] = "open"  # the older release has opened it again
    expected[4]["status"] = "resolved"  # and closed this one
    found = documents_in(url)
    assert_all_same(found[: len(documents)], expected)
    assert_same(found[-1], validate_finding(migrate(version, SCHEMA_VERSION, reported)))
    assert migrations.check(url) == []
    with connection_to(url) as connection:
        events = connection.execute(text("SELECT count(*) FROM finding_events")).scalar()
    assert events == len(documents) + 1
    assert KEPT not in tables_in(url)


def imported(url: str, version: str) -> Document:
    """Do with SQL what an import of the release of a version does: each row whole, with what the scanner says (its
    `Records.replace`), a new finding, and the identities that it saw, closed and opened again. Return the new one."""
    table, identities = findings_of(version), TABLES["finding_identities"]
    new = {
        **documents_in(url, version)[0],
        "id": uuid_of(99),
        **in_form_of(version, {"cwe": 20}),
        "provenance": {},
        **({"status": "open", "location": {"path": "n"}} if version != "1.0.0" else {}),
    }
    with connection_to(url) as connection:
        for document in documents_in(url, version):
            report = {
                "evidence": {"again": 1},
                "provenance": {"scanner": "x"},
                "severity": "low",
                "run_id": uuid_of(9),
            }
            values = {**document, **report}
            if version != "1.0.0" and document["id"] in (uuid_of(3), uuid_of(5)):
                values["status"] = "open" if document["id"] == uuid_of(3) else "resolved"
            if values.get("location", 0) is None:
                del values["location"]
            this = table.c.id == values.pop("id")
            connection.execute(update(table).where(this).values(values))
        connection.execute(insert(table), [new])
        identity = {
            "fingerprint": b"\xff" * 32,
            "ordinal": 0,
            "finding_id": new["id"],
            "fingerprint_version": 1,
        }
        seen = {"last_seen": "2024-06-01T00:00:00.000000Z", "last_run": 9}
        row = {
            "content": b"\x01" * 32,
            "reported": "open",
            "first_seen": seen["last_seen"],
            "first_run": 9,
            **seen,
        }
        connection.execute(insert(identities), [{"project_id": new["project_id"], **identity, **row}])
        connection.execute(update(identities).values(content=b"\x01" * 32, **seen))
        for finding_id, closed in ((uuid_of(3), None), (uuid_of(5), "resolved")):
            closing = {"closed_as": closed, "closed_at": closed and seen["last_seen"]}
            connection.execute(
                update(identities).where(identities.c.finding_id == finding_id).values(closing)
            )
        event = {
            "finding_id": new["id"],
            "revision": 2,
            "position": 0,
            "at": seen["last_seen"],
            "actor": "ingest",
        }
        about = {"kind": "status", "changes": {"status": [None, "open"]}, "comment": "", "run_id": uuid_of(9)}
        connection.execute(
            insert(TABLES["finding_events"]), [{"project_id": new["project_id"], **event, **about}]
        )
    return new


def test_what_is_deleted_or_written_anew_at_an_older_version(url: str) -> None:
    """Nothing comes back of what is no more; a row that is deleted and inserted again is the same finding."""
    documents = stored_documents(5)
    migrations.upgrade(url)
    fill(url, documents)
    migrations.downgrade(url, "r0001")
    table = findings_of("1.0.0")
    again = {**documents_in(url, "1.0.0")[0], "title": "anew", "provenance": {}}
    with connection_to(url) as connection:
        connection.execute(delete(table).where(table.c.id.in_([uuid_of(1), uuid_of(2)])))
        connection.execute(insert(table), [again])
    migrations.upgrade(url)
    expected = [{**documents[0], "title": "anew", "provenance": {}}, *documents[2:]]
    assert_all_same(documents_in(url), expected)
    assert KEPT not in tables_in(url)
    migrations.downgrade(url, "r0001")
    with connection_to(url) as connection:
        connection.execute(text("DELETE FROM finding_projects"))
    migrations.upgrade(url)
    assert documents_in(url) == []
    assert KEPT not in tables_in(url)


def test_down_twice_and_a_store_that_goes_on(url: str) -> None:
    """What an earlier downgrade kept is no more when the next one begins."""
    documents = stored_documents(10)
    with open_storage(url, migrate=True) as store:
        store.save_findings(documents)
    for revision, status in (("r0003", "triaged"), ("r0001", "open"), ("r0002", "archived")):
        migrations.downgrade(url, revision)
        with connection_to(url) as connection:
            connection.execute(text("UPDATE findings SET provenance = '{}'"))
        migrations.upgrade(url)
        documents = [{**document, "provenance": {}} for document in documents]
        with open_storage(url) as store:
            assert_all_same(store.list_findings("acme-api"), documents)
            documents = [{**document, "status": status, "cwe_ids": [7, 8]} for document in documents]
            store.save_findings(documents)
    assert [each.id for each in revision_chain()][-1] == migrations.status(url).current


def test_the_versions_that_are_edited() -> None:
    assert list(EDITS) == list(KNOWN_VERSIONS[:LATE])
