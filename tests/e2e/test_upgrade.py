"""`unios upgrade`: nodes run another version, one after the other, and back, while processes, their output and calls go on; what cannot be done is not begun."""

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.e2e import installations
from tests.e2e.installations import changed, committed, goings, together, typing
from tests.e2e.system import System, wait_for
from unios.wire.installation import PACKAGE, mark

LINKS = ("wire/messages.py", "PROTOCOL_MAX: Final = 1", "PROTOCOL_MAX: Final = 2")
TREES = ("kernel/trees_protocol.py", "PROTOCOL: Final = 1", "PROTOCOL: Final = 2")
NEWER = ("__init__.py", '__version__ = "0.1.0"', '__version__ = "0.1.1"')


def releases(system: System) -> dict[str, str]:
    """Return what each node runs, as the first one says."""
    return {name: node.get("release", "") for name, node in system.nodes().items()}


def upgrade(system: System, *words: str) -> Any:
    return json.loads(system.unios("upgrade", "--json", *words, timeout=120).stdout)


def keepers(system: System) -> Any:
    """As `status` says, which ends with 1 while a member begins and the store does not answer."""
    return json.loads(system.unios("status", "--json", check=False).stdout)["keepers"]


def kernels(system: System) -> dict[str, int]:
    return {name: node["kernel_pid"] for name, node in system.nodes().items()}


def test_nodes_run_a_newer_version_and_go_back_while_all_goes_on(fresh: System, tmp_path: Path) -> None:
    new = changed(tmp_path / "newer", NEWER, LINKS, TREES)
    here, there = f"0.1.0+{mark(PACKAGE)}", f"0.1.1+{mark(str(new / 'src' / 'unios'))}"
    assert releases(fresh) == dict.fromkeys(("n1", "n2", "n3"), here)
    with goings(fresh, ("n2", "n3", "n1")) as going:
        assert upgrade(fresh, "--to", str(new), "--node", "n2")["replaced"] == ["n2"]
        assert releases(fresh) == {"n1": here, "n2": there, "n3": here}
        together(fresh, ("n1", "n2"))
        going.check()
        assert upgrade(fresh, "--to", str(new))["replaced"] == ["n1", "n3"]
        assert releases(fresh) == dict.fromkeys(("n1", "n2", "n3"), there)
        going.check()
        before = kernels(fresh)
        assert upgrade(fresh, "--to", str(new))["replaced"] == []
        assert kernels(fresh) == before
        done = upgrade(fresh, "--back")
        assert done["release"] == here and done["replaced"] == ["n1", "n2", "n3"]
        assert releases(fresh) == dict.fromkeys(("n1", "n2", "n3"), here)
        going.check()


def test_a_node_that_does_not_get_ready_is_put_back_and_the_roll_stops(fresh: System, tmp_path: Path) -> None:
    main = '    """Be the node\'s kernel until SIGTERM."""\n'
    bad = changed(tmp_path / "bad", NEWER, ("kernel/node.py", main, main + '    if folder.name == "n3":\n        raise RuntimeError("not here")\n'))
    here, there = f"0.1.0+{mark(PACKAGE)}", f"0.1.1+{mark(str(bad / 'src' / 'unios'))}"
    with goings(fresh, ("n3", "n3", "n2")) as going:
        done = fresh.unios("upgrade", "--to", str(bad), timeout=120, check=False)
        assert done.returncode == 75 and b"n3: its kernel keeps dying" in done.stderr, done.stderr
        stands = releases(fresh)  # the node with the store is the last, whichever that is
        assert stands["n3"] == here and there in stands.values()
        assert b"n3 was put back" in done.stderr and ", ".join(f"{node} runs {one}" for node, one in stands.items()) in done.stderr.decode(), (
            stands,
            done.stderr.decode(),
        )
        going.check()
        assert upgrade(fresh, "--back")["replaced"] == [node for node, one in stands.items() if one == there]
        assert releases(fresh) == dict.fromkeys(("n1", "n2", "n3"), here)
        going.check()


def test_a_roll_that_is_killed_at_any_moment_goes_on_where_it_was(fresh: System, tmp_path: Path) -> None:
    new = changed(tmp_path / "newer", NEWER)
    there = f"0.1.1+{mark(str(new / 'src' / 'unios'))}"
    with goings(fresh, ("n1", "n2", "n3")) as going:
        for seconds in (0.6, 0.9, 1.2, 1.5):
            rolling = subprocess.Popen([sys.executable, "-m", "unios", "upgrade", "--to", str(new)], env=fresh.env, stderr=subprocess.PIPE)
            try:
                rolling.wait(seconds)
            except subprocess.TimeoutExpired:
                rolling.kill()
            rolling.communicate()
        upgrade(fresh, "--to", str(new))
        assert releases(fresh) == dict.fromkeys(("n1", "n2", "n3"), there)
        going.check()
        assert sorted(upgrade(fresh, "--back")["replaced"]) == ["n1", "n2", "n3"]
        going.check()


