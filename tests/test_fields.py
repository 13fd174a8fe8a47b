"""The kinds of fields, from which everything that stores or reads a field is made."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel
from sqlalchemy import Text
from typing_extensions import TypedDict

from findings_orm.fields import Kind, kinds_of_fields, members_of_records
from findings_orm.finding import content_of, validate_finding
from findings_orm.orm import models
from findings_orm.orm.types import JsonList
from findings_orm.testing.samples import finding


class Place(TypedDict, total=False):
    path: str
    line: int


class Everything(BaseModel):
    name: str
    short: Annotated[str, "a mark of somebody else"] | None = None
    word: Literal["a", "b"] = "a"
    at: Annotated[str, Kind.TIME] | None = None
    run: Annotated[str, Kind.UUID] | None = None
    count: int = 0
    score: float | None = None
    percentage: Annotated[float, Kind.NUMBER] | None = None
    tags: list[str] = []
    place: Annotated[Place, "checked"] | None = None
    rest: dict[str, Any] = {}


def test_an_annotation_says_the_kind() -> None:
    assert kinds_of_fields(Everything) == {
        "name": "text", "short": "text", "word": "text", "at": "time", "run": "uuid", "count": "integer",
        "score": "float", "percentage": "number", "tags": "list", "place": "record", "rest": "object",
    }  # fmt: skip
    assert members_of_records(Everything) == {"place": ("path", "line")}


def test_a_field_that_the_stores_do_not_know_is_refused() -> None:
    class Unknown(BaseModel):
        proof: bytes = b""

    with pytest.raises(TypeError, match="field proof: there is no kind of field for <class 'bytes'>"):
        kinds_of_fields(Unknown)


@pytest.mark.parametrize(
    ("name", "column"), [("created_at", Text()), ("evidence", JsonList()), ("tags", Text())]
)
def test_a_column_that_does_not_fit_its_field_is_refused(
    name: str, column: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models.Finding.__table__.columns[name], "type", column)
    with pytest.raises(TypeError, match=rf"Finding\.{name}: a field of kind \w+ needs a column of"):
        models._check_columns()


def test_content_is_the_same_for_all_forms_of_a_value() -> None:
    given = finding(1, cvss=7, confidence=90.0, location={"start_line": 1, "path": "a"}, tags=["x"])
    assert content_of(given) == content_of(validate_finding(given)) != b""
    assert content_of({**given, "cvss": 7.1}) != content_of(given)
