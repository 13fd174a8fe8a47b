"""The conformance suite: what every `FindingStore` has to do, as tests.

A package that brings a store derives a test class and supplies the store::

    import pytest
    from findings_orm.testing.contract import FindingStoreContract

    class TestMyStore(FindingStoreContract):
        persistent = True
        shared_between_processes = True

        @pytest.fixture
        def reopen(self, tmp_path):
            return lambda: MyStore(tmp_path)

        @pytest.fixture
        def store(self, reopen):
            with reopen() as store:
                yield store

``store`` is a new, empty store for each test. ``reopen`` returns one more store on the same data; only tests of
`persistent` and `shared_between_processes` ask for it. Tests of a capability that the class does not claim
are not collected. `PortContract` is the part for an adapter that has only the six methods of `StoragePort`; what
`findings_orm.lift` makes of such a one runs all of `FindingStoreContract` (docs/adapters.md).

For readable failures call ``pytest.register_assert_rewrite("findings_orm.testing")`` in
``conftest.py`` before the first import; the number of examples is that of the hypothesis profile.
"""

from findings_orm.testing.contract.arguments import ArgumentContract
from findings_orm.testing.contract.documents import DocumentContract
from findings_orm.testing.contract.equals import EqualContract
from findings_orm.testing.contract.freetext import FreeTextContract
from findings_orm.testing.contract.history import ClockContract, HistoryContract, PurgeContract
from findings_orm.testing.contract.ingest import IngestContract
from findings_orm.testing.contract.isolation import IsolationContract
from findings_orm.testing.contract.port import BasicContract, PortContract
from findings_orm.testing.contract.queries import QueryContract
from findings_orm.testing.contract.renames import RenameContract
from findings_orm.testing.contract.runs import QuarantineContract, RunContract
from findings_orm.testing.contract.transactions import LifeContract, ThreadContract, TransactionContract
from findings_orm.testing.contract.units import TaskContract, UnitContract

__all__ = ["FindingStoreContract", "PortContract"]


class FindingStoreContract(
    BasicContract,
    DocumentContract,
    QueryContract,
    FreeTextContract,
    IngestContract,
    EqualContract,
    RenameContract,
    RunContract,
    QuarantineContract,
    HistoryContract,
    ClockContract,
    PurgeContract,
    TransactionContract,
    ThreadContract,
    UnitContract,
    TaskContract,
    IsolationContract,
    LifeContract,
    ArgumentContract,
):
    """Everything that a `FindingStore` has to do. See the module for how to use it."""