@pytest.mark.skipif(shutil.which("etcd") is None or find_spec("grpc") is None, reason="etcd or grpcio is not installed")
def test_nodes_with_members_of_etcd_are_rolled_one_after_the_other_and_the_store_answers_throughout(tmp_path: Path) -> None:
    new = changed(tmp_path / "newer", NEWER, LINKS, TREES)
    here, there = f"0.1.0+{mark(PACKAGE)}", f"0.1.1+{mark(str(new / 'src' / 'unios'))}"
    with System() as system:
        system.unios("up", "--nodes", "3", "--store", "etcd")
        wait_for(lambda: keepers(system), lambda found: found == ["n1", "n2", "n3"], "three members", 40)
        with goings(system, ("n2", "n3", "n1")) as going:
            assert sorted(upgrade(system, "--to", str(new))["replaced"]) == ["n1", "n2", "n3"]
            assert releases(system) == dict.fromkeys(("n1", "n2", "n3"), there)
            together(system, ("n1", "n2", "n3"))
            going.check()
            wait_for(lambda: system.json("store", "status")["members"], lambda found: sum(one["answers"] for one in found) == 3, "members answer", 20)
            assert sorted(upgrade(system, "--back")["replaced"]) == ["n1", "n2", "n3"]
            assert releases(system) == dict.fromkeys(("n1", "n2", "n3"), here)
            going.check()


@pytest.fixture(scope="module")
def one() -> Iterator[System]:
    with System() as system:
        system.unios("up", "--nodes", "1")
        system.run_detached("sleep", "1000")
        yield system


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("store/sqlite.py", "FORMAT: Final = 1", "FORMAT: Final = 2"), "the store's file has format 1, and it reads 2"),
        (
            ("kernel/trees_protocol.py", "PROTOCOL_MIN: Final = 1\nPROTOCOL: Final = 1", "PROTOCOL_MIN: Final = 2\nPROTOCOL: Final = 2"),
            "cannot look after what runs under inits of another protocol",
        ),
        (
            ("kernel/node.py", "            self.addresses.listen()\n", '            raise errors.Unavailable("not today")\n'),
            "a node of it that was tried in a folder of its own did not work: n1 could not start: not today",
        ),
    ],
    ids=["store", "trees", "tried"],
)
def test_what_cannot_take_over_is_told_and_nothing_is_touched(one: System, tmp_path: Path, change: tuple[str, str, str], why: str) -> None:
    before = kernels(one), releases(one)
    done = one.unios("upgrade", "--to", str(changed(tmp_path / "other", change)), timeout=120, check=False)
    assert done.returncode == 75 and why in done.stderr.decode(), done.stderr
    assert (kernels(one), releases(one)) == before
    assert not (one.home / "home" / "installation.json").exists()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--back"], 1, "nothing is remembered"),
        (["--back", "--to", "/"], 2, "give one of them"),
        (["--to", "/nowhere"], 1, "no installation"),
        (["--node", "n9"], 2, "no node of this machine"),
    ],
)
def test_what_makes_no_sense_is_told(one: System, words: list[str], code: int, said: str) -> None:
    done = one.unios("upgrade", *words, check=False)
    assert done.returncode == code and said in done.stderr.decode(), done


def test_the_version_before_is_upgraded_to_this_one_and_back(tmp_path: Path) -> None:
    before = committed(tmp_path / "before", installations.BEFORE)
    if before is None:
        pytest.skip(f"this checkout has no commit {installations.BEFORE}: a clone with the whole history has it")
    with System(typing(before)) as system:
        system.unios("up", "--nodes", "3")
        with goings(system, ("n2", "n3", "n1")) as going:
            new = {**system.env, **typing(installations.ROOT)}
            here = f"0.1.0+{mark(PACKAGE)}"
            system.env, old = new, system.env
            assert upgrade(system, "--node", "n2")["replaced"] == ["n2"]
            together(system, ("n1", "n2"))
            system.env = old
            together(system, ("n1", "n2"))
            system.env = new
            going.check()
            assert upgrade(system)["replaced"] == ["n1", "n3"]
            assert releases(system) == dict.fromkeys(("n1", "n2", "n3"), here)
            going.check()
            assert upgrade(system, "--back")["replaced"] == ["n1", "n2", "n3"]
            going.check()
            system.env = old
            assert set(system.nodes()) == {"n1", "n2", "n3"}
