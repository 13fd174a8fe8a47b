from __future__ import annotations

import pytest

from findings_orm.formats.paths import absolute_roots, canonical_path


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("src/a.py", "src/a.py"),
        ("./src/a.py", "src/a.py"),
        ("././/src/a.py", "src/a.py"),
        ("../src/a.py", "../src/a.py"),
        ("./", "./"),
        (".", "."),
        ("", ""),
        (".env", ".env"),
        ("src\\a.py", "src/a.py"),
        ("c:\\w\\a.py", "C:/w/a.py"),
        ("file:///c:/w/a.py", "file:///C:/w/a.py"),
        ("src/a%20b.py", "src/a b.py"),
        ("src/%C3%BC.py", "src/ü.py"),
        ("src/%FF.py", "src/%FF.py"),
        ("src/a%2Fb%00.py", "src/a%2Fb%00.py"),
        ("100%.py", "100%.py"),
        ("src/Util.py", "src/Util.py"),
        ("https://example.org/a%20b?x=./y", "https://example.org/a%20b?x=./y"),
        ("pkg:npm/left-pad", "pkg:npm/left-pad"),
        ("file:///builds/1/ws/src/a.py", "src/a.py"),
        ("file:///builds/1/ws/", "file:///builds/1/ws/"),
        ("file:///builds/1/ws/sub/a.py", "a.py"),
        ("file:///builds/10/a.py", "file:///builds/10/a.py"),
    ],
)
def test_a_path_has_one_form(uri: str, path: str) -> None:
    roots = absolute_roots(
        ["file:///builds/1/ws", "file:///builds/1/ws/sub/", "file:///", "src/", None, "file:///c:/"]
    )
    assert canonical_path(uri, roots) == path
    assert canonical_path(path, roots) == path
