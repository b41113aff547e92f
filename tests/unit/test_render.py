"""Rows become lines, tables and HTML; what came from outside is shown, never run."""

from __future__ import annotations

from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.cli import tables
from ports.clusters import _show, _text
from ports.probe import units

ROW: dict[str, Any] = {
    "host": "server1", "kind": "cluster", "name": "main", "state": "running", "reason": None, "n_workers": 2,
    "n_threads": 8, "memory_bytes": 3 * 2**30, "memory_limit_bytes": 16 * 2**30, "started_at": 1000.0,
    "link": "http://localhost:20001/status", "url": "unix:/tmp/s",
}  # fmt: skip
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-5, "0 s"), (0, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (5000, "1 h 23 min"),
     (86400, "1 d"), (1e7, "115 d")],
)  # fmt: skip
def test_a_duration_is_told_as_people_say_it(seconds: float, text: str) -> None:
    assert units.duration(seconds) == text


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [(None, ""), (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1.5 * 2**20, "1.5 MiB"), (2**30, "1.0 GiB"),
     (2**40, "1.0 TiB"), (3 * 2**50, "3072.0 TiB")],
)  # fmt: skip
def test_a_size_has_a_binary_unit(n_bytes: float | None, text: str) -> None:
    assert units.size(n_bytes) == text


def test_a_table_leaves_out_what_no_row_has() -> None:
    stopped = {"kind": "cluster", "name": "old", "state": "stopped", "reason": "killed by signal 9"}
    heading, first, second = tables.table([ROW, stopped], "cluster", now=1060.0)
    assert heading == ["NAME", "STATE", "WORKERS", "THREADS", "MEMORY", "SINCE", "LINK AT HOME", "NOTE"]
    assert first == ["main", "running", "2", "8", "3.0 GiB of 16.0 GiB", "1 min", ROW["link"], ""]
    assert second == ["old", "stopped", "", "", "", "", "", "killed by signal 9"]
    assert tables.table([stopped], "cluster", now=0)[0] == ["NAME", "STATE", "NOTE"]


@settings(max_examples=50)
@given(lines=st.integers(1, 4).flatmap(lambda n: st.lists(st.lists(TEXTS, min_size=n, max_size=n), max_size=5)))
def test_plain_text_keeps_every_cell_and_aligns_columns(lines: list[list[str]]) -> None:
    shown = tables.plain(lines)
    assert all(text.strip() in shown for line in lines for text in line)
    assert lines == [] or len(shown.split("\n")) == len(lines)


def test_a_table_fits_80_columns_and_breaks_no_word() -> None:
    note = "the memory guard paused 2 workers for 20 s, as other users took 12.3 GiB of what was free"
    row = {"host": "server1-from-home", "kind": "cluster", "name": "main", "state": "running", "pid": 12345,
           "path": "/tmp/ports-4201/cluster-main-c41f07.sock", "directory": "/home/alice/projects/thesis/chapter-3",
           "note": note, "started_at": 1000.0}  # fmt: skip
    short = {**row, "host": "s2", "note": None, "name": "lab"}
    fitted = tables.fit(tables.table([row, short], "listener", 1060.0), 80)
    shown = tables.plain(fitted)
    assert set(note.split()) <= set(shown.split()), "no word is broken"
    assert "server1-from-home" in shown and "…" in shown and "07.sock" in shown, "the end of a path says most"
    starts = {line.index(" cluster ") for line in shown.splitlines() if " cluster " in line}
    assert len(starts) == 1, "long aliases are aligned"
    wide = tables.table([row], "listener", 1060.0)
    assert tables.fit(wide, 400) == wide


def test_a_listing_of_common_width_has_80_columns() -> None:
    row = {"host": "server1", "kind": "cluster", "name": "main", "state": "running", "pid": 12345,
           "path": "/tmp/ports-4201/cluster-main-c41f07.sock", "directory": "/home/alice/projects/thesis/chapter-3",
           "started_at": 1000.0}  # fmt: skip
    shown = tables.plain(tables.fit(tables.table([row], "listener", 1060.0), 80))
    assert max(map(len, shown.splitlines())) <= 80


