"""`RedisCacheAdapter`: a store in front of a store."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache
from typing import TypeVar

from findings_orm.arguments import checked
from findings_orm.diagnosis import Problem, sort_by_level
from findings_orm.errors import StorageUnavailableError
from findings_orm.finding import FindingDocument, is_uuid
from findings_orm.observe import Observer
from findings_orm.port import FindingStore, Health
from findings_orm.process import Forking, survives_fork, when_dropped
from findings_orm.query import FindingQuery, Page, Summary
from findings_orm.secrecy import shown_url
from findings_orm.stores.cache import entries
from findings_orm.stores.cache.client import client_maker
from findings_orm.stores.cache.keys import Keys, query_arguments
from findings_orm.stores.cache.listener import Listener
from findings_orm.stores.cache.local import NearCache, Remembered, Tokens
from findings_orm.stores.cache.maintenance import clear_cache
from findings_orm.stores.cache.options import SIGN, UNSIGNED, CacheOptions, unsigned_problem
from findings_orm.stores.cache.reader import Reader, Wanted
from findings_orm.stores.cache.remote import Breaker, Remote
from findings_orm.stores.cache.statistics import Statistics
from findings_orm.stores.cache.writes import NotifyingStore, Projects

T = TypeVar("T")

_PING_SECONDS = 5
_log = logging.getLogger(__name__)


@lru_cache(1024)
def _warn_once(url: str) -> None:
    """Say once a process, of each Redis, that there is no secret."""
    _log.warning("%s: %s. %s", url, UNSIGNED, SIGN)


class RedisCacheAdapter(Forking, NotifyingStore):
    """A `FindingStore` that answers reads that repeat from a shared Redis (and from the memory of the process).

    What it answers is what `inner` would, as of the moment of the read (``consistency="strict"``) or of at most `max_staleness`
    seconds earlier (``"bounded"``), whatever Redis does. Nothing that goes wrong with Redis raises: then the store is asked.

    Args:
        inner: the store that has the findings; one server, not several replicas that take turns. Closing the cache closes it.
        redis_url: ``redis://``, ``rediss://``, ``unix://``, ``redis+cluster://`` or ``redis+sentinel://`` (docs/cache.md).
        options: how it behaves, see `CacheOptions`.

    Raises:
        StorageValidationError: a URL or an option that can't work.
        StorageUnavailableError: redis-py is not installed.
    """

    @checked
    def __init__(self, inner: FindingStore, redis_url: str, **options: object) -> None:
        super().__init__(inner)
        self.options = CacheOptions.of_mapping(options)
        self._url = redis_url
        self._keys = Keys(self.options.namespace)
        self._statistics = Statistics()
        timeout = self.options.timeout
        self._breaker = Breaker(self.options.breaker_seconds)
        self._remote = Remote(
            client_maker(redis_url, timeout=timeout), self._breaker, timeout, self._statistics
        )
        self._make_listener = client_maker(
            redis_url, timeout=max(timeout, 1), health_check_interval=_PING_SECONDS
        )
        if not self.options.secret:
            _warn_once(shown_url(redis_url))
        self._closed = False
        self._make_process_state()
        survives_fork(self)

    def _make_process_state(self) -> None:
        """Make all that a forked process can't share with its parent."""
        age = 0.0 if self.options.strict else self.options.max_staleness
        self._tokens = Tokens(self.inner.revision, age)
        self._project_lists: Remembered[list[str]] = Remembered(age)
        self._near = NearCache(self.options.near_bytes, self.options.near_seconds)
        self._reader = Reader(
            self.options, self._keys, self._tokens, self._near, self._remote, self._statistics
        )
        self._listener = Listener(
            self._make_listener, self._keys.channel, self._forget_project, self._forget_revisions
        )
        self._finalizer = when_dropped(self, shown_url(self._url), self._remote.close)

    # -- reading --------------------------------------------------------------------------------------------

    def get_finding(self, project_id: str, finding_id: str) -> FindingDocument:
        load = super().get_finding
        if not is_uuid(finding_id):
            return load(project_id, finding_id)
        return self._read_cached(
            "get_finding",
            project_id,
            finding_id.lower,
            lambda: load(project_id, finding_id),
            entries.DOCUMENT,
        )

    def list_findings(self, project_id: str) -> list[FindingDocument]:
        load = super().list_findings
        return self._read_cached(
            "list_findings", project_id, lambda: None, lambda: load(project_id), entries.DOCUMENTS
        )

    @checked
    def find(self, query: FindingQuery) -> Page:
        load = super().find
        return self._read_cached(
            "find",
            query.project_id,
            lambda: query_arguments("find", query),
            lambda: load(query),
            entries.PAGE,
        )

    @checked
    def count(self, query: FindingQuery) -> int:
        load = super().count
        return self._read_cached(
            "count",
            query.project_id,
            lambda: query_arguments("count", query),
            lambda: load(query),
            entries.COUNT,
        )

    def summarize(self, project_id: str) -> Summary:
        load = super().summarize
        return self._read_cached(
            "summarize", project_id, lambda: None, lambda: load(project_id), entries.SUMMARY
        )

    def list_projects(self) -> list[str]:
        """See `FindingStore.list_projects`. No revision covers the list of projects: strict asks the store each time, bounded
        remembers the answer in this process."""
        if self._bypasses_cache("list_projects") or self.options.strict:
            self._statistics.add("list_projects", "bypasses")
            return super().list_projects()
        self._listener.start()
        found = self._project_lists.get("")
        self._statistics.add("list_projects", "loads" if found is None else "near_hits")
        return list(self._project_lists.ask_store("", super().list_projects) if found is None else found)

    def _read_cached(
        self,
        operation: str,
        project_id: str,
        arguments: Callable[[], object],
        load: Callable[[], T],
        form: entries.Form[T],
    ) -> T:
        if self._bypasses_cache(operation) or not isinstance(project_id, str):  # the store refuses it
            self._statistics.add(operation, "bypasses")
            return load()
        self._listener.start()
        return self._reader.read(Wanted(operation, project_id, arguments(), load, form))

    def _bypasses_cache(self, operation: str) -> bool:
        """Whether a read must see what only the store knows: the caller's own uncommitted writes, or that it is closed."""
        inside = self._unit_value() is not None or getattr(self.inner, "in_transaction", False)
        return inside or self._closed or not self.options.seconds(operation)

    # -- after a write ----------------------------------------------------------------------------------------

    def _announce_changes(self, changed: Projects) -> None:
        named: list[str | None] = [None] if None in changed else list(changed)
        for project_id in named:
            self._forget_project(project_id)
        self._statistics.add("writes", "invalidations")
        self._remote.publish(self._keys.channel, self._listener.change_message(named))

    def _forget_project(self, project_id: str | None) -> None:
        self._forget_revisions(project_id)
        self._near.drop_project(project_id)

    def _forget_revisions(self, project_id: str | None = None) -> None:
        self._tokens.forget(project_id)
        self._project_lists.forget(None)

    # -- the cache itself -----------------------------------------------------------------------------------

    def statistics(self) -> dict[str, dict[str, int]]:
        """Return how often what happened since this object was made: operation to event (`EVENTS`) to count."""
        return self._statistics.counts()

    def observe(self, observer: Observer) -> Callable[[], None]:
        """See `findings_orm.observe.Observable.observe`; tells of every event of the cache too."""
        stop_inner = super().observe(observer)
        stop_own = self._statistics.observe(observer)

        def stop_observing() -> None:
            stop_inner()
            stop_own()

        return stop_observing

    @checked
    def clear(self, project_id: str | None = None) -> int:
        """Remove all entries, or those of a project, from Redis and from the memory of all instances that listen.

        Returns:
            The number of keys that Redis had; 0 also where it can't be reached.
        """
        self._forget_project(project_id)
        try:
            return clear_cache(self._url, namespace=self.options.namespace, project_id=project_id)
        except StorageUnavailableError:
            self._statistics.add("redis", "errors")
            return 0

    def health(self) -> Health:
        """See `FindingStore.health`. The store decides whether all is well; the figures of the cache are in ``details``."""
        found = super().health()
        figures = {
            "url": shown_url(self._url),
            "consistency": self.options.consistency,
            "reachable": self._remote.reachable,
            "listening": self._listener.subscribed,
            "near": self._near.figures(),
            "statistics": self.statistics(),
        }
        return replace(found, details={**found.details, "cache": figures})

    def diagnose(self) -> list[Problem]:
        """See `Diagnosable.diagnose`: the problems of the store, and that the cache believes everybody."""
        unsigned = [] if self.options.secret else [unsigned_problem(self._url)]
        return sort_by_level([*super().diagnose(), *unsigned])

    def close(self) -> None:
        """Close the store and all connections to Redis."""
        if self._unit is not None:
            super().close()  # which refuses it
            return
        self._closed = True
        self._finalizer.detach()
        self._listener.close()
        self._remote.close()
        super().close()

    def after_fork(self) -> None:
        """See `Forking.after_fork`: connections, threads and units of work are the parent's."""
        self._statistics.reset()
        self._breaker.reset()
        self._remote.reset()
        self._finalizer.detach()
        self._make_process_state()
