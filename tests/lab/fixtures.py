"""Fixtures for tests that need a site; tests/conftest.py names this module as a plugin.

==================  =====================================================================================
`site`              the best site to be had: hosts in namespaces, else sshds on loopback; one for the run
`root_site`         hosts in namespaces, or the test is skipped with the reason
`fresh_home`        the hosts are as at first: no process but sshd, new homes, sshds, shells, network
`nothing_left`      after the test no process, listener or file of `ports` is left on any host
`site_of_its_own`   a function that makes another site, ended with the test: ``n_servers=3, shared_home=True``
`hosts_stay_on`     by itself: a test that leaves a host of the site without power fails, and not the next one
==================  =====================================================================================
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.leaks import LeakCheck
from tests.lab.loopback import LoopbackSite
from tests.lab.namespaces import NamespaceSite, why_not
from tests.lab.site import NotPossibleError, Site, open_site

REASON = pytest.StashKey[str]()
SITE = pytest.StashKey[Site]()


def pytest_report_header() -> str:
    """Say which site the tests get."""
    reason = why_not()
    return "site: hosts in namespaces" if reason is None else f"site: sshds on loopback, because {reason}"


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_call() -> Iterator[None]:
    """Skip a test that asks for what the site at hand cannot do, with the site's reason."""
    outcome = yield
    error = outcome.excinfo[1] if outcome.excinfo else None  # type: ignore[attr-defined]
    if isinstance(error, NotPossibleError):
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def _site(request: pytest.FixtureRequest) -> Iterator[Site]:
    found, reason = open_site()
    if reason is not None:
        request.config.stash[REASON] = reason
    request.config.stash[SITE] = found
    try:
        yield found
    finally:
        del request.config.stash[SITE]
        found.down()


@pytest.fixture(scope="session")
def site(_site: Site) -> Site:
    """A laptop, a login node, server1 and server2."""
    return _site


@pytest.fixture(scope="session")
def root_site(_site: Site, request: pytest.FixtureRequest) -> NamespaceSite:
    """The site, where its hosts are in namespaces; without root the test is skipped."""
    if not isinstance(_site, NamespaceSite):
        pytest.skip(request.config.stash[REASON])
    return _site


@pytest.fixture
def fresh_home(site: Site) -> Site:
    """Make all hosts as they were at first."""
    site.reset()
    return site


@pytest.fixture
def nothing_left(site: Site) -> Iterator[LeakCheck]:
    """Fail when the test leaves something behind; then clean up for the next one."""
    check = LeakCheck(site)
    yield check
    try:
        check.verify()
    except AssertionError:
        site.reset()
        raise


@pytest.fixture(autouse=True)
def hosts_stay_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail the test that leaves a host without power: the next one gets the same site."""
    yield
    site = request.config.stash.get(SITE, None)
    if not isinstance(site, NamespaceSite):
        return
    off = [host for host in site.hosts.values() if not host.pid]
    for host in off:
        host.power_on()
    assert not off, f"without power after the test: {', '.join(host.name for host in off)}"


@pytest.fixture
def site_of_its_own(request: pytest.FixtureRequest) -> Iterator[Callable[..., Site]]:
    """Return a function that brings up a site for this test: ``kind=`` ``"namespaces"`` or ``"loopback"``."""
    with contextlib.ExitStack() as stack:

        def make(*, kind: str = "namespaces", **layout: Any) -> Site:
            if kind == "namespaces":
                request.getfixturevalue("root_site")  # skips where there are none
            made = NamespaceSite if kind == "namespaces" else LoopbackSite
            return stack.enter_context(made(**layout))

        yield make
