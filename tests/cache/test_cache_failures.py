"""Redis is slow, gone, flushed or wrong: the answers are right, nothing raises, and nobody waits for it twice."""

from __future__ import annotations

import multiprocessing
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis as redis_py
from proxy import Proxy
from redis_servers import RedisServer, redis_server

from findings_orm import (
    FindingQuery,
    FindingStore,
    RedisCacheAdapter,
    StorageError,
    StorageUnavailableError,
    StorageValidationError,
    Summary,
    open_storage,
)
from findings_orm.decorate import ForwardingStore
from findings_orm.stores.cache.client import client_maker
from findings_orm.stores.cache.entries import Codec
from findings_orm.stores.cache.options import CacheOptions
from findings_orm.stores.cache.remote import Breaker
from findings_orm.testing.samples import OTHER, PROJECT, broken, finding

pytestmark = pytest.mark.server

LONG = 3600.0
MODES = pytest.mark.parametrize("mode", ["strict", "bounded"])


@pytest.fixture
def inner(open_sqlite: Callable[[], FindingStore]) -> Iterator[FindingStore]:
    with open_sqlite() as store:
        store.save_findings([finding(n) for n in range(5)])
        yield store


@pytest.fixture
def own() -> Iterator[RedisServer]:
    """A Redis to be harmed."""
    with redis_server() as server:
        yield server


def errors(store: RedisCacheAdapter) -> int:
    return sum(found.get("errors", 0) for found in store.statistics().values())


def use(store: RedisCacheAdapter, rounds: int = 10) -> None:
    """Read and write, and compare every answer with the store's own."""
    for number in range(rounds):
        for _ in range(2):
            assert store.list_findings(PROJECT) == store.inner.list_findings(PROJECT)
            assert store.summarize(PROJECT) == store.inner.summarize(PROJECT)
        store.save_finding(finding(number, title=f"round {number}, {os.urandom(4).hex()}"))


@MODES
def test_dead_redis_costs_one_try_a_period(mode: str, inner: FindingStore) -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    url = f"redis://127.0.0.1:{port}"
    with RedisCacheAdapter(inner, url, consistency=mode, breaker_seconds=LONG) as store:
        use(store)
        assert errors(store) == 1
        health = store.health()
        assert health.ok
        assert not health.details["cache"]["reachable"]
        assert store.clear() == 0


@MODES
def test_hung_redis_costs_one_try_a_period(mode: str, inner: FindingStore, own: RedisServer) -> None:
    with RedisCacheAdapter(inner, own.url, consistency=mode, breaker_seconds=LONG, near_bytes=0) as store:
        use(store, 2)
        assert errors(store) == 0
        own.pause()
        use(store)
        assert errors(store) == 1
        own.resume()


def test_threads_that_meet_a_hung_redis_all_go_on(inner: FindingStore, own: RedisServer) -> None:
    with RedisCacheAdapter(inner, own.url, breaker_seconds=LONG, near_bytes=0) as store:
        use(store, 1)
        own.pause()
        queries = [FindingQuery(project_id=PROJECT, limit=n + 1) for n in range(16)]
        with ThreadPoolExecutor(16) as pool:
            pages = list(pool.map(store.find, queries * 4))
        assert [len(page.items) for page in pages] == [min(n + 1, 5) for n in range(16)] * 4
        assert errors(store) <= 16, "a thread waited for Redis twice"
        own.resume()


def test_work_goes_on_with_redis_once_it_is_back(inner: FindingStore, own: RedisServer) -> None:
    with RedisCacheAdapter(inner, own.url, breaker_seconds=0.05, near_bytes=0) as store:
        for _ in range(3):
            use(store, 2)
            own.kill()
            use(store, 2)
            inner.save_finding(finding(1, title="written while Redis was gone"))
            own.start()
            before = store.statistics()["list_findings"].get("hits", 0)
            while store.statistics()["list_findings"].get("hits", 0) == before:
                use(store, 1)
        assert errors(store) >= 3


