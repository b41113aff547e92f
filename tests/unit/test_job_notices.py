"""Notices of the end of jobs: what is said, to whom, once for a map, and never with a secret."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from ports.cli import job_rows, main
from ports.errors import SettingError
from ports.jobs import _notices
from ports.jobs._model import JobId
from ports.jobs._notices import Notifier
from ports.jobs.resource import notice
from ports.jobs.resource.ends import Ends
from ports.probe import ends as ends_in_words
from ports.state import settings, wait_until
from tests.lab.job_queue import Desk
from tests.lab.services import mail_server, silent_server, web_hook

TOLD = {"title": "job 12 finished", "body": "job 12 finished on gpu1", "is_good": True}


class Told:
    """A notifier that keeps the rows."""

    def __init__(self) -> None:
        self.rows: list[Any] = []

    def put(self, rows: Any) -> None:
        self.rows += rows


def ends(desk: Desk) -> tuple[Ends, Told]:
    told = Told()
    return Ends(desk.store, told, lambda: desk.clock), told  # type: ignore[arg-type]


@pytest.fixture
def urls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The services of the setting, which a test fills."""
    found: list[str] = []
    monkeypatch.setattr(_notices, "services", lambda: list(found))
    return found


# --- which ends are told ---


def test_a_map_is_one_notice_at_the_end_of_its_last_job(desk: Desk, urls: list[str]) -> None:
    hear, told = ends(desk)
    id = desk.submit(3, name="fit", notify=True)
    for n_left in (2, 1, 0):
        desk.end("s1", *desk.take(most=1)[:1])
        hear(desk.queue.take_over())
        assert len(told.rows) == (0 if n_left else 1)
    (row,) = told.rows
    assert (row["id"], row["count"], row["counts"]) == (id, 3, {"finished": 3})


def test_a_job_without_notify_is_no_notice(desk: Desk, urls: list[str]) -> None:
    hear, told = ends(desk)
    desk.submit(name="fit")
    desk.work()
    assert desk.queue.take_over() == []
    desk.submit(kind="script", name="train.py", script={"argv": ["true"]})
    desk.work()
    hear(desk.queue.take_over())
    assert told.rows == []
    kept = json.loads(desk.places.ends.read_bytes())["ends"]  # home hears of it nevertheless
    assert [one["name"] for one in kept] == ["train.py"]


def test_a_cancelled_and_a_failed_job_are_notices_too(desk: Desk, urls: list[str]) -> None:
    hear, told = ends(desk)
    first, second = (desk.submit(name="fit", notify=True) for _ in range(2))
    desk.answer("cancel", ids=[second], reason="not needed")
    desk.end("s1", *desk.take(), state="error", error={"text": "ValueError: 7"})
    hear(desk.queue.take_over())
    assert {(row["id"], row["state"]) for row in told.rows} == {(first, "error"), (second, "cancelled")}


def test_the_file_for_home_keeps_the_last_twenty_ends(desk: Desk, urls: list[str]) -> None:
    hear, _ = ends(desk)
    ids = [desk.submit(name="fit", notify=True) for _ in range(25)]
    desk.work()
    hear(desk.queue.take_over())
    later, _ = ends(desk)  # a resource that starts again goes on with the file
    ids.append(desk.submit(name="fit", notify=True))
    desk.work()
    later(desk.queue.take_over())
    assert [one["id"] for one in json.loads(desk.places.ends.read_bytes())["ends"]] == ids[-20:]


def test_a_damaged_file_for_home_is_written_anew(desk: Desk, urls: list[str]) -> None:
    desk.places.ends.write_text('{"ends": [3')
    hear, _ = ends(desk)
    id = desk.submit(name="fit", notify=True)
    desk.work()
    hear(desk.queue.take_over())
    assert [one["id"] for one in json.loads(desk.places.ends.read_bytes())["ends"]] == [id]


def test_a_notice_that_was_not_sent_is_sent_by_the_next_resource(desk: Desk, urls: list[str]) -> None:
    first, second = (desk.submit(name="fit", notify=True) for _ in range(2))
    desk.submit(name="fit")
    desk.work()
    _notices.keep(desk.places, first, {"at": 0, "answers": [], "failed": None})
    desk.restart()
    hear, told = ends(desk)
    hear.catch_up()
    assert [row["id"] for row in told.rows] == [second]
    desk.clock += 2 * 86400
    hear, told = ends(desk)
    hear.catch_up()
    assert told.rows == []  # that is no news any more


