"""Completion in real shells, with a real system to ask for pids and nodes."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.e2e.system import UNIOS, System

PATH = f"{Path(UNIOS).parent}:/usr/bin:/bin"
BASH = """
eval "$(unios completion bash)"
complete -p unios | grep -q -- '-F _unios' || exit 9
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_unios
printf '%s\\n' "${COMPREPLY[@]}"
"""


def in_bash(system: System, *words: str) -> list[str]:
    """Return what bash offers for the last of the words."""
    env = {**system.env, "PATH": PATH}
    done = subprocess.run(["bash", "-c", BASH, "bash", *words], env=env, capture_output=True, text=True, timeout=30, check=True)
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_bash_completes_words_options_choices_nodes_pids_and_files(whole: System, tmp_path: Path) -> None:
    pid = whole.run_detached("sleep", "100020")
    try:
        assert in_bash(whole, "unios", "ren") == ["renice"]
        assert "--restart" in in_bash(whole, "unios", "run", "--re")
        assert in_bash(whole, "unios", "run", "--restart", "on-l") == ["on-loss"]
        assert in_bash(whole, "unios", "ps", "--node", "") == ["n1", "n2", "n3"]
        assert in_bash(whole, "unios", "ps", "--node", "=", "n2") == ["n2"]
        assert str(pid) in in_bash(whole, "unios", "kill", "")
        assert str(pid) in in_bash(whole, "unios", "renice", "-n", "5", "")
        (tmp_path / "corpus.txt").touch()
        assert in_bash(whole, "unios", "run", "cat", f"{tmp_path}/cor") == [f"{tmp_path}/corpus.txt"]
        assert "TERM" in in_bash(whole, "unios", "kill", "-s", "TE")
    finally:
        whole.unios("kill", str(pid))


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_completes_with_what_each_thing_is(whole: System) -> None:
    pid = whole.run_detached("sleep", "100021")

    def offered(line: str) -> str:
        script = f"unios completion fish | source; complete -C '{line}'"
        done = subprocess.run(["fish", "-c", script], env={**whole.env, "PATH": PATH}, capture_output=True, text=True, timeout=30, check=True)
        return done.stdout

    try:
        assert "renice\tGive processes" in offered("unios ren")
        assert f"{pid}\trunning sleep 100021" in offered("unios kill ")
        assert offered("unios ps --node n").split() == ["n1", "ready", "n2", "ready", "n3", "ready"]
    finally:
        whole.unios("kill", str(pid))


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes(whole: System) -> None:
    """Driven through a pseudo-terminal of zsh's own: its completion works nowhere else."""
    script = r"""
    zmodload zsh/zpty
    zpty z zsh -f -i
    zpty -w z 'PS1=; autoload -U compinit; compinit -u -D; eval "$(unios completion zsh)"; echo rea""dy'
    while zpty -r z line; do [[ $line == *ready* && $line != *rea\"\"dy* ]] && break; done
    zpty -n -w z $'unios ren\t-n 5 29999; echo said=$?\n'
    while zpty -r z line; do [[ $line == *said=[0-9]* ]] && break; done
    print -r -- $line
    zpty -d z
    """
    env = {**whole.env, "PATH": PATH, "TERM": "dumb"}
    done = subprocess.run(["zsh", "-f", "-c", script], env=env, capture_output=True, text=True, timeout=30, check=False)
    assert "said=1" in done.stdout, done  # `renice` ran: there is no such process
