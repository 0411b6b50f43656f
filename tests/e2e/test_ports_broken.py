"""Ports for programs while kernels are killed: sessions go on, and nothing is done twice."""

import threading
from pathlib import Path

import pytest

from tests.e2e.ports import held, kill_kernel, port
from tests.e2e.system import System


@pytest.mark.parametrize(("owner", "victims"), [("n1", ["n1"]), ("n2", ["n1"]), ("n2", ["n2"]), ("n2", ["n1", "n2"])])
def test_a_kernel_killed_in_mid_call_loses_no_answer_and_does_nothing_twice(fresh: System, tmp_path: Path, owner: str, victims: list[str]) -> None:
    with held(fresh, "p", owner), port(fresh, "p", timeout=60) as called:
        go = str(tmp_path / "go")
        items = called.stream("count", 1_500, 10_000)
        assert next(items)[0] == 0
        pending = called.begin("slow", -1, go)
        for victim in victims:
            kill_kernel(fresh, victim)
        Path(go).touch()
        assert pending.result(timeout=60) == -1
        assert [number for number, _ in items] == list(range(1, 1_500))
        wrong: list[object] = []

        def work(me: int) -> None:
            try:
                for number in range(200):
                    if called.do(me * 1_000 + number) != me * 1_000 + number:
                        wrong.append((me, number))
            except BaseException as error:  # noqa: BLE001
                wrong.append(error)

        threads = [threading.Thread(target=work, args=(me,)) for me in range(3)]
        for thread in threads:
            thread.start()
        for victim in victims:
            kill_kernel(fresh, victim)
        for thread in threads:
            thread.join(90)
        assert not wrong and not any(thread.is_alive() for thread in threads)
        assert called.twice() == []
        with port(fresh, "p", "n3", timeout=60) as other:  # the port is open again
            assert other.one(1) == 1
