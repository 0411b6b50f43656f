"""A full disk, as a person meets it: each command says which disk is full and that it waits, and goes on when there is room.

UNIOS_HOME, or what a node keeps in it, is a small tmpfs in a mount namespace of its own.
"""

import os
import re
import subprocess

import pytest

from tests.e2e.system import UNIOS, System

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount a small disk")

FUNCTIONS = r"""
set -u
fill() {
    dd if=/dev/zero of="$1/fill" bs=64k >/dev/null 2>&1
    dd if=/dev/zero of="$1/fill2" bs=1k >/dev/null 2>&1
}
room() { rm -f "$1"/fill*; }
until_done() { for try in $(seq 400); do "$@" >/dev/null 2>&1 && return; sleep 0.05; done; echo "in vain: $*"; }
# NAME COMMAND...: what it says while it waits; it is killed as soon as it has said it, or after 10 s, or has ended
says() {
    local name=$1 pid ended; shift
    : >"$TOP/err"  # the shell that starts it empties it later than here is looked
    "$UNIOS" "$@" </dev/null >"$TOP/out" 2>"$TOP/err" & pid=$!
    for try in $(seq 200); do
        grep -q . "$TOP/err" && break
        kill -0 $pid 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL $pid 2>/dev/null && ended=waits || ended=ended
    wait $pid 2>/dev/null
    echo "$name|$ended|$(tr '\n' ' ' <"$TOP/err")"
}
# NAME COMMAND...: what it says and its exit code
told() { local name=$1; shift; "$UNIOS" "$@" </dev/null >"$TOP/out" 2>"$TOP/err"; echo "$name|$?|$(tr '\n' ' ' <"$TOP/out")$(tr '\n' ' ' <"$TOP/err")"; }
mkdir -p "$TOP/folder"; echo carried >"$TOP/folder/file"
"""


def played(script: str) -> dict[str, tuple[str, str]]:
    """Run the script in a mount namespace; return what each name came to: how it ended, and what it said."""
    system = System()
    try:
        (system.home / "home").mkdir()
        env = {**system.env, "UNIOS": UNIOS, "TOP": str(system.home)}
        done = subprocess.run(["unshare", "--mount", "bash", "-c", FUNCTIONS + script], env=env, capture_output=True, timeout=150, check=False)
        text = done.stdout.decode()
        assert "Traceback" not in text and "in vain" not in text, (text, done.stderr.decode())
        lines = [line.split("|", 2) for line in text.splitlines() if line.count("|") >= 2]
        return {name: (ended, said) for name, ended, said in lines}
    finally:
        system.close()


def test_each_command_that_waits_for_room_on_the_disk_of_the_store_says_so_and_nothing_is_lost() -> None:
    said = played(r"""
mount -t tmpfs -o size=24m tmpfs "$UNIOS_HOME"
"$UNIOS" up >/dev/null
pid=$("$UNIOS" run -d -- sleep 1000); short=$("$UNIOS" run -d -- sh -c "until [ -e $TOP/go ]; do sleep 0.05; done; exit 7")
fill "$UNIOS_HOME"
touch "$TOP/go"
says run run -- true
says detached run -d -- true
says terminal run -t -- true
says carry run --carry "$TOP/folder" -- cat file
says array run --array 1-3 -- true
printf 'true\ntrue\n' >"$TOP/lines"
says batch run --batch "$TOP/lines"
says json run -d --json -- true
says kill kill $pid
says freeze freeze $pid
says policy policy pack
says quota quota root --cpus 3
says wait wait $short
says logs logs -f $short
says attach attach $short
told up up --nodes 2
told ps ps
room "$UNIOS_HOME"
until_done "$UNIOS" run -- true
told ended wait $short
told killed kill $pid
told gone wait $pid
told down down --all
fill "$UNIOS_HOME"
told boot up
room "$UNIOS_HOME"
told again up
told back run -- echo it is back
"$UNIOS" down --all
""")
    store = re.compile(r"^unios: .*the disk of the store is full: \S+/store\.db on \S+ cannot be written .*; make room on that disk; .*")
    for name in ("run", "detached", "terminal", "array", "batch", "kill", "freeze", "policy", "quota", "wait", "logs", "attach"):
        assert said[name][0] == "waits" and store.match(said[name][1]), (name, said[name])
    assert said["json"][1].startswith('{"waits":"the disk of the store is full')
    assert said["carry"][0] == "waits" and re.match(r"unios: the disk of n1 has no room: \d+ bytes are needed, \d+ are free,", said["carry"][1])
    assert "`unios kill -s KILL" in said["kill"][1] and "for at most 30 s, and nothing is lost" in said["run"][1]
    for name in ("up", "boot"):
        assert said[name][0] == "75" and "is on is full: make room there" in said[name][1], said[name]
    assert said["ps"][0] == "0" and "sleep 1000" in said["ps"][1] and "is full" not in said["ps"][1]
    assert (said["ended"][0], said["killed"][0], said["gone"][0]) == ("7", "0", "143"), said
    assert said["back"] == ("0", "it is back "), said


