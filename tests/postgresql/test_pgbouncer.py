"""The conformance suite through PgBouncer in transaction mode, where Debian's package is installed."""

from __future__ import annotations

import os
import pathlib
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from servers import TEMPLATE, PostgresServer
from sessions import sql_store
from sqlalchemy import Engine
from test_prepared_statements import ASYNCPG, EAGER, PSYCOPG, refuse, run_with_engine, write_and_read

from findings_orm import FindingStore, open_storage
from findings_orm.testing.contract import FindingStoreContract

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
SETTINGS = """\
[databases]
* = host=127.0.0.1 port={server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
logfile = {folder}/log
"""


@pytest.fixture(scope="session")
def pooler(postgresql_18: PostgresServer) -> Iterator[int]:
    """The port of a PgBouncer that gives each transaction another server connection."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="findings-pgbouncer-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    settings = folder / "pgbouncer.ini"
    (folder / "users").write_text('"postgres" ""\n')
    settings.write_text(SETTINGS.format(server=postgresql_18.port, port=port, folder=folder))
    account = {}
    if os.getuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    assert PGBOUNCER is not None
    process = subprocess.Popen([PGBOUNCER, "-q", str(settings)], cwd=folder, **account)  # type: ignore[call-overload]
    try:
        _wait(port)
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)


def _wait(port: int) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(
                f"postgresql://postgres@127.0.0.1:{port}/postgres", prepare_threshold=None
            ).close()
            return
        except psycopg.OperationalError:
            assert time.monotonic() < deadline, "PgBouncer does not answer"
            time.sleep(0.05)


if PGBOUNCER:

    @pytest.mark.no_cover
    class TestThroughPgBouncer(FindingStoreContract):
        persistent = True
        shared_between_processes = True

        @pytest.fixture
        def reopen(self, pooler: int, postgresql_18: PostgresServer) -> Iterator[Callable[[], FindingStore]]:
            name = postgresql_18.create_database(TEMPLATE)
            yield lambda: open_storage(f"postgresql://postgres@127.0.0.1:{pooler}/{name}")
            postgresql_18.drop_database(name)

        @pytest.fixture
        def store(self, reopen: Callable[[], FindingStore]) -> Iterator[FindingStore]:
            with reopen() as store:
                yield store

    def test_migrations_and_schemas_pass_through(pooler: int, postgresql_18: PostgresServer) -> None:
        name = postgresql_18.create_database()
        url = f"postgresql://postgres@127.0.0.1:{pooler}/{name}?schema=other"
        with open_storage(url, migrate=True, statement_timeout=30) as store:
            store.save_finding({"id": "0" * 8 + "-0000-4000-8000-" + "0" * 12, "project_id": "p", "detector_id": "d",
                                "title": "t", "severity": "low", "created_at": "2024-05-01T00:00:00Z"})  # fmt: skip
            assert len(store.list_findings("p")) == 1
        postgresql_18.drop_database(name)

    UNPREPARED = {"connect_args": {"prepare_threshold": None}}
    UNNAMED = {
        "connect_args": {
            "statement_cache_size": 0,
            "prepared_statement_cache_size": 0,
            "prepared_statement_name_func": lambda: "",
        }
    }

    @pytest.mark.parametrize(
        ("driver", "options", "refusal"),
        [
            ("psycopg", EAGER, PSYCOPG),
            ("psycopg", UNPREPARED, None),
            ("async psycopg", EAGER, PSYCOPG),
            ("async psycopg", UNPREPARED, None),
            ("asyncpg", {}, ASYNCPG),
            ("asyncpg", UNNAMED, None),
        ],
    )
    def test_an_engine_of_an_application_needs_the_setting(
        pooler: int, postgresql_18: PostgresServer, driver: str, options: dict[str, Any], refusal: str | None
    ) -> None:
        name = postgresql_18.create_database(TEMPLATE)
        url = f"postgresql://postgres@127.0.0.1:{pooler}/{name}"

        def work(engine: Engine) -> None:
            with engine.connect() as one, engine.connect() as other:
                write_and_read(store, one)
                one.commit()
                other.exec_driver_sql("SELECT 1")  # keeps the server's connection that the other one had
                if refusal is not None:
                    refuse(refusal, lambda: write_and_read(store, one), "exist")
                    return
                write_and_read(store, one)
                one.commit()

        with sql_store(url) as store:
            run_with_engine(url, driver, options, work)
        postgresql_18.drop_database(name)
