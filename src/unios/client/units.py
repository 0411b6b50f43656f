"""Units: how systemd starts a machine's nodes after a reboot and stops them in order. Text only; shell/enable.py installs it.

Why the unit is as it is (decision 0022):

- `unios up` starts daemons that look after each other and ends: a oneshot that stays "active". systemd restarts none of them, since the guard and the
  supervisor already do; a restart by systemd would only end what runs.
- Stopping is `unios down --all`: what may run elsewhere is handed over, what cannot gets SIGTERM. Only what is left after that is systemd's to kill.
- Reloading is `unios up`: it starts what is missing and touches nothing that runs. An upgrade is `unios upgrade` (decision 0046), never `restart`.
- Delegate: below the unit's control group, unios makes its own. OOMPolicy: one program that is killed for memory must not end all of them.
"""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from unios.errors import CallerError

NAME: Final = "unios.service"
_FORBIDDEN: Final = frozenset("\n\r\0")


class Unit(NamedTuple):
    """A unit file. `path`: where it belongs. `commands`: what a person, or this program, runs to take it into use; `undo`: and out of it,
    while it is there; `reload`: once it is not."""

    name: str
    path: PurePosixPath
    text: str
    commands: tuple[tuple[str, ...], ...]
    undo: tuple[tuple[str, ...], ...]
    reload: tuple[tuple[str, ...], ...]
    hint: str


def unit(*, home: Path, default_home: Path, python: Path, user: str, config: Path, system: bool) -> Unit:
    """Return the unit for the nodes in `home`: of the system's manager, or with `system` false of the user's. CallerError for paths that no unit can hold.

    `config`: the user's folder of configuration (~/.config). One for another home than the default has a name of its own.
    """
    for path in (home, python):
        if _FORBIDDEN & set(str(path)) or not path.is_absolute():
            raise CallerError(f"{path!r} cannot be written into a unit: it has to be a whole path on one line")
    name = NAME if home == default_home else f"unios-{hashlib.sha256(str(home).encode()).hexdigest()[:8]}.service"
    run = f"{_quoted(str(python), command=True)} -m unios --home {_quoted(str(home), command=True)}"
    target = "multi-user.target" if system else "default.target"
    after = "After=network-online.target\nWants=network-online.target\n" if system else ""
    text = f"""\
# Made by `unios enable`; `unios disable` takes it away.
[Unit]
Description=unios nodes in {str(home).replace("%", "%%")}
{after}
[Service]
Type=oneshot
RemainAfterExit=yes
Environment={_quoted(f"UNIOS_HOME={home}")}
ExecStart={run} up
ExecReload={run} up
ExecStop={run} down --all
Restart=on-failure
RestartSec=10
TimeoutStartSec=120
TimeoutStopSec=90
KillMode=control-group
Delegate=yes
OOMPolicy=continue
TasksMax=infinity

[Install]
WantedBy={target}
"""
    manager = ("systemctl",) if system else ("systemctl", "--user")
    folder = PurePosixPath("/etc/systemd/system") if system else PurePosixPath(config) / "systemd/user"
    return Unit(
        name,
        folder / name,
        text,
        ((*manager, "daemon-reload"), (*manager, "enable", name)),
        ((*manager, "disable", name),),
        ((*manager, "daemon-reload"),),
        "" if system else f"so that it starts at boot and not only when {user} logs in: loginctl enable-linger {user}",
    )


def cron_line(home: Path, python: Path) -> str:
    """Return the line for `crontab -e` on a machine without systemd."""
    return f"@reboot UNIOS_HOME={_shell(str(home))} {_shell(str(python))} -m unios up"


def _quoted(text: str, *, command: bool = False) -> str:
    """Return text as one word of a unit file (systemd.syntax(7)); in a command line `$` begins a variable."""
    text = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%")
    return f'"{text.replace("$", "$$") if command else text}"'


def _shell(text: str) -> str:
    from shlex import quote

    return quote(text).replace("%", "\\%")  # which ends the command in a crontab
