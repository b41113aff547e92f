"""Submissions: from a client's request, from a file that was left while no resource ran, or again."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

from ports.errors import NotFoundError, UsageError
from ports.jobs import _headers, _notices, _submissions
from ports.jobs._exchange import Exchange, Request
from ports.jobs._ledger import specification
from ports.jobs._model import PENDING, Submission, check_key, never, parse_id
from ports.jobs._store import SubmissionRow, pack
from ports.probe import words

_RETRY_SECONDS = 2.0  # after the disk refused what submission files bring


class Intake:
    """Takes submissions in."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.store = exchange, exchange.store
        self._ledger, self._waiting = exchange.ledger, exchange.waiting
        self.left_at: int | None = None  # when the directory of submission files last changed, as far as it was read
        self._not_before = float("-inf")

    def submit(self, request: Request) -> None:
        """Take in a submission; one whose key is known gets the same id."""
        header = request.header
        key = check_key(header.get("key"))
        count = header.get("count")
        known, said = self._known(key), None
        if known is None:
            spec = Submission.from_json(header.get("submission"))
            said = _notices.check() if spec.notify else None
            known = self._add(spec, request.blobs, key=key, count=_headers.count_of(count)), count, False
        number, count, was_known = known
        answer = {"id": str(number), "count": count, "known": was_known}
        self.exchange.reply(request, {**answer, "said": said} if said else answer)

    def _known(self, key: str) -> tuple[int, int | None, bool] | None:
        """Return id and count of the submission that has this key."""
        number = self.exchange.new_keys.get(key) or self.store.number_of_key(key)
        if number is None:
            return None
        row = self.store.submission(number)
        return number, None if row is None else row.count, True

    def _add(
        self,
        spec: Submission,
        blobs: Sequence[bytes],
        *,
        key: str | None,
        count: int | None,
        left: _submissions.Left | None = None,
    ) -> int:
        """Take in a submission, and return its number; what cannot be taken in is refused before anything is put."""
        if spec.needs.is_whole:
            spec = dataclasses.replace(spec, needs=spec.needs.on(self.exchange.capacity))
        self._check(spec, blobs, count)
        digest = self.store.put_object(blobs[0])
        number = self.store.reserve() if left is None else left.number
        self.store.put_arguments(number, blobs[1:])
        text = json.dumps(spec.to_json(), sort_keys=True)
        at = None if left is None else _headers.seconds(left.header.get("at"), "at")
        row = SubmissionRow(
            number=number,
            key=key,
            kind=spec.kind,
            name=spec.name,
            queue=spec.queue,
            priority=spec.priority,
            count=count,
            digest=digest,
            spec=text,
            created=self.exchange.now() if at is None else at,
            began=None,
            ended=None,
            state=PENDING,
            reason=None,
            counts=[1 if count is None else count, 0, 0, 0, 0, 0],
            stamp=None if spec.lifetime is None else self._stamp(left),
            command=words.command_of({"script": spec.script}) if spec.script else None,
        )
        self._ledger.submit(row, specification(text))
        if key is not None:
            self.exchange.new_keys[key] = number
        return number

    def _stamp(self, left: _submissions.Left | None) -> str | None:
        """Return when it was submitted, by the clocks that nobody sets; None if its file does not say."""
        if left is None:
            return self._ledger.clocks.stamp()
        stamp = left.header.get("stamp")
        return stamp if isinstance(stamp, str) and len(stamp) <= 200 and stamp.isprintable() else None

    def _check(self, spec: Submission, blobs: Sequence[bytes], count: int | None) -> None:
        """Raise UsageError or NotFoundError for a submission that cannot be taken in."""
        n_jobs = 1 if count is None else count
        allowed = {n_jobs + 1} | ({1} if spec.kind == "script" else set())
        if len(blobs) not in allowed:
            raise UsageError(f"a {spec.kind} and the arguments of {n_jobs} jobs were expected; {len(blobs)} blobs came")
        if (why := self.exchange.capacity.refuse(spec.needs)) is not None:
            raise never(why)
        if beyond := [index for index in spec.inputs if index >= n_jobs]:
            raise UsageError(f"inputs: there is no job {beyond[0]} among {n_jobs}")
        for one in dict.fromkeys((*spec.after, *(id for ids in spec.inputs.values() for id in ids))):
            if self._ledger.state_of(one) is None:
                raise NotFoundError("job", str(one), "`ports job list` shows what there is")
        for one in dict.fromkeys(id for ids in spec.inputs.values() for id in ids):
            if one.item is None and self.exchange.row(one).count is not None:
                raise UsageError(f"inputs: {one} is a map; name its jobs, {one}.0 and so on")

    def rerun(self, request: Request) -> None:
        """Submit again what a job or a map was; with a key that is known, it was, and its answer was lost."""
        key = request.header.get("key")
        if key is not None and (known := self._known(check_key(key))) is not None:
            self.exchange.reply(request, {"id": str(known[0]), "count": known[1], "known": True})
            return
        id = parse_id(request.header.get("id"))
        row = self.exchange.row(id)
        data = words.again_of(json.loads(row.spec), id.item)
        ones = range(row.count or 1) if id.item is None else [id.item]
        arguments = self.store.arguments([pack(row.number, one) for one in ones])
        blobs = [self.exchange.read_arguments(arguments.get(pack(row.number, one), b"")) for one in ones]
        count = row.count if id.item is None else None
        number = self._add(Submission.from_json(data), [self.store.object(row.digest), *blobs], key=key, count=count)
        if key is not None and row.key is not None:  # the files that it needs stay until both are removed
            places = self.store.places
            with contextlib.suppress(OSError):
                os.link(places.workspace_of(row.key), places.workspace_of(key))
        self.exchange.reply(request, {"id": str(number), "count": count, "known": False})

    def take_in(self) -> list[_submissions.Left]:
        """Take in what was submitted while no resource ran; return it, with the requests, which are the caller's."""
        places = self.store.places
        if self.exchange.monotonic() < self._not_before:
            return []
        try:
            changed = places.submissions.stat().st_mtime_ns
        except OSError:
            return []
        if changed == self.left_at:
            return []
        self.left_at = changed
        lefts = list(_submissions.read(places))
        for left in lefts:
            if left.broken is not None:
                aside = _submissions.put_aside(left)
                self.store.notices.append(f"a submission cannot be read: {left.broken}; it is kept as {aside}")
            elif left.number:
                self._take_one_in(left)
        return [left for left in lefts if left.broken is None]

    def try_later(self) -> None:
        """Read the submission files again, a little later: nothing of this turn counts."""
        self.left_at, self._not_before = None, self.exchange.monotonic() + _RETRY_SECONDS

    def _take_one_in(self, left: _submissions.Left) -> None:
        """Take a submission in. One that cannot run is cancelled with the reason: its id was printed."""
        header = left.header
        try:
            key = check_key(header.get("key"))
            known = self._known(key)
            count = _headers.count_of(header.get("count"))
            _headers.seconds(header.get("at"), "at")
            if known is not None and known[0] == left.number:
                return
            if known is not None:
                raise UsageError(f"it is job {known[0]}, submitted again")
            if self.store.submission(left.number) is not None:  # somebody removed the directory of ids
                left = left._replace(number=self.store.reserve())
                said = f"submission {header['id']} is job {left.number}: {header['id']} is the id of another one"
                self.store.notices.append(said)
            spec = Submission.from_json(header.get("submission"))
            self._add(spec, left.blobs, key=key, count=count, left=left)
        except (UsageError, NotFoundError) as error:
            self._refuse(left, str(error))

    def _refuse(self, left: _submissions.Left, reason: str) -> None:
        """Keep a submission that cannot run as a cancelled one."""
        if self.store.submission(left.number) is not None:
            self.store.notices.append(f"submission {left.number} was refused: {reason}")
            return
        told = left.header.get("submission")
        told = told if isinstance(told, dict) else {}
        name, key = told.get("name"), left.header.get("key")
        spec = Submission(
            kind="script" if told.get("kind") == "script" else "function",
            name=name if isinstance(name, str) and name.isprintable() else "",
        )
        is_new = isinstance(key, str) and key == Path(left.path).name and self._known(key) is None
        digest, now = self.store.put_object(b""), self.exchange.now()
        text = json.dumps(spec.to_json(), sort_keys=True)
        row = SubmissionRow(
            left.number, key if is_new else None, spec.kind, spec.name, spec.queue, 0, None, digest, text, now, None,
            None, PENDING, None, [1, 0, 0, 0, 0, 0],
        )  # fmt: skip
        live = self._ledger.submit(row, specification(text))
        self._ledger.cancel(live, 0, now, f"refused: {reason}"[:900])
        if is_new and key is not None:
            self.exchange.new_keys[key] = left.number