def test_old_entries_of_a_redis_that_comes_back_are_not_believed(
    inner: FindingStore, own: RedisServer, open_sqlite: Callable[[], FindingStore]
) -> None:
    with (
        Proxy(own.port) as proxy,
        RedisCacheAdapter(
            inner, f"redis://127.0.0.1:{proxy.port}", breaker_seconds=0.01, near_bytes=0
        ) as store,
        RedisCacheAdapter(open_sqlite(), own.url, near_bytes=0) as other,
    ):
        assert other.summarize(PROJECT).total == store.summarize(PROJECT).total == 5
        proxy.refuse = True
        proxy.cut()
        store.save_finding(finding(10))
        assert own.do("DBSIZE") == 1, "the old entry is still there"
        assert other.summarize(PROJECT).total == 6
        proxy.refuse = False
        assert store.summarize(PROJECT).total == 6


def test_slow_redis_is_left_alone(inner: FindingStore, own: RedisServer) -> None:
    with (
        Proxy(own.port) as proxy,
        RedisCacheAdapter(
            inner, f"redis://127.0.0.1:{proxy.port}", timeout=0.1, breaker_seconds=LONG, near_bytes=0
        ) as store,
    ):
        use(store, 1)
        assert errors(store) == 0
        proxy.delay = 0.5
        use(store)
        assert errors(store) == 1


def test_redis_that_answers_in_drops_is_left_alone(inner: FindingStore, own: RedisServer) -> None:
    inner.save_findings([finding(n, evidence={"text": os.urandom(2_000).hex()}) for n in range(50)])
    with (
        Proxy(own.port) as proxy,
        RedisCacheAdapter(
            inner, f"redis://127.0.0.1:{proxy.port}", timeout=0.1, breaker_seconds=LONG, near_bytes=0
        ) as store,
    ):
        expected = store.list_findings(PROJECT)
        assert store.list_findings(PROJECT) == expected
        assert store.statistics()["list_findings"]["hits"] == 1
        proxy.piece, proxy.delay = 1_000, 0.05
        for _ in range(3):
            assert store.list_findings(PROJECT) == expected
        assert store.statistics()["list_findings"]["hits"] == 1, "it waited for the last drop"
        assert errors(store) == 1


def test_answers_cut_off_are_misses(inner: FindingStore, own: RedisServer) -> None:
    with (
        Proxy(own.port) as proxy,
        RedisCacheAdapter(
            inner, f"redis://127.0.0.1:{proxy.port}", breaker_seconds=0.001, near_bytes=0
        ) as store,
    ):
        for cut in (30, 90, 200, 400, 800):
            proxy.cut_after = cut
            use(store, 4)
        assert errors(store) >= 5


