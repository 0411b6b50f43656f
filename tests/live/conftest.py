"""Three pseudo-machines that form one system, for one test to break."""

from collections.abc import Iterator

import pytest

from tests.live import machines
from tests.live.machines import Lab, lab


@pytest.fixture
def three() -> Iterator[Lab]:
    """m1 founded the system and keeps its store; m2 and m3 joined with tokens that trust their root."""
    why = machines.missing()
    if why:
        pytest.skip(f"no pseudo-machines here: {why}")
    with lab(3) as built:
        first, *others = built.machines
        first.unios("up", "--listen", first.address)
        for machine in others:
            token = first.json("join", "--root")["token"]
            machine.unios("join", token)
        try:
            yield built
        finally:
            for machine in reversed(built.machines):  # the store's last: without it each of the others looks for it before it stops
                if machine.is_up:
                    machine.unios("down", "--all", check=False)
