"""`unios enable` and `disable`: have systemd start this machine's nodes after a reboot, and stop them in order. The unit is made by client/units.py."""

import contextlib
import os
import pwd
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from unios.client import units
from unios.client.units import Unit
from unios.errors import CallerError, Denied, Unavailable
from unios.shell.session import Session
from unios.shell.words import Given, Misused, Option, Word

_TIMEOUT_S = 30


def enable(session: Session, given: Given) -> int:
    made, root = _unit(session), _root(given)
    if given.flag("print"):
        _show(session, made, root)
        return 0
    if not session.home.system_file.exists() and not given.text("root"):
        raise CallerError(f"there is no system in {session.home.path} yet: `unios up` or `unios join` first, then enable it")
    if not _has_systemd(root):
        raise Unavailable(
            "this machine does not run systemd. With cron, put this line into `crontab -e`: " + units.cron_line(session.home.path, _python())
        )
    path = _at(root, made)
    _write(path, made.text)
    if not given.text("root"):
        _run(made.commands)
    if session.json:
        session.print_json({"enabled": made.name, "path": str(path), "hint": made.hint})
        return 0
    session.print(f"enabled: {made.name} ({path}); the nodes that run now go on, the next boot starts them")
    if made.hint:
        session.note(made.hint)
    return 0


def disable(session: Session, given: Given) -> int:
    made, root = _unit(session), _root(given)
    path = _at(root, made)
    there = path.exists()
    if there:
        runs = not given.text("root") and _has_systemd(root)
        if runs:
            _run(made.undo)  # while the unit is there: systemd disables none that it does not find
        with _sentences(path):
            path.unlink()
            (path.parent / _wants(made) / made.name).unlink(missing_ok=True)
        if runs:
            _run(made.reload)
    if session.json:
        session.print_json({"disabled": made.name if there else ""})
    else:
        session.print(f"disabled: {made.name}; what runs goes on" if there else f"{made.name} was not enabled")
    return 0


def installed(session: Session) -> Path | None:
    """Return where the unit for this home is, None if it is not there."""
    path = Path(_unit(session).path)
    return path if path.exists() else None


def _unit(session: Session) -> Unit:
    user = pwd.getpwuid(os.geteuid())
    config = Path(os.environ.get("XDG_CONFIG_HOME") or Path(user.pw_dir) / ".config")
    return units.unit(
        home=session.home.path,
        default_home=Path(user.pw_dir) / ".unios",
        python=_python(),
        user=user.pw_name,
        config=config,
        system=os.geteuid() == 0,
    )


def _python() -> Path:
    return Path(sys.executable)


def _root(given: Given) -> Path:
    text = given.text("root")
    if "root" in given.values and not Path(text).is_dir():
        raise Misused(f"--root: {text[:200]!r} is no folder")
    return Path(text or "/")


def _at(root: Path, made: Unit) -> Path:
    return root / made.path.relative_to("/")


def _wants(made: Unit) -> str:
    return "multi-user.target.wants" if made.path.is_relative_to("/etc") else "default.target.wants"


def _has_systemd(root: Path) -> bool:
    return root != Path("/") or Path("/run/systemd/system").is_dir()  # sd_booted(3)


def _show(session: Session, made: Unit, root: Path) -> None:
    if session.json:
        commands = [" ".join(words) for words in made.commands]
        session.print_json({"name": made.name, "path": str(_at(root, made)), "unit": made.text, "commands": commands, "hint": made.hint})
        return
    session.print_table(made.text.rstrip("\n"))
    session.note(f"this belongs into {_at(root, made)}; then: {' && '.join(' '.join(words) for words in made.commands)}")
    if made.hint:
        session.note(made.hint)


def _write(path: Path, text: str) -> None:
    with _sentences(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.{os.getpid()}")
        part.write_text(text, encoding="utf-8", errors="surrogateescape")
        part.chmod(0o644)
        part.replace(path)


@contextlib.contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what the file system refuses into a sentence."""
    try:
        yield
    except PermissionError as error:
        raise Denied(f"{path} may not be written: {error.strerror}") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error.strerror}") from error


def _run(commands: tuple[tuple[str, ...], ...]) -> None:
    for words in commands:
        try:
            done = subprocess.run(words, capture_output=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise Unavailable(f"`{' '.join(words)}` could not be run: {error}") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise Unavailable(f"`{' '.join(words)}` failed: {said[-1] if said else done.returncode}")


_ROOT = Option("root", "--root", metavar="DIR", text="Write below this folder (an image) and run nothing.")

WORDS = {
    "enable": Word(
        enable,
        Option("print", "--print", text="Show the unit and the commands; change nothing."),
        _ROOT,
        text="Have systemd start this machine's nodes after each reboot and stop them in order: as root a unit of the system, else one of the user's.",
    ),
    "disable": Word(disable, _ROOT, text="Take the unit away again; what runs goes on."),
}
