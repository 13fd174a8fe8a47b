"""Secrets in what people read: the passwords of URLs, of options and of libpq's ``key=value``, hidden in one way everywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import unquote

HIDDEN = "***"

_WORD = re.compile(r"\S+")
_SCHEME = re.compile(r"[^:@]*:/+")
_COLON = re.compile(r":|%3[Aa]")
_AT = re.compile(r"@|%40")
_AUTHORITY = re.compile(r"[^:@/]*:/+([^/?#]*)")
_NAMED = r"(?<![\w%.\-])([\w%.\-]+)(?:['\"]?\s*=\s*|['\"]\s*:\s*)"
_HIDDEN_ALREADY = r"\*{3}(?=[\s,;)}\]'\"&]|$)"
_QUOTED = r"'(?:[^'\\]|\\.|'')*'|\"(?:[^\"\\]|\\.)*\""
_PAIR_IN_TEXT = re.compile(rf"{_NAMED}({_HIDDEN_ALREADY}|{_QUOTED}|[^\s&]+)")
_PAIR_IN_URL = re.compile(rf"{_NAMED}([^&]+)")
_SECRET_NAME = re.compile(r"passw|passphrase|pwd|secret|token|credential|api.?key", re.IGNORECASE)
_KEY = re.compile(r"AGE-SECRET-KEY-1[0-9A-Z]*", re.IGNORECASE)

_Span = tuple[int, int]


def is_secret(name: str) -> bool:
    """Return whether an option of this name has a secret value, as ``sslpassword`` or ``p%61ssword``."""
    return _SECRET_NAME.search(unquote(name)) is not None


def hide_secrets(text: str) -> str:
    """Return a text for people without what may be a secret in it: rather too much of it than too little.

    >>> hide_secrets("can't reach postgresql://ann:PW@host/db (password='PW' user=ann)")  # pragma: allowlist secret
    "can't reach postgresql://ann:***@host/db (password=*** user=ann)"
    """
    if (
        "=" not in text
        and "@" not in text
        and ":" not in text
        and "%" not in text
        and "KEY" not in text.upper()
    ):
        return text
    spans = [span for word in _WORD.finditer(text) for span in _find_password(word[0], word.start())]
    spans += (match.span(2) for match in _PAIR_IN_TEXT.finditer(text) if is_secret(match[1]))
    spans += (match.span() for match in _KEY.finditer(text))
    return _hide_spans(text, spans)


def shown_url(url: object) -> str:
    """Return a URL, or what was meant to be one, for people: all of it but its secrets.

    >>> shown_url("redis://:p w@d@host/0?sentinel_password=PW&db=1")
    'redis://:***@host/0?sentinel_password=***&db=1'
    """
    text = str(url)
    spans = [*_find_password(text, 0)]
    if not spans:
        spans += _find_hostless_password(text)
    spans += (match.span(2) for match in _PAIR_IN_URL.finditer(text) if is_secret(match[1]))
    return _hide_spans(text, spans)


def _find_password(word: str, start: int) -> Iterator[_Span]:
    """Yield the place of the password between a URL's user and host: up to the last ``@``, for one may be part of it."""
    ends = [match.start() for match in _AT.finditer(word)]
    if ends:
        scheme = _SCHEME.match(word)
        colon = _COLON.search(word, scheme.end() if scheme else 0, ends[-1])
        if colon is not None:
            yield start + colon.end(), start + ends[-1]


def _find_hostless_password(url: str) -> Iterator[_Span]:
    """Yield the place of a password that lacks its host: what stands at the place of a port and is none."""
    found = _AUTHORITY.match(url)
    if found is not None:
        name, colon, port = found[1].rpartition(":")
        if colon and not port.isdigit() and "[" not in name:
            yield found.start(1) + len(name) + 1, found.end(1)


def _hide_spans(text: str, spans: list[_Span]) -> str:
    parts: list[str] = []
    done = 0
    for begin, end in sorted(spans):
        if begin >= end or end <= done:
            continue
        if begin > done or not parts:
            parts += [text[done:begin], HIDDEN]
        done = end
    return "".join([*parts, text[done:]])
