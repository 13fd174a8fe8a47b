"""The base of decorators: everything is handed on, and nothing is forgotten when the port grows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from findings_orm import FindingStore, StorageError, open_storage
from findings_orm.decorate import ForwardingStore
from findings_orm.testing.contract import FindingStoreContract


@pytest.mark.no_cover
class TestForwardingToMemory(FindingStoreContract):
    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with ForwardingStore(open_storage("memory:")) as store:
            yield store


def test_every_method_of_the_port_is_handed_on() -> None:
    wanted = {name for name in dir(FindingStore) if not name.startswith("_")}
    assert wanted <= set(vars(ForwardingStore))


def test_what_a_store_has_besides_can_be_reached(open_sqlite: Callable[[], FindingStore]) -> None:
    store: Any = ForwardingStore(ForwardingStore(open_sqlite()))
    with store:
        assert store.engine.dialect.name == "sqlite"
        assert store.innermost() is store.inner.innermost()
        with store.transaction() as inside:
            assert inside.innermost() is inside.inner.inner
            assert inside.session().connection().dialect.name == "sqlite"
            assert store.session().connection().dialect.name == "sqlite"
        with pytest.raises(AttributeError, match="no attribute '_begin_transaction'"):
            store._begin_transaction  # noqa: B018
        with pytest.raises(AttributeError, match="unheard"):
            store.unheard  # noqa: B018


def test_a_transaction_of_the_application_can_be_joined(open_sqlite: Callable[[], FindingStore]) -> None:
    with ForwardingStore(open_sqlite()) as store:
        with store.engine.connect() as connection, store.joined(connection) as joined:
            assert isinstance(joined, ForwardingStore)
            joined.ingest("acme-api", [{"detector_id": "a", "title": "b", "severity": "low"}])
            connection.rollback()
        assert store.list_projects() == []


def test_a_store_of_another_making_is_joined_by_what_it_has(open_sqlite: Callable[[], FindingStore]) -> None:
    """It need not be observed, nor examined, for that."""
    inner: Any = open_sqlite()
    foreign: Any = type("Foreign", (FindingStore,), {"joined": lambda _, bind: inner.joined(bind)})
    store = ForwardingStore(foreign())
    with inner.engine.connect() as connection, store.joined(connection) as joined:
        assert isinstance(joined, ForwardingStore)
        inner.ingest("acme-api", [{"detector_id": "a", "title": "b", "severity": "low"}])
        connection.rollback()
    assert inner.list_projects() == []
    with pytest.raises(StorageError, match="Foreign has no database"):
        store.session()
    inner.close()
