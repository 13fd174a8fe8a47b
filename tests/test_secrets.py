"""No password of a URL, an option or the environment is shown: by no command, error, log, health or representation."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from commands import APP, COMMANDS
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from redis_servers import RedisServer

from findings_orm import StorageError, StorageUnavailableError, migrations, open_storage
from findings_orm.decorate import diagnosable
from findings_orm.errors import StorageValidationError
from findings_orm.metrics import MetricsAdapter
from findings_orm.orm import access, text_index
from findings_orm.secrecy import hide_secrets, shown_url
from findings_orm.stores.cache.maintenance import cache_status

FIRST, LAST = "S3cr3t", "W0rd5"
WHOLE = FIRST + LAST
HERE = "127.0.0.1:1/db"
"""Where nobody listens."""

URLS = {
    "userinfo": f"postgresql://ann:{WHOLE}@{HERE}",
    "query": f"postgresql://ann@{HERE}?password={WHOLE}",
    "other secret": f"postgresql://ann@{HERE}?sslmode=disable&sslpassword={WHOLE}",
    "percent": f"postgresql://ann:{FIRST}%40{LAST}@{HERE}",
    "percent name": f"postgresql://ann@{HERE}?p%61ssword={FIRST}%40{LAST}",
    "percent colon": f"postgresql://ann%3A{WHOLE}@{HERE}",
    "percent at": f"postgresql://ann:{WHOLE}%40{HERE}",
    "one slash": f"postgresql:/ann:{WHOLE}@{HERE}",
    "no slash": f"postgresql:ann:{WHOLE}@{HERE}",
    "at": f"postgresql://ann:{FIRST}@{LAST}@{HERE}",
    "at and slash": f"postgresql://ann:{FIRST}@/{LAST}@{HERE}",
    "at and question mark": f"postgresql://ann:{FIRST}@x?{LAST}@{HERE}",
    "space": f"postgresql://ann:{FIRST} {LAST}@{HERE}",
    "no host": f"postgresql://ann:{WHOLE}",
    "no driver": f"postgresql+{'x'}://ann:{WHOLE}@{HERE}",
    "sqlite": f"sqlite://ann:{WHOLE}@{HERE}",
    "sqlite one slash": f"sqlite:/ann:{WHOLE}@{HERE}",
    "sqlite query": f"sqlite:///none.db?password={WHOLE}",
    "file": f"file://ann:{WHOLE}@{HERE}",
    "file query": f"file:///none?password={WHOLE}",
    "memory": f"memory://ann:{WHOLE}@{HERE}",
    "redis": f"redis://:{WHOLE}@{HERE}",
    "no scheme": f"ann:{WHOLE}@{HERE}",
}
REDIS_URLS = {
    "userinfo": f"redis://:{WHOLE}@127.0.0.1:1/0",
    "user": f"redis://ann:{WHOLE}@127.0.0.1:1/0",
    "query": f"redis://127.0.0.1:1/0?password={WHOLE}",
    "percent": f"redis://:{FIRST}%40{LAST}@127.0.0.1:1/0",
    "at": f"redis://:{FIRST}@{LAST}@127.0.0.1:1/0",
    "slash": f"redis://:{FIRST}/{LAST}@127.0.0.1:1/0",
    "one slash": f"redis:/:{WHOLE}@127.0.0.1:1/0",
    "port": f"redis://:{FIRST}@127.0.0.1:{LAST}@x/0",
    "cluster": f"redis+cluster://:{WHOLE}@127.0.0.1:1",
    "sentinel": f"redis+sentinel://:{WHOLE}@127.0.0.1:1/service/0?sentinel_password={WHOLE}",
    "sentinel port": f"redis+sentinel://127.0.0.1:{WHOLE}/service/0",
}


def shows(text: str) -> bool:
    return FIRST in text or LAST in text or FIRST.upper() in text


def all_of(error: BaseException | None) -> Iterator[str]:
    """Yield all that an exception, and those that it came from, could tell."""
    while error is not None:
        yield f"{error!r} {error} {error.args} {vars(error) if isinstance(error, StorageError) else ''}"
        yield from all_of(error.__cause__)
        error = error.__context__


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.DEBUG)
    return caplog


# -- the rule -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("postgresql://ana@host/db", "postgresql://ana@host/db"),
        (
            "postgresql://ana:pw@host:5432/db?sslmode=require",
            "postgresql://ana:***@host:5432/db?sslmode=require",
        ),
        ("postgresql://ana:p@ss:w/ord@host/db", "postgresql://ana:***@host/db"),
        (
            "redis://user:pw@host/0?sentinel_password=pw&db=1",
            "redis://user:***@host/0?sentinel_password=***&db=1",
        ),
        ("redis+sentinel://:pw@a:1,b:2/service/0", "redis+sentinel://:***@a:1,b:2/service/0"),
        ("sqlite:////srv/a@b.db", "sqlite:////srv/a@b.db"),
        ("file:///srv/store", "file:///srv/store"),
        ("postgresql://[::1]:5432/db", "postgresql://[::1]:5432/db"),
    ],
)
def test_a_url_without_its_secrets(text: str, shown: str) -> None:
    assert shown_url(text) == hide_secrets(text) == shown_url(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("host=h password=pw user=u", "host=h password=*** user=u"),
        (r"password = 'p w\'x' host=h", "password = *** host=h"),
        ("PGPASSWORD=pw", "PGPASSWORD=***"),
        ("{'password': 'p w', 'port': 1}", "{'password': ***, 'port': 1}"),
        ("line 1: AGE-SECRET-KEY-1ABC is no key", "line 1: *** is no key"),
        ("secret: must be up to 64 bytes", "secret: must be up to 64 bytes"),
        ("severity: must be 'info' (got 'bad')", "severity: must be 'info' (got 'bad')"),
        ("resource 'https://host:8080/x' at 12:00", "resource 'https://host:8080/x' at 12:00"),
    ],
)
def test_a_text_without_its_secrets(text: str, shown: str) -> None:
    assert hide_secrets(text) == hide_secrets(shown) == shown


@given(
    st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=8),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=0, max_size=8),
    st.booleans(),
)
def test_any_password_is_hidden(before: str, after: str, escaped: bool) -> None:
    password = f"{before}{WHOLE}{after}"
    written = quote(password, safe="") if escaped else password
    assert not shows(shown_url(f"postgresql://ann:{written}@host:5432/db"))
    if escaped:
        assert not shows(shown_url(f"redis://host/0?db=1&password={written}"))
        assert not shows(hide_secrets(f"can't reach postgresql://ann:{written}@host:5432/db: refused"))
    literal = password.replace("\\", "\\\\").replace("'", "\\'")
    assert not shows(hide_secrets(f"host=h password='{literal}' user=u"))


# -- the library ------------------------------------------------------------------------------------------------------------

OPENERS: dict[str, Callable[[str], object]] = {
    "open_storage": open_storage,
    "with a cache": lambda url: open_storage(url, cache=URLS["redis"]),
    "status": migrations.status,
    "upgrade": migrations.upgrade,
    "plan": migrations.plan,
    "check": migrations.check,
    "list_access": access.list_access,
    "text_index": text_index.status,
}


@pytest.mark.parametrize("name", OPENERS)
@pytest.mark.parametrize("url", URLS.values(), ids=URLS)
def test_no_error_shows_a_password(
    url: str, name: str, log: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError) as refused:
        OPENERS[name](url)
    assert not any(shows(said) for said in all_of(refused.value)), [*all_of(refused.value)]
    assert not shows("".join(traceback.format_exception(refused.value)))
    assert not shows(log.text)
    assert [*tmp_path.iterdir()] == []


@pytest.mark.parametrize("url", REDIS_URLS.values(), ids=REDIS_URLS)
def test_no_error_of_a_cache_shows_a_password(url: str, log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(StorageError) as refused:
        cache_status(url)
    assert not any(shows(said) for said in all_of(refused.value)), [*all_of(refused.value)]
    if not isinstance(refused.value, StorageValidationError):
        with open_storage("memory:", cache=url) as store:
            store.list_findings("p")
            assert not shows(repr(store.health()) + repr(store))
    assert not shows(log.text)


@pytest.mark.parametrize("how", ["userinfo", "query", "percent", "at"])
def test_a_store_shows_no_password(
    postgresql_url: str, redis: RedisServer, how: str, log: pytest.LogCaptureFixture
) -> None:
    """With a password that is right: the server asks for none, and psycopg gets all of it."""
    url, password = with_password(postgresql_url, how)
    registry = CollectorRegistry()
    cached = open_storage(url, cache=redis.url)
    with MetricsAdapter(cached, registry=registry, name=url) as store:
        store.ingest("p", [{"detector_id": "scan.a", "title": "t", "severity": "low"}])
        engine: Any = cached.inner.engine  # type: ignore[attr-defined]
        with engine.connect() as connection:
            assert connection.connection.driver_connection.info.password == password
        said = [
            repr(store.health()),
            repr(store),
            repr(cached),
            repr(engine),
            repr(engine.url),
            str(engine.url),
        ]
        said += [repr(diagnosable(store).diagnose()), generate_latest(registry).decode(), log.text]
        with pytest.raises(StorageError) as refused:
            open_storage(f"{url}&dbname=none" if "?" in url else f"{url}_none")
        said += all_of(refused.value)
        assert not any(map(shows, said)), said


def with_password(url: str, how: str) -> tuple[str, str]:
    """Return a URL with a password, and the password."""
    written, password = {
        "userinfo": (WHOLE, WHOLE),
        "query": (WHOLE, WHOLE),
        "percent": (f"{FIRST}%40{LAST}", f"{FIRST}@{LAST}"),
        "at": (f"{FIRST}@{LAST}", f"{FIRST}@{LAST}"),
    }[how]
    if how == "query":
        return f"{url}?password={written}", password
    return url.replace("postgres@", f"postgres:{written}@"), password


# -- the command line ---------------------------------------------------------------------------------------------------------


def arguments(command: Any, url: str, redis_url: str, folder: Path) -> list[str]:
    """Return arguments that get a command as far as the storage."""
    given: list[str] = []
    for each in command.params:
        kind = (each.metavar or each.name or "").upper()
        value = "p"
        if "URL" in kind:
            value = redis_url if "--cache" in each.opts else url
        elif "FILE" in kind or "FOLDER" in kind:
            value = str(folder if "FOLDER" in kind else folder / "given.jsonl")
        elif "REVISION" in kind or "ID" in kind:
            value = "head"
        if each.param_type_name == "argument":
            given += [value] if each.required else []
        elif {"--yes", "--once"} & set(each.opts):
            given.append(each.opts[0])
        elif each.required or "URL" in kind:
            given += [each.opts[0], value]
    return given


def said_by(name: tuple[str, ...], args: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with suppress(SystemExit):
        APP.main([*name, *args], standalone_mode=False)
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "given.jsonl").write_text('{"detector_id": "scan.a", "title": "t", "severity": "low"}\n')
    return tmp_path


@pytest.mark.no_cover
@pytest.mark.parametrize("name", COMMANDS, ids=" ".join)
def test_no_command_shows_a_password(
    name: tuple[str, ...],
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Given on the command line, with ``--debug``, or by the environment; and where there is no place for it."""
    redis_urls = [*REDIS_URLS.values()]
    for number, url in enumerate(URLS.values()):
        args = arguments(COMMANDS[name], url, redis_urls[number % len(redis_urls)], folder)
        said = said_by(name, [*args, "--url", url, "--debug"], capsys)
        assert not shows(said + log.text), (url, said, log.text)
    url = URLS["at"]
    monkeypatch.setenv("FINDINGS_DATABASE_URL", url)
    monkeypatch.setenv("FINDINGS_CACHE_URL", REDIS_URLS["at"])
    monkeypatch.setenv("FINDINGS_BACKUP_KEY", f"AGE-SECRET-KEY-1{WHOLE.upper()}")
    monkeypatch.setenv("PGPASSWORD", WHOLE)
    for args in (
        arguments(COMMANDS[name], url, REDIS_URLS["at"], folder),
        [url] * 4,
        ["--help"],
        [f"--{url}"],
    ):
        said = said_by(name, [*args, "--debug"], capsys)
        assert said or name == ("backup", "key"), args
        assert not shows(said + log.text), (args, said, log.text)


@pytest.mark.parametrize("how", ["userinfo", "query"])
def test_no_command_that_gets_through_shows_a_password(
    how: str,
    postgresql_url: str,
    redis: RedisServer,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    log: Any,
) -> None:
    url, _ = with_password(postgresql_url, how)
    redis_url = f"{redis.url}?password={WHOLE}"
    said = said_by(("import",), ["given.jsonl", "-p", "p", "--url", url], capsys)
    assert "created 1" in said
    for name, command in COMMANDS.items():
        if name[-1] not in ("downgrade", "delete-project"):
            said = said_by(name, [*arguments(command, url, redis_url, folder), "--url", url], capsys)
            assert not shows(said), said
    assert not shows(log.text)


def test_the_reason_of_what_went_wrong_is_still_said() -> None:
    with pytest.raises(
        StorageUnavailableError, match=r"postgresql\+psycopg://ann:\*\*\*@127.0.0.1:1/db.*refused"
    ):
        open_storage(URLS["at"])
    with pytest.raises(StorageValidationError, match=r"must be sqlite:///PATH \(got 'sqlite://ann:\*\*\*@"):
        open_storage(URLS["sqlite"])
