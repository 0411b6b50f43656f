"""The store's process of a home, which dies as a kill would have it at a step of a move, or of a move back: `python -m tests.kernel.moving.store HOME [STEP]`."""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unios.kernel import moving, storehost, system
from unios.store.etcd.gateway import Gateway
from unios.store.host import StoreHost
from unios.store.returned import Return
from unios.wire.home import Home

DIED = 99


def _die(*_given: Any) -> Any:
    os._exit(DIED)


def _then_die(work: Callable[..., Any]) -> Callable[..., Any]:
    def done(*given: Any) -> None:
        work(*given)
        os._exit(DIED)

    return done


async def _adopt_and_die(gateway: Gateway, *given: Any) -> None:
    await _ADOPT(gateway, *given)
    os._exit(DIED)


_ADOPT = Gateway.adopt
STEPS: dict[str, tuple[Any, str, Any]] = {
    "before it is carried": (Gateway, "adopt", _die),
    "after it was carried": (Gateway, "adopt", _adopt_and_die),
    "before it is decided": (StoreHost, "leave", _die),
    "after it was decided": (StoreHost, "leave", _then_die(StoreHost.leave)),
    "after it was noted": (system, "note_engine", _then_die(system.note_engine)),
}
DECIDED = ("after it was decided", "after it was noted")
BACK: dict[str, tuple[Any, str, Any]] = {
    "back, before it is carried": (Return, "prepare", _die),
    "back, after it was carried": (Return, "prepare", _then_die(Return.prepare)),
    "back, before it is decided": (Return, "decide", _die),
    "back, after it was decided": (Return, "decide", _then_die(Return.decide)),
    "back, before it is noted": (moving.Mover, "_now_in", _die),
    "back, after it was noted": (system, "note_engine", _then_die(system.note_engine)),
}
BACK_DECIDED = tuple(BACK)[3:]

if __name__ == "__main__":
    if step := "".join(sys.argv[2:]):
        setattr(*{**STEPS, **BACK}[step])
    sys.exit(storehost.main(Home(Path(sys.argv[1])).node("n1"), lambda: None))
