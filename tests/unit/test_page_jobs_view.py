"""What the page shows of jobs: the list of several hosts, one job, the form; whatever a host says."""

from __future__ import annotations

import html.parser
import string
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.errors import UsageError
from ports.jobs._logs import Line
from ports.jobs._outputs import OutputFile
from ports.web import _job_form, _job_view, _jobs_view, _render
from ports.web._job_view import Shown
from ports.web._jobs_view import Id, Looked, Query

NOW = 1_800_000_000.0
HOSTS = {"laptop": "", "atlas": "atlas"}
CALLED = {alias: name for name, alias in HOSTS.items()}
PAGE = {"base": "../", "token": "t", "who": "alice at laptop", "tab": "jobs"}
ATTACK = "<img src=x onerror=alert(1)>"


def row(number: int, state: str = "finished", **more: Any) -> dict[str, Any]:
    return {"id": str(number), "state": state, "name": "train.py", "created_at": NOW - 100 + number, **more}


def looked(host: str, *rows: dict[str, Any], **tally: int) -> Looked:
    return Looked(host, {"rows": list(rows), "tally": tally or None, "counts": {}, "at_rest": False})


def query(text: str = "") -> Query:
    return Query.of(parse_qs(text), HOSTS)


class Strict(html.parser.HTMLParser):
    """Reads HTML: each tag is closed, and no element or attribute comes from a row."""

    VOID = ("meta", "link", "input", "br", "img")

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.text = ""
        self.attributes: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert tag not in ("img", "iframe", "style"), tag
        self.attributes |= {name for name, _ in attrs}
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, tag

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes |= {name for name, _ in attrs}

    def handle_data(self, data: str) -> None:
        self.text += data


def read(text: str) -> Strict:
    found = Strict()
    found.feed(text)
    found.close()
    assert found.open == []
    assert not {name for name in found.attributes if name.startswith("on") or name == "style"}
    return found


def drawn(template: str, found: dict[str, Any], **more: Any) -> Strict:
    return read(_render.render(template, **PAGE, **found, **more))


# --- the list ---


def test_the_newest_jobs_of_all_hosts_are_on_one_page() -> None:
    here = [row(n, created_at=NOW - 10 * (60 - n)) for n in range(60, 9, -1)]
    there = [row(n, created_at=NOW - 10 * (60 - n) - 5) for n in range(60, 9, -1)]
    found = _jobs_view.jobs(query(), HOSTS, [looked("", *here, finished=300), looked("atlas", *there, error=100)], NOW)
    assert [one["id"] for one in found["rows"][:3]] == ["60", "atlas:60", "59"]
    assert len(found["rows"]) == 50 and found["span"] == "1\u201350 of 400"
    older = parse_qs(urlsplit(found["older"]).query)
    assert (older["from"], older["before"]) == (["51"], ["36", "atlas:36"])
    text = drawn("jobs.html", found).text
    assert "all 400" in text and "finished 300" in text and "1\u201350 of 400" in text


def test_older_goes_on_with_each_host_where_it_ended() -> None:
    first = query()
    rows = [row(n) for n in range(60, 9, -1)]
    one = _jobs_view.jobs(first, HOSTS, [looked("", *rows, finished=60), looked("atlas", finished=0)], NOW)
    again = Query.of(parse_qs(urlsplit(one["older"]).query), HOSTS)
    assert (again.first, again.filters("", "x"), again.filters("atlas", "")) == (
        51,
        {"search": "x", "before": "11"},
        {},
    )
    two = _jobs_view.jobs(again, HOSTS, [looked("", *[row(n) for n in range(10, 0, -1)], finished=60)], NOW)
    assert (two["span"], two["older"], two["newest"]) == ("51\u201360 of 60", None, "-/jobs")


def test_rows_of_a_host_keep_its_order_whatever_its_clock_says() -> None:
    rows = [row(3, created_at=NOW - 50), row(2, created_at=NOW), row(1, created_at=None)]
    found = _jobs_view.jobs(query(), HOSTS, [looked("", *rows), looked("atlas", row(9, created_at=NOW - 20))], NOW)
    assert [one["id"] for one in found["rows"]] == ["atlas:9", "3", "2", "1"]


