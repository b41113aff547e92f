"""The page in Chromium, with fixed views of hosts: who sees it, who cannot, and what live updates leave alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ports.state import wait_until
from ports.web import _live
from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM
from tests.lab import views
from tests.lab.fixed_page import Served

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
#: Colours depend on the scheme alone, and places on the width alone.
SIZES = [(1280, "light"), (390, "dark"), (260, "light")]
ALL_SIZES = [(width, scheme) for width in (1280, 390, 260) for scheme in ("light", "dark")]
SCREENS = {
    "overview": "",
    "cluster": "-/thing?host=atlas&kind=cluster&name=main",
    "notebook": "-/thing?host=atlas&kind=notebook&name=bgc-md2",
    "machine": "-/machine?host=minerva",
    "start": "-/sheet?verb=start&host=atlas&kind=host",
    "stop": "-/sheet?verb=stop&host=atlas&kind=cluster&name=main",
    "scale": "-/sheet?verb=scale&host=atlas&kind=cluster&name=main",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield started
        started.close()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setattr(_live, "_LEAST_SECONDS", 0.02)
    made = Served(views.several()).start()
    yield made
    made.stop()


@pytest.fixture
def tab(browser: Any, served: Served) -> Iterator[Callable[..., Any]]:
    """Open a tab that has the page's cookie; what its console says of an error fails the test."""
    contexts, errors = [], []

    def opened(path: str = "", *, lost: bool = False, **given: Any) -> Any:
        context = browser.new_context(**({"viewport": {"width": 1280, "height": 900}} | given))
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: errors.append(str(error)))
        if not lost:  # the browser itself writes down each connection that is refused
            page.on("console", lambda said: errors.append(said.text) if said.type == "error" else None)
        page.goto(served.link())
        if path:
            page.goto(served.url + path)
        return page

    yield opened
    for one in contexts:
        one.close()
    assert not [one for one in errors if "409" not in one and "404" not in one], errors


def holds(page: Any, script: str, what: str) -> Any:
    """Wait until a script in the page gives something true."""
    return wait_until(lambda: page.evaluate(script) or None, timeout=20, what=what)


