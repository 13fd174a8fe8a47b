"""The one form in which the path of a file is stored, however a tool writes it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import unquote

_SCHEME = re.compile(r"(?!file:)[A-Za-z][A-Za-z0-9+.-]+:", re.ASCII)
_DRIVE = re.compile(r"\A(file:/*)?([a-z]):(?=/)", re.ASCII)
_BACKSLASH = re.compile(r"(?<=[^\\/])\\+(?=[^\\])")
_ESCAPES = re.compile(r"(?:%(?!2[Ff]|5[Cc]|00)[0-9A-Fa-f]{2})+")
"""All but those of a slash, a backslash and NUL, which a name can't have."""
_LOOPBACK = re.compile(
    r"(?<![\w.-])(127(?:\.\d{1,3}){3}|0\.0\.0\.0|\[::1\]|(?:[\w-]{1,63}\.){0,3}localhost):(\d{5})(?!\d)",
    re.ASCII | re.IGNORECASE,
)
_FIRST_PASSING_PORT = 32_768
"""What Linux begins with (`ip_local_port_range`); other systems begin higher (RFC 6335 says 49152)."""


def canonical_path(uri: str, roots: Iterable[str] = ()) -> str:
    r"""Return the path of a file in the form that it is stored in; a URI that names no file as it is.

    A URI has slashes, also where the scan ran on Windows. What percent escapes say is said, as many tools leave them out;
    not where they are no UTF-8. The letter of a drive has no case (RFC 8089, appendix E.2). What is below one of the roots
    is relative to it, and ``./`` at the start means nothing. Addresses are without a passing port (`without_passing_port`).
    """
    if _SCHEME.match(uri):
        return without_passing_port(uri)
    path = _ESCAPES.sub(lambda found: _unescape(found[0]), _BACKSLASH.sub("/", uri))
    path = _DRIVE.sub(lambda found: f"{found[1] or ''}{found[2].upper()}:", path, count=1)
    root = max((root for root in roots if path.startswith(root)), key=len, default="")
    path = path[len(root) :] or path
    while path.startswith("./") and path.strip("./"):
        path = path[2:].lstrip("/")
    return path


def without_passing_port(text: str) -> str:
    """Return a text without the ports of the loopback device that a system hands out (from 32768 on): what is started for a
    test has another one each time. Any other port tells services apart."""
    return _LOOPBACK.sub(lambda found: found[1] if int(found[2]) >= _FIRST_PASSING_PORT else found[0], text)


def _unescape(escapes: str) -> str:
    try:
        return unquote(escapes, errors="strict")
    except UnicodeDecodeError:
        return escapes


def absolute_roots(bases: Iterable[object]) -> list[str]:
    """Return those of some URIs that are folders of a file system, as paths below them begin; its root itself is none."""
    texts = (canonical_path(uri) for uri in bases if isinstance(uri, str) and uri.startswith("file:"))
    return [
        text if text.endswith("/") else f"{text}/"
        for text in texts
        if re.fullmatch(r"file:/*([A-Z]:/*)?", text) is None
    ]
