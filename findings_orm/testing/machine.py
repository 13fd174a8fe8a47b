"""Random operations on a store, compared with a model; and a fixed sequence of them to compare stores.

`store_machine` makes a hypothesis state machine. `run_sequence` and `digest` compare stores with each other:
the same seed has to lead to the same digest in each.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from hypothesis.strategies import SearchStrategy

from findings_orm.finding import Status
from findings_orm.port import FindingStore
from findings_orm.testing.model import CheckedStore
from findings_orm.testing.samples import uuid_of
from findings_orm.testing.sequence import digest, run_sequence
from findings_orm.testing.strategies import queries

__all__ = ["digest", "run_sequence", "store_machine"]

PROJECTS = ["alpha", "beta é"]
Action = tuple[Any, ...]

_projects = st.sampled_from(PROJECTS)
_positions = st.integers(0, 20)
_locations = st.none() | st.fixed_dictionaries(
    {"start_line": st.integers(1, 6)}, optional={"snippet": st.sampled_from(["eval(x)", "\u00e9"])}
)


class _UndoError(Exception):
    """Rolls a transaction back."""


@st.composite
def _scanned_documents(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a document for an import, of few identities at few lines."""
    detector = draw(st.sampled_from(["scan.one", "scan.two"]))
    return {
        "detector_id": detector,
        "rule_id": draw(st.sampled_from(["R1", None])),
        "title": draw(st.sampled_from(["T1", "T2"])),
        "severity": draw(st.sampled_from(["low", "high"])),
        "resource": draw(st.sampled_from(["src/a.py", "src/a.py:3", "src/b.py"])),
        "location": draw(_locations),
        "fingerprint": draw(st.sampled_from([None, None, None, "f1"])),
        "evidence": draw(st.sampled_from([{}, {"n": 1}, {"n": 1.0}, {"\x00": "\x00"}])),
    }


@st.composite
def _saved_documents(draw: st.DrawFn, project_id: str | None = None) -> dict[str, Any]:
    """Draw a document to save; its id decides about time and detector, which never change."""
    number = draw(st.integers(0, 5))
    return {
        **draw(_scanned_documents()),
        "id": uuid_of(number),
        "project_id": project_id or draw(_projects),
        "detector_id": ("scan.one", "scan.two")[number % 2],
        "created_at": f"2024-05-01T00:00:0{number // 2}{('', '.5')[number % 2]}Z",
        "status": draw(st.sampled_from([status.value for status in Status])),
        "tags": draw(st.sampled_from([[], ["x"], ["x", "\U0001f600"]])),
    }


def _actions() -> SearchStrategy[Action]:
    """Return names of methods of `CheckedStore` with their arguments."""
    reports = st.lists(_scanned_documents(), max_size=8)
    statuses = st.sampled_from([status.value for status in Status])
    return st.one_of(
        st.tuples(st.just("save"), st.lists(_saved_documents(), min_size=1, max_size=3)),
        st.tuples(st.just("save_with_a_bad_one"), st.lists(_saved_documents(), min_size=1, max_size=3)),
        *[st.tuples(st.just("ingest"), _projects, reports, st.booleans(), st.integers(0, 2), st.booleans())]
        * 3,
        st.tuples(st.just("ingest_again"), _projects, _positions, st.booleans(), st.booleans()),
        st.tuples(st.just("repeat_run"), _projects, _positions, reports, st.booleans()),
        st.tuples(st.just("retry"), _projects, _positions, _scanned_documents()),
        st.tuples(st.just("set_status"), _projects, _positions, statuses, st.sampled_from(["", "because"])),
        st.tuples(st.just("purge"), _projects, st.booleans(), st.booleans()),
        st.tuples(st.just("diff_runs"), _projects, _positions, _positions),
        st.tuples(st.just("delete_project"), _projects),
    )


_lists_of_actions = st.lists(_actions(), max_size=4)


