"""The rehearsal of the zygote: it goes all the way, and nothing of it is left."""

import json
import subprocess
import sys
from pathlib import Path

CODE = """
import json, os, signal, sys
from unios.kernel import rehearsal
os.closerange(3, 1000)
killed, rounds, went = [], 0, rehearsal._one
os.kill = lambda *what: killed.append(what)
def one(scratch):
    global rounds
    went(scratch)
    rounds += 1
rehearsal._one = one
rehearsal.run(sys.argv[1], 3)
left = [int(name) for name in os.listdir("/proc/self/fd")]
print(json.dumps({"killed": killed, "rounds": rounds, "open": [one for one in left if one > 3], "wakeup": signal.set_wakeup_fd(-1),
    "handler": signal.getsignal(signal.SIGCHLD) is signal.SIG_DFL}))
"""


def rehearse(folder: Path) -> dict[str, object]:
    done = subprocess.run([sys.executable, "-c", CODE, str(folder)], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_the_rehearsal_goes_to_the_end_signals_nobody_and_leaves_nothing(tmp_path: Path) -> None:
    found = rehearse(tmp_path)
    assert found == {"killed": [], "rounds": 12, "open": [], "wakeup": -1, "handler": True}
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_zygote_left_of_its_rehearsal_is_in_nobodys_way(tmp_path: Path) -> None:
    left = tmp_path / "rehearsal" / "spares" / "tree"
    left.mkdir(parents=True)
    (left / "sock").touch()
    (left.parent.parent / "lease").touch()
    assert rehearse(tmp_path)["rounds"] == 12
    assert list(tmp_path.iterdir()) == []


def test_without_a_folder_there_is_no_rehearsal_and_no_harm(tmp_path: Path) -> None:
    (tmp_path / "rehearsal").touch()
    found = rehearse(tmp_path)
    assert found == {"killed": [], "rounds": 0, "open": [], "wakeup": -1, "handler": True}