def test_something_else_that_answers_is_no_redis(inner: FindingStore) -> None:
    def serve(listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        url = f"redis://127.0.0.1:{listener.getsockname()[1]}"
        with RedisCacheAdapter(inner, url, breaker_seconds=0.001) as store:
            use(store)
            assert errors(store) > 1


def test_refusing_redis_is_passed_over() -> None:
    with redis_server("--requirepass", "right") as server:
        for account in (":wrong@", ""):
            url = server.url.replace("//", f"//{account}")
            with RedisCacheAdapter(open_storage("memory:"), url, breaker_seconds=LONG) as store:
                store.save_finding(finding(1))
                use(store)
                assert errors(store) == 1


def test_full_redis_is_passed_over(inner: FindingStore) -> None:
    with (
        redis_server("--maxmemory", "1", "--maxmemory-policy", "noeviction") as server,
        RedisCacheAdapter(inner, server.url, near_bytes=0) as store,
    ):
        use(store)
        assert store.health().details["cache"]["reachable"]
        assert errors(store) > 1


def test_read_only_redis_is_passed_over(inner: FindingStore, own: RedisServer) -> None:
    with (
        redis_server("--replicaof", f"127.0.0.1 {own.port}") as replica,
        RedisCacheAdapter(inner, replica.url, near_bytes=0) as store,
    ):
        use(store)


# -- entries that are not what they should be ---------------------------------------------------------------


def _truncated(client: Any, key: bytes) -> None:
    client.set(key, client.get(key)[:-3])


def _changed(client: Any, key: bytes) -> None:
    entry = bytearray(client.get(key))
    entry[-2] ^= 1
    client.set(key, bytes(entry))


def _foreign(client: Any, key: bytes) -> None:
    client.set(key, b'{"findings": []}')


def _empty(client: Any, key: bytes) -> None:
    client.set(key, b"")


def _pickled(client: Any, key: bytes) -> None:
    client.set(key, b"\x80\x04\x95.\x00\x00\x00")


def _other_type(client: Any, key: bytes) -> None:
    client.delete(key)
    client.rpush(key, b"one", b"two")


def _another_ones(client: Any, key: bytes) -> None:
    (other,) = [one for one in client.scan_iter("*:list_findings:*") if one != key]
    client.set(key, client.get(other))


def _wrong_shape(client: Any, key: bytes) -> None:
    client.set(key, Codec(CacheOptions()).pack_entry(key.decode(), b'[1, {"id": 2}]'))


def _bomb(client: Any, key: bytes) -> None:
    client.set(key, Codec(CacheOptions()).pack_entry(key.decode(), b"[" + b" " * 70 * 2**20 + b"]"))


def _older_summary(client: Any, key: bytes) -> None:
    client.set(key, Codec(CacheOptions()).pack_entry(key.decode(), b'{"project_id": "p", "total": 3}'))


def _deep(client: Any, key: bytes) -> None:
    client.set(key, Codec(CacheOptions()).pack_entry(key.decode(), b"[" * 100_000))


@pytest.mark.parametrize(
    "harm",
    [
        _truncated,
        _changed,
        _foreign,
        _empty,
        _pickled,
        _other_type,
        _another_ones,
        _wrong_shape,
        _bomb,
        _deep,
    ],
)
def test_damaged_entry_is_a_miss_and_deleted(
    harm: Callable[[Any, bytes], None], inner: FindingStore, redis: RedisServer
) -> None:
    inner.save_finding(finding(1, project_id=OTHER))
    with RedisCacheAdapter(inner, redis.url, near_bytes=0) as store, redis.client() as client:
        expected = store.list_findings(PROJECT)
        (key,) = client.scan_iter("*:list_findings:*")
        store.list_findings(OTHER)
        whole = client.get(key)
        harm(client, key)
        assert store.list_findings(PROJECT) == expected
        assert store.statistics()["list_findings"]["damaged"] == 1
        assert client.get(key) == whole
        assert store.list_findings(PROJECT) == expected
        assert store.statistics()["list_findings"]["hits"] == 1


def test_summary_of_another_release_is_a_miss(inner: FindingStore, redis: RedisServer) -> None:
    with RedisCacheAdapter(inner, redis.url, near_bytes=0) as store, redis.client() as client:
        expected = store.summarize(PROJECT)
        (key,) = client.scan_iter("*:summarize:*")
        _older_summary(client, key)
        assert store.summarize(PROJECT) == expected
        assert store.statistics()["summarize"]["damaged"] == 1


def test_entries_without_the_secret_are_not_believed(inner: FindingStore, redis: RedisServer) -> None:
    forged = b'[{"id": "forged"}]'
    with (
        RedisCacheAdapter(inner, redis.url, secret=b"s3cret", near_bytes=0) as store,
        redis.client() as client,
    ):
        store.list_findings(PROJECT)
        (key,) = client.scan_iter("*")
        client.set(key, Codec(CacheOptions()).pack_entry(key.decode(), forged))
        assert len(store.list_findings(PROJECT)) == 5
        assert store.statistics()["list_findings"]["damaged"] == 1
        client.set(key, Codec(CacheOptions(secret=b"s3cret")).pack_entry(key.decode(), forged))
        assert store.list_findings(PROJECT) == [broken(id="forged")], "the key is not what decides"
        assert "s3cret" not in repr(store.options)


def test_nonsense_on_the_channel_is_taken_for_a_write(redis: RedisServer, inner: FindingStore) -> None:
    with RedisCacheAdapter(inner, redis.url, consistency="bounded", max_staleness=LONG) as store:
        store.list_findings("unknown")
        while not store.health().details["cache"]["listening"]:
            pass
        assert store.summarize(PROJECT).total == 5
        for number, nonsense in enumerate((b"\xff", b"[]", b"{}", b'{"from":1,"projects":3}', b"[" * 9999)):
            inner.save_finding(finding(10 + number))
            redis.do("PUBLISH", "findings:1:changes", nonsense)
            while store.summarize(PROJECT).total != 6 + number:
                pass


def test_instance_that_missed_messages_forgets_revisions(inner: FindingStore, own: RedisServer) -> None:
    options = {"consistency": "bounded", "max_staleness": LONG, "breaker_seconds": LONG}

    def listening() -> bool:
        return bool(store.health().details["cache"]["listening"])

    with RedisCacheAdapter(inner, own.url, **options) as store:
        store.list_findings("unknown")
        while not listening():
            pass
        assert store.summarize(PROJECT).total == 5
        own.kill()
        while listening():
            pass
        inner.save_finding(finding(10))
        assert store.summarize(PROJECT).total == 5, "nobody could say that there was a write"
        own.start()
        while not listening():
            pass
        assert store.summarize(PROJECT).total == 6


# -- one loader at a time -----------------------------------------------------------------------------------


def test_lock_of_a_loader_that_died_ends(inner: FindingStore, redis: RedisServer) -> None:
    with RedisCacheAdapter(inner, redis.url, wait_seconds=0.3) as store, redis.client() as client:
        store.list_findings(PROJECT)
        (key,) = client.scan_iter("*")
        client.flushall()
        client.set(key + b":lock", b"somebody who died", px=100)
        store._near.drop_project(None)
        assert len(store.list_findings(PROJECT)) == 5
        assert store.statistics()["list_findings"]["waits"] == 1
        assert client.exists(key)
        client.flushall()
        client.set(key + b":lock", b"somebody who hangs")
        store._near.drop_project(None)
        assert len(store.list_findings(PROJECT)) == 5
        assert client.get(key + b":lock") == b"somebody who hangs", "a lock was released by another one"


def test_error_of_the_store_reaches_everybody_who_waits(redis: RedisServer) -> None:
    entered, go = threading.Event(), threading.Event()

    class Failing(ForwardingStore):
        def summarize(self, project_id: str) -> Summary:
            entered.set()
            go.wait(30)
            raise StorageUnavailableError(f"the store is gone, {project_id} too")

    inner = Failing(open_storage("memory:"))
    inner.save_finding(finding(1))
    with RedisCacheAdapter(inner, redis.url) as store, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(store.summarize, PROJECT) for _ in range(8)]
        entered.wait(30)
        go.set()
        for each in asked:
            with pytest.raises(StorageUnavailableError, match="gone"):
                each.result(30)
        assert redis.do("DBSIZE") == 0, "a lock was left behind"


