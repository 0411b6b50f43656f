"""Leasing: what the store answers moves the node's deadline, or does not, with a connection and without."""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tests.wire.pairs import bounded, until
from unios.core.processes import ProcessRecord, ProcessSpec
from unios.errors import NotFound, Unavailable, UniosError
from unios.ids import LeaseId
from unios.kernel import spawning
from unios.kernel.clocks import boot_ms
from unios.kernel.leasing import DeadlinePage, Leasing
from unios.limits import LEASE_HOLD_MS, LEASE_TTL_MS, START_LEASE_WAIT_MS
from unios.store.client import StoreClient

LATE_MS: Final = 60


class Answering:
    """A store as the holder of a lease sees it: answers each renewal LATE_MS later with the next of `answers`, of which the last stays."""

    def __init__(self, *answers: int | UniosError, connected: bool = True) -> None:
        self.answers, self.connected = list(answers), connected
        self.asked: list[LeaseId] = []
        self.registered = self.answered = 0

    def _next(self, lease: LeaseId) -> int | UniosError:
        self.asked.append(lease)
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]

    def renew_now(self, lease: LeaseId, told: Callable[[int | UniosError], None], *, timeout_ms: int) -> bool:
        assert timeout_ms == LEASE_HOLD_MS
        if self.connected:
            asyncio.get_running_loop().call_later(LATE_MS / 1000, self._answer, told, self._next(lease))
        return self.connected

    def _answer(self, told: Callable[[int | UniosError], None], answer: int | UniosError) -> None:
        told(answer)
        self.answered += 1

    async def lease_renew(self, lease: LeaseId) -> int:
        answer = self._next(lease)
        if isinstance(answer, UniosError):
            raise answer
        return answer

    async def register(self) -> tuple[LeaseId, int]:
        self.registered += 1
        return LeaseId(self.registered), self.registered


def leased(store: Answering, page: Path, met: Callable[[Leasing], bool]) -> None:
    """Keep a lease until a condition is met."""

    async def checked(_incarnation: int) -> None:
        return None

    async def work() -> None:
        leasing = Leasing(cast(StoreClient, store), DeadlinePage(page), store.register, checked, None)
        task = asyncio.create_task(leasing.run())
        try:
            await until(lambda: met(leasing))
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    bounded(work)


def test_each_renewal_that_is_acknowledged_moves_the_deadline_from_when_it_was_sent(tmp_path: Path) -> None:
    store, began, left = Answering(LEASE_TTL_MS), boot_ms(), []

    def met(leasing: Leasing) -> bool:
        if store.answered:
            left.append(leasing.left_ms())
        return store.answered == 4

    leased(store, tmp_path / "lease", met)
    assert max(left) <= LEASE_HOLD_MS - LATE_MS + 2 and store.registered == 1  # boot_ms counts whole ms
    assert DeadlinePage(tmp_path / "lease").left_ms() + boot_ms() - LEASE_HOLD_MS > began + 250


def test_what_is_known_of_a_store_that_is_silent_grows_older_than_the_lease_and_says_so(tmp_path: Path) -> None:
    silent, ages = Answering(LEASE_TTL_MS, Unavailable("away")), []

    def met(leasing: Leasing) -> bool:
        if silent.answered:
            ages.append((silent.answered, leasing.stale_ms()))
        return leasing.stale_ms() > 0

    leased(silent, tmp_path / "lease", met)
    assert ages[0] == (1, 0) and LEASE_HOLD_MS < ages[-1][1] < 10 * LEASE_HOLD_MS
    assert silent.answered > 2, "answers that say nothing of the lease make nothing younger"


def test_a_store_that_does_not_answer_moves_nothing_and_is_asked_again(tmp_path: Path) -> None:
    store, until_ms = Answering(Unavailable("away")), []

    def met(leasing: Leasing) -> bool:
        if leasing.incarnation and leasing.left_ms() > 0:
            until_ms.append(leasing.left_ms() + boot_ms())
        return len(store.asked) == 3

    leased(store, tmp_path / "lease", met)
    assert max(until_ms) - min(until_ms) <= 2 and store.registered == 1


