"""What holds tunnels, where several threads and processes want something of it at once."""

from __future__ import annotations

import functools
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ports import tunnels
from ports.cli import main
from ports.errors import NotFoundError, PortsError, SSHError, StoreError
from ports.hosts import Target
from ports.sessions import new_identity, processes
from ports.state import runtime_directory
from ports.state.waiting import wait_until
from ports.tunnels import _background, _browser
from ports.tunnels import _records as tunnel_records
from ports.tunnels._event_loop import bind
from ports.tunnels._group import TunnelGroup, _as_open_already, check_targets
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._local_forward import LocalForward
from ports.tunnels._requests import OpenRequest
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel
from ports.tunnels._visitors import Visitors

TIMES = 100


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    yield
    for lock in runtime_directory().glob("*.lock"):
        lock.unlink()
    runtime_directory().rmdir()


@pytest.fixture
def group(home: None) -> Iterator[TunnelGroup]:
    with TunnelGroup() as made:
        listening(made)  # the group ends with its last tunnel
        yield made


def listening(group: TunnelGroup) -> Tunnel:
    """Return a tunnel that serves on another port than its usual one, which is free again."""
    tunnel = Tunnel("server1", "cluster", "main", state="open", forward=LocalForward())
    assert tunnel.forward is not None
    usual = bind(0)
    tunnel.usual_port = usual[0].getsockname()[1]
    tunnel.local_port = group._relay.listen(bind(0), tunnel.forward)
    tunnel.ports.add(tunnel.local_port)
    for half in usual:
        half.close()
    group._host("server1").tunnels.add([tunnel])
    return tunnel


def test_a_tunnel_closed_as_its_usual_port_becomes_free_leaves_nothing(group: TunnelGroup) -> None:
    for _ in range(TIMES):
        tunnel = listening(group)
        reclaims = threading.Thread(target=group._host("server1")._opener.reclaim, args=(tunnel,))
        reclaims.start()
        group.close_tunnels([tunnel])
        reclaims.join()
        assert not tunnel.ports
    assert len(group._relay._forwards) == 1


def test_a_tunnel_that_two_processes_close_at_once_is_closed_once(group: TunnelGroup) -> None:
    tunnel = listening(group)
    rows = group.close_tunnels([tunnel, tunnel]) + group.close_tunnels([tunnel])
    assert {row["state"] for row in rows} == {"closed"}
    assert tunnel not in group.tunnels and len(group.tunnels) == 1


