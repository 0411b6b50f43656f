"""`unios completion`: the script that makes a shell complete `unios`; and `unios __complete`, which that script asks.

Asked for what only a system knows (pids, nodes), it looks for COMPLETE_MS at most and says nothing rather than late or wrong.
"""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import Final

from unios.client import queue
from unios.errors import UniosError
from unios.limits import COMPLETE_MS, COMPLETE_PIDS_MAX
from unios.shell.completing import possible
from unios.shell.ps import command_line
from unios.shell.session import Session
from unios.shell.table import plain
from unios.shell.words import Given, Misused, Word
from unios.wire.operations import Empty, ListProcesses, NodeView, ProcessView

_TEXT_LENGTH: Final = 60
_BASH: Final = r"""# unios completion for bash: eval "$(unios completion bash)", or put it into /etc/bash_completion.d/unios
_unios() {
    local kind text cur=${COMP_WORDS[COMP_CWORD]} lines
    COMPREPLY=()
    mapfile -t lines < <("${COMP_WORDS[0]}" __complete bash "$COMP_CWORD" "${COMP_WORDS[@]}" 2>/dev/null)
    kind=${lines[0]}
    [ "$cur" = "=" ] && cur=
    case $kind in
        files) mapfile -t COMPREPLY < <(compgen -f -- "$cur"); compopt -o filenames 2>/dev/null ;;
        dirs) mapfile -t COMPREPLY < <(compgen -d -- "$cur"); compopt -o filenames 2>/dev/null ;;
        commands) mapfile -t COMPREPLY < <(compgen -c -- "$cur") ;;
    esac
    for text in "${lines[@]:1}"; do
        COMPREPLY+=("${text%%$'\t'*}")
    done
}
complete -F _unios unios
"""
_ZSH: Final = r"""#compdef unios
# unios completion for zsh: eval "$(unios completion zsh)" after compinit, or put it as _unios into a folder of $fpath
_unios() {
    local -a lines texts
    local kind
    lines=("${(@f)$("${words[1]}" __complete zsh $((CURRENT - 1)) "${words[@]}" 2>/dev/null)}")
    kind=$lines[1]
    shift lines
    case $kind in
        files) _files ;;
        dirs) _files -/ ;;
        commands) _command_names -e; _files ;;
    esac
    lines=("${(@)lines:#}")
    (( $#lines )) || return
    texts=("${(@)lines//:/\\:}")
    texts=("${(@)texts/$'\t'/:}")
    _describe unios texts
}
if [ "$funcstack[1]" = "_unios" ]; then
    _unios "$@"
else
    compdef _unios unios
fi
"""
_FISH: Final = r"""# unios completion for fish: unios completion fish > ~/.config/fish/completions/unios.fish
function __unios_complete
    set -l tokens (commandline -opc)
    set -l current (commandline -ct)
    set -l lines ($tokens[1] __complete fish (count $tokens) $tokens "$current" 2>/dev/null)
    switch "$lines[1]"
        case files
            __fish_complete_path "$current"
        case dirs
            __fish_complete_directories "$current"
        case commands
            complete -C "$current"
    end
    if test (count $lines) -gt 1
        printf '%s\n' $lines[2..-1]
    end
end
complete -c unios -f -a '(__unios_complete)'
"""
_SCRIPTS: Final = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}


class _TooLate(Exception):
    """The time for completing is over."""


def completion(session: Session, given: Given) -> int:
    shell = given.arguments[0]
    if shell not in _SCRIPTS:
        raise Misused(f"there is no completion for {shell!r}: there is one for bash, zsh and fish")
    if session.json:
        session.print_json({"shell": shell, "script": _SCRIPTS[shell]})
    else:
        session.print_table(_SCRIPTS[shell].rstrip("\n"))
    return 0


def complete(session: Session, given: Given) -> int:
    """Print the kind of what the shell itself completes, then a line for each thing that may follow: the text, a tab, what it is."""
    shell, number, *typed = given.arguments
    if not number.isascii() or not number.isdigit() or len(number) > 4:
        return 0
    at = int(number)
    if shell == "bash":
        typed, at = _joined(typed, at)
    current = typed[at] if at < len(typed) else ""
    found = possible(typed, at)
    start, equals, _value = current.partition("=") if current.startswith("--") else ("", "", current)
    attached = bool(equals)
    texts = list(found.texts)
    with _in_time():
        texts += _looked_up(session, found.kind, typed)
    lines = [found.kind if found.kind in ("files", "dirs", "commands") else ""]
    for text, what in texts:
        whole = f"{start}={text}" if attached and not text.startswith(f"{start}=") else text
        if whole.startswith(current):
            shown = whole.partition("=")[2] if shell == "bash" and attached else whole
            lines.append(f"{plain(shown)}\t{plain(what)[:_TEXT_LENGTH]}")
    session.print_table("\n".join(lines))
    return 0


def _joined(typed: list[str], at: int) -> tuple[list[str], int]:
    """Undo bash's splitting at `=`: `--node`, `=`, `n1` are one word. The place moves along."""
    joined: list[str] = []
    place = at
    for index, token in enumerate(typed):
        glue = joined and index > 1 and (token == "=" or typed[index - 1] == "=") and joined[-1].startswith("--")
        if glue:
            joined[-1] += token
        else:
            joined.append(token)
        if index == at:
            place = len(joined) - 1
    return joined, place if at < len(typed) else len(joined)


@contextlib.contextmanager
def _in_time() -> Iterator[None]:
    """Give up what is in it after COMPLETE_MS, and whatever fails."""

    def late(_number: int, _frame: FrameType | None) -> None:
        raise _TooLate

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, COMPLETE_MS / 1000)
    try:
        yield
    except (_TooLate, UniosError, OSError):
        pass
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _looked_up(session: Session, kind: str, typed: list[str]) -> list[tuple[str, str]]:
    if kind == "nodes":
        nodes: tuple[NodeView, ...] = session.connection.call("node.list", Empty(), tuple[NodeView, ...], timeout_s=COMPLETE_MS / 1000)
        return [(node.name, node.state) for node in nodes if node.state != "left"]
    if kind == "pids":
        ended = "logs" in typed
        views: tuple[ProcessView, ...] = session.connection.call(
            "processes.list", ListProcesses(ended), tuple[ProcessView, ...], timeout_s=COMPLETE_MS / 1000
        )
        return [(str(view.pid), f"{view.state} {command_line(view.argv)}") for view in views[-COMPLETE_PIDS_MAX:]]
    if kind == "policies":
        return [(name, "placement policy") for name in queue.policy(session.connection).known]
    if kind == "signals":
        return [(one.name.removeprefix("SIG"), "") for one in sorted(signal.Signals)]
    if kind == "users":
        import pwd

        return [(entry.pw_name, "") for entry in pwd.getpwall()[:COMPLETE_PIDS_MAX]]
    return []


WORDS = {
    "completion": Word(
        completion,
        argument="bash|zsh|fish",
        least=1,
        one=True,
        text='Print the script that makes a shell complete words, options, pids and nodes: eval "$(unios completion bash)" in ~/.bashrc.',
    ),
    "__complete": Word(complete, argument="SHELL N TYPED...", least=2, rest=True, text="Answer the script of `unios completion`."),
}
