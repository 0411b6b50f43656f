"""What `unios up` says of a home that it may not write in; what a node that joins finds of an earlier one."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from unios.errors import CallerError, Denied
from unios.kernel import founding
from unios.kernel.certificates import Identity
from unios.wire.home import Home
from unios.wire.joining import Joined

NOBODY = 65534


@pytest.fixture
def folder() -> Iterator[Path]:
    """One that every user finds, unlike pytest's own."""
    made = Path(tempfile.mkdtemp(prefix="u-founding-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def refused(home: Path, uid: int) -> str:
    """Return what that user hears who would start nodes there."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setresuid(uid, uid, uid)
            founding.prepare(Home(home))
        except Denied as error:
            os.write(write, str(error).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read) as file:
        said = file.read()
    os.waitpid(pid, 0)
    return said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize("nodes", [True, False])
def test_another_user_hears_whose_home_it_is_and_what_to_do(folder: Path, nodes: bool) -> None:
    home = folder / "home"
    home.mkdir(0o711)
    if nodes:
        (home / "nodes").mkdir(0o711)
    said = refused(home, NOBODY)
    assert f"the system of UNIOS_HOME {home} is root's, and nobody may not write in that folder: its nodes are started by root" in said
    assert "choose another folder (UNIOS_HOME, or --home)" in said and "probe" not in said


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
@pytest.mark.parametrize(("mode", "hidden"), [(0o755, False), (0o700, True)])
def test_a_home_that_cannot_be_made_or_found_names_the_folder_that_is_in_the_way(folder: Path, mode: int, hidden: bool) -> None:
    above = folder / "above"
    above.mkdir()
    above.chmod(mode)
    if hidden:
        (above / "home").mkdir()
    said = refused(above / "home", NOBODY)
    assert said.startswith(f"UNIOS_HOME {above / 'home'} cannot be used: {above} is root's, and nobody may not write there: choose another folder")


def test_a_folder_of_ones_own_that_forbids_it_is_told_with_its_mode(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    uid = os.geteuid() or NOBODY
    if uid == NOBODY:
        os.chown(home, uid, -1)
    home.chmod(0o500)
    assert refused(home, uid).startswith(f"{home} is nobody's own, but of mode 0500" if uid == NOBODY else f"{home} is ")


def test_a_node_that_joins_under_the_name_of_an_earlier_one_takes_over_no_member_of_its(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path)
    old = home.node("n3").path / "etcd"
    (old / "data").mkdir(parents=True)
    for name in ("member.json", "found", "offer.json"):
        (old / name).touch()
    joined = Joined("n3", b"certificate", "s", "etcd", "m", "g", {})
    made = {"joined": msgspec.json.encode(joined).decode(), "authority": "a", "key": "k", "listen": "10.0.0.3", "address": "", "warnings": []}

    class Attempt:
        advertise = ""

        async def run(self) -> dict[str, Any]:
            return made

    monkeypatch.setattr(founding, "_uri", lambda _certificate: Identity("s", "n3", "m", ("ann",)).uri())
    founding._join(home, Attempt())  # type: ignore[arg-type]
    assert not old.exists() and home.node("n3").node_file.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, and a folder that is another user's")
@pytest.mark.parametrize("there", [True, False])
def test_root_makes_no_system_in_another_users_folder(folder: Path, there: bool) -> None:
    os.chown(folder, NOBODY, -1)
    home = folder if there else folder / "a" / "home"
    with pytest.raises(Denied, match=r"is nobody's: start it as nobody, or choose a folder of root's"):
        founding.prepare(Home(home))
    assert not list(folder.iterdir())


def test_a_name_that_no_node_of_the_machine_has_is_refused(folder: Path) -> None:
    nodes = [Home(folder).node(name) for name in ("n1", "n2")]
    founding.check_name(nodes, "n2")
    founding.check_name(nodes, "")
    founding.check_name([], "n9")
    with pytest.raises(CallerError, match=r"has its nodes already \(n1, n2\), and none is called n9"):
        founding.check_name(nodes, "n9")