@pytest.mark.parametrize("words", [["server1"], ["--all"]])
def test_a_record_of_a_newer_ports_is_reported_when_closing_a_tunnel(
    capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    record, _ = tunnel_records.new_paths(1, 0)
    record.write_text('{"format": 99}')
    assert main.run(main.ports, ["tunnel", "close", *words]) == 7
    assert "newer" in capsys.readouterr().err
    assert main.run(main.ports, ["tunnel", "list", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["state"] == "unknown" and str(record) in row["error"]


def test_the_background_process_imports_nothing_from_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("import os; os.mkdir('ran')")
    monkeypatch.chdir(tmp_path)
    record = _background._spawn()
    assert tunnel_records.keeper() == record
    processes.end([record.process], timeout=10)
    assert not (tmp_path / "ran").exists() and tunnel_records.keeper() is None
    wait_until(lambda: not Path(record.control).exists() or None, timeout=10, what="end of the keeper")


def removed(path: Path) -> None:
    """Leave no socket at all."""


def dead(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def no_socket(path: Path) -> None:
    path.write_text("a file")


def ending(path: Path, *, answer: bytes = b"", reads: bool = True) -> None:
    """Take one connection, and end it with that answer; with what was sent unread, the kernel resets it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()

    def end() -> None:
        with listener, listener.accept()[0] as connection:
            connection.recv(999 if reads else 1)
            connection.sendall(answer)

    threading.Thread(target=end, daemon=True).start()


resetting, talking = functools.partial(ending, reads=False), functools.partial(ending, answer=b"no JSON\n")


@pytest.mark.parametrize("make", [removed, dead, no_socket, ending, resetting, talking])
def test_a_process_that_refuses_the_connection_is_not_called_slow(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "s")
    mine, now = new_identity()
    record = tunnel_records.GroupRecord(process=mine, control=str(tmp_path / "s"), started_at=now)
    with pytest.raises(PortsError, match=r"cannot be asked \(.*/s: ") as told:
        tunnel_records.ask(record, {"rows": True}, timeout=0.3)
    assert not isinstance(told.value, TimeoutError), told.value


def service(key: str, machine: str = "m") -> Service:
    return Service("server1", "cluster", key, f"cluster-{key}", machine, "alice", "127.0.0.1:1")


def test_two_services_that_would_get_the_same_port_get_two_and_keep_them() -> None:
    tunnel_records.new_paths(1, 0)
    first = [tunnel_records.port_of(service(name), 20000, 20002) for name in ("a", "b", "c")]
    again = [tunnel_records.port_of(service(name), 20000, 20002) for name in ("c", "b", "a")]
    assert sorted(first) == [20000, 20001, 20002] and again == first[::-1]
    assert tunnel_records.port_of(service("a"), 21000, 31000) == service("a").derived_port(21000, 31000)


def test_a_page_that_compares_origins_gets_its_own_port() -> None:
    far = Service("s", "bokeh", "app", "port-5006", "m", "alice", "127.0.0.1:5006", port=5006)
    assert tunnel_records.port_of(far, 20000, 30000) == 5006
    assert tunnel_records.port_of(replace(far, kind="mlflow"), 20000, 30000) >= 20000
    assert tunnel_records.remembered_port(far, 20000, 30000) >= 20000  # where that one is taken


def test_without_a_record_of_links_a_service_gets_its_derived_port() -> None:
    record, _ = tunnel_records.new_paths(1, 0)
    (record.parent / "links.json").write_text("{")
    assert tunnel_records.port_of(service("a"), 20000, 30000) == service("a").derived_port(20000, 30000)


# --- what somebody on a host wants to see here ---


def test_what_no_browser_came_for_is_not_called_opened(group: TunnelGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    group.tunnels[0].service = service("main")
    asked: list[str] = []
    monkeypatch.setattr(_browser, "open_once", lambda link: asked.append(link))
    told = group._browse("server1", {"name": "main"})
    assert len(asked) == 1 and told["ok"] is False and "no browser" in told["error"]


@pytest.mark.parametrize(
    "link",
    ["ftp://files.example.org/", "vscode://extension/x", "//example.org/", "http://localhost:99999/", "http://[::1/"],
)
def test_a_link_that_is_none_of_a_page_is_not_opened_whoever_asks(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch, link: str
) -> None:
    monkeypatch.setattr(_browser, "open_once", lambda link: pytest.fail(f"{link} was opened"))
    told = group._browse("server1", {"url": link})
    assert told["ok"] is False and "not a link to a web page" in told["error"]


def test_what_cannot_be_browsed_is_told_once_and_forgotten(group: TunnelGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(wanted: list[Target], **_: object) -> None:
        for one in wanted:
            tunnel = Tunnel(one.host, None, str(one.port))
            group._host(one.host).tunnels.add_result(tunnel, NotFoundError("listener", "9", "none"))

    monkeypatch.setattr(group, "open", fail)
    before = group.tunnels
    for _ in range(3):
        assert "no listener" in group._browse("server1", {"url": "http://localhost:9/"})["error"]
    assert group.tunnels == before


@pytest.mark.parametrize(
    ("local", "clashes"),
    [
        (LocalAddress(), False),
        (LocalAddress(port=0), False),
        (LocalAddress(port=4444), False),
        (LocalAddress(port=4445), True),
        (LocalAddress(socket="/tmp/x.sock"), True),
        (LocalAddress(address="0.0.0.0", public=True), True),
    ],
)
def test_what_is_open_already_at_another_address_is_an_error(local: LocalAddress, clashes: bool) -> None:
    row = _as_open_already(Tunnel("server1", "cluster", "main", state="open", local_port=4444), local)
    assert row["note"] == "already open"
    told = "server1:main is already open at port 4444; `ports tunnel close server1:main` first" if clashes else None
    assert (row["state"], row["error"], row.get("exit_code")) == (
        ("error", told, 4) if clashes else ("open", None, None)
    )


def test_a_tunnel_is_closed_by_its_name_with_all_bytes_counted(group: TunnelGroup) -> None:
    tunnel = group.tunnels[0]
    group.serve()
    assert tunnel.forward is not None
    tunnel.forward.received += 2048
    tunnel.error = SSHError("server1", "is down")
    group._changed(tunnel)
    with pytest.raises(NotFoundError, match="name it with its host: server1:main; `ports tunnel list`"):
        tunnels.close("main")
    closed = tunnels.close("server1:main")
    assert [(row["received_bytes"], row["error"]) for row in closed] == [(2048, None)]


def test_leftovers_of_a_killed_process_are_not_listed_once_open_again(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    group.serve()
    path, record, _ = tunnel_records.read_all_records()[0]
    left = replace(record, rows=(*record.rows, {**record.rows[0], "name": "other"}))
    monkeypatch.setattr(tunnel_records, "read_all_records", lambda: [(path, left, False), (path, record, True)])
    assert [(row["name"], row["state"]) for row in tunnels.list()] == [("other", "stopped"), ("main", "open")]


def test_a_note_that_holds_no_more_is_dropped_and_the_others_stay() -> None:
    tunnel = Tunnel("server1", "cluster", "main")
    for note in ("port 1 is used by bob; using 2 until 1 is free", "it closes connections"):
        tunnel.add_note(note)
    tunnel.drop_note("it closes connections")
    assert tunnel.note == "port 1 is used by bob; using 2 until 1 is free"
    tunnel.note = "it closes connections"
    tunnel.drop_note("it closes connections")
    tunnel.drop_note("never told")
    assert tunnel.note is None


def test_a_usual_port_that_is_free_again_takes_no_other_note_away(group: TunnelGroup) -> None:
    tunnel = group.tunnels[0]
    tunnel.note = "belongs to bob; open because of --owner bob"
    tunnel.port_note = "port 1 is used by carol; using 2 until 1 is free"
    group._host("server1")._opener.reclaim(tunnel)
    note = str(tunnel.row()["note"])
    assert note.startswith("belongs to bob; open because of --owner bob; port ") and note.endswith(" works as well")
    (row,) = group.close_tunnels([tunnel])
    assert "works as well" not in str(row["note"])


def test_targets_are_kept_by_host_each_once() -> None:
    found = check_targets(["a:1", "b", "a:1", "a:x"], LocalAddress(), None)
    assert found == {"a": [Target("a", port=1), Target("a", "x")], "b": [Target("b")]}


# --- what another process asks ---


def test_a_failure_to_open_is_an_error_there_and_does_not_end_the_process(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fill(*_: object, **__: object) -> None:
        raise StoreError("/home", "No space left on device")

    group.serve()
    monkeypatch.setattr(group, "open", fill)
    (record,) = (record for _, record, _ in tunnel_records.read_all_records())
    for request, reason in (("full", "No space left"), ("unknown", "what a newer version says")):
        local = {} if request == "full" else {"what a newer version says": 1}
        asked = {"open": {"targets": ["server1"], "local": local, "owner": None}}
        with pytest.raises(PortsError, match=reason):
            tunnel_records.ask(record, asked, timeout=5)


def test_what_another_process_holds_is_shared_when_it_is_asked(group: TunnelGroup) -> None:
    tunnel = group.tunnels[0]
    assert tunnel.forward is not None
    tunnel.forward.visitors = Visitors("server1:main")
    group.serve()
    group._changed(tunnel)
    [(_, record, _)] = tunnel_records.read_all_records()
    assert tunnel_records.ask(record, {"share": [tunnel.number, 999]}) == {"shared": [tunnel.number]}
    assert tunnel.forward.visitors is None and tunnel.local.share


def test_a_link_at_a_unix_socket_cannot_be_shared() -> None:
    tunnel = Tunnel("s1", "cluster", "main", state="open", local=LocalAddress(socket="/x"), forward=LocalForward())
    row = _as_open_already(tunnel, LocalAddress(share=True))
    assert row["error"] == "s1:main is already open at /x; `ports tunnel close s1:main` first"


@pytest.mark.parametrize("is_late", [False, True])
@pytest.mark.parametrize(
    ("what", "port", "told"),
    [
        (("other", "cluster", "main"), None, "the link to the same service, open already as server1:main"),
        (("other", "cluster", "lab"), None, "the link to server1:main"),
        (("other", "cluster", "main"), "local", "the link to server1:main"),  # its own port on each of two hosts
    ],
)
def test_a_port_taken_by_another_alias_of_the_same_command_is_told(
    group: TunnelGroup, what: tuple[str, str, str], port: str | None, told: str, is_late: bool
) -> None:
    tunnel = group.tunnels[0]
    assert tunnel.local_port is not None
    if port is not None:
        tunnel.service = Service("server1", "bokeh", "main", "k", "m", "alice", "/x", port=tunnel.local_port)
    group.serve()
    if is_late:  # the link is recorded once it has answered
        threading.Timer(0.3, group._changed, (tunnel,)).start()
    else:
        group._changed(tunnel)
    assert tunnel_records.port_user(tunnel.local_port, what) == told


def test_what_another_process_asks_for_at_this_moment_is_still_followed(group: TunnelGroup) -> None:
    """Its request is withdrawn with its own answer, and not with that of a process that asked for the same."""
    wanted, host = [Target("server1", port=5555)], group._host("server1")
    host._add_request(OpenRequest(tuple(wanted)))
    group._asked += [list(wanted), list(wanted)]
    group._withdraw(wanted)
    assert host._requests
    group._withdraw(wanted)
    assert not host._requests


def test_a_failure_on_a_host_that_was_dropped_meanwhile_ends_nothing(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two processes ask for the same at once: the first to be answered drops the host."""

    def fail(wanted: list[str], **_: object) -> None:
        group._host("server9").tunnels.add_result(Tunnel("server9", None, "5555"), NotFoundError("listener", "9", "no"))
        monkeypatch.setattr(group, "_hosts", {**group._hosts})
        rows = group.tunnels
        monkeypatch.setattr(TunnelGroup, "tunnels", property(lambda _: rows))
        del group._hosts["server9"]

    monkeypatch.setattr(group, "open", fail)
    asked = {"targets": ["server9:5555"], "local": {}, "owner": None}
    answer = group._open_for_another(asked, lambda row: None)
    assert [row["exit_code"] for row in answer["settled"]] == [3]


def test_an_answer_holds_no_rows_of_what_another_process_asked_for(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_both(wanted: list[str], **_: object) -> None:
        tunnels = group._host("server1").tunnels
        for name in ("5555", "6666"):
            tunnels.add_result(Tunnel("server1", None, name), NotFoundError("listener", name, "none"))

    monkeypatch.setattr(group, "open", open_both)
    asked = {"targets": ["server1:5555"], "local": {}, "owner": None}
    answer = group._open_for_another(asked, lambda row: None)
    assert [row["name"] for row in answer["settled"]] == ["5555"]
    assert [one.name for one in group.tunnels if one.error] == ["6666"], "the other process has its own failure yet"


@pytest.mark.parametrize(
    ("machine", "boot", "user", "is_same"),
    [
        ("m", "b", "alice", True),
        ("m", "other", "alice", False),
        ("other", "b", "alice", False),
        ("m", "b", "bob", False),
    ],
)
def test_another_alias_of_a_host_is_told_from_a_node_of_one_image(
    group: TunnelGroup, monkeypatch: pytest.MonkeyPatch, machine: str, boot: str, user: str, is_same: bool
) -> None:
    """Nodes made from one image have one machine id, and services on them the same usual port. So have accounts."""
    tunnel = group.tunnels[0]
    tunnel.service = replace(service("main"), boot="b", user="alice")
    tunnel.ports.add(tunnel_records.remembered_port(tunnel.service, 20000, 32000))
    group.serve()
    group._changed(tunnel)
    there = replace(service("main", machine), host="server2", boot=boot, user=user)
    assert (tunnel_records.open_elsewhere(there, "server2") is not None) is is_same
    assert tunnel_records.open_elsewhere(there, "server1") is not None
    assert tunnel_records.open_elsewhere(there, "server1", except_at=group._relay.control) is None


def test_a_group_shows_its_links(group: TunnelGroup) -> None:
    assert repr(TunnelGroup()) == "<TunnelGroup: nothing is open>"
    service = Service("s2", "cluster", "big", "k", "m", "alice", "/x", path="status", token="secret")
    made = Tunnel("s2", "cluster", "big", "open", service=service, local_port=20001)
    group._host("s2").tunnels._tunnels.append(made)
    assert made.url is not None and "secret" in made.url, "else nothing could show it"
    assert repr(group).endswith("s2:big http://localhost:20001/ (open)>"), repr(group)
