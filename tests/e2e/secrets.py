"""Secrets of a system, in every form in which they may lie about, and where they are looked for: arguments, environments, files, what commands say."""

import base64
import json
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

_ZEROS: Final = re.compile(rb"\0{256,}")
"""What a database lengthens its files by: no secret is in that, and there is a lot of it."""
KEPT_IN: Final = {"ca.key", "node.key", "cluster.json", "etcd-key.pem"}
"""Names of the files that are there to keep them. No other file may have one, logs least of all."""


def forms_of(data: bytes) -> Iterator[bytes]:
    """Yield bytes as they are, in hex, and in base64 wherever in a longer text they begin."""
    yield data
    yield data.hex().encode()
    yield data.hex().upper().encode()
    for before in range(3):
        for alphabet in (base64.b64encode, base64.urlsafe_b64encode):
            coded = alphabet(bytes(before) + data).rstrip(b"=")
            yield coded[(before * 8 + 5) // 6 : len(coded) - 1]


def forms_of_key(pem: bytes) -> Iterator[bytes]:
    """Yield the forms of a private key: its number, its DER, and the lines of its PEM that have a part of the number: the others are public."""
    key = serialization.load_pem_private_key(pem, None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value.to_bytes(key.key_size // 8, "big")
    yield from forms_of(number)
    lines = [line for line in pem.splitlines() if not line.startswith(b"-")]
    at = base64.b64decode(b"".join(lines)).index(number)
    for count, line in enumerate(lines):
        begins = count * len(lines[0]) * 3 // 4
        if min(begins + len(line) * 3 // 4, at + len(number)) - max(begins, at) >= 8:
            yield line
    yield from forms_of(key.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))


def forms_of_token(token: str) -> Iterator[bytes]:
    """Yield the forms of a token, and of the secret in it."""
    body = token.partition(".")[2]
    secret = next(part for part in _texts(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))) if len(part) == 40)
    yield token.encode()
    yield body.encode()
    yield from forms_of(secret.encode())
    yield from forms_of(bytes.fromhex(secret))


def _texts(packed: bytes) -> Iterator[str]:
    import msgspec

    yield from (value for value in msgspec.msgpack.decode(packed).values() if isinstance(value, str))


def secrets_of(home: Path) -> dict[str, list[bytes]]:
    """Return the forms of each secret that lies in a home, by where."""
    found: dict[str, list[bytes]] = {}
    for path in home.rglob("*"):
        if path.name in KEPT_IN and path.is_file():
            text = path.read_bytes()
            pems = [text] if path.suffix != ".json" else [json.loads(text).get(name, "").encode() for name in ("key", "ca_key")]
            found[str(path.relative_to(home))] = [form for pem in pems if pem for form in forms_of_key(pem)]
    return found


def in_text(secrets: dict[str, list[bytes]], text: bytes) -> list[str]:
    """Return the names of those of which any form is in a text."""
    return [name for name, forms in secrets.items() if any(form in text for form in forms)]


def in_files(secrets: dict[str, list[bytes]], folder: Path) -> list[str]:
    """Return what is wrong with the files below a folder: one that has a secret and is not for that, or can be read by others."""
    wrong = []
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_file():
            continue
        try:
            status, data = path.stat(), _ZEROS.sub(b"\0", path.read_bytes())
        except FileNotFoundError:
            continue
        names = in_text(secrets, data)
        if names and path.name not in KEPT_IN:
            wrong.append(f"{path} has {names[0]}")
        elif names and status.st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            wrong.append(f"{path} has {names[0]}, and its mode is {status.st_mode & 0o777:o}")
    return wrong


class Watch:
    """Reads arguments and environments of all processes again and again, more than another user could; used with `with`."""

    def __init__(self) -> None:
        self.seen: set[bytes] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(0.03):
            self.look()

    def look(self) -> None:
        """Look once."""
        for name in ("cmdline", "environ", "comm"):
            self.seen.update(_read(Path("/proc").glob(f"[0-9]*/{name}")))

    def wrong(self, secrets: dict[str, list[bytes]]) -> list[str]:
        """Return the names of the secrets that were in one."""
        return in_text(secrets, b"\0\0".join(self.seen))


def _read(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        try:
            yield path.read_bytes()
        except OSError:
            continue