def test_a_program_that_fills_the_disk_of_the_store_can_be_killed() -> None:
    said = played(r"""
mount -t tmpfs -o size=24m tmpfs "$UNIOS_HOME"
"$UNIOS" up >/dev/null
pid=$("$UNIOS" run -d -- sh -c "trap '' INT TERM; cat /dev/zero >$UNIOS_HOME/large; touch $TOP/full; while :; do cat /dev/zero >>$UNIOS_HOME/large; sleep 0.2; done")
until_done test -e "$TOP/full"
fill "$UNIOS_HOME"
says last run -- true  # what room the store had left of its own is taken
"$UNIOS" kill -s KILL $pid </dev/null 2>"$TOP/kills" & kills=$!
until_done grep -q "was killed" "$TOP/kills"
until_done sh -c '! pgrep -f "cat /dev/zero >>$UNIOS_HOME"'
rm "$UNIOS_HOME/large"; room "$UNIOS_HOME"
wait $kills; echo "kills|$?|$(tr '\n' ' ' <"$TOP/kills")"
told gone wait $pid
"$UNIOS" down --all
""")
    assert said["kills"][0] == "0" and "cannot be recorded" in said["kills"][1] and said["gone"][0] == "137", said


def test_an_end_that_cannot_be_recorded_is_said_to_who_stays_for_it_and_is_told_when_there_is_room() -> None:
    said = played(r"""
mount -t tmpfs -o size=24m tmpfs "$UNIOS_HOME"
"$UNIOS" up >/dev/null
"$UNIOS" run -- sh -c "touch $TOP/runs; until [ -e $TOP/go ]; do sleep 0.05; done; exit 5" </dev/null 2>"$TOP/stays" & stays=$!
until_done test -e "$TOP/runs"
fill "$UNIOS_HOME"; touch "$TOP/go"
until_done grep -q "cannot be recorded" "$TOP/stays"
room "$UNIOS_HOME"
wait $stays; echo "stays|$?|$(tr '\n' ' ' <"$TOP/stays")"
"$UNIOS" down --all
""")
    assert said["stays"][0] == "5" and "it is recorded when there is room, and this command waits for that" in said["stays"][1], said
    assert said["stays"][1].count("make room") == 1, said  # once, however long it waits


def test_a_carry_without_room_here_goes_to_another_node_and_says_which_disk_lacks_what() -> None:
    said = played(r"""
"$UNIOS" up --nodes 2 >/dev/null
small() { mount -t tmpfs -o size=160m tmpfs "$UNIOS_HOME/nodes/$1/blocks"; mkdir "$UNIOS_HOME/nodes/$1/blocks/incoming"; }
head -c 40000000 /dev/urandom >"$TOP/folder/large"
small n1
told elsewhere run --node n1 --carry "$TOP/folder" -- cat file
told pinned run --node n1 --on n1 --carry "$TOP/folder" -- cat file
rm -rf "$UNIOS_HOME/nodes/n2/blocks/u-root"
small n2
says nowhere run --node n1 --carry "$TOP/folder" -- cat file
umount "$UNIOS_HOME/nodes/n1/blocks" "$UNIOS_HOME/nodes/n2/blocks"
told room run --carry "$TOP/folder" -- cat file
"$UNIOS" down --all
""")
    lacks = r"the disk of n1 has no room: \d+ bytes are needed, \d+ are free, and \d+ of these stay free for the node itself; make room on that disk"
    assert said["elsewhere"][0] == "0" and said["elsewhere"][1].startswith("carried ") and re.search(lacks, said["elsewhere"][1]), said
    assert said["pinned"][0] == "125" and re.search(f"n1: there is no room for the carried folder: {lacks}", said["pinned"][1]), said
    assert said["nowhere"][0] == "waits" and re.match(f"unios: {lacks}; this command tries again for at most 30 s", said["nowhere"][1]), said
    assert said["nowhere"][1].startswith("unios: the disk of n1 has no room: 4"), said  # all of it, before any is sent
    assert said["room"] == ("0", "carried "), said


def test_what_a_node_with_a_full_disk_cannot_start_starts_on_another_or_waits_and_says_why() -> None:
    said = played(r"""
"$UNIOS" up --nodes 2 >/dev/null; "$UNIOS" down --all
home="$UNIOS_HOME/nodes/n2"
cp -a "$home" "$TOP/aside"; mount -t tmpfs -o size=16m,mode=755 tmpfs "$home"; cp -a "$TOP/aside/." "$home"
"$UNIOS" up >/dev/null
until_done "$UNIOS" run --on n2 -- true
fill "$home"
for name in one two three; do told $name run -d --on n2 -- true; done
told free run -- echo it runs
told queue ps
room "$home"
until_done sh -c '! "$UNIOS" ps | grep -q pending'
told ps ps -a
"$UNIOS" down --all
umount "$home"
""")
    assert said["free"][0] == "0" and said["free"][1].startswith("it runs "), said
    pending = [said[name][1] for name in ("one", "two", "three") if "is pending" in said[name][1]]
    assert any("waits: the disk of n2 is full" in text for text in pending), said
    assert "does not answer" not in said["queue"][1] and "pending" not in said["ps"][1] and "failed" not in said["ps"][1], said
