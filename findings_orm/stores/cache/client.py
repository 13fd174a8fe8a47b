"""Clients of redis-py by URL: one server, Sentinel, Cluster; with timeouts, and without retries."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, cast
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

from findings_orm.errors import StorageUnavailableError, StorageValidationError
from findings_orm.process import block
from findings_orm.secrecy import shown_url

# -- A time for whole answers. redis-py's timeout is for each piece of one, and a slow line has many pieces


_local = threading.local()


@block
def limit_answer_time(seconds: float) -> Iterator[None]:
    """Let connections of `bounded_class` classes raise TimeoutError in the calling thread, once this much time is over."""
    _local.until = time.monotonic() + seconds
    try:
        yield
    finally:
        _local.until = None


class _Socket:
    """A socket that gives nothing after the deadline of the thread that reads."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> object:
        return getattr(self._inner, name)

    def recv(self, *arguments: object) -> bytes:
        _check_deadline()
        data: bytes = self._inner.recv(*arguments)
        return data

    def recv_into(self, *arguments: object) -> int:
        _check_deadline()
        count: int = self._inner.recv_into(*arguments)
        return count


def _check_deadline() -> None:
    until = getattr(_local, "until", None)
    if until is not None and time.monotonic() > until:
        raise TimeoutError("the whole answer took too long")


class _Bounded:
    def _connect(self) -> object:
        return _Socket(super()._connect())  # type: ignore[misc]  # mixed into a connection


@cache
def bounded_class(connection: type[object]) -> type[object]:
    """Return a class of connections of redis-py with deadlines."""
    return type(f"Bounded{connection.__name__}", (_Bounded, connection), {})


# -- clients of redis-py by URL: one server, Sentinel, Cluster; with timeouts, and without retries --------


try:
    import redis.connection
    from redis.backoff import NoBackoff
    from redis.cluster import RedisCluster
    from redis.retry import Retry
    from redis.sentinel import Sentinel as _Sentinel
    from redis.sentinel import SentinelManagedConnection, SentinelManagedSSLConnection
except ImportError as missing:
    raise StorageUnavailableError(
        f"the client of Redis is not installed ({missing}): pip install 'findings-orm[redis]'"
    ) from missing

# redis-py has no types for these.
Sentinel: Any = _Sentinel
_parse_url: Any = redis.connection.parse_url

SCHEMES = (
    "redis", "rediss", "unix", "redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel",
)  # fmt: skip
_SENTINEL_PORT = 26379
_ENOUGH = 10_000
_SHOW_WHAT_THEY_GOT = ("Port could not", "invalid literal")


def client_maker(url: str, *, timeout: float, **settings: object) -> Callable[[], Any]:
    """Return a function that makes a client. It does not connect yet (a Cluster's client does when it is made).

    ``redis://``, ``rediss://`` and ``unix://`` are redis-py's own; ``redis+cluster://host:port`` names any node of a Cluster,
    ``redis+sentinel://host:port,host:port/service/database`` the Sentinels of a service (user and password are those of the
    servers; ``sentinel_username`` and ``sentinel_password`` in the query, those of the Sentinels). What the query of
    a URL says (``socket_timeout``, ``ssl_ca_certs``, ``protocol``, ...) goes before `timeout` and `settings`.

    Raises:
        StorageValidationError: the URL is none of these.
    """
    scheme = url.partition("://")[0].lower() if isinstance(url, str) and "://" in url else ""
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise StorageValidationError(
            f"cache: must be a URL that begins with one of {known} (got {shown_url(url)!r})", field="cache"
        )
    options = {
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
        "max_connections": _ENOUGH,
        **settings,
    }
    kind = scheme.partition("+")[2]
    plain = url.replace("+cluster", "", 1)
    try:
        parsed: Any = _sentinel_maker(url, options) if kind == "sentinel" else _parse_url(plain)
    except ValueError as error:
        parsed, reason = None, _refusal_reason(error)
    if parsed is None:  # outside of the block: what the parsers raise may show parts of a password
        raise StorageValidationError(f"cache: {shown_url(url)}: {reason}", field="cache")
    if kind == "sentinel":
        return cast(Callable[[], object], parsed)
    if kind == "cluster":
        return lambda: RedisCluster.from_url(plain, **options)
    connection = bounded_class(parsed.get("connection_class", redis.Connection))
    merged = {**options, **parsed, "connection_class": connection, "decode_responses": False}
    return lambda: redis.Redis.from_pool(redis.ConnectionPool(**merged))


def _refusal_reason(error: ValueError) -> str:
    said = str(error)
    if said.startswith(_SHOW_WHAT_THEY_GOT):
        return "the port must be a number (in a password / and # are written %2F and %23)"
    return said


def _sentinel_maker(url: str, options: dict[str, object]) -> Callable[[], object]:
    parts = urlsplit(url)
    account, _, hosts = parts.netloc.rpartition("@")
    service, _, database = parts.path.strip("/").partition("/")
    if not hosts or not service:
        raise ValueError("must be redis+sentinel://host:port,host:port/service/database")
    pairs = [
        (host, int(port or _SENTINEL_PORT)) for host, _, port in (h.partition(":") for h in hosts.split(","))
    ]
    query = dict(parse_qsl(parts.query))
    known = {
        name: query.pop(f"sentinel_{name}")
        for name in ("username", "password")
        if f"sentinel_{name}" in query
    }
    # redis-py's own reader gives the query its types, and the scheme its kind of connection.
    server = f"{parts.scheme.partition('+')[0]}://{account and account + '@'}server/{database or 0}?{urlencode(query)}"
    parsed = dict(_parse_url(server))
    for name in ("host", "port", "connection_class"):
        parsed.pop(name, None)
    secure = parts.scheme.startswith("rediss")
    of_sentinels = {name: value for name, value in options.items() if name != "max_connections"} | {
        "ssl": secure
    }
    managed = SentinelManagedSSLConnection if secure else SentinelManagedConnection
    merged = {**options, **parsed, "connection_class": bounded_class(managed), "decode_responses": False}

    def make_client() -> object:
        sentinel = Sentinel(pairs, sentinel_kwargs={**of_sentinels, **known})
        return sentinel.master_for(unquote(service), **merged)

    return make_client
