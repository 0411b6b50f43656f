"""Links that two kernels make at once, each from its side: whichever both keep, what was asked over the other is answered."""

import asyncio
import getpass
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.wire.pairs import bounded, settled, until
from unios.core.nodes import Alive
from unios.core.routing import Attempt
from unios.errors import UniosError
from unios.kernel import link, links
from unios.kernel.callers import Caller
from unios.kernel.certificates import Identity, make_authority, make_key, sign, write_secret
from unios.kernel.links import Links
from unios.kernel.node import Node
from unios.wire.messages import Hello
from unios.wire.peer import Call, Peer
from unios.wire.tls import client_context, server_context

USER = getpass.getuser()


class Kernels:
    """Two kernels' links, of n1 and n2; each answers "echo" at once and "late" when `answers` is set."""

    def __init__(self, folder: Path) -> None:
        make_authority(folder, "system")
        self.answers = asyncio.Event()
        self.up: list[str] = []
        """"n1": there is a link at n1, and so on."""
        self.on_up: Callable[[str], None] = lambda _name: None
        self.links = {name: self._make(folder, name) for name in ("n1", "n2")}
        for one, other in (("n1", "n2"), ("n2", "n1")):
            self.links[one].listen("127.0.0.1", 0)
            self.links[one].rank = lambda _name, _mark: 0
            self.links[one]._routes[other] = links.Route(one, other, (), 0)

    def _make(self, folder: Path, name: str) -> Links:
        identity = Identity("system", name, name, (USER,))
        key, public = make_key()
        write_secret(folder / f"{name}.key", key)
        write_secret(folder / f"{name}.crt", sign(folder, public, identity))
        files = (folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key")
        facts = {"node": name, "system": "system"}

        def on_link(_peer: str, up: bool, _reason: str) -> None:
            if up:
                self.up.append(name)
                self.on_up(name)

        async def join(*_args: object) -> Any:
            raise AssertionError("nobody joins")

        return Links(identity, facts, (server_context(*files), client_context(*files)), self._serve, join, on_link, lambda *_: None, lambda *_: None)

    async def _serve(self, _caller: Caller, call: Call) -> object:
        if call.op == "late":
            await self.answers.wait()
        return call.op

    async def ask(self, name: str, op: str) -> str:
        other = {"n1": "n2", "n2": "n1"}[name]
        return str(await self.links[name].call(other, op, None, str, user=USER))

    async def dial(self, name: str) -> None:
        other = {"n1": "n2", "n2": "n1"}[name]
        route = self.links[name]._routes[other]
        await self.links[name]._try(other, route, Attempt(address=f"127.0.0.1:{self.links[other].port}"))

    def served(self) -> list[int]:
        return [len(one._served) for one in self.links.values()]

    def close(self) -> None:
        for one in self.links.values():
            one.close()


@pytest.fixture
def slow_start(monkeypatch: pytest.MonkeyPatch) -> Callable[[], asyncio.Event]:
    """Return a function that makes the first connection of n1 stay unnoticed there until the event that it returns is set."""

    def arrange() -> asyncio.Event:
        gate, first = asyncio.Event(), [True]

        class Slow(Peer):
            def __init__(self, *args: Any, **options: Any) -> None:
                super().__init__(*args, **options)
                self.waits = options["facts"]["node"] == "n1" and first[0]
                if self.waits:
                    first[0] = False

            async def start(self) -> Hello:
                theirs = await super().start()
                if self.waits:
                    await gate.wait()
                return theirs

        monkeypatch.setattr(links, "Peer", Slow)
        return gate

    return arrange


def test_what_is_asked_over_the_connection_that_makes_way_is_answered(tmp_path: Path, slow_start: Callable[[], asyncio.Event]) -> None:
    async def work() -> None:
        gate, kernels = slow_start(), Kernels(tmp_path)
        asked: list[asyncio.Task[str]] = []

        def ask_at_once(name: str) -> None:
            if name == "n1" and not asked:
                asked.extend(asyncio.ensure_future(kernels.ask("n1", op)) for op in ("echo", "late"))

        kernels.on_up = ask_at_once
        try:
            dialled = asyncio.create_task(kernels.dial("n1"))
            await until(lambda: kernels.up == ["n2"])  # what n1 has dialled has come to n2, and n1 itself does not know it yet
            await kernels.dial("n2")  # n1 takes it, and asks over it; n2 has had a better one all the time
            await until(lambda: bool(asked))
            assert await asked[0] == "echo"
            gate.set()
            await dialled
            await until(lambda: kernels.up == ["n2", "n1", "n1"])  # now both have the one that n1 has dialled
            assert all(await asyncio.gather(kernels.ask("n1", "echo"), kernels.ask("n2", "echo")))
            await asyncio.sleep(0.3)  # longer than anything that is closed in a moment lasts
            kernels.answers.set()
            assert await asked[1] == "late"
        finally:
            kernels.close()

    bounded(work)


def test_the_one_that_makes_way_is_closed_when_nothing_goes_on_over_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "LINK_SUPERSEDED_MS", 10)
    monkeypatch.setattr(links, "LINK_PING_MS", 20)

    async def work() -> None:
        kernels = Kernels(tmp_path)
        try:
            await kernels.dial("n1")
            await until(lambda: sorted(kernels.up) == ["n1", "n2"])
            await kernels.dial("n2")
            await until(lambda: 2 in kernels.served())
            await until(lambda: kernels.served() == [1, 1])
            assert await kernels.ask("n1", "echo") == await kernels.ask("n2", "echo") == "echo"
        finally:
            kernels.close()

    bounded(work)


