"""Connections to listeners of this machine for home: the owner of a listener is checked before and after."""

import errno
import json
import os
import socket
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..agent.mux import OPENED, REFUSED, Channel
    from ..identity import user_name
    from ..socket_users import address_of, allowed, holder_of, peer_uid

MYPY = False
if MYPY:
    from typing import Any, Dict, Optional, Set, Tuple  # noqa: F401 - in comments

    from ..agent.mux import Mux
    from ..socket_users import Holder

    Json = Dict[str, Any]

PATIENCE = 15.0  # seconds for a listener whose queue is full
AGAIN = 0.02


class Refused(Exception):
    """The reason why there is no connection: a word for programs and a sentence for people."""

    def __init__(self, kind: str, reason: str) -> None:
        Exception.__init__(self, kind, reason)
        self.kind, self.reason = kind, reason


class Dialer:
    """The connections that are being made. Those that are made become channels."""

    def __init__(self, poller: "Any", mux: "Mux") -> None:
        self.poller, self.mux = poller, mux
        self.pending = {}  # type: Dict[int, Attempt]

    def open(self, number: int, payload: bytes) -> None:
        """Connect to what the request names; home gets OPENED, or REFUSED with the reason."""
        request = json.loads(payload.decode())
        attempt = Attempt(self, number, request["remote"], request.get("owner"))
        self.pending[number] = attempt
        attempt.run(attempt.start)

    def cancel(self, number: int) -> None:
        """Forget a connection for which home waits no longer."""
        attempt = self.pending.get(number)
        if attempt is not None:
            attempt.leave().close()


class Attempt:
    """One connection that is being made."""

    def __init__(self, dialer: Dialer, number: int, remote: str, owner: "Optional[str]") -> None:
        self.dialer, self.number, self.remote, self.owner = dialer, number, remote, owner
        self.end = time.monotonic() + PATIENCE
        self.connection = None  # type: Optional[socket.socket]
        self.holder = None  # type: Optional[Holder]

    def run(self, step: "Any") -> None:
        """Take a step; if it fails, home hears why."""
        try:
            try:
                step()
            except (OSError, ValueError) as error:
                raise refusal(self.remote, error)
        except Refused as why:
            self.leave().close()
            told = {"kind": why.kind, "reason": why.reason}
            self.dialer.mux.send(REFUSED, self.number, json.dumps(told).encode())

    def start(self) -> None:
        """Check the owner of the listener, and begin to connect."""
        self.holder = self.check()
        if self.remote.startswith("/"):
            address = self.remote  # type: Any
            self.connection = socket.socket(socket.AF_UNIX)
        else:
            family, host, port = address_of(self.remote)
            address = (host, port)
            self.connection = socket.socket(family)
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.connection.setblocking(False)
        self.connect(address)

    def connect(self, address: "Any") -> None:
        """Connect, now or in a moment."""
        assert self.connection is not None
        code = self.connection.connect_ex(address)
        if code == errno.EAGAIN and time.monotonic() < self.end:  # a Unix socket whose queue is full
            self.dialer.poller.later(AGAIN, self.when_pending(lambda: self.connect(address)))
        elif code == errno.EINPROGRESS:
            self.dialer.poller.on_write(self.connection.fileno(), lambda: self.run(self.finish))
            self.dialer.poller.later(PATIENCE, self.when_pending(self.give_up))
        elif code:
            raise OSError(code, os.strerror(code))
        else:
            self.finish()

    def when_pending(self, step: "Any") -> "Any":
        """Return a callback that takes a step, unless this attempt has ended meanwhile."""
        return lambda: self.run(step) if self.dialer.pending.get(self.number) is self else None

    def finish(self) -> None:
        """Hand the connection over, if the listener is still the one that was checked."""
        assert self.connection is not None
        code = self.connection.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        if self.remote.startswith("/"):
            uid = peer_uid(self.connection)
            if uid is not None and uid not in self.allowed():
                raise foreign(self.remote, uid)
        elif self.check() != self.holder:
            raise Refused("refused", "%s changed hands just now; try again" % self.remote)
        connection = self.leave()
        self.dialer.mux.send(OPENED, self.number)
        Channel(self.dialer.mux, self.number, connection)

    def leave(self) -> "Any":
        """Forget the attempt, and return its socket."""
        self.dialer.pending.pop(self.number, None)
        if self.connection is None:
            return socket.socket(socket.AF_UNIX)
        self.dialer.poller.on_write(self.connection.fileno(), None)
        return self.connection

    def give_up(self) -> None:
        """End the attempt because it took too long."""
        raise Refused("silent", "%s does not accept connections: its queue is full" % self.remote)

    def check(self) -> "Holder":
        """Return uid and inode of the listener; raises Refused if it must not be connected to."""
        holder = holder_of(self.remote)
        if holder is None:
            unix = self.remote.startswith("/")
            why = "there is no socket %s" if unix else "connection refused: nothing listens on %s"
            raise Refused("missing" if unix else "refused", why % self.remote)
        if holder[0] not in self.allowed():
            raise foreign(self.remote, holder[0])
        return holder

    def allowed(self) -> "Set[int]":
        """Return the uids that the listener may have."""
        try:
            return allowed(self.owner)
        except KeyError:
            raise Refused("foreign", "there is no user %s" % self.owner)


def foreign(remote: str, uid: int) -> Refused:
    """Return the refusal of another user's listener."""
    return Refused("foreign", "%s belongs to %s, not to %s" % (remote, user_name(uid), user_name(os.getuid())))


def refusal(remote: str, error: Exception) -> Refused:
    """Return the refusal for an error."""
    code = getattr(error, "errno", None)
    if code == errno.ECONNREFUSED:
        return Refused("refused", "connection refused: nothing listens on %s" % remote)
    if code in (errno.ENOENT, errno.ENOTDIR):
        return Refused("missing", "there is no socket %s" % remote)
    if code in (errno.EACCES, errno.EPERM):
        return Refused("denied", "permission denied: %s" % remote)
    if code in (errno.EMFILE, errno.ENFILE):
        return Refused("failed", "too many files are open there")
    return Refused("failed", "%s: %s" % (remote, getattr(error, "strerror", None) or error))
