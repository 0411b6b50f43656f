"""One command's surroundings: which system, through which node, in which form it speaks. Output leaves as bytes, unbuffered."""

import contextlib
import os
import re
from typing import TYPE_CHECKING, Any

import msgspec

from unios.client.connection import Connection
from unios.errors import CallerError
from unios.shell.table import plain
from unios.shell.words import Given

if TYPE_CHECKING:
    from unios.client.flowing import Flowing

_OUT = 1
_ERR = 2
DESCRIPTORS = {"out": _OUT, "err": _ERR}
"""Where what a program says on each of its streams goes."""
_BREAKS = re.compile(r"[\n\t]+")


class Unwritable(CallerError):
    """What shall be shown cannot be written: a full disk, say."""


class Session:
    """Made per command from the common options."""

    def __init__(self, given: Given) -> None:
        self.json = given.flag("json")
        self.node = given.text("node")
        self.connection = Connection(given.text("home") or None, self.node)
        self.connection.tell = None if given.flag("quiet") else self._say_waits

    @property
    def home(self) -> Any:
        return self.connection.home

    def print(self, text: str) -> None:
        """Write a line to stdout; what is not text in it, or would be obeyed by a terminal, is shown escaped."""
        self.print_table(plain(text))

    def print_table(self, text: str) -> None:
        """Write lines to stdout that shell/table.py made: their cells are escaped already."""
        write(_OUT, (text + "\n").encode("utf-8", "backslashreplace"))

    def print_json(self, value: object) -> None:
        """Write a value to stdout as one line of JSON."""
        write(_OUT, msgspec.json.encode(value) + b"\n")

    def note(self, text: str) -> None:
        """Write a line for the person to stderr, escaped likewise."""
        write(_ERR, f"unios: {plain(text)}\n".encode("utf-8", "backslashreplace"))

    def _say_waits(self, text: str) -> None:
        if self.json:
            write(_ERR, msgspec.json.encode({"waits": text}) + b"\n")
        else:
            self.note(text)


def write(descriptor: int, data: bytes | memoryview) -> None:
    """Write all of it. BrokenPipeError if the reader is gone, CallerError if it cannot be written for another reason."""
    rest = memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            from unios.client import readiness

            readiness.wait([], [descriptor])
        except BrokenPipeError:
            raise
        except OSError as error:
            raise unwritable(error) from error


def move(descriptor: int, chunk: "Flowing") -> None:
    """Write a chunk whose bytes are still in the connection into a pipe, as far as they come. Raises as `write` does."""
    write(descriptor, chunk.first)
    chunk.wrote_first()
    try:
        chunk.move(descriptor)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise unwritable(error) from error


def unwritable(error: OSError) -> Unwritable:
    return Unwritable(f"cannot write the output: {os.strerror(error.errno or 0)}")


def shown(text: bytes) -> str:
    """Return bytes as text for people and JSON: what is not UTF-8 appears as \\xNN."""
    return text.decode("utf-8", "backslashreplace")


def tell(code: str, text: str, *, as_json: bool) -> None:
    """Say on stderr what went wrong: a sentence, or a line of JSON with the stable code and the sentence."""
    if as_json:
        line = msgspec.json.encode({"error": code, "text": text if _is_text(text) else plain(text)})
    else:
        line = f"unios: {plain(_BREAKS.sub(' ', text))}".encode()
    with contextlib.suppress(OSError):
        os.write(_ERR, line + b"\n")


def _is_text(text: str) -> bool:
    """Return whether it is without what os.fsdecode makes of bytes that are not UTF-8: JSON cannot say that."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