async def crossed(kernels: Kernels) -> None:
    """Have each dial the other, the smaller first: both keep that one."""
    for one, other in (("n1", "n2"), ("n2", "n1")):
        await kernels.dial(one)
        await until(lambda other=other: kernels.links[other].has({"n1": "n2", "n2": "n1"}[other]))  # type: ignore[misc]
    await until(lambda: kernels.served() == [2, 2])


def test_when_the_better_one_goes_the_other_is_the_link_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other side may have given up the better one a while before, and go by the other: it has no reason to make a third."""
    monkeypatch.setattr(link, "LINK_SUPERSEDED_MS", 200)
    monkeypatch.setattr(links, "LINK_PING_MS", 20)

    async def work() -> None:
        kernels = Kernels(tmp_path)
        one = kernels.links["n1"]
        try:
            await crossed(kernels)
            one._links["n2"].peer.close("n2 does not answer")
            await until(lambda: kernels.served() == [1, 1])
            assert one.has("n2") and kernels.links["n2"].has("n1")
            await asyncio.sleep(0.5)
            assert kernels.served() == [1, 1] and await kernels.ask("n1", "echo") == await kernels.ask("n2", "echo") == "echo"
            one._links["n2"].peer.close("n2 does not answer")
            await until(lambda: not one.has("n2"))
        finally:
            kernels.close()

    bounded(work)


def test_a_node_that_has_left_is_served_over_no_connection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "FAREWELL_S", 0.05)

    async def work() -> None:
        kernels = Kernels(tmp_path)
        try:
            await crossed(kernels)
            asked = [asyncio.ensure_future(each.peer.call("late", None, str, user=USER)) for each in kernels.links["n2"]._served.values()]
            kernels.links["n1"].forget("n2")
            await until(lambda: kernels.served() == [0, 0])
            assert all(isinstance(error, UniosError) for error in await asyncio.gather(*asked, return_exceptions=True))
        finally:
            kernels.close()

    bounded(work)


@pytest.mark.parametrize("through", ["", "n3"], ids=["straight", "relayed"])
def test_a_relay_is_held_for_no_longer_than_it_may_by_what_never_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, through: str) -> None:
    monkeypatch.setattr(link, "LINK_SUPERSEDED_MS", 10)
    monkeypatch.setattr(link, "RELAY_SUPERSEDED_MS", 100)
    monkeypatch.setattr(links, "LINK_PING_MS", 20)

    async def work() -> None:
        kernels = Kernels(tmp_path)
        one, two = kernels.links["n1"], kernels.links["n2"]
        try:
            await kernels.dial("n2")
            await until(lambda: one.has("n2") and two.has("n1"))
            one._links["n2"].via = two._links["n1"].via = through
            asked = asyncio.ensure_future(kernels.ask("n1", "late"))
            await settled()
            await kernels.dial("n1")
            await until(lambda: kernels.served() == [2, 2])
            if through:
                await until(lambda: kernels.served() == [1, 1])
                assert isinstance((await asyncio.gather(asked, return_exceptions=True))[0], UniosError)
            else:
                await asyncio.sleep(0.5)
                assert kernels.served() == [2, 2] and not asked.done()
                kernels.answers.set()
                assert await asked == "late"
            assert await kernels.ask("n1", "echo") == "echo"
        finally:
            kernels.close()

    bounded(work)


def test_a_node_that_has_come_back_is_tried_at_once(tmp_path: Path) -> None:
    async def work() -> None:
        kernels = Kernels(tmp_path)
        one = kernels.links["n1"]
        keeps = asyncio.create_task(one.run())
        try:
            one._routes["n2"]._due_ms = 1 << 62  # as if it had failed for long
            one.know("n2", [f"127.0.0.1:{kernels.links['n2'].port}"])
            await asyncio.sleep(0.5)
            assert not kernels.up
            one.expect("n2")
            await until(lambda: sorted(kernels.up) == ["n1", "n2"])
        finally:
            keeps.cancel()
            kernels.close()

    bounded(work)


def test_a_node_whose_lease_is_told_is_expected() -> None:
    expected: list[str] = []
    node: Any = SimpleNamespace(_tell=lambda _event: None, links=SimpleNamespace(expect=expected.append))
    Node._on_alive(node, "/alive/n3", None, Alive(2))
    Node._on_alive(node, "/alive/n4", Alive(2), None)
    assert expected == ["n3"]
