"""An outside witness: a process of the host, in the network of the pseudo-machines, that notes each datagram it gets. It knows nothing of unios.

A datagram says `pid incarnation`. It is a foreign socket: what arrives there is outside of what the system can refuse, so this is the hardest judge.
"""

import json
import subprocess
import sys
from pathlib import Path

from tests.e2e.system import wait_for

_LISTEN = r"""
import json, socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[2], int(sys.argv[3])))
with open(sys.argv[1], "w", buffering=1) as file:
    print("ready", sock.getsockname()[1], file=file)
    while True:
        data, _address = sock.recvfrom(200)
        print(json.dumps([time.monotonic(), *map(int, data.split())]), file=file)
"""

SEND = (
    "import os,socket,time\n"
    "s=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n"
    "while 1:\n"
    " try: s.sendto(f\"{os.getpid()} {os.environ['UNIOS_INCARNATION']}\".encode(),('10.99.0.100',7000))\n"
    " except OSError: pass\n"
    " print(os.environ['UNIOS_INCARNATION'],flush=True)\n"
    " time.sleep(0.01)\n"
)
"""A program that every ten milliseconds has an effect outside and one inside: a line of output."""


class Witness:
    """One, on the bridge of a lab, at 10.99.0.100; or without a lab on this machine, at 127.0.0.1."""

    def __init__(self, switch_pid: int | None, folder: Path) -> None:
        self._file = folder / "witness"
        inside: list[str] = []
        host, port = "127.0.0.1", 0
        if switch_pid is not None:
            inside, host, port = ["nsenter", "--target", str(switch_pid), "--net"], "10.99.0.100", 7000
            subprocess.run([*inside, "ip", "addr", "add", "10.99.0.100/24", "dev", "br0"], check=True)
        self._process = subprocess.Popen([*inside, sys.executable, "-c", _LISTEN, str(self._file), host, str(port)])
        ready = wait_for(lambda: self._file.read_text() if self._file.exists() else "", lambda text: "ready" in text and "\n" in text, "it listens")
        self.address = host, int(ready.split()[1])

    def seen(self) -> list[tuple[float, int, int]]:
        """Return (when, pid, incarnation) of every effect so far."""
        lines = self._file.read_text().splitlines()[1:]
        return [tuple(json.loads(line)) for line in lines if line.endswith("]")]  # type: ignore[misc]

    def wait_for_more(self, pid: int, incarnation: int, count: int) -> None:
        """Return when so many more effects of that incarnation have been heard."""

        def heard() -> int:
            return sum((p, i) == (pid, incarnation) for _when, p, i in self.seen())

        before = heard()
        wait_for(heard, lambda now: now >= before + count, f"the witness hears {count} more of {pid}.{incarnation}")

    def stale(self) -> list[tuple[float, int, int]]:
        """Return the effects of an incarnation that came after one of a newer incarnation of the same process."""
        newest: dict[int, int] = {}
        found = []
        for effect in self.seen():
            _when, pid, incarnation = effect
            if incarnation < newest.get(pid, 0):
                found.append(effect)
            newest[pid] = max(incarnation, newest.get(pid, 0))
        return found

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