class _Source(NamedTuple):
    """Where the stores of a state machine come from."""

    make: Callable[[], FindingStore]
    reopen: Callable[[FindingStore], FindingStore] | None
    migrate: Callable[[FindingStore, int], FindingStore] | None


class _StoreMachine(RuleBasedStateMachine):
    """Any sequence of operations leaves the store as the model says."""

    source: ClassVar[_Source]

    def __init__(self) -> None:
        super().__init__()
        self.checked = CheckedStore(self.source.make(), PROJECTS)
        self.revisions = dict.fromkeys(PROJECTS, 0)
        self.deleted: set[str] = set()

    @initialize(report=st.lists(_scanned_documents(), max_size=8))
    def first_import(self, report: list[dict[str, Any]]) -> None:
        self.checked.ingest(PROJECTS[0], report, False, 0, False)

    @rule(action=_actions())
    def run_action(self, action: Action) -> None:
        self._do_actions([action])

    @rule(outer=_lists_of_actions, inner=_lists_of_actions, fails=st.sampled_from(["", "inner", "outer"]))
    def transaction(self, outer: list[Action], inner: list[Action], fails: str) -> None:
        checked = self.checked
        before = checked.copy_model()
        with contextlib.suppress(_UndoError), checked.store.transaction():
            self._do_actions(outer)
            middle = checked.copy_model()
            with contextlib.suppress(_UndoError), checked.store.transaction():
                self._do_actions(inner)
                if fails == "inner":
                    raise _UndoError
            if fails == "inner":
                checked.model = middle
            checked.check_everything()
            if fails == "outer":
                raise _UndoError
        if fails == "outer":
            checked.model = before
            self._assert_revisions_stayed()

    @rule(data=st.data(), project_id=_projects)
    def find(self, data: st.DataObject, project_id: str) -> None:
        self.checked.find(data.draw(queries(project_id, self.checked.listed(project_id))))
        self._assert_revisions_stayed()

    @precondition(lambda self: self.source.reopen is not None)
    @rule()
    def reopen_store(self) -> None:
        assert self.source.reopen is not None
        self.checked.store = self.source.reopen(self.checked.store)
        self._assert_revisions_stayed()

    @precondition(lambda self: self.source.migrate is not None)
    @rule(how_far=st.integers(0, 9))
    def migrate_down_and_up(self, how_far: int) -> None:
        assert self.source.migrate is not None
        self.checked.store = self.source.migrate(self.checked.store, how_far)
        self._assert_revisions_stayed()

    @invariant()
    def store_is_as_the_model_says(self) -> None:
        self.checked.check_everything()
        for project_id in PROJECTS:
            revision = self.checked.store.revision(project_id)
            known = project_id in self.checked.model
            assert (revision > 0) == known, f"revision {revision} of a project that is known: {known}"
            if known and project_id not in self.deleted:
                assert revision >= self.revisions[project_id], "the revision became smaller"
            self.revisions[project_id] = revision
        self.deleted.clear()

    def teardown(self) -> None:
        self.checked.store.close()

    def _do_actions(self, actions: list[Action]) -> None:
        for name, *arguments in actions:
            if name == "delete_project":
                self.deleted.add(arguments[0])
            getattr(self.checked, name)(*arguments)

    def _assert_revisions_stayed(self) -> None:
        found = {project_id: self.checked.store.revision(project_id) for project_id in PROJECTS}
        assert found == self.revisions, "the revision changed although nothing was written"


def store_machine(
    make_store: Callable[[], FindingStore],
    reopen: Callable[[FindingStore], FindingStore] | None = None,
    migrate: Callable[[FindingStore, int], FindingStore] | None = None,
) -> type[RuleBasedStateMachine]:
    """Return a state machine that compares the stores of `make_store` with a model.

    Args:
        make_store: returns a new, empty store.
        reopen: closes a store and returns another one on the same data, for stores that are persistent.
        migrate: closes a store, brings its data some versions down (the number says how far, modulo what there is) and up
            again, and returns another store on them.
    """
    return type("StoreMachine", (_StoreMachine,), {"source": _Source(make_store, reopen, migrate)})
