"""What the page shows: views of hosts → values → HTML. Nothing of it asks a host."""

from __future__ import annotations

import html.parser
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ports.cli import main as cli
from ports.errors import PortsError
from ports.web import _facts, _plots, _render, _things, _verbs, _view
from tests.lab import views

VOID = {"meta", "link", "input", "img", "br"}
EVIL = "<img src=x onerror=alert(1)>\"'&"
#: What a host may say in place of any value.
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=12) | st.just(EVIL),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


class Parsed(html.parser.HTMLParser):
    """The elements of a page; wrong nesting, two equal ids and inline code are errors."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert not [name for name in given if name.startswith("on") or name == "style"], given
        assert tag not in ("img", "style"), tag
        if "id" in given:
            assert given["id"] not in self.ids, given["id"]
            assert not re.search(r"\s", given["id"] or ""), given["id"]
            self.ids.add(str(given["id"]))
        for link in ("href", "action", "src"):
            assert re.match(r"/|\./|\.\./|-/", given.get(link) or "/"), given
        self.elements.append((tag, given))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    @property
    def words(self) -> str:
        """What somebody reads."""
        return " ".join("".join(self.text).split())


def page(*some: dict[str, Any], part: str = "main") -> Parsed:
    shown = _view.overview(some, views.NOW)
    return Parsed(_render.render("overview.html", base="/", token="t0k", who="alice at laptop", part=part, **shown))


def host(view: dict[str, Any]) -> _view.Host:
    (found,) = _view.overview([view], views.NOW)["hosts"]
    return found


class TestOverview:
    def test_each_host_has_a_section_in_the_order_given(self) -> None:
        found = _view.overview(views.several(), views.NOW)
        assert [one.name for one in found["hosts"]] == ["atlas", "minerva", "login2", "old-iron", "hydra"]
        assert found["commands"][0] == "ports list atlas minerva login2 old-iron hydra"

    def test_a_row_shows_size_memory_tasks_and_link(self) -> None:
        main = host(views.atlas()).things[0]
        assert (main.workers, main.memory, main.tasks, main.since) == (
            "24 × 1 thread",
            "201 of 288 GiB",
            "18,432",
            "3 d",
        )
        assert main.link == _things.Link(href="-/go?host=atlas&kind=cluster&name=main", text="localhost:29516")
        assert main.state == ("running", "ok")
        assert [act.label for act in main.acts] == ["Scale…", "Stop…"]

    def test_a_cluster_without_all_its_workers_is_scaling(self) -> None:
        assert host(views.atlas()).things[1].state == ("scaling", "busy")

    def test_a_cluster_is_drawn_from_what_it_says_itself(self) -> None:
        (main,) = host(views.minerva()).things
        assert (main.workers, main.memory, main.tasks) == ("8 × 1 thread", "17.0 of 60.0 GiB", "0")
        assert main.curve and main.curve[0].d.startswith("M")

    def test_a_cluster_without_figures_shows_its_limit_or_nothing(self) -> None:
        rows = [{"kind": "cluster", "name": "main", "state": "running", "cluster": {"memory_limit_bytes": 8 * 2**30}}]
        rows.append({"kind": "cluster", "name": "other", "state": "running", "cluster": None})
        main, other = host(views.view("a", rows=rows)).things
        assert (main.memory, main.workers, other.memory, other.tasks) == ("8.0 GiB", "", "", "")

    def test_what_ended_is_last_and_can_be_removed(self) -> None:
        last = host(views.atlas()).things[-1]
        assert (last.name, last.state, [act.label for act in last.acts]) == ("short", ("stopped", "off"), ["Remove…"])
        assert "killed by signal 9; the kernel ended it: memory was short" in page(views.atlas()).words

    def test_a_notebook_started_by_hand_has_a_warning_and_no_stop(self) -> None:
        found = next(one for one in host(views.atlas()).things if one.name == "bgc-md2")
        assert not found.acts
        assert found.warnings[0][-1] == ("ports notebook start", True)

    def test_a_host_that_asks_for_a_code_shows_what_to_type(self) -> None:
        words = page(views.second_factor()).words
        assert "needs login" in words and "ports login login2" in words
        assert "Start…" not in words

    def test_a_host_that_is_down_is_dim_and_says_since_when(self) -> None:
        found = host(views.down())
        assert found.is_dim and found.seen == "Seen 40 min ago."
        assert not found.things[0].acts and found.start is None
        assert found.things[0].link_state == ("down", "bad")

    def test_an_empty_host_says_what_to_type(self) -> None:
        assert "ports cluster start -H hydra" in page(views.idle()).words
        assert "Start a cluster with ports cluster start , or" not in page(views.idle()).words
        assert "Nothing of yours runs here. Start a cluster with ports cluster start," in page(
            views.view("laptop", here=True)
        ).words.replace(" ,", ",")

    def test_this_machine_alone_leads_to_the_choice_of_servers(self) -> None:
        found = page(views.view("laptop", here=True))
        assert "Only this machine is shown. Which servers do you use?" in found.words
        assert ("a", {"href": "/-/hosts"}) in found.elements
        assert "Show other servers…" in page(views.view("laptop", here=True), views.idle()).words

    def test_a_host_seen_never_says_that_it_connects(self) -> None:
        assert "connecting" in page(views.view("far", condition="connecting", seen_at=None)).words

    def test_other_listeners_are_named_by_their_port(self) -> None:
        board = next(one for one in host(views.atlas()).things if one.kind == "tensorboard")
        assert (board.name, board.title, board.can_open) == ("6006", "tensorboard", True)

    @pytest.mark.parametrize("row", [views.cluster("main", 1, 1, 2, 0, 9), views.notebook("lab", "~", 9)])
    def test_open_leads_there_at_once_and_open_all_stays(self, row: dict[str, Any]) -> None:
        found = host(views.view("far", rows=[{**row, "tunnel": None}]))
        (one,) = found.things
        assert one.link == _things.Link(href=f"-/go?host=far&kind={row['kind']}&name={row['name']}", text="Open")
        assert found.can_open_all

    def test_what_serves_no_page_has_only_a_tunnel(self) -> None:
        row = {"kind": "tcp", "name": None, "port": 5432, "state": "running", "http": False}
        (one,) = host(views.view("far", rows=[row])).things
        assert (one.link, one.can_open) == (None, True)

    def test_here_a_link_needs_no_tunnel(self) -> None:
        (main,) = host(views.view("laptop", here=True, rows=[views.cluster("main", 1, 1, 2, 0, 9)])).things
        assert main.link is not None and main.link.text == "dashboard" and not main.can_open

    def test_a_row_that_a_host_lists_twice_is_one_line(self) -> None:
        row = views.cluster("main", 1, 1, 2, 0, 9)
        assert len(host(views.view("a", rows=[row, row])).things) == 1

    def test_jobs_of_a_host_lead_to_them(self) -> None:
        found = page(views.atlas())
        assert "jobs: 12 running, 230 pending" in found.words
        assert ("a", {"class": "soft", "href": "/-/jobs?host=atlas"}) in found.elements


def sheet(verb: str, host: str, kind: str, name: str | None = None) -> Parsed:
    shown = _view.sheet(views.several(), verb, host, kind, name, now=views.NOW)
    return Parsed(_render.render("sheet.html", base="../", token="t0k", who="alice at laptop", **shown))


def fields(found: Parsed) -> list[str]:
    return [str(given["name"]) for tag, given in found.elements if tag == "input"]


class TestSheets:
    def test_a_stop_says_what_ends_and_the_same_command(self) -> None:
        words = sheet("stop", "atlas", "cluster", "main").words
        assert "Stop cluster main on atlas?" in words
        assert "24 workers end, and 18,432 tasks with what they hold. 3 notebooks or scripts use it." in words
        assert "ports cluster stop main -H atlas" in words

    def test_a_form_has_what_the_act_needs(self) -> None:
        found = sheet("scale", "atlas", "cluster", "main")
        assert fields(found) == ["n_workers", "verb", "host", "kind", "name", "token"]
        assert "Each worker has up to 12.0 GiB. 241 GiB of the machine are free." in found.words
        assert ("form", {"method": "post", "action": "../-/do"}) in found.elements

    def test_a_start_offers_cluster_notebook_and_queue(self) -> None:
        words = sheet("start", "hydra", "host").words
        assert all(one in words for one in ("Start cluster", "Start JupyterLab", "Start the queue of jobs", "New job…"))
        assert "ports cluster start N --n-workers N --memory-limit N -H hydra" in words

    def test_a_field_says_its_name_by_default_and_what_it_takes(self) -> None:
        fields = [
            found for tag, found in sheet("start", "hydra", "host").elements if tag == "input" and "title" in found
        ]
        assert [(one["name"], one["placeholder"], one["title"]) for one in fields] == [
            ("name", "main", "A letter a-z, then up to 30 of a-z, 0-9 and '-'"),
            ("n_workers", "fair share", "A whole number, such as 4"),
            ("memory_limit", "fair share", "A size, such as 4GB or 512MiB"),
            ("name", "lab", "A letter a-z, then up to 30 of a-z, 0-9 and '-'"),
        ]

    def test_a_sheet_that_failed_keeps_what_was_typed(self) -> None:
        typed = {"n_workers": "48", "memory_limit": "4 GB"}
        shown = _view.sheet(views.several(), "start", "hydra", "cluster", "big", now=views.NOW, typed=typed)
        found = Parsed(_render.render("sheet.html", base="../", **shown))
        assert [given.get("value") for tag, given in found.elements if tag == "input"][:3] == ["big", "48", "4 GB"]
        assert "ports cluster start big --n-workers 48 --memory-limit 4 GB -H hydra" in found.words

    def test_a_removal_names_all_that_leaves(self) -> None:
        words = sheet("remove", "atlas", "cluster", "short").words
        assert "short leaves the list." in words and "ports prune -H atlas" in words

    def test_on_this_machine_a_command_names_no_host(self) -> None:
        here = views.view("laptop", here=True, rows=[views.cluster("main", 1, 1, 2, 0, 9)])
        (form,) = _view.sheet([here], "stop", "laptop", "cluster", "main", now=views.NOW)["forms"]
        assert [piece.text for piece in form.command] == ["ports cluster stop main"]

    @pytest.mark.parametrize(
        ("verb", "host", "kind", "name"),
        [
            ("stop", "elsewhere", "cluster", "main"),
            ("stop", "atlas", "cluster", "gone"),
            ("erase", "atlas", "cluster", "main"),
            ("start", "elsewhere", "host", None),
        ],
    )
    def test_a_sheet_of_nothing_is_an_error(self, verb: str, host: str, kind: str, name: str | None) -> None:
        with pytest.raises(PortsError):
            _view.sheet(views.several(), verb, host, kind, name, now=views.NOW)

    @pytest.mark.parametrize(("kind", "verb"), sorted(_verbs.VERBS))
    def test_each_verb_has_a_sheet_with_its_command(self, kind: str, verb: str) -> None:
        row = {"kind": kind, "name": "main", "state": "running", "n_running": 2, "n_pending": 5}
        shown = _view.sheet([views.view("a", rows=[row])], verb, "a", kind, "main", now=views.NOW)
        found = Parsed(_render.render("sheet.html", base="../", part="sheet", **shown))
        typed = {one.field.name: "4" for one in shown["forms"][0].inputs if one.field.required}
        command = " ".join(["ports", *_verbs.words(verb, "a", kind, "main", typed)])
        assert command in " ".join(found.words.replace(" N ", " 4 ").split()).replace(
            "--n-workers 4 --memory-limit 4 ", ""
        )


class TestPages:
    def thing(self, view: dict[str, Any], kind: str, name: str, **more: Any) -> Parsed:
        shown = _view.thing(view, kind, name, views.NOW, **more)
        return Parsed(_render.render("thing.html", base="../", token="t", who="alice at laptop", **shown))

    def test_a_cluster_shows_a_band_rates_facts_and_its_log(self) -> None:
        found = self.thing(views.atlas(), "cluster", "main", log=["one", "\x1b[31mtwo <b>"])
        assert "Memory of a worker, an hour" in found.words and "Tasks per second, a day" in found.words
        assert "Used by" in found.words and "3 clients" in found.words
        assert "two <b>" in found.words and "ports cluster logs main -H atlas" in found.words

    def test_the_page_of_a_thing_has_what_the_table_has_no_room_for(self) -> None:
        shown = _view.thing(views.atlas(), "cluster", "main", views.NOW)["thing"]
        assert [one.label for one in shown.acts] == ["Scale…", "Restart…", "Close link…", "Stop…"]
        assert [one.label for one in _view.thing(views.down(), "cluster", "main", views.NOW)["thing"].acts] == []

    def test_a_log_not_read_yet_is_not_an_empty_log(self) -> None:
        assert "Reading…" in self.thing(views.atlas(), "notebook", "lab").words
        assert "It has printed nothing." in self.thing(views.atlas(), "notebook", "lab", log=[]).words
        assert "no answer" in self.thing(views.atlas(), "notebook", "lab", trouble="no answer").words

    def test_only_the_last_lines_of_a_log_are_shown(self) -> None:
        shown = _view.thing(views.atlas(), "cluster", "main", views.NOW, log=[str(n) for n in range(99)])
        assert shown["log"] == [str(n) for n in range(49, 99)]

    def test_a_thing_that_is_gone_is_an_error(self) -> None:
        with pytest.raises(PortsError, match="gone"):
            _view.thing(views.atlas(), "cluster", "gone", views.NOW)

    def test_a_machine_shows_users_pressure_gpus_and_hours(self) -> None:
        shown = _view.machine(views.minerva(), views.NOW)
        words = Parsed(_render.render("machine.html", base="../", token="t", who="a", **shown)).words
        assert all(one in words for one in ("GPU 2", "wenzel", "cores 3.1 %", "Memory, an hour", "ports who minerva"))

    def test_a_machine_not_seen_yet_says_so(self) -> None:
        shown = _view.machine(views.second_factor(), views.NOW)
        assert "Nothing is known of it yet." in _render.render("machine.html", base="../", **shown)

    def test_the_first_run_offers_the_aliases(self) -> None:
        found = Parsed(_render.render("first_run.html", base="./", **_view.first_run(["atlas", "<b>"])))
        assert [given["value"] for tag, given in found.elements if tag == "input"][:2] == ["atlas", "<b>"]
        empty = Parsed(_render.render("first_run.html", base="./", **_view.first_run([])))
        assert "names no host yet" in empty.words


def test_no_template_trusts_a_text() -> None:
    for template in _render.environment().list_templates(extensions=["html"]):
        source = (Path(_render.__file__).parent / "templates" / template).read_text("utf-8")
        assert not re.search(r"\|\s*safe|autoescape|Markup|<style|\bstyle=|\son\w+=|<script(?! src)", source), template


def test_what_goes_on_is_shown_in_place_of_the_state() -> None:
    doing = [{"verb": "stop", "host": "atlas", "kind": "cluster", "name": "main", "since": views.NOW}]
    doing += [{"verb": "start", "host": "hydra", "kind": "cluster", "name": "new", "since": views.NOW}]
    shown = _view.overview(views.several(), views.NOW)
    words = Parsed(_render.render("overview.html", base="./", part="main", doing=doing, **shown)).words
    assert "main cluster stopping 24" in words and "starting cluster new" in words
    assert "Nothing of yours runs" not in words


class TestUsage:
    def test_users_are_me_people_few_and_system(self) -> None:
        memory, cores = host(views.atlas()).bars
        assert [entry.name for entry in memory.legend] == [
            "you",
            "wenzel",
            "priya",
            "marco",
            "jin",
            "3 with little",
            "system",
        ]
        assert [entry.words for entry in memory.legend][:2] == ["212 of 288 GiB promised", "141 GiB"]
        assert [entry.words for entry in cores.legend][:2] == ["31.0", "22.4"]
        assert [part.style for part in memory.parts][:3] == ["you", "promised you", "u1"]

    def test_hidden_processes_are_not_called_the_system(self) -> None:
        usage = views.machine("a", 4, 3.0, 16, 4, [views.user("alice", 1, 0.1)], hidden=True, unseen_bytes=11 * 2**30)
        memory, _ = host(views.view("a", machine=usage)).bars
        assert [(one.name, one.words) for one in memory.legend] == [("you", "1.0 GiB"), ("others, hidden", "11.0 GiB")]

    def test_gpus_show_who_uses_them(self) -> None:
        assert [one.words for one in host(views.minerva()).gpus] == [
            "71.0 of 80.0 GiB, 98 % busy, wenzel",
            "12.0 of 80.0 GiB, 41 % busy, you",
            "free",
        ]

    def test_an_unknown_figure_is_not_shown_as_zero(self) -> None:
        usage = views.machine("a", 4, 1.0, 8, 4, []) | {"busy_cores": None, "available_bytes": None}
        assert host(views.view("a", machine=usage)).heading == []

    def test_no_more_cores_are_busy_than_there_are(self) -> None:
        usage = views.machine("a", 2, 2.1, 8, 4, [])
        assert host(views.view("a", machine=usage)).heading[0] == "2.0 of 2 cores busy"


class TestHostile:
    def test_a_host_whose_every_text_is_markup_stays_text(self) -> None:
        found = page(views.hostile(), part="page")
        assert "<img src=x onerror=alert(1)>" in found.words
        assert "javascript:" not in "".join(str(given.get("href")) for _, given in found.elements)
        assert "\x1b" not in "".join(found.text)

    @settings(max_examples=150, deadline=None)
    @given(
        which=st.sampled_from([views.atlas, views.minerva, views.down, views.hostile]),
        changes=st.lists(st.tuples(st.integers(0, 10_000), ANYTHING), max_size=6),
    )
    def test_any_view_gives_html_that_parses(self, which: Callable[[], Any], changes: list[tuple[int, Any]]) -> None:
        view = broken(which(), changes)
        drawn = [page(view, part="page"), Parsed(_render.render("machine.html", **_view.machine(view, views.NOW)))]
        for row in _facts.rows(view, "rows"):
            kind, name = _things.identity(row)
            drawn.append(Parsed(_render.render("thing.html", **_view.thing(view, kind, name, views.NOW))))
        for tag, attributes in (element for found in drawn for element in found.elements):
            if tag == "rect" and (attributes.get("width") or "").endswith("%"):
                at, width = (float(str(attributes[name]).removesuffix("%")) for name in ("x", "width"))
                assert 0 <= at <= at + width <= 100.06


def broken(view: dict[str, Any], changes: list[tuple[int, Any]]) -> dict[str, Any]:
    """Return a view of which some values, at whatever depth, are replaced by anything."""
    for place, value in changes:
        owners: list[tuple[Any, Any]] = []

        def collect(owner: Any, owners: list[tuple[Any, Any]] = owners) -> None:
            for key, inner in owner.items() if isinstance(owner, dict) else enumerate(owner):
                owners.append((owner, key))
                if isinstance(inner, dict) or (isinstance(inner, list) and len(inner) < 20):
                    collect(inner)

        collect(view)
        owner, key = owners[place % len(owners)]
        owner[key] = value
    return view


class TestFacts:
    @pytest.mark.parametrize(
        ("value", "whole", "text"),
        [
            (212, 288, "212 of 288 GiB"),
            (9, 24, "9.0 of 24.0 GiB"),
            (0, 60, "0 of 60.0 GiB"),
            (0.39, 0.56, "399 of 573 MiB"),
            (0.001, 288, "1.0 MiB of 288 GiB"),
            (None, 288, ""),
            (3, None, "3.0 GiB"),
        ],
    )
    def test_a_part_and_its_whole_share_a_unit(self, value: float | None, whole: float | None, text: str) -> None:
        sizes = [None if one is None else one * 2**30 for one in (value, whole)]
        assert _facts.pair(*sizes) == text

    @pytest.mark.parametrize("value", [True, "3", -1, float("nan"), float("inf"), 10**400, None, [1]])
    def test_what_is_no_number_is_unknown(self, value: object) -> None:
        assert _facts.number({"n": value}, "n") is None

    def test_a_long_text_is_shortened(self) -> None:
        assert len(_facts.plain("x" * 9000)) == 400

    def test_a_lone_surrogate_can_be_written(self) -> None:
        assert _facts.plain("a\ud800").encode()

    def test_code_between_backticks_is_code(self) -> None:
        assert _facts.said("type `ports who` now") == [("type ", False), ("ports who", True), (" now", False)]


class TestVerbs:
    @pytest.mark.parametrize(
        ("verb", "host", "kind", "name", "fields", "words"),
        [
            ("start", "atlas", "cluster", "big", {"n_workers": "8"}, "cluster start big --n-workers 8 -H atlas"),
            ("start", None, "cluster", "", {}, "cluster start"),
            ("start", "atlas", "cluster", "", {"memory_limit": "4GB"}, "cluster start --memory-limit 4GB -H atlas"),
            ("scale", "atlas", "cluster", "main", {"n_workers": "0"}, "cluster scale main 0 -H atlas"),
            ("restart", "atlas", "cluster", "main", {}, "cluster restart main -H atlas"),
            ("stop", "atlas", "notebook", "lab", {}, "notebook stop lab -H atlas"),
            ("remove", "atlas", "cluster", "short", {}, "prune -H atlas"),
            ("drain", None, "resource", "jobs", {}, "resource drain"),
            ("open", "atlas", "tunnel", "main", {}, "open atlas:main --background --no-browser"),
            ("open", "atlas", "tunnel", "6006", {}, "open atlas:6006 --background --no-browser"),
            ("open", "atlas", "tunnel", "", {}, "open atlas --background --no-browser"),
            ("open", "::1", "tunnel", "main", {}, "open [::1]:main --background --no-browser"),
            ("close", "atlas", "tunnel", "main", {}, "tunnel close atlas:main"),
        ],
    )
    def test_a_verb_is_a_command(
        self, verb: str, host: str | None, kind: str, name: str, fields: dict[str, str], words: str
    ) -> None:
        assert " ".join(_verbs.words(verb, host, kind, name, fields)) == words

    @pytest.mark.parametrize("host", [None, "atlas"])
    @pytest.mark.parametrize(("kind", "verb"), sorted(_verbs.VERBS))
    def test_the_command_line_takes_the_words_of_each_verb(self, kind: str, verb: str, host: str | None) -> None:
        typed = {"n_workers": "4", "memory_limit": "4 GB"}
        fields = {one.name: typed[one.name] for one in _verbs.VERBS[kind, verb].fields}
        if kind == "tunnel" and host is None:
            return  # refused: see below
        words = [*_verbs.words(verb, host, kind, "main", fields), "--json"]
        command: click.Command = cli.ports
        while isinstance(command, click.Group):
            found = command.get_command(click.Context(command), words.pop(0))
            assert found is not None
            command = found
        given = command.make_context("ports", words).params
        assert [str(given[name]) for name in fields if name == "n_workers"] == ["4"] * ("n_workers" in fields)

    @pytest.mark.parametrize(
        ("verb", "host", "kind", "name", "fields"),
        [
            ("erase", "atlas", "cluster", "main", {}),
            ("stop", "atlas", "machine", "main", {}),
            ("stop", "atlas", "cluster", "--all", {}),
            ("stop", "atlas", "cluster", "", {}),
            ("stop", "-oProxyCommand=touch /tmp/x", "cluster", "main", {}),
            ("stop", "a b", "cluster", "main", {}),
            ("scale", "atlas", "cluster", "main", {}),
            ("scale", "atlas", "cluster", "main", {"n_workers": "-1"}),
            ("scale", "atlas", "cluster", "main", {"n_workers": "٣"}),
            ("start", "atlas", "cluster", "main", {"n_workers": "--force"}),
            ("start", "atlas", "cluster", "main", {"force": "1"}),
            ("start", "atlas", "cluster", "../x", {}),
            ("open", None, "tunnel", "main", {}),
            ("open", "atlas", "tunnel", "99999", {}),
            ("open", "atlas", "tunnel", "--share", {}),
        ],
    )
    def test_what_no_table_has_is_refused(
        self, verb: str, host: str | None, kind: str, name: str, fields: dict[str, str]
    ) -> None:
        with pytest.raises(PortsError):
            _verbs.words(verb, host, kind, name, fields)


class TestPlots:
    @given(
        amounts=st.lists(st.tuples(st.none() | st.floats(), st.just("you")), max_size=12), total=st.none() | st.floats()
    )
    def test_the_parts_of_a_bar_never_exceed_it(
        self, amounts: list[tuple[float | None, str]], total: float | None
    ) -> None:
        at = 0.0
        for part in _plots.bar(amounts, total):
            begin, width = float(part.x[:-1]), float(part.width[:-1])
            assert begin >= at - 0.11 and width > 0
            at = begin + width
        assert at <= 100.06

    @given(
        points=st.lists(st.tuples(st.floats(0, 100), st.none() | st.floats()), max_size=300), top=st.floats(0, 1e300)
    )
    def test_a_curve_stays_in_its_box(self, points: list[tuple[float, float | None]], top: float) -> None:
        drawn = _plots.line(points, (0.0, 100.0), top, "memory").d
        for x, y in re.findall(r"[ML](\S+?) ([0-9.]+)", drawn):
            assert 0 <= float(x) <= _plots.WIDTH and 0 <= float(y) <= _plots.HEIGHT
        assert drawn.count("M") + drawn.count("L") <= 120

    def test_of_a_day_of_points_only_those_are_read_that_are_drawn(self) -> None:
        day = [[15.0 * n, float(n), None] for n in range(5760)]
        hour = _facts.points({"machine": [*day, "x", [None], [9e9]]}, "machine", 3, since=15.0 * 5520)
        assert hour[-1] == [15.0 * 5759, 5759.0, None] and len(hour) <= 120
        assert hour[0][0] is not None and hour[0][0] >= 15.0 * 5520
        assert len(_facts.points({"machine": day}, "machine", 3, since=0)) <= 120
        assert _facts.points({"machine": "no"}, "machine", 3, since=0) == []

    def test_a_curve_of_less_than_a_minute_is_not_drawn(self) -> None:
        history = {"machine": [[views.NOW - 15 * n, 1e9, 1.0] for n in (2, 1, 0)], "clusters": {}}
        assert host({**views.atlas(), "history": history}).curves == []

    def test_a_gap_in_the_points_is_a_gap_in_the_line(self) -> None:
        drawn = _plots.line([(0, 1.0), (1, 1.0), (2, None), (3, 1.0), (4, 1.0)], (0, 4), 1.0, "memory").d
        assert drawn.count("M") == 2

    def test_the_newest_point_is_always_drawn(self) -> None:
        kept = _plots.thinned([(float(n), 1.0) for n in range(1001)], (0.0, 1000.0))
        assert kept[-1][0] == 1000.0 and len(kept) <= 120

    def test_a_band_has_an_area_for_each_stretch(self) -> None:
        drawn = _plots.band([(0, 1, 2), (1, 1, 2), (2, None, None), (3, 1, 2), (4, 1, 2)], (0, 4), 2.0, "band").d
        assert drawn.count("Z") == 2