def test_show_has_what_the_services_answered_until_prune(desk: Desk, urls: list[str]) -> None:
    id = desk.submit(name="fit", notify=True)
    desk.work()
    _notices.keep(desk.places, id, {"at": 5.0, "answers": [], "failed": "1 json at 127.0.0.1: failed: refused"})
    row = desk.row(id)
    assert job_rows.details(row)["notice"] == "failed: 1 json at 127.0.0.1: failed: refused"
    desk.clock += 1
    desk.answer("prune", older=0)
    assert _notices.kept(desk.places, JobId(int(id))) is None


def test_notify_that_is_no_flag_is_refused(desk: Desk, urls: list[str]) -> None:
    told = desk.answer("submit", [b"f", b"1"], key=desk.key(), submission={"kind": "function", "notify": "yes"})
    assert told["error"]["text"] == "notify: 'yes' is neither true nor false"


def test_a_missing_apprise_is_said_at_submission(desk: Desk, urls: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    asked = {"kind": "function", "notify": True}
    found = desk.answer("submit", [b"f", b"1"], key=desk.key(), submission=asked)
    assert "the setting jobs.notify on" in found["said"]  # and the job is taken in
    urls.append("json://127.0.0.1:1")
    assert "said" not in desk.answer("submit", [b"f", b"1"], key=desk.key(), submission=asked)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    error = desk.answer("submit", [b"f", b"1"], key=desk.key(), submission=asked)["error"]
    assert error["exit_code"] == 2
    assert "pip install 'ports[notify]'" in error["text"]
    assert desk.answer("status")["counts"]["pending"] == 2


# --- what is said ---


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"id": "12", "state": "finished", "began_at": 0, "ended_at": 5400},
            "job 12 finished on gpu1 after 1 h 30 min",
        ),
        ({"id": "12", "name": "a\x1b[31m\nb", "state": "lost"}, "job 12 (a [31m b) is lost on gpu1"),
        ({"id": "3", "state": "cancelled", "reason": "not needed"}, "job 3 was cancelled on gpu1: not needed"),
        (
            {"id": "4", "state": "error", "count": 3, "counts": {"finished": 2, "error": 1}},
            "job 4 failed on gpu1: 2 finished, 1 error",
        ),
    ],
)
def test_a_notice_says_which_job_how_and_where(row: dict[str, Any], said: str) -> None:
    (told,) = ends_in_words.notices([row], "gpu1")
    assert told["body"] == said
    assert told["is_good"] is (row["state"] == "finished")


def test_many_ends_of_one_moment_are_one_notice() -> None:
    rows = [{"id": str(n), "state": "error" if n < 3 else "finished"} for n in range(1, 31)]
    (told,) = ends_in_words.notices(rows, "gpu1")
    assert told["title"] == "30 jobs ended on gpu1: 28 finished, 2 did not"
    assert told["body"].splitlines()[-1] == "and 10 more"
    assert len(told["ids"]) == 30


@pytest.mark.parametrize(
    ("url", "hidden", "shown"),
    [
        ("mailtos://anna:geheim1@mail.example.org?to=bob@example.org", ("anna", "geheim1", "bob"), "mail.example.org"),
        ("slack://T1JJ3T3L2/A1BRTD4JD/TIiajkdnlazkcOXrIdevi7FQ", ("T1JJ3T3L2", "TIiajkdnlazkcOXrIdevi7FQ"), None),
        ("tgram://123456789:abcdefg_hijklmnop/12315544", ("123456789", "abcdefg_hijklmnop"), None),
        ("json://u%40b:p%2Fword%21x@10.0.0.1:8080/hook/s3cr3t", ("p/word!x", "s3cr3t", "p%2Fword%21x"), "10.0.0.1"),
    ],
)
def test_no_part_of_an_address_is_in_an_answer(url: str, hidden: tuple[str, ...], shown: str | None) -> None:
    said = f"no connection: {' and '.join(hidden)} (host {shown}) {url}".replace("T1JJ", "t1jj")
    told = notice.without_secrets(said, url)
    assert not [one for one in hidden if one.lower() in told.lower()]
    assert notice.host_of(url) == shown
    assert shown is None or shown in told


@pytest.mark.skipif(importlib.util.find_spec("apprise") is None, reason="apprise is an extra")
def test_what_a_service_says_to_a_refusal_shows_no_secret() -> None:
    heard = notice.Heard()
    heard.said[threading.get_ident()] = "Failed to send: no login as anna1 with geheim1 at localhost"
    told = notice.answer("json://anna1:geheim1@localhost:1/hook", TOLD, heard)
    assert told["state"] == "failed" and "at localhost" in told["answer"]
    assert "geheim1" not in told["answer"] and "anna1" not in told["answer"]


