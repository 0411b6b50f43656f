"""What is larger than a signed number of 32 bits counts: results of tasks, and objects, from here and from another node."""

import gc
import os

import pytest

import unios
from tests.e2e.remote import Remote
from tests.e2e.system import System

SIZE = 2 * 1024**3 + 1


def numbers(size: int) -> object:
    import numpy

    made = numpy.zeros(size, dtype="uint8")
    made[0], made[-1] = 3, 7
    return made


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("node", ["n1", "n2"])
def test_two_gigabytes_come_whole_and_leave_nothing(whole: System, node: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("numpy")
    monkeypatch.setenv("UNIOS_NODE", "n1")
    with unios.Executor(1, node=node, home=whole.env["UNIOS_HOME"]) as executor:
        assert executor.submit(abs, -1).result(60) == 1
        before = len(os.listdir("/proc/self/fd"))
        found = executor.submit(numbers, SIZE).result(120)
        assert (found.nbytes, found[0], found[-1]) == (SIZE, 3, 7)
        del found
        gc.collect()
        assert len(executor.submit(bytes, SIZE - 1).result(120)) == SIZE - 1
        assert len(os.listdir("/proc/self/fd")) == before
    with Remote(whole, "n1") as here, Remote(whole, node) as reader:
        here.do(f"import numpy; a = unios.empty(({SIZE},), dtype='uint8'); a[-1] = 7; r = unios.put(a); del a")
        here.give("r", reader)
        assert reader.ask("(lambda a: [a.nbytes, int(a[0]), int(a[-1])])(unios.get(r, timeout=100))") == [SIZE, 0, 7]
        reader.do("del r")
        here.do("del r")
