"""Init's door: the socket `sock` of a tree and the requests that it takes. Several clients at once; a restarted kernel just connects again.

| request | fields | answer |
|---|---|---|
| started | | ok once the program has been executed |
| signal | number, all | ok; to the program, or with `all` to every process of the tree |
| freeze, thaw | | settled: whether every process stands still now |
| renice | nice, favour | changed; every thread of the tree; `favour`: whoever asks may lower nice values |
| throttle | | told (whether it is told of as slowed down); it is slowed down if it goes on forking against its bound (kernel/throttling.py) |
| kill | reason | ok; the exit is told when the tree is dead |
| confirm | incarnation, lease | state; counts only under the lease of that number |
| supersede | incarnation | state |
| stdin_eof | | ok |
| stats | | cpu_ms, rss_bytes, processes, state, disk, out, err |
| follow | hold, out, err | out, err: where the streams end; then events `grew` and `exit` |
| ack | out, err | ok |
| terminal | rows, columns, nudge, hang_up | rows, columns, modes; rows 0: it has none |
| type | hang_up | ok; from now on the asker types, and if he vanishes the terminal is hung up |
| session | argv, env, cwd, uid ..., terminal | ok, session, with the master or three pipes; then an event `session` with its status |
| session_signal | session, number | ok |
| socket | family | ok, with a TCP socket of the program's network |

Stdin arrives as data frames; `{"event": "stdin", "written", "closed"}` tells their senders how many bytes the program's pipe has taken in all.
A request without `id` gets no answer.
"""

import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from unios.core.fencing import ClaimConfirmed, ClaimSuperseded, UserFroze, UserThawed
from unios.kernel import poller, sessions
from unios.kernel.poller import Client
from unios.kernel.trees_protocol import Frame, Garbage
from unios.limits import STREAM_HOLD_S

if TYPE_CHECKING:
    from unios.kernel.init import Init


