"""The pages of jobs, over a queue on the disk: `far` leads to this machine, and no compute resource runs."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Awaitable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tornado.httpclient import AsyncHTTPClient, HTTPResponse
from tornado.httpserver import HTTPServer
from tornado.simple_httpclient import HTTPStreamClosedError
from tornado.testing import bind_unused_port
from tornado.web import Application, RequestHandler

from ports import hosts
from ports.cli import main
from ports.errors import NetworkError, NotFoundError, PortsError, UsageError, warn
from ports.jobs import _afar, _asking, _client, _places, describe
from ports.web import _jobs_handlers, _jobs_looks
from ports.web._jobs_handlers import JobsOf, act, jobs_of
from ports.web._jobs_looks import Looks
from ports.web._page import Page

pytestmark = pytest.mark.ci


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home from which the alias `far` leads to this machine, whose queue is the same one."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hosts, "resolve", lambda _: hosts.here())
    monkeypatch.setattr(_jobs_looks, "_PATIENCE", 30.0)
    yield tmp_path
    _client.disconnect()


@pytest.fixture
def page(home: Path) -> Page:
    """A page of this machine and of `far`, which are both reached."""
    made = Page(["far"])
    for view in made.board.views():
        made.board.take({**view, "condition": "connected"})
    return made


def own(page: Page) -> JobsOf:
    return jobs_of(page)


def submit(*words: str, **options: Any) -> str:
    return str(_asking.submit_script(describe(words or ["true"], **options), start=False))


def drawn(page: Page, below: str, **given: list[str]) -> str:
    text = asyncio.run(own(page).draw(below, given))
    return " ".join(re.sub(r"<[^>]*>", " ", text).split())


def acted(page: Page, **given: Any) -> _jobs_handlers.Acted:
    told = {name: value if isinstance(value, list) else [value] for name, value in given.items()}
    return asyncio.run(act(page, told))


@pytest.fixture
def no_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let submissions wait: here no compute resource starts."""
    submit_here, submit_there = _asking.submit_script, _afar.Afar.submit_script
    monkeypatch.setattr(_asking, "submit_script", lambda *a, **k: submit_here(*a, **{**k, "start": False}))
    monkeypatch.setattr(_afar.Afar, "submit_script", lambda *a, **k: submit_there(*a, **{**k, "start": False}))


@pytest.mark.quick
def test_jobs_of_all_hosts_are_listed_together(page: Page) -> None:
    submit("python", "-c", "1", name="one")
    submit(name="two")
    text = drawn(page, "/-/jobs")
    assert "all 4" in text and "pending 4" in text and "1\u20134 of 4" in text
    assert text.count("python -c 1") == 2 and "ports resource start -H far" in text
    assert "two" in drawn(page, "/-/jobs", q=["two far"]) and "python -c" not in drawn(page, "/-/jobs", q=["two"])
    assert "No job matches." in drawn(page, "/-/jobs", state=["error"])
    assert "No job matches." in drawn(page, "/-/jobs", host=["far"], before=["far:1"])