def test_a_lease_that_has_ended_is_registered_anew_with_and_without_a_connection(tmp_path: Path) -> None:
    for connected in (True, False):
        store = Answering(LEASE_TTL_MS, NotFound("it has ended"), LEASE_TTL_MS, connected=connected)
        leased(store, tmp_path / "lease", lambda leasing: len(store.asked) >= 3 and leasing.left_ms() > 0)  # noqa: B023 it is called in this round
        assert store.registered == 2 and store.asked[:3] == [1, 1, 2]


def test_what_must_have_a_lease_waits_for_that_of_this_incarnation_and_for_no_longer_than_it_may(tmp_path: Path) -> None:
    async def work() -> None:
        page = DeadlinePage(tmp_path / "lease")
        page.move(boot_ms() + 60_000, 7)  # what the node's last kernel has left: its inits may go by it, a new program may not
        checked, store = asyncio.Event(), Answering(LEASE_TTL_MS)

        async def check(_incarnation: int) -> None:
            await checked.wait()

        leasing = Leasing(cast(StoreClient, store), page, store.register, check, None)
        task = asyncio.create_task(leasing.run())
        try:
            await leasing.wait_standing(30)
            await until(lambda: leasing.incarnation == 1)
            waits = asyncio.create_task(leasing.wait_standing(60_000))
            await asyncio.sleep(0.05)
            assert not waits.done() and page.lease == 7
            checked.set()
            await waits
            assert page.lease == 1 and leasing.left_ms() > 0
            await leasing.wait_standing(0)
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    bounded(work)


def test_a_start_that_is_asked_for_before_the_node_knows_that_it_is_back_waits_for_that() -> None:
    """The record is read after the lease is known: what is read before may have been true under the one before."""
    seen: list[str] = []

    class Back:
        incarnation = 1

        async def wait_standing(self, timeout_ms: int) -> None:
            assert not node.starts.tasks, "while it waits it is no start: the check of claims would wait for its init"
            seen.append(f"waits {timeout_ms}")
            self.incarnation = 2

        def left_ms(self) -> int:
            return 0

    async def read_both(_pid: int) -> tuple[ProcessRecord, ProcessSpec]:
        seen.append(f"reads as {node.leasing.incarnation}")
        return ProcessRecord(1, 1, "pending", "ann", (b"x",), "n3"), ProcessSpec((b"x",), user="ann")

    node: Any = SimpleNamespace(leasing=Back(), records=SimpleNamespace(read_both=read_both), name="n3")
    node.starts = SimpleNamespace(forbidden=lambda *_: False, tasks={})
    node.recorder = node.admission = SimpleNamespace(forget=lambda *_: None, give_back=lambda *_: None)

    async def work() -> None:
        with pytest.raises(Unavailable, match="the lease of n3 has ended"):
            await spawning.start(node, 1, 1)

    bounded(work)
    assert seen == [f"waits {START_LEASE_WAIT_MS}", "reads as 2"]


def test_a_deadline_is_moved_on_by_another_only_while_it_stands_and_under_the_same_lease(tmp_path: Path) -> None:
    page, other = DeadlinePage(tmp_path / "lease"), DeadlinePage(tmp_path / "lease")
    now = boot_ms()
    other.extend(now + 1_000, 0)
    assert page.left_ms() < 0, "there was none"
    page.move(now + 60_000, 3)
    other.extend(now + 70_000, 2)
    other.extend(now + 50_000, 3)
    assert 50_000 < page.left_ms() <= 60_000
    other.extend(now + 70_000, 3)
    assert 60_000 < page.left_ms() <= 70_000
    page.move(now - 1, 3)
    other.extend(now + 70_000, 3)
    assert page.left_ms() < 0, "what froze at it has to be compared with its record first"
