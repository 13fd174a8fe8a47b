"""What is served from the cache, and that it is what the store would say."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import CollectorRegistry
from redis_servers import RedisServer
from sqlalchemy import event

from findings_orm import (
    STORAGE_REGISTRY,
    FindingNotFoundError,
    FindingQuery,
    FindingStore,
    RedisCacheAdapter,
    StorageUnavailableError,
    open_storage,
    register_adapter,
    unregister_adapter,
)
from findings_orm.decorate import ForwardingStore
from findings_orm.finding import FindingDocument, SeverityName
from findings_orm.metrics import MetricsAdapter
from findings_orm.stores.cache import EVENTS
from findings_orm.stores.cache.keys import Keys
from findings_orm.stores.cache.remote import Remote
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, scanned, uuid_of

HIGH = FindingQuery(project_id=PROJECT, severity=("high", "low"), limit=2)
READS: dict[str, Callable[[FindingStore], Any]] = {
    "get_finding": lambda store: store.get_finding(PROJECT, uuid_of(1)),
    "list_findings": lambda store: store.list_findings(PROJECT),
    "find": lambda store: store.find(HIGH),
    "count": lambda store: store.count(HIGH),
    "summarize": lambda store: store.summarize(PROJECT),
    "list_projects": lambda store: store.list_projects(),
}
PROJECT_READS = [name for name in READS if name != "list_projects"]


class UndoError(Exception):
    pass


@pytest.fixture
def opened(redis: RedisServer, open_sqlite: Callable[[], FindingStore]) -> Iterator[Callable[..., Any]]:
    """Return a callable that opens instances over one SQLite file and one Redis."""
    with contextlib.ExitStack() as stack:

        def opened(**options: Any) -> RedisCacheAdapter:
            options = {"ttls": {"get_finding": 60.0}, **options}
            return stack.enter_context(RedisCacheAdapter(open_sqlite(), redis.url, **options))

        yield opened


def statements(store: Any) -> list[str]:
    """Return a list that fills with the statements that the store runs from now on."""
    seen: list[str] = []

    @event.listens_for(store.engine, "before_cursor_execute")
    def _note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        seen.append(statement)

    return seen


def selects(seen: list[str]) -> list[str]:
    return [one for one in seen if one.lstrip().startswith("SELECT")]


def counted(store: RedisCacheAdapter, operation: str, happened: str) -> int:
    assert happened in EVENTS
    return store.statistics().get(operation, {}).get(happened, 0)


def fill(store: FindingStore) -> None:
    store.save_findings([finding(n, severity=("low", "high")[n % 2]) for n in range(6)])
    store.save_finding(finding(1, project_id=OTHER))


@pytest.mark.parametrize("operation", PROJECT_READS)
def test_strict_read_that_repeats_asks_the_store_for_the_revision_only(
    operation: str, opened: Callable[..., Any]
) -> None:
    first, second = opened(), opened()
    fill(first)
    expected = READS[operation](first.inner)
    for store, happened in ((first, "loads"), (first, "near_hits"), (second, "hits"), (second, "near_hits")):
        seen = statements(store)
        assert READS[operation](store) == expected
        assert counted(store, operation, happened) == 1
        if happened != "loads":
            assert len(selects(seen)) == 1
            assert "SELECT revision FROM finding_projects" in selects(seen)[0]


@pytest.mark.parametrize("operation", READS)
def test_bounded_read_that_repeats_asks_the_store_nothing(operation: str, opened: Callable[..., Any]) -> None:
    store = opened(consistency="bounded")
    fill(store)
    listen(store)
    expected = READS[operation](store)
    seen = statements(store)
    assert READS[operation](store) == expected
    assert seen == []


@pytest.mark.parametrize("options", [{}, {"near_bytes": 0}], ids=["near", "redis"])
@pytest.mark.parametrize("operation", READS)
def test_results_belong_to_the_caller(
    operation: str, options: dict[str, Any], opened: Callable[..., Any]
) -> None:
    store = opened(consistency="bounded", **options)
    fill(store)
    expected = READS[operation](store.inner)
    for _ in range(3):
        result = READS[operation](store)
        assert result == expected
        spoil(result)


def spoil(value: Any) -> None:
    """Change everything about a result that can be changed."""
    if isinstance(value, dict):
        for one in value.values():
            spoil(one)
        value["spoilt"] = True
    elif isinstance(value, list):
        for one in value:
            spoil(one)
        value.clear()
    else:
        for name in ("items", "by_severity", "by_detector"):
            spoil(getattr(value, name, None)) if hasattr(value, name) else None


def test_order_of_counts_and_kinds_of_numbers_survive(opened: Callable[..., Any]) -> None:
    store = opened(near_bytes=0)
    odd = {"z": 1, "a": 1.0, "big": 10**60, "minus": -0.0, "nul": "\x00", "text": "é\u2028\U0001f600"}
    store.ingest(PROJECT, [finding(1, evidence=odd), *[scanned(f"R{n % 3}", n + 1) for n in range(9)]])
    for _ in range(2):
        read = store.get_finding(PROJECT, uuid_of(1))["evidence"]
        assert repr(read) == repr(odd)
        summary = store.summarize(PROJECT)
        assert repr(summary) == repr(store.inner.summarize(PROJECT))
    assert counted(store, "summarize", "hits") == 1


def test_write_of_another_instance_is_seen_at_once(opened: Callable[..., Any]) -> None:
    one, other = opened(), opened()
    fill(one)
    for number in range(6):
        assert one.summarize(PROJECT) == one.inner.summarize(PROJECT)
        other.save_finding(finding(10 + number))
        assert one.summarize(PROJECT).total == 7 + number
        assert ids(one.list_findings(PROJECT)) == ids(one.inner.list_findings(PROJECT))


def test_write_past_the_cache_is_seen_at_once(opened: Callable[..., Any]) -> None:
    store = opened()
    fill(store)
    assert store.count(HIGH) == 6
    store.inner.delete_project(PROJECT)
    assert store.count(HIGH) == 0
    store.inner.save_finding(finding(1, severity="high"))
    assert store.count(HIGH) == 1


def test_write_invalidates_its_project_only(opened: Callable[..., Any]) -> None:
    store = opened()
    fill(store)
    other = FindingQuery(project_id=OTHER)
    for _ in range(2):
        store.count(other)
    store.save_finding(finding(9))
    seen = statements(store)
    assert store.count(other) == 1
    assert len(selects(seen)) == 1
    assert counted(store, "count", "near_hits") == 2
    assert counted(store, "writes", "invalidations") == 3


def test_bounded_instance_hears_of_writes(opened: Callable[..., Any]) -> None:
    reader, writer = (opened(consistency="bounded", max_staleness=3600.0) for _ in range(2))
    fill(writer)
    listen(reader)
    assert reader.summarize(PROJECT).total == 6
    assert reader.list_projects() == [PROJECT, OTHER]
    writer.save_finding(finding(9))
    until(lambda: reader.summarize(PROJECT).total == 7)
    writer.delete_project(PROJECT)
    until(lambda: reader.list_projects() == [OTHER])


def listen(store: RedisCacheAdapter) -> None:
    """Wait until an instance hears of writes: when that begins, it forgets the revisions that it remembers."""
    store.list_findings("unknown")
    until(lambda: store.health().details["cache"]["listening"])


def until(condition: Callable[[], object]) -> None:
    """Wait for what other threads or processes bring about; a minute is never needed."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def test_bounded_reader_reads_its_own_writes(opened: Callable[..., Any]) -> None:
    store = opened(consistency="bounded", max_staleness=3600.0)
    for number in range(5):
        store.save_finding(finding(number))
        assert store.count(FindingQuery(project_id=PROJECT)) == number + 1
        assert len(store.list_findings(PROJECT)) == number + 1
    store.delete_project(PROJECT)
    assert store.list_projects() == []
    assert store.list_findings(PROJECT) == []


