"""Guarded: one tree as its guard knows it, and its `tree.json`, from which a later guard knows it again."""

import contextlib
import json
import os
import socket
from collections.abc import Callable
from typing import Any, Final

from unios.kernel import runfiles, trees_protocol

DEAD: Final = {"code": 137, "signal": 9, "core": False, "fenced": False, "lost": True, "reason": "the init of its tree was killed"}

TREE_BYTES: Final = 512
"""Laid down for tree.json by a spare."""

EXIT_LAID: Final = ".exit"
"""Laid down by a spare, of blanks: exit.json before it is that. Its first byte is another once the program may have been started."""

Owner = tuple[int, ...]
"""uid, gid and groups of a program."""
Answer = Callable[[dict[str, Any]], None]


class Tree:
    """`state`: starting, running, ended or failed. `answers` wait for the start."""

    def __init__(self, folder: str, pid: int, incarnation: int) -> None:
        self.folder, self.pid, self.incarnation = folder, pid, incarnation
        self.state = "starting"
        self.init = runfiles.Running(0, 0)
        self.inits = 0
        """How many have been given it."""
        self.group = ""
        self.namespaces = True
        self.owner: Owner = ()
        self.freezer = ""
        self.protocol = trees_protocol.PROTOCOL
        """What its init speaks: inits are forked from their guard."""
        self.devices: list[str] = []
        """What its kernel gave to it alone."""
        self.failure: dict[str, Any] = {}
        self.exit: dict[str, Any] = {}
        self.answers: list[Answer] = []

    @property
    def name(self) -> str:
        return f"{self.pid}.{self.incarnation}"

    def describe(self) -> dict[str, Any]:
        """Return what a `list` shows of it."""
        return {
            "pid": self.pid,
            "incarnation": self.incarnation,
            "state": self.state,
            "init_pid": self.init.pid,
            "init_start": self.init.start,
            "group": self.group,
            "namespaces": self.namespaces,
            "freezer": self.freezer,
            "protocol": self.protocol,
            **({"devices": self.devices} if self.devices else {}),
            **({"failure": self.failure} if self.failure else {}),
            **({"exit": self.exit} if self.exit else {}),
        }

    def reply(self) -> dict[str, Any]:
        """Return the answer to its spawn: the same each time that it is asked."""
        if self.failure:
            return dict(self.failure)
        fields = ("init_pid", "namespaces", "freezer", "group")
        return {"ok": True, **{name: value for name, value in self.describe().items() if name in fields}}

    def tell(self) -> None:
        for answer in self.answers:
            answer(self.reply())
        self.answers.clear()

    def settle(self, spare: str) -> None:
        """Make the folder of a spare this tree's own, with tree.json in it. Raises OSError."""
        file = os.open(f"{spare}/tree.json", os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.write(file, json.dumps(self.describe()).encode().ljust(TREE_BYTES))
        finally:
            os.close(file)
        try:
            os.rename(spare, self.folder)
        except OSError:
            self.remove()  # what a start left that failed under an earlier guard
            os.rename(spare, self.folder)

    def save(self) -> None:
        """Write tree.json atomically. Raises OSError."""
        part = f"{self.folder}/.tree.json"
        with open(part, "w", encoding="ascii") as file:
            json.dump(self.describe(), file)
        os.replace(part, f"{self.folder}/tree.json")

    def try_save(self) -> None:
        """Write what has become of it since; on a full disk a later guard finds that out from init and exit.json."""
        with contextlib.suppress(OSError):
            self.save()

    def has_exit(self) -> bool:
        """Whether exit.json is there."""
        return os.path.exists(f"{self.folder}/exit.json")

    def read_exit(self) -> bool:
        """Read exit.json; False if there is none."""
        try:
            with open(f"{self.folder}/exit.json", encoding="ascii") as file:
                fields = json.load(file)
        except (OSError, ValueError):
            return False
        self.exit = fields if isinstance(fields, dict) else {}
        return bool(self.exit)

    def is_unbegun(self) -> bool:
        """Whether its init has certainly not told the launcher to start the program: it may be given to another init."""
        try:
            with open(f"{self.folder}/{EXIT_LAID}", "rb") as file:
                return file.read(1) == b" "
        except OSError:
            return False

    def write_exit(self, at_ms: int) -> None:
        """Record the exit of a tree whose init could not."""
        self.exit = {**DEAD, "at_ms": at_ms}
        part = f"{self.folder}/.exit.guard"
        with contextlib.suppress(OSError):
            with open(part, "w", encoding="ascii") as file:
                json.dump(self.exit, file)
            os.replace(part, f"{self.folder}/exit.json")

    def remove(self) -> None:
        """Remove its folder."""
        remove(self.folder)


def begins(folder: int) -> None:
    """The program is about to be started: note that in the tree's folder, from its init. Raises OSError: then it must not be."""
    try:
        file = os.open(EXIT_LAID, os.O_WRONLY | os.O_CLOEXEC, dir_fd=folder)
        try:
            os.write(file, b"{")
        finally:
            os.close(file)
    except FileNotFoundError:  # there was no room to lay it down
        pass
    except OSError:  # no room for another byte of it, on a disk that copies what is written
        os.unlink(EXIT_LAID, dir_fd=folder)


def remove(folder: str) -> None:
    """Remove the folder of a tree or of a spare, as far as that can be done."""
    with contextlib.suppress(OSError):
        for entry in os.listdir(folder):
            with contextlib.suppress(OSError):
                os.unlink(f"{folder}/{entry}")
        os.rmdir(folder)


def load(folder: str) -> Tree | None:
    """Return the tree of a folder as its last guard left it; None if there is none."""
    try:
        with open(f"{folder}/tree.json", encoding="ascii") as file:
            fields = json.load(file)
        tree = Tree(folder, int(fields["pid"]), int(fields["incarnation"]))
        tree.state = str(fields["state"])
        tree.init = runfiles.Running(int(fields["init_pid"]), int(fields["init_start"]))
        tree.group, tree.namespaces, tree.freezer = str(fields["group"]), bool(fields["namespaces"]), str(fields["freezer"])
        tree.protocol = int(fields.get("protocol", 1))
        tree.devices = [str(path) for path in fields.get("devices", ())]
        tree.failure, tree.exit = dict(fields.get("failure", {})), dict(fields.get("exit", {}))
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return tree


def sock_of(folder: str) -> socket.socket | None:
    """Return a connection to the tree's init, None if it does not listen."""
    from unios.kernel import poller

    try:
        return poller.connect(f"{folder}/sock")
    except OSError:
        return None
