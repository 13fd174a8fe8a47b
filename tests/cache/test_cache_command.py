"""`findings cache`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from redis_servers import RedisServer

from findings_orm import open_storage
from findings_orm.cli.app import app
from findings_orm.testing.samples import OTHER, PROJECT, finding


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Return a callable that runs `findings` and returns its exit code, output and errors."""
    from typer.main import get_command

    def run(*arguments: str) -> tuple[int, str, str]:
        code = get_command(app).main(list(arguments), standalone_mode=False)
        captured = capsys.readouterr()
        return int(code or 0), captured.out, captured.err

    return run


def test_status_and_clear(run: Any, redis: RedisServer) -> None:
    redis.do("SET", "somebody-else", "1")
    store: Any = open_storage("memory:", cache=redis.url)
    with store:
        for project_id in (PROJECT, OTHER):
            store.save_finding(finding(project_id=project_id))
            store.summarize(project_id)
            store.list_findings(project_id)
        code, out, _ = run("cache", "status", "--cache", redis.url, "--format", "json")
        assert code == 0
        found = json.loads(out)
        assert found["entries"] == {"list_findings": 2, "summarize": 2}
        assert found["url"] == redis.url
        code, out, err = run("cache", "status", "--cache", redis.url)
        assert (code, "list_findings  2" in out, "maxmemory" in err) == (0, True, True)
        code, out, _ = run("cache", "clear", "--cache", redis.url, "--project", PROJECT)
        assert (code, out) == (0, "removed 2 keys\n")
        store._near.drop_project(None)
        for project_id in (PROJECT, OTHER):
            store.summarize(project_id)
        assert store.statistics()["summarize"]["hits"] == 1
        assert store.statistics()["summarize"]["loads"] == 3
    code, out, _ = run("cache", "clear", "--cache", redis.url)
    assert (code, out) == (0, "removed 3 keys\n")
    assert redis.do("KEYS", "*") == [b"somebody-else"]


def test_clearing_reaches_the_memory_of_instances_that_listen(run: Any, redis: RedisServer) -> None:
    with open_storage("memory:", cache=redis.url) as store:
        store.save_finding(finding(1))
        store.summarize(PROJECT)
        while not store.health().details["cache"]["listening"]:
            pass
        assert run("cache", "clear", "--cache", redis.url)[0] == 0
        while store.health().details["cache"]["near"]["entries"]:
            pass


def test_what_goes_wrong_is_said(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("cache", "status", "--cache", "http://host")[0] == 2
    monkeypatch.setenv("FINDINGS_CACHE_URL", "redis://:pa55@127.0.0.1:1/0")
    code, _, err = run("cache", "clear")
    assert code == 3
    assert "127.0.0.1:1" in err
    assert "pa55" not in err
    assert run("cache", "clear", "--namespace", "a*")[0] == 2


def test_a_cache_without_a_secret_is_said(
    run: Any, redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Once in the log, by the store itself, by the doctor and by ``cache status``; with one, by none of them."""
    name = redis.url.replace("127.0.0.1", "localhost")
    for _ in range(2):
        store: Any = open_storage("memory:", cache=name)
        with store:
            store.save_finding(finding(1))
            store.summarize(PROJECT)
            (problem,) = store.diagnose()
            assert (problem.level, problem.check) == ("warning", "cache-secret")
    assert caplog.text.count("the cache has no secret") == 1
    assert "the cache has no secret" in run("cache", "status", "--cache", redis.url)[2]
    code, out, _ = run("doctor", "--url", "memory:", "--cache", redis.url)
    assert (code, "cache-secret" in out) == (1, True)
    run("cache", "clear", "--cache", redis.url)
    caplog.clear()
    code, secret, _ = run("cache", "secret")
    assert (code, len(secret)) == (0, 65)
    assert run("cache", "secret")[1] != secret
    options = {"secret": secret.strip().encode()}
    store = open_storage("memory:", cache=redis.url, cache_options=options)
    with store:
        store.save_finding(finding(1))
        store.summarize(PROJECT)
        assert store.diagnose() == []
    assert "secret" not in caplog.text + run("cache", "status", "--cache", redis.url)[2]
    assert run("doctor", "--url", "memory:", "--cache", redis.url)[0] == 0
    assert run("doctor", "--url", "memory:", "--cache", "http://h")[0] == 2
    code, out, _ = run("doctor", "--url", "memory:", "--cache", "redis://127.0.0.1:1")
    assert (code, "Start it, or name another one" in out) == (1, True)
