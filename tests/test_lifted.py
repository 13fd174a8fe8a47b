"""A whole store over an adapter that has only the six methods."""

from __future__ import annotations

import json
import os
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import filelock
import pytest
from six import DictAdapter

from findings_orm import (
    SCHEMA_VERSION,
    FindingStore,
    SchemaVersionError,
    StorageConflictError,
    StorageError,
    StorageIntegrityError,
    StoragePort,
    StorageUnavailableError,
    StorageValidationError,
    lift,
    register_adapter,
    unregister_adapter,
)
from findings_orm.backup import copy_store, restore_backup, write_backup
from findings_orm.cli import main
from findings_orm.records import Records
from findings_orm.stores.lifted import RESERVED
from findings_orm.testing.contract import FindingStoreContract, PortContract
from findings_orm.testing.contract.base import project_contents
from findings_orm.testing.contract.runs import QuarantineContract, RunContract
from findings_orm.testing.contract.transactions import LifeContract
from findings_orm.testing.samples import OTHER, PROJECT, finding, ids, scanned, uuid_of

PAGE = (pathlib.Path(__file__).parents[1] / "docs" / "adapters.md").read_text()
FUTURE = "9999-01-01T00:00:00Z"


def shown(mark: str, name: str) -> Any:
    """Return a class of the page."""
    code = re.search(rf"<!-- {mark} -->\n```python\n(.*?)```", PAGE, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {"__name__": f"page_{mark}"}
    exec(code[1], names)  # noqa: S102  # it is ours
    return names[name]


def json_folder(folder: pathlib.Path) -> StoragePort:
    """Return the adapter that the page shows."""
    made: StoragePort = shown("adapter", "JsonFolder")(folder)
    return made


@pytest.mark.no_cover
class TestDictAdapter(PortContract):
    @pytest.fixture
    def store(self) -> StoragePort:
        return DictAdapter()


@pytest.mark.no_cover
class TestJsonFolder(PortContract):
    @pytest.fixture
    def store(self, tmp_path: pathlib.Path) -> StoragePort:
        return json_folder(tmp_path / "findings")


@pytest.mark.no_cover
@pytest.mark.slow
class TestPickleStore(FindingStoreContract):
    """The store over records that the page shows."""

    persistent = True

    @pytest.fixture
    def reopen(self, tmp_path: pathlib.Path) -> Callable[[], FindingStore]:
        kind = shown("store", "PickleStore")
        return lambda: kind(tmp_path / "findings.pickle")

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


def test_the_page_names_every_method_of_records() -> None:
    table = PAGE[PAGE.index("### The records") : PAGE.index("### Backup")]
    named = [*re.findall(r"`(\w+)`", table.partition("|---|---|")[2])]
    methods = [name for name, one in vars(Records).items() if callable(one) and not name.startswith("_")]
    assert sorted(named) == sorted(methods)


@pytest.mark.no_cover
@pytest.mark.slow
class TestLiftedDict(FindingStoreContract):
    reads_beside_writers = False  # it has but what the six methods tell

    @pytest.fixture
    def store(self) -> Iterator[FindingStore]:
        with lift(DictAdapter()) as store:
            yield store


class LiftedContract(PortContract, RunContract, QuarantineContract, LifeContract):
    """What a lifted store keeps elsewhere; each document is a file that is synced, and the whole suite has very many."""


FULL = os.environ.get("FINDINGS_TEST_SCALE") == "full"


@pytest.mark.no_cover
class TestLiftedJsonFolder(FindingStoreContract if FULL else LiftedContract):  # type: ignore[misc]  # one of two
    reads_beside_writers = False  # it has but what the six methods tell
    persistent = True
    shared_between_processes = True

    @pytest.fixture
    def reopen(self, tmp_path: pathlib.Path) -> Callable[[], FindingStore]:
        lock = tmp_path / "findings.lock"
        return lambda: lift(
            json_folder(tmp_path / "findings"), lock=filelock.FileLock(lock, thread_local=False)
        )

    @pytest.fixture
    def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
        with reopen() as store:
            yield store


class CutError(BaseException):
    """The process ends here."""


class Faulty(DictAdapter):
    """Raises at one of its calls that change something, before or after that is done; at all later ones too if it is `down`."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_left: int | None = None
        self.error: type[BaseException] = OSError
        self.after = False
        self.down = False

    def _count(self) -> bool:
        if self.calls_left is None:
            return False
        self.calls_left -= 1
        if self.calls_left < 0 and (self.down or self.calls_left == -1):
            if not self.after or self.calls_left < -1:
                raise self.error("cut")
            return True
        return False

    def save_finding(self, finding: dict[str, Any]) -> None:
        ends = self._count()
        super().save_finding(finding)
        if ends:
            raise self.error("cut")

    def delete_project(self, project_id: str) -> None:
        ends = self._count()
        super().delete_project(project_id)
        if ends:
            raise self.error("cut")


def prepared() -> tuple[Faulty, FindingStore]:
    raw = Faulty()
    store = lift(raw)
    store.save_findings([finding(1), finding(2, status="resolved"), finding(3)])
    store.save_finding(finding(1, project_id=OTHER))
    return raw, store


def work(store: FindingStore) -> None:
    """Write, change, remove and add, in two projects."""
    with store.transaction():
        store.save_finding(finding(3, title="changed"))
        store.purge(PROJECT, closed_before=FUTURE)
        store.ingest(PROJECT, [scanned(), {}], on_invalid="quarantine", run=uuid_of(77))
        store.delete_project(OTHER)
        store.save_finding(finding(9, project_id="third"))


def seen(store: FindingStore) -> list[Any]:
    """Return all that is in the store, without what differs from one time of the work to the next."""
    found = [project_contents(store, project)[:5] for project in (PROJECT, OTHER, "third")]
    return [re.sub(r'"?[0-9a-f]{8}-[0-9a-f-]{27}|20\d\d-[\dT:.Z-]+', "", repr(found)), store.list_projects()]


def calls_of_the_work() -> int:
    raw, store = prepared()
    raw.calls_left = 10**6
    work(store)
    return 10**6 - raw.calls_left


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt, MemoryError])
def test_an_adapter_that_raises_at_any_call_leaves_all_as_it_was(
    error: type[BaseException], *, after: bool
) -> None:
    for point in range(calls_of_the_work() - 1):
        raw, store = prepared()
        before = [project_contents(store, project) for project in (PROJECT, OTHER, "third")]
        raw.calls_left, raw.error, raw.after = point, error, after
        with pytest.raises(StorageUnavailableError if issubclass(error, Exception) else error):
            work(store)
        raw.calls_left = None
        assert [project_contents(store, project) for project in (PROJECT, OTHER, "third")] == before, point
        work(store)


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_process_that_ends_at_any_call_leaves_all_or_nothing(*, after: bool) -> None:
    raw, store = prepared()
    nothing = seen(store)
    work(store)
    all_of_it = seen(store)
    found = []
    for point in range(calls_of_the_work()):
        raw, store = prepared()
        raw.calls_left, raw.error, raw.after, raw.down = point, CutError, after, True
        with pytest.raises(CutError):
            work(store)
        raw.calls_left = None
        found.append(seen(lift(raw)))
        assert found[-1] in (nothing, all_of_it), f"half of it after call {point}"
        assert found[-1][1] == lift(raw).list_projects()
    assert found[0] == nothing
    assert found[-1] == all_of_it


def test_findings_stay_where_the_adapter_keeps_them() -> None:
    raw = DictAdapter()
    with lift(raw) as store:
        store.ingest(PROJECT, [scanned("R1"), scanned("R2"), {}], on_invalid="quarantine")
        assert raw.list_findings(PROJECT) == store.list_findings(PROJECT)
        assert all(name == PROJECT or name.startswith(RESERVED) for name in raw.projects)
        store.delete_project(PROJECT)
        assert set(raw.projects) == {RESERVED}


def test_what_is_done_through_the_adapter_takes_part() -> None:
    raw = DictAdapter()
    raw.save_finding(finding(1))
    store = lift(raw)
    assert (store.list_projects(), ids(store.list_findings(PROJECT))) == ([], [uuid_of(1)])
    first = store.revision(PROJECT)
    assert first == store.revision(PROJECT) > 0
    assert store.sighting(PROJECT, uuid_of(1)).first_seen == finding(1)["created_at"]
    assert store.ingest(PROJECT, [finding(1), finding(2)]).unchanged == 1
    assert store.list_projects() == [PROJECT]
    second = store.revision(PROJECT)
    raw.save_finding(finding(1, title="changed", status="resolved"))
    third = store.revision(PROJECT)
    assert first < second < third == store.revision(PROJECT)
    assert store.purge(PROJECT, closed_before=FUTURE).purged == 1
    assert ids(raw.list_findings(PROJECT)) == [uuid_of(2)]
    raw.delete_project(PROJECT)
    assert (store.list_findings(PROJECT), store.runs(PROJECT)) == ([], [])
    raw.save_finding(finding(5))
    assert store.revision(PROJECT) > 0
    assert store.history(PROJECT, uuid_of(1)) == []


def test_reserved_projects_are_refused() -> None:
    store = lift(DictAdapter())
    store.save_finding(finding(1))
    for name in (RESERVED, f"{RESERVED}.x"):
        with pytest.raises(StorageValidationError, match="must not begin with"):
            store.save_finding(finding(1, project_id=name))
        assert store.list_findings(name) == []
        store.delete_project(name)
    assert len(store.list_findings(PROJECT)) == 1


def test_a_writer_that_another_process_overtook_is_told() -> None:
    raw = DictAdapter()
    one, two = lift(raw), lift(raw)
    with pytest.raises(StorageConflictError, match="try again"), one.transaction():
        one.save_finding(finding(1))
        two.save_finding(finding(2))
    assert ids(one.list_findings(PROJECT)) == [uuid_of(2)]


def test_what_can_not_be_lifted_is_refused() -> None:
    class Older(DictAdapter):
        def get_schema_version(self) -> str:
            return "1.0.0"

    with pytest.raises(StorageValidationError, match="six methods"):
        lift(object())  # type: ignore[arg-type]
    with pytest.raises(SchemaVersionError, match=SCHEMA_VERSION):
        lift(Older())
    whole = lift(DictAdapter())
    assert lift(whole) is whole


def test_what_the_adapter_returns_is_not_believed() -> None:
    raw = DictAdapter()
    store = lift(raw)
    store.save_finding(finding(1))
    raw.projects[PROJECT][uuid_of(1)] = raw.projects[PROJECT][uuid_of(1)].replace("medium", "harmless")
    with pytest.raises(StorageIntegrityError, match="severity"):
        store.list_findings(PROJECT)
    assert isinstance(StorageIntegrityError(""), StorageError)


def test_a_note_that_holds_no_text_is_damage() -> None:
    raw = DictAdapter()
    lift(raw).save_finding(finding(1))
    [notes] = [notes for name, notes in raw.projects.items() if name.startswith(f"{RESERVED}.")]
    numbers = [key for key, text in notes.items() if json.loads(text)["evidence"]["value"].isdecimal()]
    assert numbers
    for key in numbers:
        note = json.loads(notes[key])
        notes[key] = json.dumps(note | {"evidence": {"value": int(note["evidence"]["value"])}})
    with pytest.raises(StorageIntegrityError):
        lift(raw).history(PROJECT, uuid_of(1))


def test_a_lifted_store_is_backed_up_restored_and_copied(tmp_path: pathlib.Path) -> None:
    with lift(DictAdapter()) as store, lift(DictAdapter()) as restored, lift(DictAdapter()) as copied:
        store.save_findings([finding(1), finding(2, status="resolved"), finding(1, project_id=OTHER)])
        work(store)
        write_backup(store, tmp_path / "backup")
        restore_backup(restored, tmp_path / "backup")
        copy_store(store, copied)
        expected = [project_contents(store, project) for project in store.list_projects()]
        for other in (restored, copied):
            assert [project_contents(other, project) for project in other.list_projects()] == expected


def test_the_command_line_works_on_a_lifted_store(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register_adapter("house", lambda: json_folder(tmp_path / "findings"))
    report = tmp_path / "report.jsonl"
    report.write_text(json.dumps(scanned("R1")) + "\n" + json.dumps(scanned("R2")))
    for arguments in (
        ["import", str(report), "--project", PROJECT],
        ["list", "--project", PROJECT],
        ["summary"],
        ["runs"],
        ["projects"],
        ["backup", str(tmp_path / "backup")],
    ):
        monkeypatch.setattr("sys.argv", ["findings", "--url", "house:", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None), capsys.readouterr()
    unregister_adapter("house")
    assert len(json_folder(tmp_path / "findings").list_findings(PROJECT)) == 2


def test_a_project_that_the_adapter_itself_deleted_is_gone() -> None:
    adapter = DictAdapter()
    store = lift(adapter)
    store.save_findings([finding(1), finding(2, project_id=OTHER)])
    adapter.delete_project(PROJECT)
    with store.snapshot() as unit:  # type: ignore[attr-defined]  # as a backup does it
        assert list(unit.projects()) == [OTHER]
    assert (store.list_projects(), store.diagnose()) == ([OTHER], [])  # type: ignore[attr-defined]
    assert store.figures().findings  # type: ignore[attr-defined]


def test_lock_of_one_thread_is_refused(tmp_path: pathlib.Path) -> None:
    """A unit of work may be left in another thread, which could not give it back."""
    with pytest.raises(StorageValidationError, match="thread_local=False"):
        lift(json_folder(tmp_path / "findings"), lock=filelock.FileLock(tmp_path / "lock"))
