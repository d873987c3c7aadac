"""A small MQTT 3.1.1 broker for tests: takes what is published, keeps what is retained, sends to nobody."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from typing import NamedTuple

from conftest import free_port

CONNECT, PUBLISH, PINGREQ, DISCONNECT = 1, 3, 12, 14


class Message(NamedTuple):
    topic: str
    payload: bytes
    retained: bool


class Broker:
    """Listens on a port of 127.0.0.1 between start and stop.

    Attributes:
        messages: all that was published, oldest first.
        logins: (user, password) of each connection.
        acknowledges: whether it says that it has a message.
        slow_s: how long it takes to say so.
        password: if set, the only one that is let in.
    """

    def __init__(self) -> None:
        self.port = free_port()
        self.messages: list[Message] = []
        self.wills: list[str] = []
        self.logins: list[tuple[str, str]] = []
        self.acknowledges, self.password, self.slow_s = True, "", 0.0
        self._connections: list[socket.socket] = []

    def start(self) -> None:
        self._listening = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listening,), daemon=True).start()

    def stop(self) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self._connections.clear()

    def topics(self) -> list[str]:
        return [message.topic for message in self.messages]

    def _accept(self, listening: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                self._connections.append(connection)
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), connection.makefile("rb") as stream:
            while True:
                head = self._take(stream, 1)[0]
                length = shift = 0
                while True:
                    byte = self._take(stream, 1)[0]
                    length |= (byte & 127) << shift
                    shift += 7
                    if not byte & 128:
                        break
                body = self._take(stream, length)
                kind = head >> 4
                if kind == CONNECT:
                    connection.sendall(bytes((0x20, 2, 0, self._let_in(body))))
                elif kind == PUBLISH:
                    self._note(connection, head, body)
                elif kind == PINGREQ:
                    connection.sendall(bytes((0xD0, 0)))
                elif kind == DISCONNECT:
                    return

    @staticmethod
    def _take(stream, count: int) -> bytes:
        found: bytes = stream.read(count)
        if len(found) < count:
            raise EOFError
        return found

    def _let_in(self, body: bytes) -> int:
        """Read a CONNECT and return the answer's code: 0, or 5 for a wrong password."""
        flags, at = body[7], 10
        fields = []
        while at < len(body):
            length = int.from_bytes(body[at : at + 2], "big")
            fields.append(body[at + 2 : at + 2 + length])
            at += 2 + length
        if flags & 0x04:
            self.wills.append(fields[1].decode())
        user, password = (fields[-2].decode(), fields[-1].decode()) if flags & 0x80 else ("", "")
        self.logins.append((user, password))
        return 5 if self.password and password != self.password else 0

    def _note(self, connection: socket.socket, head: int, body: bytes) -> None:
        length = int.from_bytes(body[:2], "big")
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        has_id = bool(head & 0x06)
        self.messages.append(Message(topic, rest[2:] if has_id else rest, bool(head & 1)))
        time.sleep(self.slow_s)
        if has_id and self.acknowledges:
            connection.sendall(bytes((0x40, 2)) + rest[:2])