class Door:
    """The one of a tree."""

    def __init__(self, init: "Init") -> None:
        self._init = init
        self._clients: set[Client] = set()
        self._writers: set[Client] = set()
        self._listener = poller.listen(init.folder, "sock")
        poller.serve(init.poller, self._listener, lambda: len(self._clients), self._taken)
        self._operations: dict[str, Callable[[Client, dict[str, Any]], dict[str, Any]]] = {
            "signal": self._signal,
            "freeze": self._freeze,
            "thaw": self._thaw,
            "renice": self._renice,
            "kill": self._kill,
            "throttle": self._throttle,
            "confirm": self._confirm,
            "supersede": self._supersede,
            "stdin_eof": self._stdin_eof,
            "stats": lambda _client, _fields: init.stats(),
            "follow": self._follow,
            "ack": self._ack,
            "terminal": self._terminal,
            "type": self._type,
            "session_signal": self._session_signal,
        }
        self._with_descriptors: dict[str, Callable[[Client, dict[str, Any]], None]] = {
            "session": init.sessions.open,
            "socket": lambda client, fields: sessions.send_socket(init, client, fields),
        }

    def close(self) -> None:
        """Let nobody in any more. The file stays: Linux may take long over a new one where many were deleted a moment ago (decision 0027)."""
        self._listener.close()

    def _taken(self, sock: socket.socket) -> None:
        self._clients.add(Client(self._init.poller, sock, self._on_frame, self._on_close))

    def _on_close(self, client: Client) -> None:
        self._clients.discard(client)
        if client in self._writers:
            self._writers.discard(client)
            self._init.poller.after(STREAM_HOLD_S, self._end_unfed)
        self._init.followers.gone(client)
        self._init.sessions.gone(client)
        if self._init.terminal is not None:
            self._init.terminal.gone(client)
        self._init.pumps_changed()

    def _end_unfed(self) -> None:
        """Whoever wrote to stdin has vanished and nobody has taken it over: that is its end."""
        if not self._writers and self._init.stdin is not None:
            self._init.stdin.end()

    def _on_frame(self, client: Client, frame: Frame) -> None:
        # The look comes first: a process that was paused past the deadline must not answer as if it had not been.
        self._init.look()
        if frame.fields is None:
            self._on_data(client, frame.data)
        elif frame.fields.get("op") == "started":
            self._on_started(client, frame.fields)
        elif frame.fields.get("op") in self._with_descriptors:
            self._with_descriptors[str(frame.fields["op"])](client, frame.fields)
        else:
            answer(client, frame.fields, self._operations)

    def _on_started(self, client: Client, fields: dict[str, Any]) -> None:
        def tell() -> None:
            client.send({"id": fields.get("id"), "ok": True})

        if self._init.started:
            tell()
        else:
            self._init.waiting_for_start.append(tell)

    def _on_data(self, client: Client, data: bytes) -> None:
        self._writers.add(client)
        stdin = self._init.stdin
        if stdin is None:
            client.send({"event": "stdin", "written": 0, "closed": True})
            return
        stdin.feed(data)
        if stdin.full:
            client.pause(reading=False)
        elif stdin.closed:
            self.tell_stdin(stdin.written, closed=True)

    def tell_stdin(self, written: int, *, closed: bool) -> None:
        full = self._init.stdin is not None and self._init.stdin.full
        for client in list(self._writers):
            client.send({"event": "stdin", "written": written, "closed": closed})
            client.pause(reading=not full)

    def behind(self) -> bool:
        """Whether a client has not taken yet what it was sent."""
        return any(client.behind for client in self._clients)

    def _signal(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        import os

        number = int(fields["number"])
        if not 0 <= number <= 64:
            raise ValueError(f"there is no signal {number}")
        if self._init.status is not None:
            raise ProcessLookupError("the program has ended")
        if number == signal.SIGKILL:
            self._init.accounting.killed_on_request = self._init.disturbed = True
            self._init.freezer.kill()  # the program's end is the tree's; and a frozen group of version 1 does not die of the signal alone
        else:
            if fields.get("all"):
                self._init.freezer.signal(number)
            else:
                os.kill(self._init.program_pid, number)
            if number:
                self._init.throttling.give_way()
        return {}

    def _freeze(self, _client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        self._init.tell_leash(UserFroze())
        return {"settled": self._init.freezer.settled(), "state": self._init.state()}

    def _thaw(self, _client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        self._init.tell_leash(UserThawed())
        self._init.throttling.give_way()
        return {"settled": self._init.freezer.settled(), "state": self._init.state()}

    def _renice(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        from unios.kernel import renicing

        nice = int(fields["nice"])
        if not renicing.NICE_MIN <= nice <= renicing.NICE_MAX:
            raise ValueError(f"there is no nice value {nice}")
        if self._init.status is not None:
            raise ProcessLookupError("the program has ended")
        return {"changed": renicing.renice(self._init.processes, nice, may_favour=bool(fields.get("favour")))}

    def _kill(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.kill(str(fields.get("reason", "killed")))
        return {}

    def _throttle(self, _client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        self._init.throttling.watch()
        return {"told": self._init.throttling.told}

    def _confirm(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.tell_leash(ClaimConfirmed(int(fields["incarnation"]), int(fields.get("lease", 0))))
        return {"state": self._init.state()}

    def _supersede(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.tell_leash(ClaimSuperseded(int(fields["incarnation"])))
        return {"state": self._init.state()}

    def _stdin_eof(self, _client: Client, _fields: dict[str, Any]) -> dict[str, Any]:
        if self._init.stdin is not None:
            self._init.stdin.end()
        return {}

    def _follow(self, client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.followers.follow(client, hold=bool(fields.get("hold")), offsets=fields)
        self._init.pumps_changed()
        return dict(self._init.ends())

    def _terminal(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        return {"rows": 0, "columns": 0, "modes": ""} if self._init.terminal is None else self._init.terminal.ask(fields)

    def _type(self, client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        if self._init.terminal is not None:
            self._init.terminal.types(client, hang_up=bool(fields.get("hang_up")))
        return {}

    def _session_signal(self, _client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.sessions.signal(int(fields["session"]), int(fields["number"]))
        return {}

    def _ack(self, client: Client, fields: dict[str, Any]) -> dict[str, Any]:
        self._init.followers.acknowledge(client, fields)
        self._init.pumps_changed()
        return {}


def answer(client: Client, fields: dict[str, Any], operations: dict[str, Callable[[Client, dict[str, Any]], dict[str, Any]]]) -> None:
    """Do one request and answer it; what makes no sense is answered with an error, not with the end of the connection. Raises Garbage without `op`."""
    operation = operations.get(str(fields.get("op")))
    try:
        if operation is None:
            raise Garbage(f"there is no operation {fields.get('op')!r}")
        reply = {"id": fields.get("id"), "ok": True, **operation(client, fields)}
    except (KeyError, TypeError, ValueError, OverflowError, Garbage) as error:
        reply = {"id": fields.get("id"), "error": "caller", "text": f"the request is malformed: {error}"}
    except ProcessLookupError:
        reply = {"id": fields.get("id"), "error": "not-found", "text": "the program has ended"}
    except OSError as error:
        reply = {
            "id": fields.get("id"),
            "error": "denied" if isinstance(error, PermissionError) else "unavailable",
            "text": str(error),
        }
    if "id" in fields:
        client.send(reply)
