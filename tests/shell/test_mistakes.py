"""What is said of command lines that make no sense, each with where to go on."""

from pathlib import Path

import pytest

from unios.shell import main

SAID = [
    ("frobnicate", "there is no word 'frobnicate'; see `unios --help`"),
    ("runn true", "there is no word 'runn' (did you mean `unios run`?); see `unios --help`"),
    ("submit true", "there is no word 'submit' (did you mean `unios run`?); see `unios --help`"),
    ("version", "there is no word 'version' (did you mean `unios --version`?); see `unios --help`"),
    ("--json", "no word was typed: `unios help` lists them; see `unios --help`"),
    ("run", "no program was named: write `unios run PROGRAM [ARGUMENT]...`; see `unios run --help`"),
    ("run --memry 1G true", "there is no option --memry (did you mean --memory or --time or --user?); see `unios run --help`"),
    ("run --memory 5 true", "--memory 5: the least is 16M"),
    ("run --memory 2048T true", "--memory 2048T: no machine has so much; less than 1024T may be asked for"),
    ("run --tasks 1 true", "--tasks 1: a process may have 4 to 4194304 Linux processes and threads"),
    (
        "renice 301 10",
        "'301' is no nice value: they go from -20 (favoured, for root) to 19 (last in line), and are written before the pids, as in `unios renice 10 301`",
    ),
    ("results 300 a b", "more than one folder was named: write `unios results PID [DIR]`"),
    ("ps -x", "there is no option -x; see `unios ps --help`"),
    ("run --on", "--on is without its value: write --on NODE; see `unios run --help`"),
    ("--node", "--node is without its value: write --node NAME; see `unios --help`"),
    ("ps --all=yes", "--all takes no value; see `unios ps --help`"),
    ("wait --timeout soon 300", "--timeout takes a whole number from 0 on, not 'soon'; see `unios wait --help`"),
    ("wait --timeout=-1 300", "--timeout takes a whole number from 0 on, not '-1'; see `unios wait --help`"),
    ("run --restart sometimes true", "--restart: 'sometimes' is not one of 'never', 'on-loss', 'on-failure', 'always'; see `unios run --help`"),
    ("kill", "something is missing: write `unios kill PID...`; see `unios kill --help`"),
    ("kill -9", "something is missing: write `unios kill PID...`; see `unios kill --help`"),
    ("forward 300", "something is missing: write `unios forward PID PORT[:LOCALPORT]...`; see `unios forward --help`"),
    ("ps 300", "'300' is too much, since `unios ps` takes no arguments; see `unios ps --help`"),
    ("logs 300 301", "'301' is too much, since `unios logs` takes PID and no more; see `unios logs --help`"),
    ("up 3", "'3' is too much, since `unios up` takes no arguments: so many nodes are made by `unios up --nodes 3`; see `unios up --help`"),
    ("leave n1", "'n1' is too much, since `unios leave` takes no arguments: one node is named by `unios leave --node n1`; see `unios leave --help`"),
]


@pytest.mark.parametrize(("line", "said"), SAID, ids=[line for line, _said in SAID])
def test_a_mistake_is_told_with_what_would_make_sense(
    line: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNIOS_HOME", str(tmp_path))
    assert main.execute(line.split()) == 2
    error = capfd.readouterr().err
    assert said.replace('"', '\\"') in error if "--json" in line else error == f"unios: {said}\n"
