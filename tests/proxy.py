"""A small TCP proxy that cuts, delays and drops connections."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards connections to a port of this machine, as badly as it is told.

    Attributes:
        delay: seconds that each piece of an answer is held back.
        piece: bytes that are passed on at once.
        refuse: accept new connections and close them at once.
        cut_after: bytes of questions after which a connection is cut; None: never.
    """

    def __init__(self, port: int, tls: ssl.SSLContext | None = None) -> None:
        self._target = port
        self._tls = tls
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.delay = 0.0
        self.piece = 65536
        self.refuse = False
        self.cut_after: int | None = None
        self._open: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break all connections, without a word to either side."""
        for each in list(self._open):
            self._end(each)

    def close(self) -> None:
        """Stop listening, and cut."""
        self.refuse = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if self.refuse:
                    self._end(client)
                    continue
                try:
                    if self._tls is not None:
                        client = self._tls.wrap_socket(client, server_side=True)
                    server = socket.create_connection(("127.0.0.1", self._target))
                except OSError:
                    self._end(client)
                    continue
                self._open |= {client, server}
                if self.refuse:
                    self.cut()
                    continue
                for source, sink, answers in ((client, server, False), (server, client, True)):
                    arguments = (source, sink, answers)
                    threading.Thread(target=self._forward, args=arguments, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, answers: bool) -> None:
        passed = 0
        with contextlib.suppress(OSError):
            while data := source.recv(self.piece):
                if answers and self.delay:
                    time.sleep(self.delay)
                passed += len(data)
                if not answers and self.cut_after is not None and passed > self.cut_after:
                    sink.sendall(data[: len(data) // 2])
                    break
                sink.sendall(data)
        for each in (source, sink):
            self._end(each)

    def _end(self, each: socket.socket) -> None:
        self._open.discard(each)
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
