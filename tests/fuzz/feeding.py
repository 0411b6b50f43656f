"""Feeding: one input to one target, under a bound of processor time and of memory."""

import resource
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Final

from tests.fuzz.targets import TARGETS

CORPUS: Final = Path(__file__).parent / "corpus"
PROCESSOR_S: Final = 5.0
"""Of this process, so that a busy machine makes no difference."""
GROWTH_BYTES_MAX: Final = 48 * 1024 * 1024
"""So much more memory may be resident at most during one input, none of which is longer than 64 KiB."""


class Broken(AssertionError):
    """A target did what it does not promise."""


class _Hang(BaseException):
    """No handler of errors in a target takes it for one of its own."""


def _alarm(_signal: int, _frame: FrameType | None) -> None:
    raise _Hang


def inputs(target: str) -> list[bytes]:
    """Return what the corpus has for a target, with what the program makes itself."""
    return [*TARGETS[target].seeds(), *(path.read_bytes() for path in sorted((CORPUS / target).glob("*")))]


def _resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def feed(target: str, data: bytes, folder: Path) -> None:
    """Broken if anything but what the target promises comes of it. `folder` is emptied first."""
    for child in folder.iterdir():
        shutil.rmtree(child) if child.is_dir() else child.unlink()
    before = _resident()
    signal.setitimer(signal.ITIMER_VIRTUAL, PROCESSOR_S)
    try:
        TARGETS[target].feed(data, folder)
    except TARGETS[target].errors as error:
        if not str(error).strip():
            raise Broken(f"{target}: an error without a sentence: {error!r}") from error
    except _Hang:
        raise Broken(f"{target}: {PROCESSOR_S} s of processor and no end") from None
    except Exception as error:
        raise Broken(f"{target}: {type(error).__name__}: {error}"[:500]) from error
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
    if _resident() - before > GROWTH_BYTES_MAX:
        raise Broken(f"{target}: {(_resident() - before) >> 20} MiB for an input of {len(data)} bytes")


def scratch() -> Iterator[Path]:
    """Give a folder for the inputs of one run; what hangs is interrupted meanwhile. In the main thread."""
    before = signal.signal(signal.SIGVTALRM, _alarm)
    try:
        with tempfile.TemporaryDirectory(prefix="unios-fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None) as folder:
            yield Path(folder)
    finally:
        signal.signal(signal.SIGVTALRM, before)
