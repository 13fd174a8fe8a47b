"""Hearing of other instances' writes."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Callable
from typing import Any
from uuid import uuid4
from weakref import WeakMethod

from findings_orm.secrecy import hide_secrets

_log = logging.getLogger(__name__)

_POLL = 0.2
_PAUSES = (0.1, 0.5, 1.0, 2.0, 5.0)


def change_message(sender: str, projects: list[str | None]) -> str:
    """Return what is published after a write to projects, None for any."""
    return json.dumps({"from": sender, "projects": projects})


class Listener:
    """A thread that listens to the channel of writes, from the first `start` to `close`.

    Args:
        make: makes a client of its own.
        channel: the channel.
        heard: a method that is called with a project that was written to, None for any. Its object is not kept alive: the
            thread ends by itself, a moment after that is gone.
        missed: a method that is called when the subscription begins (again): there may have been writes before.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        channel: str,
        heard: Callable[[str | None], None],
        missed: Callable[[], None],
    ) -> None:
        self._make = make
        self._channel = channel
        self._heard: Callable[[], Callable[[str | None], None] | None] = WeakMethod(heard)
        self._missed: Callable[[], Callable[[], None] | None] = WeakMethod(missed)
        self._name = uuid4().hex
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.subscribed = False

    def start(self) -> None:
        """Begin to listen; once is enough."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._ended.is_set():
                thread = threading.Thread(target=self._listen_until_end, name="findings-cache", daemon=True)
                thread.start()
                self._thread = thread

    def close(self) -> None:
        """Stop. The thread ends by itself a moment later."""
        self._ended.set()

    def change_message(self, projects: list[str | None]) -> str:
        """Return what to publish after a write."""
        return change_message(self._name, projects)

    def _listen_until_end(self) -> None:
        failures = 0
        while self._is_wanted():
            try:
                failures = self._follow_channel(failures)
            except Exception as error:  # noqa: BLE001  # whatever a broken Redis makes of it, the thread tries again
                _log.debug("the cache hears of no writes: %s", hide_secrets(str(error)))
            self.subscribed = False
            self._ended.wait(_PAUSES[min(failures, len(_PAUSES) - 1)])
            failures += 1

    def _follow_channel(self, failures: int) -> int:
        """Listen until the connection breaks (which raises) or the end; return the number of failures in a row."""
        client = self._make()
        try:
            with client.pubsub() as subscription:
                subscription.subscribe(self._channel)
                while self._is_wanted():
                    received = subscription.get_message(timeout=_POLL)
                    if received is not None:
                        failures = 0
                        self._take_message(received)
        finally:
            client.close()
        return failures

    def _is_wanted(self) -> bool:
        return not self._ended.is_set() and self._heard() is not None

    def _take_message(self, received: dict[str, Any]) -> None:
        heard, missed = self._heard(), self._missed()
        if heard is None or missed is None:
            return
        if received["type"] == "subscribe":
            missed()
            self.subscribed = True
        elif received["type"] == "message":
            for project_id in self._parse_projects(received["data"]):
                heard(project_id)

    def _parse_projects(self, data: bytes) -> list[str | None]:
        try:
            content = json.loads(data)
            if content["from"] == self._name:
                return []
            return [one if isinstance(one, str) else None for one in content["projects"]]
        except (ValueError, TypeError, KeyError, RecursionError):
            return [None]