def test_a_port_of_this_machine_is_never_cut() -> None:
    row = {"host": "localhost", "kind": "tensorboard", "name": "board", "state": "open", "pid": 41943}
    row |= {"started_at": 0.0, "directory": "/home/alice/thesis/runs/of/yesterday"}
    rows = [{**row, "address": one, "port": 13709} for one in ("127.0.0.1", "::1")]
    shown = tables.plain(tables.fit(tables.table(rows, "listener", now=1e6), 80))
    assert shown.count(" :13709 ") == 2 and "127." not in shown
    assert " 127.0.0.1:13709 " in tables.plain(tables.fit(tables.table(rows, "listener", now=1e6), 200))


def test_no_link_is_shortened() -> None:
    link = "http://localhost:21374/lab?token=285ae8734c39d173b7ad648837bf81a44c7f97c74ce9f31e"
    row = {"host": "server1", "kind": "tunnel", "name": "lab", "state": "open", "local_url": link}
    assert link in tables.plain(tables.fit(tables.table([row], "tunnel", 0.0), 40))


@pytest.mark.parametrize("kind", sorted(tables.COLUMNS))
def test_every_table_stands_what_is_missing(kind: str) -> None:
    assert tables.table([{}], kind, now=0) == [[], []]
    assert tables.plain(tables.table([], kind, now=0)) == ""


def test_details_leave_out_what_is_empty() -> None:
    shown = tables.details({**ROW, "url": None}, now=1060.0)
    assert "name:" in shown and "url" not in shown and "_bytes" not in shown and "reason" not in shown


def test_show_names_what_opens_it_at_home() -> None:
    row = {**ROW, "command": "ports open server1:main", "command_note": None, "n_asked": ROW["n_workers"]}
    assert "at home:" in (told := tables.details(row, now=1060.0)) and "ports open server1:main" in told
    assert "asked" not in told and "command" not in told
    row |= {"n_asked": 9, "command_note": "replace server1 by your own alias"}
    told = " ".join(tables.details(row, now=1060.0).split())
    assert "workers asked for: 9" in told and "server1:main (replace server1 by your own alias)" in told


@pytest.mark.parametrize(("stopped_at", "since"), [(1000.0, "1 min"), (None, "")])
def test_since_of_what_stopped_is_when_it_stopped(stopped_at: float | None, since: str) -> None:
    row = {"kind": "cluster", "name": "main", "state": "stopped", "started_at": 10.0, "stopped_at": stopped_at}
    assert tables.cells(row, now=1060.0)["since"] == since
    assert tables.cells({**row, "state": "running"}, now=1060.0)["since"] != since


def test_show_tells_people_in_words_what_json_has_as_it_is() -> None:
    row = {"kind": "notebook", "name": "lab", "idle": 0, "expire": 14.0, "debugger": False, "managed": True}
    row |= {"open_to_network": False, "warnings": ["one; close it", "two"], "n_tasks": 3, "reason": None, "path": None}
    row |= {"started_at": 1000.0, "memory_bytes": 2**30, "memory_limit_bytes": 2**31, "memory_typed": "2GiB"}
    parts = [line.partition(":") for line in tables.details(row, now=1060.0).splitlines()]
    shown = {key: text.strip() for key, _, text in parts}
    assert (shown["idle"], shown["expire"]) == ("never", "after 14 days without use")
    assert (shown["debugger"], shown["started by ports"], shown["open to other machines"]) == ("no", "yes", "no")
    assert (shown["tasks"], shown["warnings"], shown["since"]) == ("3", "one; close it; two", "1 min")
    assert shown["memory"].endswith(" of 2GiB")
    told = tables.details({**row, "warnings": [], "idle": 2.5, "expire": None}, now=1060.0)
    assert not any(raw in told for raw in ("None", "True", "False", "[", "{", "_", "1000")), told
    assert "after 2.5 hours without work" in told


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({}, "<cluster 'main' runs: 2 workers with 4 threads each, 3.0 GiB of 16.0 GiB, http://localhost:20001/status>"),
        ({"n_workers": 1, "n_threads": 1}, "<cluster 'main' runs: 1 worker with 1 thread, "),
        ({"n_workers": 2, "n_threads": 2}, "<cluster 'main' runs: 2 workers with 1 thread each, "),
        ({"n_workers": 0, "n_threads": 0, "memory_bytes": 0}, "<cluster 'main' runs without workers yet, "),
        ({"n_workers": 0, "n_threads": 0, "n_asked": 0}, "<cluster 'main' runs without workers, "),
        ({"state": "stopped", "reason": "killed by signal 9", "memory_bytes": None, "memory_limit_bytes": None},
         "<cluster 'main' is stopped: killed by signal 9>"),
    ],
)  # fmt: skip
def test_a_cluster_in_a_terminal_is_one_line(change: dict[str, Any], text: str) -> None:
    assert _text.cluster_line({**ROW, **change}, now=1060.0).startswith(text)


