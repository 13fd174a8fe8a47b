"""What docs and docstrings name is there: modules, functions, attributes, parameters and files."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "findings_orm"
SOURCES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.glob("**/*.py"))
}
PAGES = [*sorted(ROOT.glob("docs/**/*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
DOTTED = re.compile(r"(?<!`)`([A-Za-z_]\w*(?:\.\w+)+)(?:\(\))?`(?!`)")
ROOMS = {path.name for path in (*PACKAGE.iterdir(), *ROOT.iterdir()) if path.is_dir()}
OUTSIDE = {"findings_orm.adapters", "findings_orm.OPERATION", "findings_orm.import.created"}
"""A group of entry points and names of spans, which are no modules."""
ENDINGS = ("ini", "json", "jsonl", "md", "py", "toml")
Documented = ast.ClassDef | ast.FunctionDef


@cache
def nodes_of(path: Path) -> list[ast.AST]:
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


@cache
def names_in(path: Path) -> set[str]:
    """Return the names that a module defines or imports, with those of parameters and attributes."""
    found: set[str] = set()
    for node in nodes_of(path):
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.arg(arg=name):
                found.add(name)
            case ast.keyword(arg=str(name)):
                found.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                found.add(name)
            case ast.alias(name=name, asname=other):
                found.add(other or name.partition(".")[0])
    return found


@cache
def all_names() -> set[str]:
    return set().union(*map(names_in, SOURCES.values()))


def texts_in(path: Path) -> Iterator[str]:
    """Yield the docstrings, of constants too."""
    for node in nodes_of(path):
        if (
            isinstance(node, ast.Expr)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)
        ):
            yield node.value.value


def members_of(node: ast.Module | ast.ClassDef) -> set[str]:
    """Return what a module or a class defines, not what it imports."""
    found = set()
    for each in node.body:
        match each:
            case (
                ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.AnnAssign(target=ast.Name(id=name))
            ):
                found.add(name)
            case ast.Assign(targets=targets):
                found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


def modules_called(name: str) -> list[Path]:
    """Return the modules that may be meant by a name, which may lack the names of packages around them."""
    return [path for module, path in SOURCES.items() if f".{module}".endswith(f".{name}")]


def leads_somewhere(name: str, here: set[str]) -> bool:
    """Return whether a dotted name is a module, or in one, or begins with a name that is known `here` or to Python."""
    parts = name.split(".")
    if any(modules_called(".".join(parts[:count])) for count in range(2, len(parts) + 1)):
        while parts and not modules_called(".".join(parts)):
            if parts.pop() not in all_names():
                return False
        return True
    known = modules_called(parts[0])
    return (
        parts[0] in here
        or any(parts[1] in names_in(path) for path in known)
        or (not known and find_spec(parts[0]) is not None)
    )


def wrong_names() -> Iterator[str]:
    classes = {
        node.name for path in SOURCES.values() for node in nodes_of(path) if isinstance(node, ast.ClassDef)
    }
    for path in SOURCES.values():
        for text in texts_in(path):
            for name in DOTTED.findall(text):
                if name.rpartition(".")[2] not in ENDINGS and not leads_somewhere(
                    name, names_in(path) | classes
                ):
                    yield f"{path.relative_to(ROOT)}: {name}"
            for name in re.findall(r"(?<!`)`(?:self\.)?(_\w+)(?:\(\))?`(?!`)", text):
                if name not in all_names():
                    yield f"{path.relative_to(ROOT)}: {name}"


@pytest.mark.no_cover
def test_docstrings_name_what_is_there() -> None:
    assert [*wrong_names()] == []


def wrong_modules() -> Iterator[str]:
    for module, path in SOURCES.items():
        if path.name == "__init__.py":
            inner = [
                node
                for name, other in SOURCES.items()
                if name.startswith(f"{module}.")
                for node in nodes_of(other)
            ]
            homes = (node for node in inner if isinstance(node, (ast.Module, ast.ClassDef)))
            inside = names_in(path).union(*map(members_of, homes))
            for name in re.findall(r"(?<!`)`([a-z]\w*)`(?!`)", next(texts_in(path), "")):
                if f"{module}.{name}" not in SOURCES and name not in inside:
                    yield f"{module}: {name}"


def test_packages_name_their_modules() -> None:
    assert [*wrong_modules()] == []


def names_listed(node: Documented, title: str) -> list[str]:
    """Return the names that a section of a docstring explains."""
    section = re.search(rf"^{title}:\n((?:    .*\n?|\n)+)", ast.get_docstring(node) or "", re.MULTILINE)
    return re.findall(r"^    \*{0,2}(\w+):", section[1], re.MULTILINE) if section else []


def parameters_of(node: ast.AST) -> set[str]:
    if isinstance(node, ast.ClassDef):
        return set().union(
            *(parameters_of(each) for each in node.body if getattr(each, "name", "") == "__init__")
        )
    return {each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)}  # type: ignore[attr-defined]


def wrong_sections() -> Iterator[str]:
    for module, path in SOURCES.items():
        for node in nodes_of(path):
            if not isinstance(node, (ast.ClassDef, ast.FunctionDef)):
                continue
            unknown = {*names_listed(node, "Args")} - parameters_of(node)
            if isinstance(node, ast.ClassDef):
                stored = {each.attr for each in ast.walk(node) if isinstance(each, ast.Attribute)}
                unknown |= {*names_listed(node, "Attributes")} - stored - members_of(node)
            yield from (f"{module}.{node.name}: {name}" for name in unknown)


def test_docstrings_explain_parameters_and_attributes_that_are_there() -> None:
    assert [*wrong_sections()] == []


def file_named(name: str) -> Path | None:
    """Return the file of the repository that a page means; in the package, paths may begin with a room."""
    return next((found for root in (ROOT, PACKAGE) for found in root.glob(name)), None)


def wrong_files(text: str) -> Iterator[str]:
    """Yield the paths that lead nowhere, and the names that are not in the module beside which they stand."""
    for name in re.findall(r"(?<!`)`([a-z]\w*/[\w/.*]*)`(?!`)", text):
        if name.partition("/")[0] in ROOMS and file_named(name.rstrip("/")) is None:
            yield name
    for name, module in re.findall(r"`(\w+)`(?:[\w ]*| \(.*?\)) (?:in|of) `([\w/]+\.py)`", text):
        found = file_named(module)
        if found is None or name not in names_in(found):
            yield f"{name} in {module}"
    for name in DOTTED.findall(text):
        if name.startswith("findings_orm.") and name not in OUTSIDE and not leads_somewhere(name, set()):
            yield name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_name_what_is_there(page: Path) -> None:
    prose = re.sub(r"^ *```.*?^ *```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert [*wrong_files(prose)] == []