# -- the rest -----------------------------------------------------------------------------------------------


def test_breaker_lets_one_call_through_each_period() -> None:
    now = [0.0]
    breaker = Breaker(5, lambda: now[0])
    tickets = [breaker.take_ticket() for _ in range(3)]
    assert None not in tickets
    breaker.note_failure(tickets[0])  # type: ignore[arg-type]
    breaker.note_success(tickets[1])  # type: ignore[arg-type]
    assert not breaker.closed, "a call that began before the failure closed it"
    breaker.note_failure(tickets[2])  # type: ignore[arg-type]
    now[0] = 4.9
    assert breaker.take_ticket() is None
    now[0] = 5.0
    probe = breaker.take_ticket()
    assert probe is not None
    assert breaker.take_ticket() is None, "two calls in one period"
    breaker.note_failure(probe)
    now[0] = 9.9
    assert breaker.take_ticket() is None
    now[0] = 10.0
    probe = breaker.take_ticket()
    assert probe is not None
    breaker.note_success(probe)
    assert breaker.closed
    assert None not in [breaker.take_ticket() for _ in range(3)]


def test_closed_cache_does_not_answer(redis: RedisServer, inner: FindingStore) -> None:
    store = RedisCacheAdapter(inner, redis.url, consistency="bounded")
    store.list_findings(PROJECT)
    store.close()
    for read in (store.list_findings, store.summarize, lambda _: store.list_projects()):
        with pytest.raises(StorageError, match="closed"):
            read(PROJECT)


