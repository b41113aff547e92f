"""The client's end of the compute resource's socket."""

from __future__ import annotations

import pickle
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.errors import NotFoundError, PortsError, ResourceLostError, TimedOutError, UsageError
from ports.jobs._connection import Connection, revive
from ports.jobs._protocol import Decoder, Frame, encode

Answer = Callable[[Frame], list[bytes]]


class Server:
    """A socket that answers each frame by `answer`; None ends the connection."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.answer: Callable[[Frame], list[bytes] | None] = lambda frame: [encode({"n": frame.header["n"]})]
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.listener.bind(str(path))
        self.listener.listen()
        self.seen: list[Frame] = []
        self.clients: list[socket.socket] = []
        self.threads = [threading.Thread(target=self.accept, daemon=True)]
        self.threads[0].start()

    def accept(self) -> None:
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            self.clients.append(one)
            self.threads.append(threading.Thread(target=self.serve, args=(one,), daemon=True))
            self.threads[-1].start()

    def serve(self, one: socket.socket) -> None:
        decoder = Decoder()
        with one:
            while data := one.recv(65536):
                for frame in decoder.feed(data):
                    self.seen.append(frame)
                    answers = self.reply(frame)
                    if answers is None:
                        return
                    for answer in answers:
                        one.sendall(answer)

    def reply(self, frame: Frame) -> list[bytes] | None:
        if frame.header["op"] == "hello":
            return [encode({"n": frame.header["n"], "protocol": 1, "version": "1", "pid": 1, "python": "3.11"})]
        return self.answer(frame)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        for thread in self.threads:
            thread.join(5)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    one = Server(tmp_path / "resource.sock")
    yield one
    one.close()


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with Connection(server.path) as one:
        yield one


def test_a_question_gets_its_answer_and_blobs(server: Server, connection: Connection) -> None:
    server.answer = lambda frame: [encode({"n": frame.header["n"], "got": frame.header["id"]}, frame.blobs)]
    frame = connection.ask("result", [b"a", b""], id="12.7")
    assert (frame.header["got"], frame.blobs) == ("12.7", [b"a", b""])
    assert connection.resource["protocol"] == 1


def test_a_connection_that_ended_while_nobody_used_it_is_known(server: Server, connection: Connection) -> None:
    assert not connection.has_ended()
    server.clients[0].shutdown(socket.SHUT_RDWR)
    assert connection.has_ended()


def test_answers_with_more_come_one_by_one(server: Server, connection: Connection) -> None:
    server.answer = lambda frame: [
        encode({"n": frame.header["n"], "i": number, **({"more": True} if number < 3 else {})}) for number in range(4)
    ]
    assert [frame.header["i"] for frame in connection.stream("watch")] == [0, 1, 2, 3]


def test_threads_share_a_connection_and_each_gets_its_own(server: Server, connection: Connection) -> None:
    waiting: list[Frame] = []

    def answer(frame: Frame) -> list[bytes]:
        waiting.append(frame)
        if len(waiting) % 8:
            return []
        turn, waiting[:] = waiting[::-1], []
        return [encode({"n": one.header["n"], "mine": one.header["mine"]}) for one in turn]

    server.answer = answer
    found: list[Any] = []
    threads = [
        threading.Thread(target=lambda number=number: found.append((number, connection.ask("x", mine=number))))
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(number for number, _ in found) == list(range(8))
    assert all(frame.header["mine"] == number for number, frame in found)


def test_an_error_of_the_resource_is_raised_here(server: Server, connection: Connection) -> None:
    told = {"kind": "NotFoundError", "text": "no job '7'; `ports job list` lists them", "exit_code": 3}
    server.answer = lambda frame: [encode({"n": frame.header["n"], "error": told})]
    with pytest.raises(NotFoundError) as caught:
        connection.ask("show", id="7")
    assert (str(caught.value), caught.value.exit_code) == (told["text"], 3)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (type(copy).__name__, str(copy)) == ("NotFoundError", told["text"])


def test_errors_keep_class_and_text() -> None:
    plain = revive({"kind": "UsageError", "text": "wrong", "exit_code": 2})
    assert type(plain) is UsageError and str(plain) == "wrong"
    parts = revive({"kind": "TimedOutError", "args": ["it", 2], "text": "timed out after 2 s waiting for it"})
    assert type(parts) is TimedOutError
    other = revive({"kind": "os", "text": "odd", "exit_code": 5})
    assert isinstance(other, PortsError) and str(other) == "odd"


def test_a_connection_that_ends_is_said_to_whoever_waits(server: Server, connection: Connection) -> None:
    server.answer = lambda frame: None
    with pytest.raises(ResourceLostError):
        connection.ask("submit")
    assert connection.is_lost
    with pytest.raises(ResourceLostError):
        connection.ask("submit")


def test_an_answer_that_does_not_come_is_waited_for_so_long(server: Server, connection: Connection) -> None:
    server.answer = lambda frame: []
    with pytest.raises(TimedOutError):
        connection.ask("status", timeout=0.05)
    server.answer = lambda frame: [encode({"n": frame.header["n"]})]
    assert connection.ask("status", timeout=5).header["n"]


def test_what_answers_in_another_way_is_an_error_in_words(server: Server, connection: Connection) -> None:
    server.answer = lambda frame: [b"HTTP/1.1 400 Bad Request\r\n\r\n"]
    with pytest.raises(ResourceLostError, match="no frame"):
        connection.ask("status")


def test_where_nothing_listens_the_error_names_the_socket(tmp_path: Path) -> None:
    with pytest.raises(ResourceLostError, match=r"resource\.sock: No such file"):
        Connection(tmp_path / "resource.sock")