def test_a_host_that_does_not_answer_is_named_beside_the_others() -> None:
    down = Looked("atlas", None, "needs login: asks for a code", "ports login atlas")
    found = _jobs_view.jobs(query(), HOSTS, [looked("", row(1), finished=1), down], NOW)
    text = " ".join(drawn("jobs.html", found).text.split())
    assert "atlas: needs login: asks for a code ports login atlas" in text and "all 1" in text
    nobody = _jobs_view.jobs(query(), HOSTS, [down], NOW)
    assert nobody["empty"] == "" and "No jobs yet" not in drawn("jobs.html", nobody).text


def test_an_older_resource_that_does_not_count_shows_no_wrong_counts() -> None:
    found = _jobs_view.jobs(query(), HOSTS, [looked("", row(1), finished=1), looked("atlas", row(2))], NOW)
    assert {one["count"] for one in found["tabs"]} == {""} and found["span"] == "1\u20132"


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        ("q=train", ["", "atlas"], "train"),
        ("q=atlas", ["atlas"], ""),
        ("q=train+atlas", ["atlas"], "train"),
        ("q=laptop", [""], ""),
        ("q=train&host=atlas", ["atlas"], "train"),
        ("host=nowhere", ["", "atlas"], ""),
        ("q=atlas+laptop", ["atlas", ""], ""),
    ],
)
def test_a_word_that_names_a_host_chooses_it(text: str, asked: list[str], words: str) -> None:
    assert query(text).asked(HOSTS) == (asked, words)


@pytest.mark.parametrize(
    "text",
    ["state=asleep", "from=-3", "from=x", "before=x", "before=elsewhere:3", "from=9999999999", "q=", "from=5"],
)
def test_what_is_no_query_is_the_first_page(text: str) -> None:
    assert query(text) == Query()


def test_a_search_without_a_match_says_so_and_no_job_says_what_to_type() -> None:
    found = _jobs_view.jobs(query("q=x+y+atlas&state=error"), HOSTS, [looked("", finished=0)], NOW)
    assert "No job matches." in drawn("jobs.html", found).text
    assert found["commands"] == ["ports job list atlas --state error --search 'x y'"]
    found = _jobs_view.jobs(query(), HOSTS, [looked("", finished=0)], NOW)
    assert "ports job submit -- python train.py" in drawn("jobs.html", found).text


def test_the_list_shows_why_how_far_and_how_long() -> None:
    rows = [
        row(4, "running", began_at=NOW - 3600, progress={"done": 37, "total": 100}),
        row(3, "pending", why="waits for a GPU: 0 bob"),
        row(2, "error", began_at=NOW - 90, ended_at=NOW - 30, reason="exit code 1", command="python train.py --lr 1"),
        row(1, "pending", count=3, counts={"finished": 2, "pending": 1}),
    ]
    found = _jobs_view.jobs(query(), HOSTS, [looked("", *rows, error=1)], NOW)["rows"]
    assert [(one["took"], one["progress"]) for one in found] == [
        ("1 h", "37 of 100"),
        ("", ""),
        ("1 min", ""),
        ("", "1 pending, 2 finished"),
    ]
    assert [one["what"] for one in found] == ["train.py", "train.py", "python train.py --lr 1", "train.py"]
    assert found[1]["note"][0].text == "waits for a GPU: 0 bob" and found[0]["note"] == []


# --- whatever a host says ---

VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.just(ATTACK), st.text(max_size=20), st.just("12"),
    st.lists(st.text(max_size=5), max_size=3), st.dictionaries(st.text(max_size=5), st.integers(), max_size=2),
)  # fmt: skip
KEYS = (
    "id", "name", "state", "command", "what", "created_at", "began_at", "ended_at", "reason", "why", "count", "counts",
    "progress", "asked", "note", "tags", "transitions", "failed", "attempt", "peak_memory", "cpu_time", "queue",
)  # fmt: skip
INNER = st.fixed_dictionaries(
    {},
    optional={
        "script": VALUES | st.fixed_dictionaries({"argv": VALUES, "whole": VALUES, "workspace": VALUES}),
        "needs": VALUES | st.fixed_dictionaries({"cpus": VALUES, "memory": VALUES, "gpus": VALUES}),
        "directory": VALUES,
        "retries": VALUES,
        "timeout": VALUES,
        "status": VALUES,
    },
)
STEPS = st.lists(
    st.fixed_dictionaries({"attempt": VALUES, "state": VALUES, "at": VALUES, "reason": VALUES}), max_size=3
)
ROWS = st.dictionaries(st.sampled_from(KEYS), VALUES | INNER | STEPS, max_size=12)