class Tags(HTMLParser):
    """Collects tags, and texts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.links: list[str | None] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name == "href"]

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_a_cluster_in_a_notebook_shows_state_size_link_and_command() -> None:
    page = Tags(_text.cluster_html(ROW, "ports open server1:main"))
    for text in ("Cluster main", "running", "2 with 8 threads", "3.0 GiB used of 16.0 GiB", "ports open server1:main"):
        assert text in page.texts
    assert page.links == [ROW["link"]]


@pytest.mark.parametrize("kind", ["list", "line", "box", "note", "lent", "reduced"])
def test_a_memory_limit_is_shown_as_it_was_typed(kind: str) -> None:
    row: Any = {**ROW, "memory_bytes": 120 * 10**6, "memory_limit_bytes": 12 * 10**8, "memory_typed": "600MB"}
    deaths: Any = {"memory_deaths": {"n_workers": 1, "limit_bytes": 6 * 10**8, "at": 0.0, "task": None}}
    reduced: Any = {"reduced": {"limit_bytes": 3 * 10**8, "full_bytes": 6 * 10**8}}
    shown, told = {
        "list": (tables.cells(row, 0.0)["memory"], "120MB of 1.2GB"),
        "line": (_text.cluster_line(row, 0.0), "120MB of 1.2GB"),
        "box": (_text.cluster_html(row, "ports open"), "120MB used of 1.2GB"),
        "note": (_text.cluster_note(deaths, "600MB"), "limit of 600MB"),
        "lent": (_text.cluster_note({"lent_bytes": 9 * 10**8}, "600MB"), "lends 900MB"),
        "reduced": (_text.cluster_note(reduced, "600MB"), "300MB instead of 600MB each"),
    }[kind]
    assert told in str(shown) and "iB" not in str(shown)


@settings(max_examples=50)
@given(name=TEXTS, reason=TEXTS, state=st.sampled_from(["running", "stopped"]), link=TEXTS, command=TEXTS)
def test_no_text_becomes_a_tag(name: str, reason: str, state: str, link: str, command: str) -> None:
    row = {**ROW, "name": f"<b>{name}", "reason": f"<script>{reason}", "state": state, "link": f'"><i>{link}'}
    page = Tags(_text.cluster_html(row, f"<u>{command}"))
    assert not {"b", "script", "i", "u"} & set(page.tags)
    assert page.links in ([], [row["link"]])


def test_what_to_type_at_home_is_text_in_a_terminal_and_html_in_a_notebook() -> None:
    shown = _show.Shown({"command": "ports open s:main", "link": "http://localhost:1/", "by_hand": "ssh -N -L 1:/s s"})
    assert repr(shown).splitlines() == [
        "at home, type:        ports open s:main",
        "then open:            http://localhost:1/",
        "without ports there:  ssh -N -L 1:/s s",
    ]
    page = Tags(shown._repr_html_())
    assert page.links == ["http://localhost:1/"] and "ports open s:main" in page.texts


def test_a_tunnel_at_a_unix_socket_has_its_path_as_its_link() -> None:
    row = {"host": "s", "kind": "tunnel", "name": "main", "state": "open", "local_url": None, "local_socket": "/h/x"}
    assert tables.table([row], "tunnel", 0.0) == [
        ["HOST", "WHAT", "STATE", "LINK"],
        ["s", "main", "open", "unix:/h/x"],
    ]


LONG = {
    "host": "alice@compute-17.cluster.example.org",
    "name": "a-name-of-exactly-31-characters",
    "link": "http://localhost:20001/status?token=285ae8734c39d173b7ad648837bf81a4",
    "note": "4 workers ended at their memory limit of 381 MiB (21:05); `ports cluster logs main --warnings` shows more",
    "directory": "/home/alice/projects/thesis/a-long-chapter/with-notebooks",
}


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("kind", sorted(tables.COLUMNS))
def test_every_table_fits_with_long_names_and_many_columns(kind: str, columns: int) -> None:
    row: dict[str, Any] = {
        "host": LONG["host"], "kind": "notebook", "name": LONG["name"], "state": "running", "n_workers": 128,
        "n_threads": 512, "memory_bytes": 3 << 40, "memory_limit_bytes": 4 << 40, "started_at": 0.0, "port": 20001,
        "address": "127.0.0.1", "link": LONG["link"], "local_url": LONG["link"], "note": LONG["note"], "pid": 4194304,
        "root": LONG["directory"], "directory": LONG["directory"], "value": LONG["note"], "source": LONG["directory"],
        "received_bytes": 12345678, "reconnects": 14,
    }  # fmt: skip
    short = {"host": "s2", "kind": "cluster", "name": "x", "state": "stopped"}
    whole = tables.table([row, short], kind, 86400.0 * 100, with_host=kind != "listener")
    shown = tables.plain(tables.fit(whole, columns))
    for text in {text for line in whole[1:] for text in line} - {LONG["directory"], "127.0.0.1:20001"}:
        assert set(text.split()) <= set(shown.replace(",", " ").split()) | {""}, "no word and no link is broken"
    if "`" in "".join(text for line in whole for text in line):
        assert "`ports cluster logs main --warnings`" in shown, "a command can be copied"
    first_two = max(sum(map(tables.width, line[:2])) + 2 for line in whole)
    assert max(tables.width(line) for line in shown.splitlines() if "/" not in line) <= max(columns, first_two)


def test_a_note_has_28_columns_or_a_line_of_its_own() -> None:
    row = {"kind": "cluster", "name": "main", "state": "running", "n_workers": 4, "n_threads": 8, "started_at": 1.0,
           "memory_bytes": 3 << 30, "memory_limit_bytes": 16 << 30, "link": "http://localhost:20001/"}  # fmt: skip
    note = "the memory guard paused 2 workers for 20 s, as other users took 12.3 GiB of what was free"
    lines = tables.plain(tables.fit(tables.table([{**row, "note": note}], "cluster", 61.0), 80)).splitlines()
    assert max(map(len, lines)) <= 80 and "NOTE" not in lines[0]
    assert " ".join(" ".join(lines[2:]).split()).endswith(note) and lines[2].startswith("    ")
    few = tables.plain(
        tables.fit(tables.table([{"name": "old", "state": "stopped", "note": note}], "cluster", 1.0), 60)
    )
    assert few.splitlines()[0].split() == ["NAME", "STATE", "NOTE"] and max(map(len, few.splitlines())) <= 60


def test_characters_of_two_columns_are_counted_as_two() -> None:
    assert (tables.width("论文"), tables.width("e\u0301"), tables.width("abc")) == (4, 1, 3)
    rows = [
        {"name": "a", "state": "running", "root": "/home/alice/论文/第一章/笔记本和数据"},
        {"name": "b", "root": "/x"},
    ]
    fitted = tables.fit(tables.table(rows, "notebook", 1.0), 30)
    assert max(tables.width(line) for line in tables.plain(fitted).splitlines()) <= 30


def test_a_command_in_backticks_moves_to_the_next_line_whole() -> None:
    text = "it is kept (`ports cluster scale main 0` frees it); `ports list` shows `it"
    assert tables.wrap(text, 34) == ["it is kept", "(`ports cluster scale main 0`", "frees it); `ports list` shows `it"]
    assert tables.wrap("one two", 80) == ["one two"] and tables.wrap("", 5) == [""]
    assert tables.wrap("`a b c d`", 5) == ["`a b", "c d`"]


@pytest.mark.parametrize("columns", [80, 120, None])
def test_lines_of_links_align_and_break_no_word_at_any_width(columns: int | None) -> None:
    widths, token = (28, 24), "285ae8734c39d173b7ad648837bf81a44c7f97c74ce9f31e"
    links = [f"http://localhost:21374/lab?token={token}", "http://localhost:21375/status"]
    note = "port 21375 is used by bob; using 21376 until 21375 is free"
    lines = [
        line
        for host, link in zip(("server1-from-home-by-the-vpn", "s2"), links, strict=True)
        for line in tables.link_lines((host, "notebook lab", link), note, widths=widths, columns=columns)
    ]
    assert all(link in "\n".join(lines) for link in links)
    assert set(f"({note})".split()) <= {word for line in lines for word in line.split()}
    assert len({line.index("notebook lab") for line in lines if "notebook lab" in line}) == 1
    assert columns is None or max(len(line) for line in lines if token not in line) <= columns
    assert columns is not None or len(lines) == 2