class TestAccess:
    def violations(self, page: Any) -> list[str]:
        from axe_playwright_python.sync_playwright import Axe

        found = Axe().run(page).response["violations"]
        return [f"{one['id']}: {node['html'][:120]}" for one in found for node in one["nodes"]]

    @pytest.mark.parametrize("screen", SCREENS)
    def test_axe_finds_nothing_wrong_with_a_screen(self, tab: Callable[..., Any], screen: str) -> None:
        self.looks(tab(SCREENS[screen]), SIZES)

    @pytest.mark.long
    @pytest.mark.parametrize("screen", SCREENS)
    def test_axe_finds_nothing_at_any_width_and_scheme(self, tab: Callable[..., Any], screen: str) -> None:
        self.looks(tab(SCREENS[screen]), ALL_SIZES)

    def looks(self, page: Any, sizes: list[tuple[int, str]]) -> None:
        found = {}
        for width, scheme in sizes:
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            found[width, scheme] = self.violations(page)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, f"wider than {width}"
        assert not any(found.values()), found

    def test_axe_finds_nothing_in_an_open_sheet(self, tab: Callable[..., Any]) -> None:
        page = tab()
        page.get_by_role("link", name="Stop cluster main…").first.click()
        page.get_by_role("dialog").wait_for()
        assert not self.violations(page)

    def test_the_keyboard_alone_scales_a_cluster(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab()
        for _ in range(40):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.getAttribute('aria-label')") == "Scale cluster main…":
                break
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Control+a")
        page.keyboard.type("48")
        assert page.locator(".command").inner_text() == "ports cluster scale main 48 -H atlas"
        page.keyboard.press("Enter")
        holds(page, "!document.getElementById('sheet').open", "the end of the sheet")
        assert served.page.done == [["cluster", "scale", "main", "48", "-H", "atlas"]]

    def test_escape_closes_a_sheet_and_focus_returns(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab()
        link = page.get_by_role("link", name="Start on hydra…")
        link.focus()
        page.keyboard.press("Enter")
        page.get_by_role("dialog").wait_for()
        page.keyboard.press("Escape")
        holds(page, "!document.getElementById('sheet').open", "the end of the sheet")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Start on hydra…"
        assert not served.page.done

    def test_the_command_that_logs_in_can_be_copied(self, tab: Callable[..., Any]) -> None:
        page = tab(permissions=["clipboard-read", "clipboard-write"])
        page.get_by_role("button", name="Copy ports login login2").click()
        assert holds(page, "navigator.clipboard.readText()", "what was copied") == "ports login login2"

    def test_it_all_works_without_javascript(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab(java_script_enabled=False)
        page.get_by_role("link", name="Scale cluster main…").first.click()
        page.get_by_label("Workers").fill("5")
        page.get_by_role("button", name="Scale main").click()
        page.get_by_role("heading", name="atlas").wait_for()
        page.get_by_role("link", name="Stop cluster main…").first.click()
        assert "24 workers end" in page.locator("main").inner_text()
        page.get_by_role("link", name="Keep it").click()
        page.get_by_role("button", name="Open all").click()
        page.get_by_role("heading", name="atlas").wait_for()
        scale = ["cluster", "scale", "main", "5", "-H", "atlas"]
        assert served.page.done == [scale, ["open", "atlas", "--background", "--no-browser"]]


class TestLive:
    def test_fifty_updates_leave_what_somebody_types_alone(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab()
        page.get_by_role("link", name="Scale cluster main…").first.click()
        page.get_by_role("dialog").wait_for()
        field = page.get_by_label("Workers")
        field.fill("")
        for n in range(50):
            served.page.board.take(changed(views.atlas(), 1000 + n))
            field.press_sequentially(str(n % 10))
            holds(page, f"document.getElementById('main').textContent.includes('1,{n:03}')", f"update {n}")
        assert field.input_value() == "".join(str(n % 10) for n in range(40))  # no longer number is taken
        assert page.evaluate("document.activeElement.name") == "n_workers"

    def test_a_change_shows_and_focus_stays_where_it_is(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab()
        page.get_by_role("link", name="Stop cluster cardamom…").focus()
        served.page.board.take(changed(views.atlas(), 77_777))
        holds(page, "document.getElementById('main').textContent.includes('77,777')", "the change")
        assert page.evaluate("document.activeElement.getAttribute('aria-label')") == "Stop cluster cardamom…"

    def test_a_sheet_of_what_is_gone_says_so(self, tab: Callable[..., Any]) -> None:
        page = tab()
        link = page.get_by_role("link", name="Stop notebook lab…")
        link.evaluate("link => { link.href = link.href.replace('name=lab', 'name=nothing') }")
        link.click()
        page.get_by_role("dialog").get_by_role("alert").wait_for()
        assert "it is gone from atlas" in page.get_by_role("dialog").inner_text()
        page.get_by_role("dialog").get_by_role("link", name="Close").click()
        holds(page, "!document.getElementById('sheet').open", "the end of the sheet")

    def test_a_log_is_shown_from_its_end(self, tab: Callable[..., Any]) -> None:
        page = tab(SCREENS["cluster"])
        holds(
            page, "document.querySelector('.log')?.textContent.includes('line 59 of cluster main on atlas')", "the log"
        )
        box, last = page.locator(".log").bounding_box(), page.locator(".log span").bounding_box()
        assert abs(last["y"] + last["height"] - box["y"] - box["height"]) < 40
        assert "line 9 " not in page.locator(".log").inner_text()

    def test_a_sheet_shows_the_error_and_keeps_what_was_typed(self, tab: Callable[..., Any], served: Served) -> None:
        from ports.errors import PortsError

        def refuse(words: Any) -> None:
            raise PortsError("there is no room for 48 workers; pass `--force`")

        served.page.acts._do = refuse
        page = tab()
        page.get_by_role("link", name="Scale cluster main…").first.click()
        page.get_by_label("Workers").fill("48")
        page.get_by_role("button", name="Scale main").click()
        page.get_by_role("dialog").get_by_role("alert").wait_for()
        assert "no room for 48 workers" in page.get_by_role("dialog").inner_text()
        assert page.get_by_label("Workers").input_value() == "48"

    def test_a_lost_server_is_told_and_found_again(self, tab: Callable[..., Any], served: Served) -> None:
        page = tab(lost=True)
        page.get_by_role("heading", name="atlas").wait_for()
        served.pause()
        holds(page, "!document.getElementById('lost').hidden", "the word that the server is lost")
        served.resume()
        served.page.board.take(changed(views.atlas(), 4242))
        holds(page, "document.getElementById('lost').hidden", "the end of that word")
        holds(page, "document.getElementById('main').textContent.includes('4,242')", "what changed meanwhile")

    def test_a_tab_that_nobody_sees_is_no_viewer_until_it_is_seen(
        self, tab: Callable[..., Any], served: Served
    ) -> None:
        page = tab()
        page.get_by_role("heading", name="atlas").wait_for()
        wait_until(lambda: served.page.live._sent or None, timeout=20, what="the tab")
        page.clock.install()
        turn = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true})"
        page.evaluate(turn % "true" + "; document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")
        page.clock.fast_forward(50_000)
        assert served.page.live._sent
        page.clock.fast_forward(20_000)
        wait_until(lambda: not served.page.live._sent or None, timeout=20, what="the end of what it hears")
        served.page.board.take(changed(views.atlas(), 4242))
        page.evaluate(turn % "false" + "; document.dispatchEvent(new Event('visibilitychange', {bubbles: true}))")
        holds(page, "document.getElementById('main').textContent.includes('4,242')", "what changed meanwhile")
        assert page.evaluate("document.getElementById('lost').hidden")


class TestHostile:
    def test_markup_from_a_host_runs_nothing_and_is_shown(self, tab: Callable[..., Any], served: Served) -> None:
        evil = "<img src=x onerror=document.title='hit'><script>document.title='hit'</script>"
        page = tab()
        served.page.board.take(
            {**views.atlas(), "rows": [views.cluster(evil, 1, 1, 2, 0, 9, note=evil)], "warnings": [evil]}
        )
        holds(page, "document.getElementById('main').textContent.includes('<img src=x')", "the text of the host")
        page.get_by_role("link", name="Stop cluster <img").click()
        holds(page, "document.getElementById('sheet').open", "the sheet, or why there is none")
        assert page.evaluate("document.querySelectorAll('img, main script, dialog script').length") == 0
        assert page.title() == "ports"


class TestSize:
    def test_the_whole_page_is_small(self, browser: Any, served: Served) -> None:
        context = browser.new_context()
        page, received = context.new_page(), []
        page.goto(served.link())
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        session.send("Network.setCacheDisabled", {"cacheDisabled": True})
        session.on("Network.loadingFinished", lambda event: received.append(event["encodedDataLength"]))
        page.goto(served.url, wait_until="networkidle")
        context.close()
        assert len(received) >= 4
        assert sum(received) <= 60_000


def changed(view: dict[str, Any], n_tasks: int) -> dict[str, Any]:
    """Return a view whose first cluster has another number of tasks."""
    view["rows"][0]["n_tasks"] = n_tasks
    return view
