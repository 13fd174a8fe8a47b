"""Every kind of Redis that a URL can name, as a real one."""

from __future__ import annotations

import contextlib
import pathlib
import socket
import ssl
import time
from collections.abc import Callable, Iterator

import pytest
from proxy import Proxy
from redis_servers import RedisServer, redis_server

from findings_orm import FindingStore, RedisCacheAdapter
from findings_orm.stores.cache.maintenance import cache_status, clear_cache
from findings_orm.testing.samples import OTHER, PROJECT, finding

pytestmark = pytest.mark.server

CERTIFICATE = pathlib.Path(__file__).with_name("tls.pem")
"""A key of these tests' own and its certificate for 127.0.0.1."""


def check(url: str, open_store: Callable[[], FindingStore], **options: object) -> None:
    """Show that two instances share what is in a Redis, and that writes, clearing and status work."""
    options = {"timeout": 2.0, "near_bytes": 0, **options}
    with (
        RedisCacheAdapter(open_store(), url, **options) as one,
        RedisCacheAdapter(open_store(), url, consistency="bounded", max_staleness=3600.0, **options) as other,
    ):
        one.save_findings([finding(1), finding(1, project_id=OTHER)])
        for store, happened in ((one, "loads"), (other, "hits")):
            for project_id in (PROJECT, OTHER):
                assert len(store.list_findings(project_id)) == 1
            assert store.statistics()["list_findings"][happened] == 2
        while not other.health().details["cache"]["listening"]:
            time.sleep(0.01)
        other.summarize(PROJECT)
        one.save_finding(finding(2))
        while other.summarize(PROJECT).total != 2:
            time.sleep(0.01)
        assert one.clear(OTHER) == 1
        assert one.list_findings(OTHER) == other.list_findings(OTHER)
        for store in (one, other):
            assert not [name for name, counts in store.statistics().items() if "errors" in counts], (
                store.statistics()
            )


def test_unix_socket(redis: RedisServer, open_sqlite: Callable[[], FindingStore]) -> None:
    check(f"unix://{redis.socket}?db=3", open_sqlite)
    assert redis.do("DBSIZE", db=3) > 0


def test_user_with_no_more_rights_than_documented(
    redis: RedisServer, open_sqlite: Callable[[], FindingStore]
) -> None:
    rights = (
        "~findings:* &findings:* +get +set +del +unlink +eval +pexpire +publish +subscribe +scan +ping +info"
    )
    redis.do("ACL", "SETUSER", "cache", "on", ">pa55", *rights.split())
    check(redis.url.replace("//", "//cache:pa55@"), open_sqlite)


def test_tls(redis: RedisServer, open_sqlite: Callable[[], FindingStore]) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE)
    with Proxy(redis.port, context) as proxy:
        url = f"rediss://127.0.0.1:{proxy.port}/0"
        check(f"{url}?ssl_ca_certs={CERTIFICATE}", open_sqlite)
        with RedisCacheAdapter(open_sqlite(), url, breaker_seconds=3600.0) as store:
            assert len(store.list_findings(PROJECT)) == 2
            assert store.statistics()["list_findings"] == {"errors": 1, "misses": 1, "loads": 1}, (
                "a server that nobody vouches for was trusted"
            )


@pytest.fixture
def cluster() -> Iterator[list[RedisServer]]:
    """Two masters with half of the slots each."""
    with contextlib.ExitStack() as stack:
        nodes = []
        for _ in range(2):
            with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as probe:
                bus = probe.getsockname()[1]
            server = stack.enter_context(redis_server("--cluster-enabled", "yes", "--cluster-port", str(bus)))
            nodes.append((server, bus))
        (first, bus), (second, _) = nodes
        first.do("CLUSTER ADDSLOTSRANGE", 0, 8191)
        second.do("CLUSTER ADDSLOTSRANGE", 8192, 16383)
        second.do("CLUSTER MEET", "127.0.0.1", first.port, bus)
        servers = [first, second]
        while not all(server.do("CLUSTER INFO")["cluster_state"] == "ok" for server in servers):
            time.sleep(0.05)
        yield servers


def test_cluster(cluster: list[RedisServer], open_sqlite: Callable[[], FindingStore]) -> None:
    url = f"redis+cluster://127.0.0.1:{cluster[1].port}"
    check(url, open_sqlite)
    with RedisCacheAdapter(open_sqlite(), url, timeout=2.0) as store:
        for number in range(100, 130):
            store.save_finding(finding(project_id=f"project {number}"))
            store.list_findings(f"project {number}")
    assert all(server.do("DBSIZE") > 5 for server in cluster), "the keys all lie on one node"
    assert cache_status(url).entries["list_findings"] >= 30
    assert clear_cache(url) >= 30
    assert [server.do("DBSIZE") for server in cluster] == [0, 0]


def test_sentinel_and_a_failover(open_sqlite: Callable[[], FindingStore]) -> None:
    with redis_server() as master, redis_server("--replicaof", f"127.0.0.1 {master.port}") as replica:
        while replica.do("INFO", "replication")["master_link_status"] != "up":
            time.sleep(0.05)
        lines = [
            f"sentinel monitor findings 127.0.0.1 {master.port} 1",
            "sentinel down-after-milliseconds findings 300",
            "sentinel failover-timeout findings 1000",
        ]
        with redis_server(sentinel="\n".join(lines)) as sentinel:
            url = f"redis+sentinel://127.0.0.1:1,127.0.0.1:{sentinel.port}/findings/2"
            check(url, open_sqlite)
            assert master.do("DBSIZE", db=2) > 0
            assert cache_status(url).entries
            while not sentinel.do("SENTINEL REPLICAS", "findings"):
                time.sleep(0.05)
            with RedisCacheAdapter(open_sqlite(), url, near_bytes=0, breaker_seconds=0.1) as store:
                store.summarize(PROJECT)
                master.kill()
                before = store.statistics()["summarize"].get("hits", 0)
                end = time.monotonic() + 60
                while store.statistics()["summarize"].get("hits", 0) < before + 2:
                    assert store.summarize(PROJECT) == store.inner.summarize(PROJECT)
                    assert time.monotonic() < end, "the cache did not find the new master"
                assert replica.do("DBSIZE", db=2) > 0