def _in_child(store: RedisCacheAdapter, answers: Any) -> None:
    store.save_finding(finding(100))
    answers.put((store.summarize(PROJECT).total, store.list_projects(), store.statistics()["summarize"]))


@MODES
def test_forked_process_begins_anew(
    mode: str, redis: RedisServer, open_sqlite: Callable[[], FindingStore]
) -> None:
    context = multiprocessing.get_context("fork")
    with RedisCacheAdapter(open_sqlite(), redis.url, consistency=mode) as store:
        store.save_finding(finding(1))
        use(store, 2)
        answers = context.Queue()
        child = context.Process(target=_in_child, args=(store, answers))
        child.start()
        total, projects, counts = answers.get(timeout=60)
        child.join(60)
        assert child.exitcode == 0
        assert (total, projects) == (3, [PROJECT])
        assert counts == {"loads": 1, "misses": 1}
        store._forget_project(None)
        use(store, 2)


@pytest.mark.parametrize(
    ("url", "options", "message"),
    [
        ("http://host", {}, "redis://"),
        ("redis", {}, "redis://"),
        ("redis://host:none", {}, "port must be a number"),
        ("redis+sentinel://host", {}, "service"),
        ("redis://u:pa55@host:none", {}, r"u:\*\*\*@host"),
        ("redis://h", {"consistency": "eventual"}, "strict or bounded"),
        ("redis://h", {"ttl": 0}, "above 0"),
        ("redis://h", {"timeout": float("nan")}, "must be a finite number"),
        ("redis://h", {"max_staleness": "5"}, "must be a finite number"),
        ("redis://h", {"ttls": {"history": 5}}, "list_findings"),
        ("redis://h", {"namespace": "a:b"}, "namespace"),
        ("redis://h", {"unheard": 1}, "near_bytes"),
        ("redis://h", {"secret": "text"}, "secret"),
    ],
)
def test_what_cannot_work_is_refused_with_the_reason(url: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(StorageValidationError, match=message) as refused:
        open_storage("memory:", cache=url, cache_options=options)
    assert "pa55" not in str(refused.value)


def test_password_is_not_shown() -> None:
    with RedisCacheAdapter(open_storage("memory:"), "redis://:pa55@127.0.0.1:1") as store:
        store.save_finding(finding(1))
        assert "pa55" not in str(store.health())


@pytest.mark.parametrize(
    "library", ["redis", "backports.zstd" if sys.version_info < (3, 14) else "compression"]
)
def test_missing_library_is_named_with_the_extra(library: str) -> None:
    code = (
        "import sys; sys.modules[sys.argv[1]] = None; import findings_orm\n"
        "try: findings_orm.open_storage('memory:', cache='redis://h')\n"
        "except findings_orm.StorageUnavailableError as error: print(error)"
    )
    said = subprocess.run(
        [sys.executable, "-c", code, library], capture_output=True, text=True, check=True
    ).stdout
    assert "pip install 'findings-orm[redis]'" in said


def test_clients_of_all_kinds_are_told_not_to_wait() -> None:
    for url in ("redis://h", "rediss://h", "unix:///tmp/s", "redis+sentinel://a,b:5/service/2"):
        pool = client_maker(url, timeout=0.1)().connection_pool
        settings = pool.connection_kwargs
        assert (settings["socket_timeout"], settings["socket_connect_timeout"]) == (0.1, 0.1)
        assert settings["retry"].get_retries() == 0
    assert settings["db"] == 2
    assert (
        client_maker("redis://h?socket_timeout=3", timeout=0.1)().connection_pool.connection_kwargs[
            "socket_timeout"
        ]
        == 3
    )
    with pytest.raises(redis_py.exceptions.RedisClusterException):
        client_maker("redis+cluster://127.0.0.1:1", timeout=0.1)()
