"""Bob attacks alice's page on a machine where both work. Each attack succeeds on a plain tornado page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.lab.namespaces import NamespaceSite
from tests.security.conftest import Scene, protected, tell
from tests.security.plain_page import COOKIE

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]
PLAIN = Path(__file__).with_name("plain_page.py").read_text()
VISITOR = (Path(__file__).parents[1] / "lab/page.py").read_text()
# What comes on standard input is asked; each answer is a status, or the error that kept it from coming.
ATTACK = f"""{VISITOR}
import json, sys
given, told = json.load(sys.stdin), {{}}
visitor = Visitor(given["link"], given.get("socket"), given["sent"])
for name, one in given["asked"].items():
    try:
        told[name] = Tab(visitor, **one).status if name == "websocket" else visitor.ask(**one).status
    except OSError as error:
        told[name] = type(error).__name__
print(json.dumps(told))
"""
# Looks for texts in all that this user can read: arguments and environments of processes, and files below some places.
SEARCH = """
import glob, json, os, sys
wanted, found = json.load(sys.stdin), {}
places = glob.glob("/proc/[0-9]*/cmdline") + glob.glob("/proc/[0-9]*/environ")
for top in ("/tmp", "/var/tmp", "/home", "/run"):
    places += [os.path.join(at, name) for at, _, names in os.walk(top) for name in names]
for place in places:
    try:
        if os.path.isfile(place) or place.startswith("/proc"):
            with open(place, "rb") as file:
                text = file.read(1 << 20)
            for name, secret in wanted.items():
                if secret.encode() in text:
                    found.setdefault(name, []).append(place)
    except OSError:
        pass
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Open:
    """Alice's page, and the plain one beside it, with the headers that her browser sends."""

    scene: Scene
    row: dict[str, Any]
    link: str
    sent: dict[str, str]
    form_token: str
    plain: str

    def ask(self, asked: dict[str, Any], *, user: str, plain: bool = False, **more: Any) -> dict[str, Any]:
        """Let a user ask the page, or the plain one, with alice's cookie."""
        link, sent = (self.plain, {"Cookie": f"plain={COOKIE}"}) if plain else (self.link, self.sent)
        given = {"link": link, "sent": sent, "asked": asked, **more}
        done = self.scene.site.run(
            self.scene.host, [self.scene.python, "-c", ATTACK], user=user, input=json.dumps(given), check=True
        )
        return dict(json.loads(done.stdout))

    def forms(self, **headers: str) -> dict[str, Any]:
        """Return a form that her own browser could send."""
        origin = {"Origin": self.link.partition("/-/")[0], **headers}
        body = f"verb=stop&host=x&kind=cluster&name=main&token={self.form_token}"
        return {"path": "/-/do", "method": "POST", "body": body, **origin}


@pytest.fixture(scope="module")
def opened(work_site: NamespaceSite) -> Iterator[Open]:
    """Alice's page in the background on server1, entered by her."""
    scene = protected(work_site, "sockets")
    row = scene.ports("page", "--background", "--no-browser")
    code = f"""{VISITOR}
import json, sys
visitor = Visitor(sys.stdin.readline().strip())
visitor.enter()
print(json.dumps([visitor.sent, visitor.form_token()]))
"""
    sent, form_token = json.loads(scene.alice(scene.python, "-c", code, input=row["local_url"], check=True).stdout)
    plain = scene.runs(scene.python, "-c", PLAIN)
    port = tell(plain)[0]
    yield Open(scene, row, row["local_url"], sent, form_token, f"http://127.0.0.1:{port}/")
    plain.kill()
    plain.communicate()
    scene.ports("page", "stop")


def test_bob_with_alices_cookie_gets_no_page_no_tab_and_no_act(opened: Open) -> None:
    asked = {"page": {"path": "/"}, "websocket": {}, "act": opened.forms()}
    assert opened.ask(asked, user="bob") == {"page": 403, "websocket": 403, "act": 403}
    assert opened.ask(asked, user="alice") == {"page": 200, "websocket": 101, "act": 303}
    kept = {"page": {"path": "/kept"}, "websocket": {}, "act": {"path": "/kept", "method": "POST", "body": "x"}}
    assert opened.ask(kept, user="bob", plain=True) == {"page": 200, "websocket": 101, "act": 200}


def test_bob_does_not_connect_to_the_socket_of_alices_page(opened: Open) -> None:
    rows = [row for row in opened.scene.ports("list") if row["kind"] == "page"]
    at, asked = rows[0]["path"], {"page": {"path": "/"}}
    assert opened.ask(asked, user="alice", socket=at) == {"page": 200}
    assert opened.ask(asked, user="bob", socket=at) == {"page": "PermissionError"}
    assert opened.ask(asked, user="bob", plain=True) == {"page": 200}  # the control, on a port


def test_a_rebound_name_opens_nothing_even_for_alices_browser(opened: Open) -> None:
    port = opened.link.split(":")[2].partition("/")[0]
    for host in ("evil.example", f"evil.example:{port}", f"localhost:{port}", f"[::1]:{port}", "127.0.0.1", ""):
        assert opened.ask({"page": {"path": "/", "Host": host}}, user="alice") == {"page": 403}, host
        assert opened.ask({"page": {"path": "/kept", "Host": host}}, user="alice", plain=True) == {"page": 200}


def test_no_other_method_does_anything(opened: Open) -> None:
    for method in ("PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "POST", "TRACE", "PROPFIND"):
        asked = {"act": {**opened.forms(), "path": "/-/sheet", "method": method}}
        assert opened.ask(asked, user="alice") == {"act": 405}, method
        if method in ("PUT", "DELETE", "PATCH"):
            done = opened.ask({"act": {"path": "/kept", "method": method, "body": "x"}}, user="alice", plain=True)
            assert done == {"act": 200}, method


def test_an_act_needs_origin_cookie_and_token_of_the_form(opened: Open) -> None:
    own = opened.forms()
    for name, one in {
        "no origin": {**own, "Origin": None},
        "null": {**own, "Origin": "null"},
        "another port": {**own, "Origin": "http://127.0.0.1:1"},
        "localhost": {**own, "Origin": own["Origin"].replace("127.0.0.1", "localhost")},
        "no cookie": {**own, "Cookie": "a=b"},
        "no token": {**own, "body": "verb=stop&host=x&kind=cluster&name=main"},
        "two tokens": {**own, "body": own["body"] + "&token=x"},
        "a sibling": {**own, "Sec-Fetch-Site": "same-site"},
    }.items():
        assert opened.ask({"act": one}, user="alice") == {"act": 403}, name
    assert opened.ask({"act": own}, user="alice") == {"act": 303}


def test_no_secret_of_the_page_is_where_bob_or_a_log_has_it(opened: Open) -> None:
    key = opened.link.partition("key=")[2]
    wanted = {"key": key, "cookie": opened.sent["Cookie"].partition("=")[2], "form": opened.form_token}
    readable = opened.scene.path("/tmp/plain.log")  # the control: a log as a server writes it
    readable.write_text(f"GET /?token={COOKIE} 200\n")
    readable.chmod(0o644)
    try:
        for user in ("bob", "alice"):  # alice: her logs and records have none either
            found = opened.scene.site.run(
                opened.scene.host,
                [opened.scene.python, "-c", SEARCH],
                user=user,
                input=json.dumps({**wanted, "control": COOKIE}),
                check=True,
            )
            assert set(json.loads(found.stdout)) == {"control"}, user
    finally:
        readable.unlink()
