"""What every driver does: it repeats its steps until the file `stop` appears, and tells of each as one JSON line: name, when it began and ended, how.

How: "ok"; the wire code of an error of unios (so it was told what happened); "wrong" (an answer that no promise allows); "late" (none for too long); "alien" (an
error that is none of unios). A step that does not end is seen by the runner: it waits for the drivers only so long.
"""

import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Final

from unios.errors import UniosError

_AGAIN_S: Final = 0.1
"""After a failure, so that a part that is away is not asked all the time."""
_lock = threading.Lock()


class Wrong(Exception):
    """An answer that no promise allows."""


class Late(Exception):
    """No answer, though all has long been there that it takes."""


def tell(name: str, began: float, how: str, text: str = "") -> None:
    line = json.dumps({"name": name, "began": began, "ended": time.monotonic(), "how": how, "text": text[-2000:]})
    with _lock:
        print(line, flush=True)


def tried(name: str, step: Callable[[], object]) -> bool:
    """Do a step and tell how it went; return whether all was well."""
    began = time.monotonic()
    try:
        step()
    except Wrong as error:
        tell(name, began, "wrong", str(error))
    except Late as error:
        tell(name, began, "late", str(error))
    except UniosError as error:
        tell(name, began, error.code, str(error))
    except Exception:  # noqa: BLE001 - whatever it is, it is told
        tell(name, began, "alien", traceback.format_exc())
    else:
        tell(name, began, "ok")
        return True
    return False


def repeat(steps: dict[str, Callable[[], object]], *, pause_s: float, at_the_end: Callable[[], None] | None = None) -> None:
    """Repeat each step in a thread of its own until told to stop, then check what only the end shows."""
    stop = Path(os.environ["MATRIX_STOP"])

    def go_on(name: str, step: Callable[[], object]) -> None:
        while not stop.exists():
            time.sleep(pause_s if tried(name, step) else _AGAIN_S)

    threads = [threading.Thread(target=go_on, args=each, daemon=True) for each in steps.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if at_the_end is not None:
        tried("at the end", at_the_end)
    tell("end", time.monotonic(), "ok")
    sys.stdout.flush()
    os._exit(0)  # what a broken system keeps from ending must not look like a step that hangs