@settings(max_examples=60, deadline=None)
@given(rows=st.lists(ROWS, max_size=3), tally=VALUES, text=st.text(max_size=10), trouble=st.text(max_size=10))
def test_any_row_of_a_host_is_a_list_that_parses(rows: Any, tally: Any, text: str, trouble: str) -> None:
    looks = [Looked("", {"rows": rows, "tally": tally}), Looked("atlas", None, trouble)]
    found = _jobs_view.jobs(Query.of({"q": [text]}, HOSTS), HOSTS, looks, NOW)
    drawn("jobs.html", found)


@settings(max_examples=60, deadline=None)
@given(found=ROWS, why=st.text(max_size=10), text=st.binary(max_size=30), path=st.text(max_size=10))
def test_any_row_of_a_host_is_a_job_that_parses(found: Any, why: str, text: bytes, path: str) -> None:
    lines = [Line("stderr", "2026-11-30T11:47:08.123Z", text), Line("stdout", "", ATTACK.encode())]
    files = [OutputFile(path, "/x", "f", 3, 0, 0), OutputFile(ATTACK, "/x", "l", 0, 0, 0)]
    shown = Shown(found, why, lines, {"stdout": 3}, files)
    parsed = drawn("job.html", _job_view.job(Id("", "12"), shown, CALLED, NOW), notes=[ATTACK])
    assert ATTACK in parsed.text, "it is shown as text"
    values = _job_form.filled(found, "laptop")
    drawn("job_new.html", _job_form.new_job(values, HOSTS, error=why, source="12"))
    drawn("jobs_selected.html", _jobs_view.selected("cancel", [(Id("atlas", "3"), found)], CALLED))


@given(text=st.text(max_size=60))
def test_a_line_of_output_moves_and_hides_nothing(text: str) -> None:
    shown = _job_view.printable(text)
    assert len(shown) == len(text) and all(one == "\t" or one.isprintable() for one in shown)


def test_a_progress_bar_is_one_line() -> None:
    shown = Shown(row(1), lines=[Line("stderr", "", b"10%\r50%\r90%"), Line("stdout", "", b"done\r\n")])
    found = _job_view.job(Id("", "1"), shown, CALLED, NOW)["lines"]
    assert [one["text"] for one in found] == ["90%", "done"]


# --- one job ---


def test_a_job_shows_its_attempts_and_what_it_used() -> None:
    steps = [
        {"attempt": 0, "state": "pending", "at": NOW - 100},
        {"attempt": 1, "state": "running", "at": NOW - 90},
        {"attempt": 1, "state": "pending", "at": NOW - 60, "reason": "exit code 75", "peak_memory": 3 * 2**30},
        {"attempt": 2, "state": "running", "at": NOW - 50},
    ]
    note = {"status": 75}
    found = _job_view.job(Id("atlas", "7"), Shown(row(7, "running", transitions=steps, note=note)), CALLED, NOW)
    assert [(one["n"], one["took"], one["state"].word, one["peak"]) for one in found["attempts"]] == [
        (1, "30 s", "failed", "3.0 GiB"),
        (2, "", "running", ""),
    ]
    text = " ".join(drawn("job.html", found, notes=[]).text.split())
    assert "Job atlas:7" in text and "exit code 75" in text and "ports job rerun atlas:7" in text
    assert found["can_cancel"] and found["cancel"] == "-/jobs/selected?verb=cancel&id=atlas%3A7"


def test_a_map_leads_to_its_jobs_that_failed() -> None:
    found = _job_view.job(Id("atlas", "7"), Shown(row(7, "error", count=9, failed=["7.2", "x", "7.5"])), CALLED, NOW)
    assert [one["href"] for one in found["items"]] == ["-/jobs/atlas%3A7.2", "-/jobs/atlas%3A7.5"]
    assert "Output" not in drawn("job.html", found, notes=[]).text


