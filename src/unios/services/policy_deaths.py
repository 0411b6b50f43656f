"""Policy deaths: how often a service of this node that places died while foreign policies had processes. A policy runs as the user of the node: it may
kill its service, and the next one would ask it again.

Kept in a file of the node's run folder, since who dies cannot tell: what runs is noted before it begins, and a service that finds such notes is the
successor of one that died. Blamed is the policy that was being asked then; if none was, those that were being loaded; if none was, all that ran. What a
service of an earlier supervisor left counts for nothing: that node was stopped. A file that cannot be written, or is damaged, costs the count only.
"""

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from unios.limits import FAILED_MAX, POLICY_DEATHS_MAX, POLICY_DEATHS_WINDOW_MS
from unios.wire.home import NodeFolder

_ASKED_BYTES: Final = 256
"""The file begins with the name of the policy that is being asked: written for each question, so without anything else."""


class PolicyDeaths:
    """That of one service; made once, when it begins. `supervisor`: names the one that it has, as long as that lives. `path` None: nothing is counted."""

    def __init__(self, path: Path | None, supervisor: str, now_ms: Callable[[], int], service: str = "its service") -> None:
        self._supervisor, self._now_ms, self._service = supervisor, now_ms, service
        self._file = -1
        self._notes: dict[str, dict[str, Any]] = {}
        """By policy: `set_ms`, when the rule was set that names it; `deaths`, their times; `runs`: "", "loading" or "loaded"."""
        if path is None:
            return
        with contextlib.suppress(OSError):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            data = os.pread(self._file, 1 << 20, 0)
            with contextlib.suppress(ValueError, KeyError, TypeError, AttributeError):
                self._take_over(data[:_ASKED_BYTES].rstrip(b"\0"), json.loads(data[_ASKED_BYTES:]))
        self._write()

    def _take_over(self, asked: bytes, said: dict[str, Any]) -> None:
        """Count the death of the service that left this."""
        now, notes = self._now_ms(), dict[str, dict[str, Any]]()
        for name, note in list(said["policies"].items())[-FAILED_MAX:]:
            deaths = [int(at) for at in note["deaths"] if 0 <= now - int(at) <= POLICY_DEATHS_WINDOW_MS]
            notes[str(name)] = {"set_ms": int(note["set_ms"]), "deaths": deaths, "runs": str(note["runs"])}
        ran = {name: note["runs"] for name, note in notes.items() if note["runs"]}
        guilty = [name for name in ran if _slot(name).rstrip(b"\0") == asked] or [name for name in ran if ran[name] == "loading"] or list(ran)
        for name in guilty if said["supervisor"] == self._supervisor != "" else ():
            notes[name]["deaths"].append(now)
        self._notes = {name: {**note, "runs": ""} for name, note in notes.items() if note["deaths"]}

    def set(self, name: str, set_ms: int) -> None:
        """The system's policy is that one, as set then: set anew it begins without any deaths."""
        note = self._notes.get(name)
        if note is not None and note["set_ms"] != set_ms:
            note.update(set_ms=set_ms, deaths=[])
            self._write()

    def guilt(self, name: str) -> str:
        """Return why that policy is not to be had, "" if it is."""
        deaths = self._notes.get(name, {"deaths": ()})["deaths"]
        if len(deaths) < POLICY_DEATHS_MAX:
            return ""
        return f"{self._service} died {len(deaths)} times within {POLICY_DEATHS_WINDOW_MS // 60_000} minutes while it asked this policy or had it running"

    def begins(self, name: str, set_ms: int = 0) -> None:
        """That policy gets a process, which loads it."""
        self._notes.setdefault(name, {"set_ms": set_ms, "deaths": []})["runs"] = "loading"
        self._write()

    def loaded(self, name: str) -> None:
        """It has been loaded."""
        self._notes[name]["runs"] = "loaded"
        self._write()

    def ends(self, name: str) -> None:
        """Its process is ended by its service. Idempotent."""
        note = self._notes.get(name)
        if note is not None and note["runs"]:
            note["runs"] = ""
            if not note["deaths"]:
                del self._notes[name]
            self._write()

    @contextlib.contextmanager
    def asked(self, name: str) -> Any:
        """Around a question."""
        self._put(_slot(name))
        try:
            yield
        finally:
            self._put(_slot(""))

    def _write(self) -> None:
        body = json.dumps({"supervisor": self._supervisor, "policies": self._notes}).encode()
        self._put(_slot("") + body)
        with contextlib.suppress(OSError):
            os.ftruncate(self._file, _ASKED_BYTES + len(body))

    def _put(self, data: bytes) -> None:
        with contextlib.suppress(OSError):
            if self._file >= 0:
                os.pwrite(self._file, data, 0)

    def close(self) -> None:
        """Let go of the file. Idempotent."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)


def deaths_of(folder: NodeFolder, service: str, now_ms: Callable[[], int]) -> PolicyDeaths:
    """Return the one of a service of that node."""
    try:
        supervisor = (folder.run / "supervisor.json").read_text()
    except OSError:  # it is just being replaced
        supervisor = ""
    return PolicyDeaths(folder.run / f"policies.{service}", supervisor, now_ms, f"{service} of {folder.name}")


def _slot(name: str) -> bytes:
    return name.encode("utf-8", "replace")[:_ASKED_BYTES].ljust(_ASKED_BYTES, b"\0")