def test_what_the_page_advises_about_jobs_helps(page: Page, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ports job submit -- python train.py" in drawn(page, "/-/jobs")
    assert main.run(main.ports, ["job", "submit", "--no-start", "--", "true"]) == 0
    assert "all 2" in drawn(page, "/-/jobs")
    alone = Page([])
    with pytest.raises(NotFoundError, match="`ports page` takes the hosts to show"):
        asyncio.run(own(alone).draw("/-/jobs/far:1", {}))
    assert "Job far:1" in drawn(page, "/-/jobs/far:1")
    assert main.run(main.ports, ["job", "--help"]) == 0 and "prune" in capsys.readouterr().out


def test_a_host_that_is_down_is_not_asked(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    view = dict(page.board.view("far") or {})
    page.board.take({**view, "condition": "needs login", "reason": "asks for a code", "way_out": "ports login far"})
    monkeypatch.setattr(_afar.Afar, "page", lambda *_, **__: pytest.fail("it was asked"))
    submit(name="mine")
    text = drawn(page, "/-/jobs")
    assert "far: needs login: asks for a code ports login far" in text and "mine" in text and "all 1" in text


def test_a_host_that_fails_is_a_line_of_the_list(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise NetworkError("far", "no route to host")

    monkeypatch.setattr(_afar.Afar, "page", fail)
    submit(name="mine")
    text = drawn(page, "/-/jobs")
    assert "far: no route to host" in text and "mine" in text


def test_a_host_that_hangs_holds_nobody_and_is_there_later(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_jobs_looks, "_PATIENCE", 0.05)
    gate, asked = threading.Event(), list[Any]()
    real = _afar.Afar.page

    def slow(self: Any, **filters: Any) -> Any:
        asked.append(filters)
        gate.wait(60)
        return real(self, **filters)

    monkeypatch.setattr(_afar.Afar, "page", slow)
    submit(name="mine")

    async def looks() -> list[str]:
        found = [await own(page).draw("/-/jobs", {}), await own(page).draw("/-/jobs", {})]
        gate.set()
        while "has not answered yet" in found[-1]:
            found.append(await own(page).draw("/-/jobs", {}))
        return found

    first, second, *_, last = asyncio.run(asyncio.wait_for(looks(), 60))
    assert "far: it has not answered yet" in first and "mine" in first and "has not answered yet" in second
    assert "pending 2" in " ".join(last.split()) and len(asked) <= 3, "the same question is asked once at a time"


def test_a_page_shows_a_job_and_what_it_printed(page: Page) -> None:
    submit("sh", "-c", "echo hello", cpus=1, timeout="1h")
    work = _places.here().work_of(_asking.parse_id("1"))
    work.mkdir(parents=True, exist_ok=True)
    (work / "stdout").write_text("2026-11-30T11:47:01.000Z hello\n2026-11-30T11:47:03.000Z <b>end\n")
    (work / "stderr").write_text("2026-11-30T11:47:02.000Z oh no\n")
    for id in ("1", "far%3A1"):
        text = drawn(page, f"/-/jobs/{id}")
        assert "11:47:01 hello 11:47:02 stderr: oh no 11:47:03 &lt;b&gt;end" in text
        assert "sh -c &#39;echo hello&#39;" in text and "1 cpu" in text and "Time limit 1 h" in text
    assert "ports job rerun far:1" in text and "no compute resource runs there" in text
    (work / "stdout").open("a").write("2026-11-30T11:47:04.000Z more\n")
    told = asyncio.run(_jobs_handlers.main(page, "/-/jobs/far:1", {}))
    assert told is not None and told.lstrip().startswith("<main") and "more" in told


@pytest.mark.parametrize(
    ("below", "given", "error"),
    [
        ("/-/jobs/9", {}, NotFoundError),
        ("/-/jobs/x", {}, UsageError),
        ("/-/jobs/elsewhere:1", {}, NotFoundError),
        ("/-/jobs/-oProxyCommand=x:1", {}, NotFoundError),
        ("/-/jobs/selected", {"verb": ["cancel"]}, UsageError),
        ("/-/jobs/selected", {"verb": ["prune"], "id": ["1"]}, UsageError),
        ("/-/jobs/selected", {"verb": ["cancel"], "id": ["elsewhere:1"]}, NotFoundError),
        ("/-/jobs/new", {"from": ["9"]}, NotFoundError),
    ],
)
def test_what_is_no_page_of_a_job_is_an_error(page: Page, below: str, given: Any, error: type[PortsError]) -> None:
    submit()
    with pytest.raises(error):
        asyncio.run(own(page).draw(below, given))
    assert asyncio.run(_jobs_handlers.main(page, below, given)) is None


def test_only_pages_that_change_are_sent_again(page: Page) -> None:
    submit()
    assert asyncio.run(_jobs_handlers.main(page, "/-/jobs", {})) is not None
    for below in ("/", "/-/jobs/new", "/-/jobs/selected", "/-/jobsx"):
        assert asyncio.run(_jobs_handlers.main(page, below, {})) is None


def test_jobs_of_several_hosts_are_cancelled_at_once(page: Page) -> None:
    ids = [submit(), submit(), submit()]
    text = drawn(page, "/-/jobs/selected", verb=["cancel"], id=[ids[0], f"far:{ids[1]}"])
    assert "Cancel: 2 jobs?" in text and "ports job cancel 2 -H far" in text
    assert acted(page, kind="job", verb="cancel", id=[ids[0], f"far:{ids[1]}"]).to == "/-/jobs"
    assert [_asking.show(id)["state"] for id in ids] == ["cancelled", "cancelled", "pending"]
    assert acted(page, verb="cancel", id=ids[2]).to == f"/-/jobs/{ids[2]}"


def test_of_many_jobs_those_that_fail_are_named(page: Page, no_start: None) -> None:
    submit(name="again")
    told = acted(page, verb="rerun", id=["1", "far:1", "far:7"])
    assert told.to is None and "far:7: " in str(told.html) and "no job" in str(told.html)
    rows, _ = _asking.list_jobs()
    assert [row["name"] for row in rows] == ["again"] * 3


@pytest.mark.parametrize(
    "given", [{"verb": "prune", "id": "1"}, {"verb": "cancel"}, {"verb": "rerun", "id": ["x"]}, {}]
)
def test_an_act_that_is_none_does_nothing(page: Page, given: Any) -> None:
    submit()
    told = acted(page, **given)
    assert told.to is None and 'role="alert"' in str(told.html) and _asking.show("1")["state"] == "pending"


@pytest.mark.quick
def test_a_new_job_is_submitted_here_and_there(page: Page, home: Path, no_start: None) -> None:
    here = page.here
    form = {"verb": "submit", "directory": str(home), "command": "echo a b", "cpus": "2", "timeout": "90m", "gpus": ""}
    assert acted(page, **form, host=here, name="first").to == "/-/jobs/1"
    assert acted(page, **form, host="far", retries="2").to == "/-/jobs/far%3A2"
    one, two = _asking.show("1"), _asking.show("2")
    assert (one["name"], one["asked"]["needs"]["cpus"], one["asked"]["timeout"]) == ("first", 2, 5400)
    assert (two["asked"]["directory"], two["asked"]["script"]["login"]) == (str(home), True)
    assert two["asked"]["script"]["argv"] == ["echo", "a", "b"] and two["asked"]["retries"]["failure"] == 2
    text = drawn(page, "/-/jobs/new", **{"from": ["far:2"]})
    assert "Run job far:2 again" in text and "echo a b" in text


def test_what_is_said_of_a_new_job_is_on_its_page(
    page: Page, home: Path, no_start: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _afar.Afar.submit_script

    def warning(*given: Any, **options: Any) -> Any:
        warn("the job waits in the queue there")
        options["said"]("numpy is missing there")
        return before(*given, **options)

    monkeypatch.setattr(_afar.Afar, "submit_script", warning)
    assert acted(page, verb="submit", host="far", directory=str(home), command="true").to == "/-/jobs/far%3A1"
    text = drawn(page, "/-/jobs/far%3A1")
    assert "the job waits in the queue there" in text and "numpy is missing there" in text
    assert "numpy" not in drawn(page, "/-/jobs/1")


@pytest.mark.parametrize(
    ("changed", "field", "said"),
    [
        ({"command": " "}, "command", "write for example: python train.py"),
        ({"command": "no-such-program-anywhere"}, "command", "no-such-program-anywhere"),
        ({"directory": "/nowhere/at/all"}, "directory", "/nowhere/at/all does not exist"),
        ({"directory": "/nowhere/at/all", "host": "far"}, "directory", "/nowhere/at/all is not on far"),
        ({"cpus": "two"}, "cpus", "&#39;two&#39; is no number; write for example 2"),
        ({"cpus": "-1"}, "cpus", "-1"),
        ({"cpus": "nan"}, "cpus", "nan"),
        ({"gpus": "0.5"}, "gpus", "is no whole number"),
        ({"memory": "3 apples"}, "memory", "3 apples"),
        ({"memory": "3"}, "memory", "write 3GB or 3MB"),
        ({"timeout": "soon"}, "timeout", "soon"),
        ({"retries": "x"}, "retries", "is no number; write 2"),
        ({"host": "elsewhere"}, "host", "is none of this page"),
        ({"command": "x" * 40_000}, "command", "more than 32,000 characters"),
    ],
)
@pytest.mark.usefixtures("no_start")  # one that is not refused begins nothing
def test_a_refused_job_is_said_at_its_field_and_kept(page: Page, changed: Any, field: str, said: str) -> None:
    form = {"verb": "submit", "host": page.here, "directory": "~", "command": "true", "name": "kept", **changed}
    told = acted(page, **form)
    text = str(told.html)
    wrong = re.search(r'id="wrong-(\w+)" role="alert">(.*?)</p>', text, re.DOTALL)
    assert told.to is None and wrong is not None and wrong[1] == field and said in wrong[2], wrong and wrong[0]
    assert 'value="kept"' in text
    assert _asking.list_jobs()[0] == []


def test_a_job_runs_again_with_the_files_that_it_had(page: Page, home: Path, no_start: None) -> None:
    (home / "project").mkdir()
    (home / "project" / "a.py").write_text("1")
    script = describe(["python3", "a.py"], directory=str(home / "project"))
    _asking.submit_script(_asking.plan_copy(script), start=False)
    before = _asking.show("1")["asked"]["script"]["workspace"]
    assert "with the files that it had" in drawn(page, "/-/jobs/new", **{"from": ["1"]})
    form = {"verb": "submit", "source": "1", "directory": "x", "command": "python3 a.py --lr 1", "cpus": "1"}
    assert acted(page, **form, host=page.here).to == "/-/jobs/2"
    row = _asking.show("2")
    assert row["command"] == "python3 a.py --lr 1" and row["asked"]["script"]["workspace"]["tree"] == before["tree"]
    told = acted(page, **form, host="far")
    assert "the files of job 1 are on" in str(told.html) and len(_asking.list_jobs()[0]) == 2


def test_the_same_act_twice_at_once_is_one_act(page: Page, home: Path, no_start: None) -> None:
    async def both() -> list[Any]:
        given = {"verb": ["submit"], "host": [page.here], "directory": [str(home)], "command": ["true"]}
        return list(await asyncio.gather(act(page, given), act(page, given)))

    assert {told.to for told in asyncio.run(both())} == {"/-/jobs/1"}
    assert len(_asking.list_jobs()[0]) == 1


# --- files ---


def fetched(page: Page, *paths: str) -> list[HTTPResponse]:
    """Serve the page for a moment, and return what it answers."""

    async def run() -> list[HTTPResponse]:
        app = Application(_jobs_handlers.routes(page, lambda mixin: type(mixin.__name__, (mixin, RequestHandler), {})))
        one, port = bind_unused_port()
        server = HTTPServer(app)
        server.add_socket(one)
        client = AsyncHTTPClient(force_instance=True)
        try:
            return [await client.fetch(f"http://127.0.0.1:{port}{path}", raise_error=False) for path in paths]
        finally:
            client.close()
            server.stop()

    return asyncio.run(run())


def with_output(home: Path) -> None:
    """Submit a job with a copy, and let it look as if it had made files."""
    (home / "project").mkdir()
    (home / "project" / "a.py").write_text("1")
    script = describe(["python3", "a.py"], directory=str(home / "project"))
    _asking.submit_script(_asking.plan_copy(script, out=["results"]), start=False)
    made = _places.here().copy_of(_asking.parse_id("1")) / "results"
    made.mkdir(parents=True)
    (made / "page.html").write_text("<script>alert(1)</script>")
    (made / 'a "b"\u00e4.txt').write_bytes(bytes(range(256)) * 20_000)
    (made / "link").symlink_to("/etc/passwd")
    (made.parent / "secret").write_text("s")


@pytest.mark.parametrize("id", ["1", "far%3A1"])
def test_a_file_of_a_job_is_bytes_to_save_and_never_a_page(page: Page, home: Path, id: str) -> None:
    with_output(home)
    text = drawn(page, f"/-/jobs/{id}")
    assert "results/page.html" in text and "secret" not in text and "ports job fetch" in text
    html, odd = fetched(
        page, f"/-/jobs/{id}/file?path=results/page.html", f"/-/jobs/{id}/file?path=results/a%20%22b%22%C3%A4.txt"
    )
    assert (html.code, html.body) == (200, b"<script>alert(1)</script>")
    assert html.headers["Content-Type"] == "application/octet-stream"
    assert html.headers["X-Content-Type-Options"] == "nosniff" and "sandbox" in html.headers["Content-Security-Policy"]
    assert html.headers["Content-Disposition"] == "attachment; filename=\"page.html\"; filename*=UTF-8''page.html"
    assert odd.body == bytes(range(256)) * 20_000
    assert odd.headers["Content-Disposition"].endswith(
        "filename=\"a__b__.txt\"; filename*=UTF-8''a%20%22b%22%C3%A4.txt"
    )


@pytest.mark.parametrize("id", ["1", "far%3A1"])
def test_no_path_leads_out_of_the_output(page: Page, home: Path, id: str) -> None:
    with_output(home)
    paths = [
        "../../../../etc/passwd",
        "/etc/passwd",
        "results/link",
        "results/../secret",
        "secret",
        "results",
        "",
        "a.py",
    ]
    answers = fetched(page, *[f"/-/jobs/{id}/file?path={path}" for path in paths], f"/-/jobs/{id}/file?stream=../x")
    assert [(one.code, b"root:" in one.body) for one in answers] == [(404, False)] * len(answers)
    assert fetched(page, "/-/jobs/9/file?path=a", "/-/jobs/elsewhere%3A1/file?path=a")[1].code == 404


def test_all_of_a_stream_can_be_saved(page: Page) -> None:
    submit()
    work = _places.here().work_of(_asking.parse_id("1"))
    work.mkdir(parents=True, exist_ok=True)
    (work / "stderr").write_bytes(b"2026-11-30T11:47:01.000Z oh\n" * 50_000)
    for id in ("1", "far%3A1"):
        (answer,) = fetched(page, f"/-/jobs/{id}/file?stream=stderr")
        assert answer.body == b"2026-11-30T11:47:01.000Z oh\n" * 50_000
        assert 'filename="job-1.stderr.txt"' in answer.headers["Content-Disposition"]


def test_a_file_that_becomes_shorter_is_no_whole_download(page: Page, home: Path, monkeypatch: Any) -> None:
    with_output(home)
    monkeypatch.setattr(_jobs_handlers, "_at_most", lambda pieces, _: iter([next(pieces)[:5]]))
    with pytest.raises(HTTPStreamClosedError):  # the connection ends before the length that was named
        fetched(page, "/-/jobs/1/file?path=results/page.html")


def test_pages_are_html_and_what_is_missing_is_404(page: Page) -> None:
    submit(name="mine")
    found, job, new, missing, odd = fetched(
        page, "/-/jobs?q=%ff%00", "/-/jobs/1", "/-/jobs/new?host=far", "/-/jobs/9", "/-/jobs/%2e%2e%2fx"
    )
    assert [one.code for one in (found, job, new, missing, odd)] == [200, 200, 200, 404, 404]
    assert all(one.headers["Content-Type"] == "text/html; charset=utf-8" for one in (found, job, new, missing, odd))
    assert b"no job" in missing.body and b"All jobs" in missing.body


def test_a_question_is_asked_once_at_a_time() -> None:
    looks, gate, asked = Looks(), threading.Event(), list[int]()

    def question(_: Any) -> int:
        asked.append(1)
        gate.wait(60)
        return len(asked)

    async def run() -> list[int]:
        ones: list[Awaitable[int]] = [asyncio.create_task(looks.ask("", ("x",), question)) for _ in range(3)]
        await asyncio.sleep(0)
        gate.set()
        return list(await asyncio.gather(*ones))

    assert asyncio.run(run()) == [1, 1, 1]