def test_what_would_be_cancelled_is_said_with_the_same_commands() -> None:
    chosen = [(Id("", "3"), row(3, "running")), (Id("atlas", "4"), row(4, "pending")), (Id("", "5"), row(5, "running"))]
    found = _jobs_view.selected("cancel", chosen, CALLED)
    assert found["commands"] == ["ports job cancel 3 5", "ports job cancel 4 -H atlas"]
    text = drawn("jobs_selected.html", found).text
    assert "Cancel: 3 jobs?" in text and "2 of them run: SIGTERM now, SIGKILL after 30 s." in text
    again = _jobs_view.selected("rerun", chosen, CALLED)
    assert again["commands"] == ["ports job rerun 3", "ports job rerun 5", "ports job rerun 4 -H atlas"]
    assert again["warning"] == "" and "Run again: 3 jobs?" in drawn("jobs_selected.html", again).text


@pytest.mark.parametrize(
    "text", ["", "x", "0", "-1", "1.2.3", "atlas:", "atlas:x", "../12", "12/file", None, 1.5, True]
)
def test_what_is_no_id_leads_nowhere(text: Any) -> None:
    with pytest.raises(UsageError):
        _jobs_view.parse_id(text)


@given(
    host=st.text(st.sampled_from(string.ascii_letters + "@:[].-_/?&#%"), max_size=8).filter(lambda one: one != ":"),
    number=st.integers(1, 10**9),
)
def test_the_page_of_a_job_is_one_part_of_a_path(host: str, number: int) -> None:
    id = Id(host, str(number))
    assert id.href.count("/") == 2 and not set(id.href) & set("?#&") and _jobs_view.parse_id(str(id)) == id


# --- the form ---


@pytest.mark.parametrize(
    ("sentence", "field"),
    [
        ("this job can never run here: it needs 99 cpus, and this resource has 2; ask for less", "cpus"),
        ("this job can never run here: it needs 1 gpu, and this resource has none; ask for less", "gpus"),
        ("it needs 9 GiB of memory, and this resource has 8 GiB", "memory"),
        ("memory: '3 apples' is no size; write 3GB", "memory"),
        ("timeout: 'soon' is no duration", "timeout"),
        ("directory: /nowhere does not exist", "directory"),
        ("command: there is none; write for example: python train.py", "command"),
        ("retries: 'x' is no number; write 2", "retries"),
        ("host: 'x' is none of this page", "host"),
        ("something else went wrong", ""),
    ],
)
def test_a_refusal_stands_at_its_field(sentence: str, field: str) -> None:
    assert _job_form.field_of(sentence) == field
    found = _job_form.new_job({"host": "atlas", "command": "x"}, HOSTS, error=sentence)
    assert sentence in drawn("job_new.html", found).text
    text = _render.render("job_new.html", **PAGE, **found)
    assert (f'id="wrong-{field}"' in text) == bool(field) and ('aria-invalid="true"' in text) == bool(field)


def test_the_form_is_filled_with_a_job_as_it_was() -> None:
    asked = {
        "directory": "/data",
        "needs": {"cpus": 2, "memory": 3_000_000_000, "gpus": 1},
        "timeout": 5400.0,
        "retries": {"failure": 2, "time": 2, "lost": 1, "memory": 0, "exit 75": 5},
        "script": {"argv": ["python", "a b.py", "--x"], "whole": False},
    }
    assert _job_form.filled(row(1, asked=asked), "atlas") == {
        "host": "atlas", "directory": "/data", "command": "python 'a b.py' --x", "cpus": "2", "memory": "3000000000",
        "gpus": "1", "timeout": "5400", "retries": "2, exit 75: 5", "name": "train.py",
    }  # fmt: skip
    lines = {"script": {"argv": ["/bin/bash", "-e", "-c", "a | b\nc"], "whole": True}, "retries": {"failure": 1}}
    found = _job_form.filled(row(1, asked=lines), "laptop")
    assert (found["command"], found["cpus"], found["retries"]) == ("a | b\nc", "", "failure: 1")
