"""The queue: requests in, replies out, one commit a turn.

`Queue` reads requests, which can be anything, lets its parts change what they ask for, and says what came of it once
that is durable. `_intake` takes submissions in; `_slots` gives jobs out and takes results; `_answers` and `_changes`
are for clients. It does no I/O but the store's: sockets, processes and locks are the loop's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

from ports import state
from ports.errors import PortsError, RecordError, StoreError, UsageError
from ports.jobs import _headers, _submissions
from ports.jobs._answers import Answers
from ports.jobs._changes import Changes
from ports.jobs._clocks import Clocks
from ports.jobs._exchange import SCRIPTS as SCRIPTS
from ports.jobs._exchange import Exchange, Reply, Request
from ports.jobs._intake import Intake
from ports.jobs._ledger import Ledger
from ports.jobs._model import Available, Capacity, JobId, Lease, LeaseState, short
from ports.jobs._slots import Slots
from ports.jobs._store import Store

__all__ = ["SCRIPTS", "Queue", "Reply", "Request"]


class QueueLostError(BaseException):
    """The queue in memory could not be brought back to what the store has: the process must end, and start again.

    It is no `Exception`, so that nobody who answers a failed request goes on with half a queue.
    """


class Queue:
    """All jobs of a resource.

    Parameters
    ----------
    capacity : Capacity
        What the jobs can have together.
    is_alive : callable
        Looks at the lock of a slot. `tick` asks it about slots that are not connected.
    script_of : callable, optional
        Returns the lease of a script's attempt that was started, or None: it was not, and will not be. It is asked
        about scripts of a slot that is gone.
    clocks : Clocks, optional
        Default: those of this machine.
    limits : mapping, optional
        How many slots work for a queue at once, by the name of the queue.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: Capacity,
        is_alive: Callable[[Lease], LeaseState],
        script_of: Callable[[JobId, int], Lease | None] = lambda id, attempt: None,
        clocks: Clocks | None = None,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.store, self.capacity = store, capacity
        clocks = Clocks() if clocks is None else clocks
        ledger = Ledger(store, capacity, dict(limits or {}), host=state.paths.host_name(), clocks=clocks)
        self._exchange = exchange = Exchange(ledger)
        self._intake, self._answers, self._changes = Intake(exchange), Answers(exchange), Changes(exchange)
        self._slots = Slots(exchange, is_alive, script_of)
        asked = (self._intake.submit, self._intake.rerun)
        looks = (
            self._answers.list,
            self._answers.show,
            self._answers.status,
            self._answers.result,
            self._answers.watch,
        )
        changes = (self._changes.cancel, self._changes.drain, self._changes.resume, self._changes.prune)
        slots = (self._slots.claim, self._slots.begun, self._slots.started, self._slots.returned)
        told = (self._slots.holding, self._slots.ended)
        self._handlers = {one.__name__: one for one in (*asked, *looks, *changes, *slots, *told)}
        exchange.load()
        exchange.forget_environs()

    @property
    def available(self) -> Available:
        """What other users leave of the capacity; whoever looks at the machine sets it."""
        return self._exchange.ledger.room.available

    @available.setter
    def available(self, available: Available) -> None:
        """Set what other users leave; it counts from the next turn on."""
        self._exchange.ledger.room.available = available

    @property
    def wanted_slots(self) -> int:
        """How many slots would have work now, those that work included."""
        return self._exchange.wanted_slots

    @property
    def is_waiting(self) -> bool:
        """Whether jobs could be given out, if there were room."""
        return self._exchange.ledger.shelves.is_waiting

    @property
    def trouble(self) -> str | None:
        """Why no slots can be had, if something is wrong with them; the rows of pending jobs say so."""
        return self._exchange.trouble

    @trouble.setter
    def trouble(self, trouble: str | None) -> None:
        """Note what is wrong with the slots."""
        self._exchange.trouble = trouble

    @property
    def is_held(self) -> bool:
        """Whether nothing is given out because the resource is about to stop; unlike draining, no start finds it."""
        return self._exchange.is_held

    @is_held.setter
    def is_held(self, is_held: bool) -> None:
        """Give nothing out, or go on."""
        self._exchange.is_held = is_held

    def dispose_by(self, dispose: Callable[[Sequence[Path]], object]) -> None:
        """Let `dispose` remove the directories of jobs that are pruned, after the commit."""
        self._exchange.dispose = dispose

    def functions(self) -> list[str]:
        """Return the ids of the functions that slots have."""
        return self._slots.functions()

    def end_functions(self, how: str) -> list[Reply]:
        """Return what asks the slots to end all functions that they have."""
        return self._slots.end_functions(how)

    def scripts(self) -> list[tuple[JobId, int, Lease]]:
        """Return id, attempt and lease of the scripts that run in sessions of their own."""
        return self._exchange.scripts()

    def turn(self, inbox: Sequence[Request]) -> list[Reply]:
        """Do all that `inbox` asks for in one transaction, and return the replies, after the commit.

        A wrong request is answered by an error; it never raises for one. If the disk refuses, every request of the turn
        is answered by that error, and nothing of the turn counts.
        """
        try:
            for request in inbox:
                self._answer(request)
                if self.store.has_failed:
                    raise StoreError(self.store.path, "it could not be written")
            return self._end_turn()
        except (StoreError, RecordError) as error:
            told = self._undo(error, inbox)
            replies, self._exchange.replies = [*self._exchange.replies, *told], []
            return replies
        except BaseException as error:  # a fault of ours: nothing of it may stay half done
            self._undo(error, inbox)  # the loop answers what came in
            raise

    def tick(self) -> list[Reply]:
        """Do what the clock asks for: times, lifetimes, timeouts, waits that ran out, submission files, dead slots.

        Raises
        ------
        StoreError
            The disk refuses; nothing of it counts, and the next one does it again.
        """
        try:
            lefts = self._intake.take_in()
            self._changes.do_left([one.header for one in lefts if not one.number])
            self._exchange.ledger.due()
            self._slots.time_out()
            self._answers.note_waits()
            self._slots.look_at_slots()
            replies = self._end_turn()
        except BaseException as error:
            self._intake.try_later()  # it may be what the disk refuses: the clocks go on without it
            self._undo(error)
            raise
        if lefts:
            _submissions.taken(self.store.places, lefts)
        with contextlib.suppress(StoreError):  # a submission will say so
            if self.store.reserve_ahead():
                _submissions.tidy(self.store.places)
        return replies

    def take_over(self) -> list[int]:
        """Return the numbers of scripts, and of submissions with ``notify``, that ended since the last call."""
        over, self._exchange.over = self._exchange.over, []
        return over

    def gone(self, connection: Hashable) -> None:
        """Forget what `connection` waits for. Its jobs go on: their lease shows whether they live."""
        exchange = self._exchange
        exchange.waiting.gone(connection)
        exchange.connections = {slot: one for slot, one in exchange.connections.items() if one != connection}

    def reap(self, slot: str, lease: LeaseState) -> list[Reply]:
        """Take the jobs of a slot or a script that ended without a word: begun ones are lost, others go back.

        Raises
        ------
        StoreError
            The disk refuses; nothing of it counts.
        """
        try:
            self._slots.reap(slot, lease)
            return self._end_turn()
        except BaseException as error:
            self._undo(error)
            raise

    def _end_turn(self) -> list[Reply]:
        """Give work to slots that wait, tell clients what changed, and commit."""
        ledger = self._exchange.ledger
        self._slots.give()
        self._exchange.waiting.changed(ledger.dirty)
        ledger.save()
        self._answers.tell_results()
        self._answers.tell_watches()
        return self._exchange.commit()

    def _undo(self, error: BaseException, inbox: Sequence[Request] = ()) -> list[Reply]:
        """Go back to what the store has, and return the answers to `inbox`. Others hear of it with the next turn."""
        told = error if isinstance(error, PortsError) else PortsError("the resource failed; its log says how")
        exchange = self._exchange
        lost = {(one.connection, one.header["n"]): None for one in exchange.replies if one.header.get("n") is not None}
        asked = {(one.connection, one.n): None for one in inbox if one.connection is not None}
        exchange.waiting.answered({**lost, **asked})
        try:
            self.store.roll_back()
            exchange.load()
        except BaseException as problem:
            raise QueueLostError(f"the queue cannot be read again: {problem}") from problem
        exchange.replies = [Reply(one, _headers.error_of(n, told)) for one, n in lost if (one, n) not in asked]
        return [Reply(one, _headers.error_of(n, told)) for one, n in asked]

    def _answer(self, request: Request) -> None:
        """Do what one request asks for."""
        op = request.header.get("op")
        try:
            handler = self._handlers.get(op) if isinstance(op, str) else None
            if handler is None:
                raise UsageError(f"op: {short(op)} is unknown; known are {', '.join(self._handlers)}")
            handler(request)
        except StoreError:
            raise  # the disk refuses: nothing of this turn counts
        except PortsError as error:
            self._exchange.send(request.connection, _headers.error_of(request.n, error))
