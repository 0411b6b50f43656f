"""Foreign placement policies, real ones in a process of their own: one that hangs, raises, answers nonsense, prints, dies or cannot be loaded."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.services.bad_policies import install
from unios.core.capacity import Books
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.core.rules import PolicyRule
from unios.demands import Placing
from unios.limits import FOREIGN_MAX, POLICY_DEATHS_MAX
from unios.services.foreign import Foreign
from unios.services.policies import Policies


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(tmp_path), os.environ.get("PYTHONPATH", ""))))


class Scene:
    def __init__(self) -> None:
        books = Books()
        for name in ("n1", "n2"):
            books.offer(NodeRecord(name, name, 1, users=("*",), cores=2))
        self.failures: list[tuple[str, str]] = []
        self.policies = Policies(books, lambda name, why: self.failures.append((name, why)))

    def choose(self, policy: str = "") -> tuple[str, str]:
        return self.policies.choose(ProcessRecord(300, 1, "pending", "ann", placing=Placing(policy=policy)), ["n1", "n2"])

    def until(self, reached: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not reached():
            assert time.monotonic() < deadline, self.failures
            time.sleep(0.01)
            self.choose()


@pytest.fixture
def scene(installed: None) -> Iterator[Scene]:
    made = Scene()
    yield made
    made.policies.close()


def test_a_foreign_policy_decides_once_it_is_loaded_and_the_default_until_then(scene: Scene) -> None:
    scene.policies.set(PolicyRule("last"))
    assert scene.choose()[0] == "n1"
    scene.until(lambda: scene.choose()[0] == "n2")
    assert scene.choose()[1].startswith("policy last; ") and not scene.failures


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("hangs", "no answer within"),
        ("raises", "it raised ValueError: oh"),
        ("nonsense", "it did not name each eligible node once"),
        ("number", "it did not answer with a list"),
        ("nothing", "its answer is none"),
        ("dies", "its process has ended"),
        ("floods", "it did not name each eligible node once"),
        ("absent", "AttributeError"),
        ("unheard-of", "no placement policy unheard-of is installed"),
    ],
)
def test_one_that_fails_is_replaced_by_the_default_and_told_once(scene: Scene, name: str, why: str) -> None:
    scene.policies.set(PolicyRule(name))
    scene.until(lambda: bool(scene.failures))
    assert scene.choose()[0] == "n1"
    assert f"least-loaded, since {name} cannot be had" in scene.choose()[1]
    assert [told for told, _why in scene.failures] == [name] and scene.failures[0][1].startswith(why)


def test_set_anew_it_is_tried_again_and_elsewhere_replaced_it_is_not_asked(scene: Scene) -> None:
    scene.policies.set(PolicyRule("raises"))
    scene.until(lambda: len(scene.failures) == 1)
    scene.policies.set(PolicyRule("raises", 1, replaced="it failed"))
    scene.choose()
    assert len(scene.failures) == 1
    scene.policies.set(PolicyRule("raises", 2))
    scene.until(lambda: len(scene.failures) == 2)


def test_a_process_may_name_a_policy_of_its_own(scene: Scene) -> None:
    assert scene.choose("pack")[1].startswith("policy pack; ")
    scene.until(lambda: scene.choose("last")[0] == "n2")


def test_whoever_names_many_gets_no_more_processes_than_the_bound(scene: Scene) -> None:
    for number in range(3 * FOREIGN_MAX):
        assert scene.choose(f"no-such-{number}")[0] in ("n1", "n2")
    assert len(scene.policies._foreign) <= FOREIGN_MAX


def test_closing_ends_its_process(installed: None) -> None:
    foreign = Foreign("hangs", lambda _why: None)
    foreign.close()
    foreign.close()
    assert foreign._process.returncode is not None


SERVICE = """
import sys, time
from pathlib import Path
from unios.core.capacity import Books
from unios.core.nodes import NodeRecord
from unios.core.processes import ProcessRecord
from unios.core.rules import PolicyRule
from unios.services.policies import Policies
from unios.services.policy_deaths import PolicyDeaths

books = Books()
books.offer(NodeRecord("n1", "n1", 1, users=("*",), cores=2))
deaths = PolicyDeaths(Path(sys.argv[1]), "7", lambda: 1000, "the service")
policies = Policies(books, lambda name, why: print(name, why, flush=True), deaths)
policies.set(PolicyRule("kills", int(sys.argv[2])))
while not policies._failed:
    policies.choose(ProcessRecord(300, 1, "pending", "ann"), ["n1"])
    time.sleep(0.01)
"""


def test_one_that_kills_its_service_again_and_again_is_replaced_until_it_is_set_anew(installed: None, tmp_path: Path) -> None:
    def lived(set_ms: int) -> tuple[int, bytes]:
        done = subprocess.run([sys.executable, "-c", SERVICE, str(tmp_path / "deaths"), str(set_ms)], stdout=subprocess.PIPE, timeout=60)
        return done.returncode, done.stdout

    assert [lived(1)[0] for _time in range(POLICY_DEATHS_MAX)] == [-9] * POLICY_DEATHS_MAX
    said = b"kills the service died 3 times within 10 minutes while it asked this policy or had it running\n"
    assert lived(1) == lived(1) == (0, said)
    assert lived(2) == (-9, b"")


ASKED = """
import time
from unios.core.placement import Candidate, PolicyFailed
from unios.services.foreign import Foreign

foreign = Foreign("hangs", print)
while not foreign.is_ready():
    time.sleep(0.01)
try:
    foreign.ask([Candidate("n1", 0, 1, ())])
except PolicyFailed:
    print(foreign._process.pid, flush=True)
time.sleep(60)
"""


def test_one_that_hangs_does_not_outlive_its_service(installed: None) -> None:
    with subprocess.Popen([sys.executable, "-c", ASKED], stdout=subprocess.PIPE) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        assert Path(f"/proc/{pid}").exists()
        service.kill()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline, "its process is left behind"
        time.sleep(0.01)
