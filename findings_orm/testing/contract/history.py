"""The suite, part 7: status changes, history, and retention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime, timedelta, tzinfo
from typing import Any, Self

import pytest

from findings_orm.errors import FindingNotFoundError, StorageValidationError
from findings_orm.finding import TRANSITIONS, Status, StatusName, canonical_time, validate_finding
from findings_orm.port import FindingStore
from findings_orm.query import time_key
from findings_orm.testing.contract.base import Capabilities, list_statuses, project_contents, summarize_events
from findings_orm.testing.contract.ingest import assert_counts
from findings_orm.testing.samples import OTHER, PROJECT, assert_same, finding, ids, run_id_of, uuid_of

FUTURE = "9999-01-01T00:00:00Z"
PAST = "2024-05-02T00:00:00Z"
CLOSED: tuple[StatusName, ...] = ("resolved", "false_positive", "risk_accepted", "archived")
LEGAL = [(old, new) for old in Status for new in Status if new in TRANSITIONS[old]]
ILLEGAL = [(old, new) for old in Status for new in Status if new not in {*TRANSITIONS[old], old}]


class HistoryContract(Capabilities):
    """`set_status` and `history`."""

    # -- set_status ----------------------------------------------------------------------------------------

    def test_legal_changes_of_status_are_made(self, store: FindingStore) -> None:
        for old, new in LEGAL:
            store.save_finding(finding(1, status=old.value))
            store.set_status(PROJECT, uuid_of(1), new.value, actor="ann")
            assert list_statuses(store) == [new.value], f"{old} -> {new}"

    def test_illegal_changes_of_status_are_refused(self, store: FindingStore) -> None:
        for old, new in ILLEGAL:
            store.save_finding(finding(1, status=old.value))
            before = project_contents(store)
            with pytest.raises(StorageValidationError) as caught:
                store.set_status(PROJECT, uuid_of(1), new.value, actor="ann")
            assert caught.value.field == "status"
            assert project_contents(store) == before, f"{old} -> {new}"

    def test_set_status_returns_the_finding_and_changes_nothing_else(self, store: FindingStore) -> None:
        document = finding(1, evidence={"b": 1, "a": 1.0}, tags=["x"])
        store.save_findings([document, finding(2)])
        returned = store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
        assert_same(returned, validate_finding({**document, "status": "triaged"}))
        assert_same(store.get_finding(PROJECT, uuid_of(1)), returned)
        assert list_statuses(store) == ["triaged", "open"]
        returned["evidence"]["b"] = 2
        assert store.get_finding(PROJECT, uuid_of(1))["evidence"]["b"] == 1

    def test_set_status_is_recorded_with_actor_and_comment(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann", comment="looks real\n\U0001f600 é")
        store.set_status(PROJECT, uuid_of(1), "false_positive", actor="bob é")
        assert summarize_events(store.history(PROJECT, uuid_of(1))) == [
            ("status", "ann", {"status": ["open", "triaged"]}, "looks real\n\U0001f600 é"),
            ("status", "bob é", {"status": ["triaged", "false_positive"]}, ""),
        ]
        events = store.history(PROJECT, uuid_of(1))
        assert [event.run_id for event in events] == [None, None]
        assert [event.finding_id for event in events] == [uuid_of(1)] * 2
        assert [canonical_time(event.at) for event in events] == [event.at for event in events]
        assert time_key(events[0].at) <= time_key(events[1].at)

    def test_same_status_records_only_a_comment(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.set_status(PROJECT, uuid_of(1), "open", actor="ann")
        assert store.history(PROJECT, uuid_of(1)) == []
        returned = store.set_status(PROJECT, uuid_of(1), "open", actor="ann", comment="looking")
        assert returned["status"] == "open"
        assert summarize_events(store.history(PROJECT, uuid_of(1))) == [("comment", "ann", {}, "looking")]

    def test_unknown_status_is_refused(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        words: list[Any] = ["", "Open", "closed", "open\n", "\x00", "\ud800"]
        for status in words:
            with pytest.raises(StorageValidationError):
                store.set_status(PROJECT, uuid_of(1), status, actor="ann")
        assert list_statuses(store) == ["open"]

    def test_bad_actor_or_comment_is_refused(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        for actor, comment in (("", ""), ("a\x00", ""), ("\ud800", ""), ("a", "b\x00"), ("a", "\ud800")):
            with pytest.raises(StorageValidationError):
                store.set_status(PROJECT, uuid_of(1), "triaged", actor=actor, comment=comment)
        assert (list_statuses(store), store.history(PROJECT, uuid_of(1))) == (["open"], [])

    def test_set_status_of_unknown_finding_raises(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        for project_id, finding_id in (
            (PROJECT, uuid_of(2)),
            (OTHER, uuid_of(1)),
            (PROJECT, "\x00"),
            ("\ud800", ""),
        ):
            with pytest.raises(FindingNotFoundError):
                store.set_status(project_id, finding_id, "triaged", actor="ann")
        assert store.list_projects() == [PROJECT]

    def test_id_in_capitals_is_found(self, store: FindingStore) -> None:
        capital = "ABCDEF00-0000-4000-8000-000000000001"
        store.save_finding(finding(id=capital))
        assert store.get_finding(PROJECT, capital)["id"] == capital.lower()
        store.set_status(PROJECT, capital, "triaged", actor="ann")
        assert len(store.history(PROJECT, capital)) == 1
        assert store.sighting(PROJECT, capital).finding_id == capital.lower()

    # -- history -------------------------------------------------------------------------------------------

    def test_creation_is_no_event(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        assert store.history(PROJECT, uuid_of(1)) == []

    def test_save_records_what_changed(self, store: FindingStore) -> None:
        store.save_finding(finding(1, evidence={"a": 1}))
        store.save_finding(finding(1, evidence={"a": 1.0}, severity="high", tags=["x"]))
        changes = {"evidence": [{"a": 1}, {"a": 1.0}], "severity": ["medium", "high"], "tags": [[], ["x"]]}
        events = store.history(PROJECT, uuid_of(1))
        assert [(event.kind, event.actor, event.run_id) for event in events] == [("change", "save", None)]
        assert set(events[0].changes) == set(changes)
        for name, both in changes.items():
            assert_same(events[0].changes[name], both, name)

    def test_save_records_a_change_of_status_as_one(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.save_findings([finding(1, status="resolved", title="new")])
        events = {event.kind: event for event in store.history(PROJECT, uuid_of(1))}
        assert set(events) == {"status", "change"}
        assert dict(events["status"].changes) == {"status": ["open", "resolved"]}
        assert dict(events["change"].changes) == {"title": ["Finding 1", "new"]}
        assert events["status"].actor == "save"

    def test_save_records_every_field_that_changed(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.save_finding(finding(1, created_at="2025-01-01T00:00:00Z", run_id=run_id_of(1)))
        changes = {
            "created_at": [finding(1)["created_at"], "2025-01-01T00:00:00Z"],
            "run_id": [None, run_id_of(1)],
        }
        assert summarize_events(store.history(PROJECT, uuid_of(1))) == [("change", "save", changes, "")]

    def test_save_of_the_same_is_no_event(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.save_finding(validate_finding(finding(1)))
        assert store.history(PROJECT, uuid_of(1)) == []

    def test_history_is_oldest_first_whoever_wrote_it(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
        store.save_finding(finding(1, severity="low", status="triaged"))
        store.ingest(PROJECT, [finding(1, severity="high")], run=run_id_of(1))
        store.set_status(PROJECT, uuid_of(1), "triaged", actor="bob", comment="hm")
        store.ingest(PROJECT, [finding(9)], close_missing=True, run=run_id_of(2))
        events = store.history(PROJECT, uuid_of(1))
        assert [(event.kind, event.actor, event.run_id) for event in events] == [
            ("status", "ann", None),
            ("change", "save", None),
            ("change", "ingest", run_id_of(1)),
            ("comment", "bob", None),
            ("status", "ingest", run_id_of(2)),
        ]
        assert sorted(time_key(event.at) for event in events) == [time_key(event.at) for event in events]

    def test_history_belongs_to_one_finding_of_one_project(self, store: FindingStore) -> None:
        store.save_findings([finding(1), finding(2), finding(1, project_id=OTHER)])
        store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
        assert store.history(PROJECT, uuid_of(2)) == []
        assert store.history(OTHER, uuid_of(1)) == []
        assert store.history(PROJECT, uuid_of(9)) == []
        assert store.history("\x00", "\ud800") == []

    def test_history_belongs_to_the_caller(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        store.save_finding(finding(1, tags=["x"]))
        changes = store.history(PROJECT, uuid_of(1))[0].changes
        changes["tags"][1].append("y")
        assert dict(store.history(PROJECT, uuid_of(1))[0].changes) == {"tags": [[], ["x"]]}

    def test_history_keeps_hard_values(self, store: FindingStore) -> None:
        hard = {
            "\x00": ["\x00", -0.0, 5e-324, 10**60, 1.0, 1, True, None, {"z": 1, "a": 2}],
            "": "\U0001f600",
        }
        store.save_finding(finding(1))
        store.save_finding(finding(1, evidence=hard))
        assert_same(store.history(PROJECT, uuid_of(1))[0].changes["evidence"], [{}, hard])


class _Clock(datetime):
    """The present time, put forward or back."""

    ahead: timedelta

    @classmethod
    def now(cls, tz: tzinfo | None = None) -> Self:
        return super().now(tz) + cls.ahead


def _call_at_jumps(clock: type[_Clock], call: Callable[[], object]) -> Iterator[object]:
    """Call again and again, the clock being set ahead and back."""
    for days in (0, 400, -400, 30, -30):
        clock.ahead = timedelta(days=days)
        yield call()


class ClockContract(Capabilities):
    """Times of a finding never go back, whatever the clock does."""

    @pytest.fixture
    def clock(self, monkeypatch: pytest.MonkeyPatch) -> type[_Clock]:
        class Clock(_Clock):
            ahead = timedelta()

        monkeypatch.setattr("findings_orm.clock.datetime", Clock)
        return Clock

    def test_a_finding_is_never_seen_before_it_was(self, store: FindingStore, clock: type[_Clock]) -> None:
        clock.ahead = timedelta(days=9)
        store.ingest(PROJECT, [finding(1)])
        store.save_finding(finding(2))
        before = [store.sighting(PROJECT, uuid_of(n)) for n in (1, 2)]
        numbers = iter(range(100))

        def import_again() -> None:
            """Import the same report, one in which another finding is missing, and a changed one; save it."""
            changed = [finding(n, confidence=next(numbers)) for n in (1, 2)]
            for report in ([finding(1), finding(2)], [finding(1), finding(2)], [finding(2)], changed):
                store.ingest(PROJECT, report)
            store.save_findings([*changed, finding(1), finding(2)])

        for _ in _call_at_jumps(clock, import_again):
            after = [store.sighting(PROJECT, uuid_of(n)) for n in (1, 2)]
            for old, new in zip(before, after, strict=True):
                assert old.first_seen == new.first_seen
                assert time_key(new.first_seen) <= time_key(old.last_seen) <= time_key(new.last_seen)
            before = after

    def test_history_never_goes_back(self, store: FindingStore, clock: type[_Clock]) -> None:
        clock.ahead = timedelta(days=9)
        store.ingest(PROJECT, [finding(1), finding(2)])
        numbers = iter(range(100))
        key = uuid_of(1)

        def change_finding() -> None:
            """Change the finding in every way that leaves an entry in its history."""
            store.set_status(PROJECT, key, "triaged", actor="ann")
            store.set_status(PROJECT, key, "triaged", actor="ann", comment=f"again {next(numbers)}")
            store.ingest(PROJECT, [finding(1, confidence=next(numbers)), finding(2)])
            store.ingest(PROJECT, [finding(2)], close_missing=True)
            store.ingest(PROJECT, [finding(1), finding(2)])
            store.save_finding(finding(1, confidence=next(numbers), status="resolved"))
            store.save_finding(finding(1))

        for _ in _call_at_jumps(clock, change_finding):
            _assert_in_order(store, store.sighting(PROJECT, key).first_seen)
        kinds = {(event.kind, event.actor) for event in store.history(PROJECT, key)}
        assert kinds >= {("status", "ann"), ("comment", "ann"), ("status", "ingest"), ("change", "ingest")}

    def test_closed_and_purged_no_earlier_than_the_rest(
        self, store: FindingStore, clock: type[_Clock]
    ) -> None:
        store.ingest(PROJECT, [finding(1), finding(2)])
        seen = store.sighting(PROJECT, uuid_of(1)).first_seen
        clock.ahead = timedelta(days=9)
        store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
        clock.ahead = timedelta(days=-400)
        store.ingest(PROJECT, [finding(2)], close_missing=True)
        closed = store.history(PROJECT, uuid_of(1))[-1]
        assert closed.changes == {"status": ["triaged", "resolved"]}
        assert store.purge(PROJECT, closed_before=closed.at).purged == 0
        assert store.purge(PROJECT, closed_before=FUTURE).purged == 1
        _assert_in_order(store, seen)


def _assert_in_order(store: FindingStore, first: str) -> None:
    """The history of the finding begins no earlier than it was first seen, and goes on from there."""
    times = [time_key(time) for time in (first, *(event.at for event in store.history(PROJECT, uuid_of(1))))]
    assert times == sorted(times)


class PurgeContract(Capabilities):
    """`purge`: retention of what is closed."""

    def test_purge_removes_what_is_closed_and_nothing_else(self, store: FindingStore) -> None:
        for number, status in enumerate(Status):
            store.save_finding(finding(number))
            if status != Status.OPEN:
                store.set_status(PROJECT, uuid_of(number), status, actor="ann")
        store.save_finding(finding(1, project_id=OTHER, status="resolved"))
        report = store.purge(PROJECT, closed_before=FUTURE)
        assert (report.purged, report.dry_run) == (4, False)
        assert list_statuses(store) == ["open", "triaged", "in_progress"]
        assert len(store.list_findings(OTHER)) == 1

    def test_purge_goes_by_the_time_of_closing(self, store: FindingStore) -> None:
        for status in CLOSED:
            store.save_finding(finding(1))
            store.set_status(PROJECT, uuid_of(1), status, actor="ann")
            at = store.history(PROJECT, uuid_of(1))[-1].at
            assert store.purge(PROJECT, closed_before=PAST).purged == 0, "the time of creation was taken"
            assert store.purge(PROJECT, closed_before=at).purged == 0, "closed before means before"
            assert store.purge(PROJECT, closed_before=FUTURE).purged == 1, status

    def test_closed_by_ingest_or_save_is_closed_at_that_time(self, store: FindingStore) -> None:
        store.ingest(PROJECT, [finding(1), finding(3, status="risk_accepted")])
        store.ingest(PROJECT, [finding(2)], close_missing=True)
        store.save_finding(finding(4, status="archived"))
        store.save_finding(finding(2, status="false_positive"))
        assert store.purge(PROJECT, closed_before=PAST).purged == 0
        assert store.purge(PROJECT, closed_before=FUTURE).purged == 4

    def test_reopened_is_not_purged(self, store: FindingStore) -> None:
        store.save_findings([finding(n, status="resolved") for n in (1, 2, 3)])
        store.set_status(PROJECT, uuid_of(1), "open", actor="ann")
        store.ingest(PROJECT, [finding(2)])
        store.save_finding(finding(3))
        assert store.purge(PROJECT, closed_before=FUTURE).purged == 0

    def test_dry_run_counts_and_removes_nothing(self, store: FindingStore) -> None:
        store.save_findings([finding(1, status="resolved"), finding(2)])
        before = project_contents(store)
        report = store.purge(PROJECT, closed_before=FUTURE, dry_run=True)
        assert (report.purged, report.dry_run) == (1, True)
        assert project_contents(store) == before

    def test_history_of_the_purged_stays_and_says_what_it_was(self, store: FindingStore) -> None:
        store.save_finding(finding(1, rule_id="R1"))
        store.set_status(PROJECT, uuid_of(1), "resolved", actor="ann", comment="fixed")
        store.purge(PROJECT, closed_before=FUTURE)
        with pytest.raises(FindingNotFoundError):
            store.get_finding(PROJECT, uuid_of(1))
        with pytest.raises(FindingNotFoundError):
            store.sighting(PROJECT, uuid_of(1))
        events = store.history(PROJECT, uuid_of(1))
        assert [event.kind for event in events] == ["status", "purge"]
        assert events[0].comment == "fixed"
        assert {"Finding 1", "R1"} <= {
            value for value in events[1].changes.values() if isinstance(value, str)
        }
        assert events[1].actor
        assert store.list_projects() == [PROJECT]

    def test_purged_finding_seen_again_is_new(self, store: FindingStore) -> None:
        store.save_finding(finding(1, status="resolved"))
        store.purge(PROJECT, closed_before=FUTURE)
        assert_counts(store.ingest(PROJECT, [finding(1)]), created=1)
        assert ids(store.list_findings(PROJECT)) == [uuid_of(1)]
        assert [event.kind for event in store.history(PROJECT, uuid_of(1))] == ["purge"]

    def test_purge_of_nothing_changes_nothing(self, store: FindingStore) -> None:
        store.save_finding(finding(1))
        before = project_contents(store)
        assert store.purge(PROJECT, closed_before=FUTURE).purged == 0
        assert store.purge(OTHER, closed_before=FUTURE).purged == 0
        assert project_contents(store) == before

    def test_purge_of_many(self, store: FindingStore) -> None:
        store.save_findings(finding(n, status=("resolved", "open")[n % 25 == 0]) for n in range(2500))
        assert store.purge(PROJECT, closed_before=FUTURE).purged == 2400
        assert len(store.list_findings(PROJECT)) == 100
        assert store.summarize(PROJECT).by_status["resolved"] == 0

    def test_bad_time_is_refused(self, store: FindingStore) -> None:
        for time in ("", "2024-01-01", "2024-01-01T00:00:00", "2024-01-01T00:00:00+00:00", "\x00", "\ud800"):
            with pytest.raises(StorageValidationError):
                store.purge(PROJECT, closed_before=time)
