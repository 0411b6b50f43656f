"""The command `unios`: reads what was typed, does it, says what went wrong in one sentence and an exit code. Never a traceback."""

import gc
import os
import sys
from typing import TYPE_CHECKING, Any, NoReturn

from unios.lean import import_msgspec

if TYPE_CHECKING:
    from unios.shell.words import Given, Word

INTERRUPTED = 130
BROKEN_PIPE = 141
USAGE = 2
INTERNAL = 70


def main() -> NoReturn:
    """Be the console command. Skips the interpreter's slow farewell: nothing here needs it."""
    gc.disable()
    code = INTERNAL
    try:
        import_msgspec()
        code = execute(sys.argv[1:])
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:
        code = BROKEN_PIPE
    except KeyboardInterrupt:
        code = INTERRUPTED
    finally:
        os._exit(code)


def execute(typed: list[str]) -> int:
    """Do what was typed; return the exit code. Every failure has been told on stderr when this returns."""
    try:
        return _do(typed)
    except BrokenPipeError:
        return BROKEN_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:  # noqa: BLE001 the boundary to the person: whatever it is becomes a sentence
        return _failed(error, typed)


def _do(typed: list[str]) -> int:
    from unios.shell.words import check

    found = _plainly(typed)
    if found is None:
        from unios.shell import clicks

        chosen = clicks.read(typed)
        if isinstance(chosen, int):
            return chosen
        found = chosen.word, chosen.given
    word, given = found
    check(word, given)
    from unios.shell.session import Session

    session = Session(given)
    try:
        return word.does(session, given)
    finally:
        session.connection.close()


def _plainly(typed: list[str]) -> "tuple[Word, Given] | None":
    if "_UNIOS_COMPLETE" in os.environ:
        return None
    from unios.shell import fast
    from unios.shell.words import find

    values: dict[str, Any] = {}
    after = fast.split(typed, values)
    word = find(after[0]) if after else None
    if not after or word is None:
        return None
    given = fast.given(word, after[1:], values)
    return None if given is None else (word, given)


def _failed(error: Exception, typed: list[str]) -> int:
    from unios.errors import InternalError, UniosError, to_wire
    from unios.shell.session import tell

    if isinstance(error, UniosError):
        code, text = to_wire(error)
        exit_code = error.exit_code
    elif type(error).__module__.startswith("click."):
        from unios.shell import mistakes

        code, text, exit_code = "usage", mistakes.sentence(error, typed), USAGE  # type: ignore[arg-type]
    else:
        code, exit_code = InternalError.code, INTERNAL
        text = f"internal error: {type(error).__name__}: {error}; {_keep(error, typed)}"
    tell(code, text, as_json="--json" in typed)
    return exit_code


def _keep(error: Exception, typed: list[str]) -> str:
    """Write the traceback where a person finds it; return where that is."""
    import tempfile
    import time
    import traceback

    home = os.environ.get("UNIOS_HOME") or os.path.expanduser("~/.unios")
    name = f"crash-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}.log"
    text = f"{' '.join(typed)!a}\n" + "".join(traceback.format_exception(error))
    for folder in (os.path.join(home, "log"), tempfile.gettempdir()):
        try:
            if os.path.isdir(home) or folder != os.path.join(home, "log"):
                os.makedirs(folder, mode=0o700, exist_ok=True)
                path = os.path.join(folder, name)
                with open(path, "x", encoding="utf-8", errors="backslashreplace") as file:
                    file.write(text)
                return f"the details are in {path}"
        except OSError:
            continue
    return "the details could not be kept"
