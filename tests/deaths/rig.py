"""Three pseudo-machines with a member of etcd on each, what goes on on them, and one that dies: whole, its disk with it. A new machine takes its name."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

from tests.deaths.driver import STEPS
from tests.deaths.judge import ENDED, GIVEN_UP_S, Death, Effect, Kept, Line, Verdict, elsewhere, judge, noticed, recovered
from tests.e2e.system import wait_for
from tests.live import machines
from tests.live.machines import Machine
from tests.live.witness import Witness
from tests.matrix.workloads import start
from tests.matrix.world import CHECKOUT, World, node, world

EACH: Final = 2
"""Senders for each machine."""
BEGINS_S: Final = 60
WHOLE_S: Final = 120
LOOKS_S: Final = 0.1
SEND: Final = (
    "import os,socket,time\n"
    "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "while 1:\n"
    " try: s.sendto(f\"{os.getpid()} {os.environ['UNIOS_INCARNATION']}\".encode(),('10.99.0.100',7000))\n"
    " except OSError: pass\n"
    " time.sleep(0.05)\n"
)
"""A program with an effect outside every 50 ms."""


class Tail:
    """The whole lines of a file that grows, as JSON."""

    def __init__(self, path: Path) -> None:
        self._path, self._offset = path, 0

    def more(self) -> list[Any]:
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        return [json.loads(line) for line in whole.splitlines() if line[:1] in b"{["]


class Driver:
    """What goes on on one machine, and what it has told since it was last asked."""

    def __init__(self, machine: Machine, life: int) -> None:
        self.machine = machine
        path = machine.lab.folder / f"told.{machine.name}.{life}"
        self._told: IO[bytes] = path.open("wb")
        self._said: IO[bytes] = path.with_suffix(f".{life}.err").open("wb")
        words = machine.command(sys.executable, "-m", "tests.deaths.driver", machine.name)
        self.running = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=self._told, stderr=self._said)
        self._tail = Tail(path)
        self.lines: list[Line] = []

    def hear(self) -> list[Line]:
        self.lines += self._tail.more()
        return self.lines

    def take(self) -> list[Line]:
        """Return what it has told that no run has judged yet."""
        taken, self.lines = self.hear(), []
        return taken

    def close(self) -> None:
        if self.running.stdin is not None:
            self.running.stdin.close()
        try:
            self.running.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self.running.kill()
            self.running.wait()
        self._told.close()
        self._said.close()


class Rig:
    """The system and what goes on on it. `die` is one run; `replace` makes it whole again for the next."""

    def __init__(self, made: World, witness: Witness) -> None:
        self.world = made
        self._effects = Tail(made.lab.folder / "witness")
        self.effects: list[Effect] = []
        self._secret = made.founder.run("cat", f"{made.founder.home}/ca/ca.key").stdout
        self._lives = 0
        self._senders: list[int] = []
        self._witness = witness
        start(made, sys.executable, "-m", "tests.matrix.drivers.server")
        self.drivers = {machine.name: self._driver(machine) for machine in made.lab.machines}
        self._all_go_on(0.0)

    def _driver(self, machine: Machine) -> Driver:
        self._lives += 1
        return Driver(machine, self._lives)

    def close(self) -> None:
        for driver in self.drivers.values():
            driver.close()

    def prepare(self) -> None:
        """Have senders on each machine: the new ones go where there are fewest."""
        old = self._senders[:EACH] if len(self._senders) >= EACH * 3 else []
        for pid in old:
            self.world.observer.unios("kill", "-KILL", str(pid), check=False)
        self._senders = self._senders[len(old) :]
        while len(self._senders) < EACH * 3:
            self._senders.append(start(self.world, sys.executable, "-c", SEND))
        self.effects = []
        self._effects.more()

    def die(self, victim: Machine, wait_s: float) -> tuple[Death, Verdict, dict[str, Any]]:
        """Let `victim` die after `wait_s`; return what became of the promises, and what else there is to know of the run."""
        survivors = [machine for machine in self.world.lab.machines if machine is not victim]
        self.world.observer, self.world.victim = survivors[0], victim
        wait_for(self._heard_of_all, bool, "all senders are heard", 30)
        found = self._look_at_senders()
        leader = self._leader()
        facts = {"leader": leader == node(victim), "locks": self.world.locks is victim}
        groups = self.world.groups(victim)
        busy = _cpu()
        time.sleep(wait_s)
        at = time.monotonic()
        victim.die()
        death = Death(at, victim.name, node(victim), facts["leader"], {pid: inc for pid, (where, inc) in found.items() if where == node(victim)})
        machines.remove_groups(groups)
        victim.disk.unlink()
        self._wait(death, survivors)
        facts["busy"] = _busy(busy)
        facts["orphans"] = len(death.orphans)
        lines = {name: driver.take() for name, driver in self.drivers.items()}
        kept = self._kept([line for told in lines.values() for line in told])
        return death, judge(death, lines, self.effects, kept), facts

    def _heard_of_all(self) -> bool:
        self.effects += [tuple(one) for one in self._effects.more() if isinstance(one, list)]
        return set(self._senders) <= {pid for _at, pid, _incarnation in self.effects}

    def _look_at_senders(self) -> dict[int, tuple[str, int]]:
        listed = json.loads(self.world.observer.unios("ps", "--json").stdout)
        return {one["pid"]: (one["node"], one["incarnation"]) for one in listed if one["pid"] in self._senders and one["state"] == "running"}

    def _leader(self) -> str:
        members = json.loads(self.world.observer.unios("store", "status", "--json", check=False).stdout)["members"]
        return next((one["node"] for one in members if one.get("leader")), "")

    def _wait(self, death: Death, survivors: list[Machine]) -> None:
        """Wait until all that a promise is about has happened, or it is given up."""
        deadline = death.at + GIVEN_UP_S
        alive = {machine.name: self.drivers[machine.name] for machine in survivors}
        while time.monotonic() < deadline:
            self._heard_of_all()
            told = {name: driver.hear() for name, driver in alive.items()}
            if (
                len(noticed(death, told)) == len(alive)
                and len(elsewhere(death, self.effects)) == len(death.orphans)
                and len(recovered(death, told)) == len(alive) * len(STEPS)
            ):
                return
            time.sleep(LOOKS_S)

    def _kept(self, lines: list[Line]) -> Kept:
        """Return what there is of all that was acknowledged, once the processes have ended that had to."""
        asked = {
            "keys": [line["key"] for line in lines if line["kind"] == "wrote"],
            "pids": [line["pid"] for line in lines if line["kind"] == "accepted"],
        }
        keys: dict[str, str] = {}
        deadline = time.monotonic() + GIVEN_UP_S
        while True:
            done = self.world.observer.run(sys.executable, "-m", "tests.deaths.look", input=json.dumps(asked).encode())
            found = json.loads(done.stdout)
            keys |= found["keys"]
            waiting = [pid for pid in asked["pids"] if found["processes"].get(str(pid), ("",))[0] not in ENDED]
            if not waiting or time.monotonic() > deadline:
                return Kept(keys, found["processes"])
            asked["keys"] = []
            time.sleep(LOOKS_S)

    def replace(self) -> None:
        """Have a new machine, with an empty disk, in the place of the one that died. A person does so: `leave --dead`, then `join`."""
        victim, survivor = self.world.victim, self.world.observer
        name = node(victim)
        self.drivers[victim.name].close()
        survivor.unios("leave", "--dead", name)
        victim.new_disk()
        victim.clock = ()
        victim.boot()
        victim.give_clock()
        victim.clock += (f"PYTHONPATH={CHECKOUT / 'src'}:{CHECKOUT}",)
        # the copy of the authority's key that docs/security.md asks for: the machine that had it may have died
        survivor.run("sh", "-c", f"umask 077; test -e {survivor.home}/ca/ca.key || cat > {survivor.home}/ca/ca.key", input=self._secret)
        victim.unios("join", self._token(survivor), "--name", name)
        self.world.groups(victim)
        self.drivers[victim.name] = self._driver(victim)
        wait_for(self._ailing, lambda why: not why, "the system is whole", WHOLE_S)
        self._all_go_on(time.monotonic())

    def _token(self, survivor: Machine) -> str:
        """Return a token to join with; one whose making got no answer is as good as none, and a person asks for another."""
        done = wait_for(lambda: survivor.unios("join", "--root", "--json", check=False), lambda done: done.returncode == 0, "a token")
        return str(json.loads(done.stdout)["token"])

    def _ailing(self) -> str:
        """Return what keeps the system from losing a machine: it is not whole, or fewer than three members vote."""
        time.sleep(LOOKS_S)
        if why := self.world.ailing():
            return why
        done = self.world.observer.unios("store", "status", "--json", check=False)
        members = json.loads(done.stdout)["members"] if done.stdout.strip() else []
        voting = [one["node"] for one in members if one.get("answers") and not one.get("learner")]
        return "" if len(voting) == 3 else f"members {members}"

    def _all_go_on(self, since: float) -> None:
        """Wait until every step on every machine has succeeded since."""
        moment = Death(since, "", "", leader=False, orphans={})
        wanted = {(name, step) for name in self.drivers for step in STEPS}

        def silent() -> set[tuple[str, str]]:
            time.sleep(LOOKS_S)
            return wanted - recovered(moment, {name: driver.hear() for name, driver in self.drivers.items()})

        wait_for(silent, lambda left: not left, "everything goes on", BEGINS_S)


def _cpu() -> tuple[int, int]:
    """Return the time that all cores were idle, and all time, in ticks."""
    fields = [int(text) for text in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    return fields[3] + fields[4], sum(fields)


def _busy(before: tuple[int, int]) -> int:
    """Return which part of the host's cores has been busy since, in percent."""
    idle, everything = (now - then for now, then in zip(_cpu(), before, strict=True))
    return round(100 - 100 * idle / max(everything, 1))


@contextlib.contextmanager
def rig() -> Iterator[Rig]:
    """Build one, whole and with everything going on, and take it away."""
    with world("etcd") as made:
        witness = Witness(made.switch_pid, made.lab.folder)
        try:
            wait_for(made.ailing, lambda why: not why, "it is whole", WHOLE_S)
            built = Rig(made, witness)
            try:
                wait_for(built._ailing, lambda why: not why, "three vote", WHOLE_S)
                yield built
            finally:
                built.close()
        finally:
            witness.close()