def test_settings_show_no_secret_of_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    (tmp_path / "ports.yaml").write_text("ports:\n  jobs:\n    notify: ['ntfy://geheim/topic', 'json://x:geheim@h']\n")
    main.run(main.ports, ["settings", "--json"])
    shown = capsys.readouterr().out
    assert "geheim" not in shown
    (row,) = [row for row in json.loads(shown) if row["name"] == "jobs.notify"]
    assert row["value"] == ["ntfy://…", "json://…"]


@pytest.mark.parametrize("wrong", ["geheim", "['geheim']", "['json:/geheim']", "[{geheim: 1}]"])
def test_a_wrong_address_is_refused_and_not_shown(
    wrong: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DASK_CONFIG", str(tmp_path))
    monkeypatch.setattr(settings, "_sources", lambda: [(str(one), data) for one, data in settings._files()])
    (tmp_path / "ports.yaml").write_text(f"ports:\n  jobs:\n    notify: {wrong}\n")
    assert main.run(main.ports, ["settings"]) == 2
    found = capsys.readouterr()
    with pytest.raises(SettingError, match=r"jobs\.notify") as caught:
        settings.load()
    assert "geheim" not in found.out + found.err + str(caught.value)


# --- how it is sent, for real ---


def test_a_service_gets_the_notice_and_the_answer_is_kept(tmp_path: Path, desk: Desk, urls: list[str]) -> None:
    with web_hook() as hook:
        urls.append(f"json://127.0.0.1:{hook.port}/secret")
        notifier = Notifier(desk.places, urls=lambda: list(urls))
        notifier.put([{"id": "12", "name": "train.py", "state": "finished"}])
        found = wait_until(lambda: _notices.kept(desk.places, JobId(12)), timeout=60, what="the answer")
    assert [(one["title"], one["type"]) for one in hook.got] == [(hook.got[0]["title"], "success")]
    assert hook.got[0]["message"].startswith("job 12 (train.py) finished on ")
    assert (found["failed"], [one["state"] for one in found["answers"]]) == (None, ["sent"])


@pytest.mark.ci
def test_a_refusal_an_unknown_service_and_a_dead_one_are_told_apart() -> None:
    with web_hook(403) as hook, silent_server() as port:
        sent = [
            f"json://127.0.0.1:{hook.port}/hidden-token",
            "nosuch://hidden-token",
            f"mailto://anna:hidden-token@127.0.0.1:{port}?smtp=127.0.0.1&from=a@b.org&to=c@d.org&mode=insecure",
        ]
        answers = _notices.send(TOLD, sent, timeout=6)
    assert [one["state"] for one in answers] == ["failed"] * 3
    assert [one["name"] for one in answers] == ["json", "nosuch", "mailto"]
    said = [str(one["answer"]) for one in answers]
    assert "403" in said[0] or "Forbidden" in said[0]
    assert said[1:] == ["apprise knows no such address for nosuch://", "no answer within 6 s"]
    assert "hidden-token" not in json.dumps(answers)


@pytest.mark.ci
def test_a_notice_arrives_as_mail() -> None:
    with mail_server() as server:
        url = f"mailto://127.0.0.1:{server.port}?smtp=127.0.0.1&from=ports@example.org&to=anna@example.org"
        answers = _notices.send(TOLD, [url], timeout=60)
    assert [one["state"] for one in answers] == ["sent"], answers
    (mail,) = server.got
    assert mail[0] == "anna@example.org"
    assert "job 12 finished on gpu1" in mail[1]


@pytest.mark.ci
def test_resource_notify_tests_each_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in ("apprise", "json"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('this directory is on the path')")
    assert main.run(main.ports, ["resource", "notify", "--test"]) == 2
    assert "names no service; " in (said := " ".join(capsys.readouterr().err.split()))
    assert "list addresses of apprise in ~/.config/dask/ports.yaml: ports: jobs: notify: […]" in said
    assert main.run(main.ports, ["resource", "notify"]) == 0
    assert "names no service; " in (said := capsys.readouterr().out) and "; list addresses of apprise in ~/." in said
    with web_hook() as hook:  # it is in the settings now
        addresses = [f"json://127.0.0.1:{hook.port}/hidden-token", "json://127.0.0.1:1/hidden-token"]
        monkeypatch.setenv("DASK_PORTS__JOBS__NOTIFY", repr(addresses))
        assert main.run(main.ports, ["resource", "notify"]) == 0
        assert main.run(main.ports, ["resource", "notify", "--test"]) == 5
    shown = capsys.readouterr()
    assert "1 json at 127.0.0.1: sent" in shown.out
    assert "2 json at 127.0.0.1: failed: " in shown.out
    assert "hidden-token" not in shown.out + shown.err
    assert len(hook.got) == 1
