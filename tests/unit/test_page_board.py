"""What the page knows of hosts."""

from __future__ import annotations

from ports.web._board import Board, unseen


def test_a_board_keeps_the_order_in_which_hosts_were_named() -> None:
    board = Board([unseen("laptop", here=True, now=1.0), unseen("server1", now=1.0)])
    board.take({**unseen("server1", now=1.0), "condition": "connected"})
    board.take({**unseen("laptop", here=True, now=1.0), "condition": "connected"})
    assert [view["host"] for view in board.views()] == ["laptop", "server1"]


def test_a_view_that_says_the_same_changes_nothing() -> None:
    board, changes = Board([unseen("server1", now=1.0)]), []
    board.on_change = lambda: changes.append(board.version)
    board.take(unseen("server1", now=1.0))
    assert (board.version, changes) == (0, [])
    board.take({**unseen("server1", now=1.0), "condition": "down"})
    assert changes == [1]


def test_a_row_is_found_by_host_kind_and_name() -> None:
    row = {"kind": "cluster", "name": "main", "state": "running"}
    board = Board([{**unseen("server1", now=1.0), "rows": [row, {"kind": "listener", "name": "python", "port": 6006}]}])
    assert board.row("server1", "cluster", "main") == row
    assert board.row("server1", "notebook", "main") is None
    assert board.row("server1", "listener", "6006") is not None
    assert board.row("server2", "cluster", "main") is None