def test_bounded_read_is_no_older_than_the_bound(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr("findings_orm.stores.cache.local.time", SimpleNamespace(monotonic=lambda: now[0]))
    store = opened(consistency="bounded", max_staleness=10.0)
    fill(store)
    listen(store)
    assert store.summarize(PROJECT).total == 6
    store.inner.save_finding(finding(9))
    now[0] += 10.0
    assert store.summarize(PROJECT).total == 6, "nobody said that there was a write"
    now[0] += 0.1
    assert store.summarize(PROJECT).total == 7


def test_transaction_reads_past_the_cache(opened: Callable[..., Any]) -> None:
    store, other = opened(), opened()
    fill(store)
    with contextlib.suppress(UndoError), store.transaction():
        store.save_finding(finding(9))
        for name in PROJECT_READS:
            assert READS[name](store) == READS[name](store.inner)
        assert store.summarize(PROJECT).total == 7
        raise UndoError
    for each in (store, other):
        assert each.summarize(PROJECT).total == 6
    assert counted(store, "writes", "invalidations") == 2, "what was rolled back was made known"
    with store.transaction():
        store.save_finding(finding(9))
        with contextlib.suppress(UndoError), store.transaction():
            store.delete_project(OTHER)
            raise UndoError
    assert counted(store, "writes", "invalidations") == 3
    assert other.summarize(PROJECT).total == 7
    assert other.count(FindingQuery(project_id=OTHER)) == 1


@pytest.mark.parametrize("mode", ["strict", "bounded"])
def test_application_s_own_transaction_reads_past_the_cache(mode: str, opened: Callable[..., Any]) -> None:
    store, other = opened(consistency=mode), opened()
    fill(store)
    for commit in (False, True):
        assert store.summarize(PROJECT).total == 6
        with store.engine.connect() as connection:
            with store.joined(connection):
                store.save_finding(finding(9))
                assert store.summarize(PROJECT).total == store.count(FindingQuery(project_id=PROJECT)) == 7
            (connection.commit if commit else connection.rollback)()
    for each in (store, other):
        assert each.summarize(PROJECT).total == 7


def test_cache_can_be_registered_as_an_adapter(redis: RedisServer) -> None:
    register_adapter("cached", RedisCacheAdapter, {"inner": open_storage("memory:"), "redis_url": redis.url})
    store: Any = STORAGE_REGISTRY["cached"]
    store.save_finding(finding(1))
    assert len(store.list_findings(PROJECT)) == len(store.list_findings(PROJECT)) == 1
    assert store.statistics()["list_findings"] == {"near_hits": 1, "loads": 1, "misses": 1}
    unregister_adapter("cached")


@pytest.mark.parametrize("write", ["ingest", "save_findings", "inner"])
def test_iterable_of_an_import_may_read_and_poisons_nothing(
    write: str, opened: Callable[..., Any], redis: RedisServer
) -> None:
    store, other = opened(), opened()
    fill(store)
    seen = []

    def reports() -> Iterator[dict[str, Any]]:
        for number in range(10, 13):
            yield finding(number)
            seen.append(store.summarize(PROJECT).total)

    if write == "inner":
        store.inner.ingest(PROJECT, reports())
    elif write == "ingest":
        store.ingest(PROJECT, reports())
    else:
        store.save_findings(reports())
    assert len(seen) == 3
    assert redis.do("DBSIZE") == 0, "a state that was not committed was cached"
    for each in (store, other):
        assert each.summarize(PROJECT) == each.inner.summarize(PROJECT)
        assert each.summarize(PROJECT).total == 9


class Interfering(ForwardingStore):
    """Lets a write of somebody else happen while a result is loaded."""

    def __init__(self, inner: FindingStore, writer: FindingStore, *, before: bool) -> None:
        super().__init__(inner)
        self.writer = writer
        self.before = before
        self.left = 0

    def list_findings(self, project_id: str) -> list[Any]:
        if self.before:
            self._write()
        result = super().list_findings(project_id)
        if not self.before:
            self._write()
        return result

    def _write(self) -> None:
        if self.left:
            self.left -= 1
            self.writer.save_finding(finding(100 + self.left))


@pytest.mark.parametrize("mode", ["strict", "bounded"])
@pytest.mark.parametrize("before", [True, False])
def test_result_loaded_across_a_write_is_not_kept(
    before: bool, mode: str, redis: RedisServer, open_sqlite: Callable[[], FindingStore]
) -> None:
    interfering = Interfering(open_sqlite(), open_sqlite(), before=before)
    with interfering.writer, RedisCacheAdapter(interfering, redis.url, consistency=mode) as store:
        fill(store)
        interfering.left = 1
        assert len(store.list_findings(PROJECT)) == 6 + before, "a read is of one moment of its own time"
        assert counted(store, "list_findings", "moved") == 1
        assert redis.do("DBSIZE") == 0
        for _ in range(3):
            assert len(store.list_findings(PROJECT)) == 7
        assert counted(store, "list_findings", "loads") == 2


def test_bounded_reader_takes_what_others_loaded_for_the_new_revision(opened: Callable[..., Any]) -> None:
    reader, other = opened(consistency="bounded", max_staleness=3600.0), opened()
    fill(other)
    listen(reader)
    assert reader.count(HIGH) == 6
    other.inner.save_finding(finding(9))
    assert reader.count(HIGH) == 6, "the revision was not remembered"
    assert other.summarize(PROJECT).total == 7
    assert reader.summarize(PROJECT).total == 7
    assert reader.statistics()["summarize"] == {"hits": 1, "misses": 1}


def test_result_that_another_one_loaded_just_before_the_lock_is_taken(
    opened: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    late, other = opened(), opened()
    fill(other)
    lock = Remote.lock

    def lock_after_the_other_one(self: Remote, *arguments: Any) -> str | None:
        monkeypatch.setattr(Remote, "lock", lock)
        other.summarize(PROJECT)
        return lock(self, *arguments)

    monkeypatch.setattr(Remote, "lock", lock_after_the_other_one)
    assert late.summarize(PROJECT).total == 6
    assert counted(other, "summarize", "loads") == 1
    assert counted(late, "summarize", "loads") == 0


class Foreign(ForwardingStore):
    """Returns what no store of this package would."""

    value: Any = None

    def list_findings(self, project_id: str) -> list[Any]:
        return [{"value": self.value, "project": project_id}]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("options", [{}, {"near_bytes": 0}], ids=["near", "redis"])
@pytest.mark.parametrize(
    "value",
    [nested(210), nested(900), 10**5_000, object, float("nan"), "\ud800"],
    ids=type,
)
def test_what_json_cannot_hold_comes_from_the_store(
    value: Any, options: dict[str, Any], redis: RedisServer
) -> None:
    inner = Foreign(open_storage("memory:"))
    inner.save_finding(finding(1))
    inner.value = value
    with RedisCacheAdapter(inner, redis.url, **options) as store:
        for _ in range(3):
            (read,) = map(dict, store.list_findings(PROJECT))
            assert read["project"] == PROJECT
            assert read["value"] is value


class Lossy(ForwardingStore):
    """Commits, and then loses the answer."""

    def set_status(self, *arguments: Any, **options: Any) -> FindingDocument:
        super().set_status(*arguments, **options)
        raise StorageUnavailableError("the connection broke", retryable=True)


def test_write_of_which_the_answer_was_lost_is_seen(
    redis: RedisServer, open_sqlite: Callable[[], FindingStore]
) -> None:
    options = {"consistency": "bounded", "max_staleness": 3600.0}
    with RedisCacheAdapter(Lossy(open_sqlite()), redis.url, **options) as store:
        fill(store)
        listen(store)
        assert store.get_finding(PROJECT, uuid_of(1))["status"] == "open"
        with pytest.raises(StorageUnavailableError):
            store.set_status(PROJECT, uuid_of(1), "triaged", actor="ann")
        assert store.get_finding(PROJECT, uuid_of(1))["status"] == "triaged"


def test_project_that_is_deleted_and_made_again_is_another_one(opened: Callable[..., Any]) -> None:
    store, other = opened(), opened()
    for number in range(10):
        store.save_finding(finding(number))
        for each in (store, other):
            assert ids(each.list_findings(PROJECT)) == [uuid_of(number)]
        store.delete_project(PROJECT)
        assert other.list_findings(PROJECT) == []


def test_stores_that_share_a_redis_share_nothing_else(redis: RedisServer) -> None:
    for options in ({}, {"consistency": "bounded"}):
        stores = [open_storage("memory:", cache=redis.url, cache_options=options) for _ in range(3)]
        for number, store in enumerate(stores):
            store.save_finding(finding(number))
        for _ in range(2):
            for number, store in enumerate(stores):
                assert ids(store.list_findings(PROJECT)) == [uuid_of(number)]
        stores[0].save_finding(finding(project_id=OTHER))
        assert [store.list_projects() for store in stores] == [[OTHER, PROJECT], [PROJECT], [PROJECT]] or (
            sorted(stores[0].list_projects()) == sorted([OTHER, PROJECT])
        )
        for store in stores:
            store.close()


def test_what_is_not_found_is_not_kept(opened: Callable[..., Any]) -> None:
    store, other = opened(), opened()
    fill(store)
    for _ in range(2):
        with pytest.raises(FindingNotFoundError):
            store.get_finding(PROJECT, uuid_of(77))
    other.save_finding(finding(77))
    assert store.get_finding(PROJECT, uuid_of(77).upper())["id"] == uuid_of(77)


def test_queries_that_mean_the_same_share_an_entry(opened: Callable[..., Any]) -> None:
    store = opened()
    fill(store)
    severities: list[Sequence[SeverityName]] = [("high", "low"), ("low", "high"), ["low", "high", "low"]]
    for severity in severities:
        store.count(FindingQuery(project_id=PROJECT, severity=severity, limit=len(severity)))
        store.find(FindingQuery(project_id=PROJECT, severity=severity))
    store.find(FindingQuery(project_id=PROJECT, severity=severity, limit=1))
    assert counted(store, "count", "loads") == 1
    assert counted(store, "find", "loads") == 2


def test_operation_with_no_time_to_live_is_not_cached(opened: Callable[..., Any], redis: RedisServer) -> None:
    store = opened(ttls={"list_findings": 0})
    fill(store)
    for _ in range(2):
        assert len(store.list_findings(PROJECT)) == 6
    assert store.statistics()["list_findings"] == {"bypasses": 2}
    assert redis.do("DBSIZE") == 0


def test_strict_finding_is_left_to_the_store(opened: Callable[..., Any]) -> None:
    store = opened(ttls={})
    fill(store)
    for _ in range(2):
        seen = statements(store)
        assert store.get_finding(PROJECT, uuid_of(1))["id"] == uuid_of(1)
        assert len(selects(seen)) == 1
    assert store.statistics()["get_finding"] == {"bypasses": 2}


def test_entries_live_for_about_their_time_and_don_t_end_together(
    opened: Callable[..., Any], redis: RedisServer
) -> None:
    store = opened(ttl=1000.0, ttls={"summarize": 10.0})
    fill(store)
    store.summarize(PROJECT)
    for limit in range(1, 9):
        store.find(FindingQuery(project_id=PROJECT, limit=limit))
    with redis.client() as client:
        left = {key: client.pttl(key) for key in client.scan_iter("*:find:*")}
        (short,) = [client.pttl(key) for key in client.scan_iter("*:summarize:*")]
    assert len(left) == 8
    assert all(800_000 < one <= 1_000_000 for one in left.values())
    assert len({one // 1000 for one in left.values()}) > 1
    assert 5_000 < short <= 10_000


def test_large_results_are_compressed_and_larger_ones_not_kept(
    opened: Callable[..., Any], redis: RedisServer
) -> None:
    store = opened(near_bytes=0)
    store.save_findings([finding(n, evidence={"text": "x" * 1000}) for n in range(50)])
    for _ in range(2):
        assert len(store.list_findings(PROJECT)) == 50
    assert counted(store, "list_findings", "hits") == 1
    with redis.client() as client:
        (key,) = client.scan_iter("*")
        assert client.strlen(key) < 10_000
    for limit in ({"max_plain_bytes": 20_000}, {"max_bytes": 100}):
        redis.do("FLUSHALL")
        small = opened(near_bytes=0, **limit)
        for _ in range(2):
            assert len(small.list_findings(PROJECT)) == 50
        assert counted(small, "list_findings", "too_large") == 1
        assert counted(small, "list_findings", "hits") == 0
        with redis.client() as client:
            (key,) = client.scan_iter("*")
            assert client.strlen(key) < 100, "it was kept all the same"


def test_near_cache_holds_no_more_than_it_may(opened: Callable[..., Any]) -> None:
    store = opened(near_bytes=20_000)
    store.save_findings([finding(n, evidence={"text": "x" * 1000}) for n in range(20)])
    for number in range(20):
        store.get_finding(PROJECT, uuid_of(number))
    assert len(store.list_findings(PROJECT)) == 20
    near = store.health().details["cache"]["near"]
    assert 5 < near["entries"] < 20
    assert near["bytes"] <= 20_000
    store.save_finding(finding(50))
    assert store.health().details["cache"]["near"] == {"entries": 0, "bytes": 0}


def test_events_become_metrics(opened: Callable[..., Any]) -> None:
    registry = CollectorRegistry()
    cache = opened()
    with MetricsAdapter(cache, registry=registry) as store:
        fill(store)
        for _ in range(3):
            store.summarize(PROJECT)

        def value(operation: str, happened: str) -> float | None:
            labels = {"adapter": "sqlite", "store": "default", "operation": operation, "event": happened}
            return registry.get_sample_value("findings_orm_cache_events_total", labels)

        for operation, counts in cache.statistics().items():
            assert {name: value(operation, name) for name in counts} == counts
        assert value("summarize", "near_hits") == 2
        assert value("writes", "invalidations") == 2
    assert store.health().ok is False


def test_keys_carry_the_schema_version(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Keys("findings").entry("count", PROJECT, 5, None)
    monkeypatch.setattr("findings_orm.stores.cache.keys.SCHEMA_VERSION", "9.0.0")
    theirs = Keys("findings").entry("count", PROJECT, 5, None)
    assert ours != theirs
    assert ours.replace(ours.split(":")[2], "9.0.0", 1) == theirs


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("consistency", ["strict", "bounded"])
def test_a_unit_neither_takes_from_the_cache_nor_fills_it(
    opened: Callable[..., RedisCacheAdapter], redis: RedisServer, consistency: str, read_only: bool
) -> None:
    """An entry may be newer than what the unit sees, and what the unit sees older than what others have to."""
    store, other = opened(consistency=consistency), opened(consistency=consistency)
    store.save_finding(finding(1))
    with store.transaction(read_only=read_only) as unit:
        before = [read(unit) for read in READS.values()]
        if read_only:
            other.save_finding(finding(2))
            others = [read(other) for read in READS.values()]
            entries = redis.do("DBSIZE")
            assert others != before
        assert [read(unit) for read in READS.values()] == before
        assert [read(store) for read in READS.values()] == before
        assert redis.do("DBSIZE") == (entries if read_only else 0)
        for name in PROJECT_READS:
            assert store.statistics()[name] == {"bypasses": 3}
    if read_only:
        assert [read(other) for read in READS.values()] == others
