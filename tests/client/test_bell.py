"""Bell: rung before and while somebody waits."""

import threading
import time

from unios.client.synchronisation.bell import Bell


def test_a_bell_lets_one_wait_go_on_for_all_rings_before_it() -> None:
    bell = Bell()
    assert not bell.wait(0) and not bell.wait(-1)
    bell.ring()
    bell.ring()
    assert bell.wait(0) and not bell.wait(0)


def test_a_bell_wakes_who_waits() -> None:
    bell, woken = Bell(), []
    waiting = threading.Thread(target=lambda: woken.append(bell.wait(30)))
    waiting.start()
    time.sleep(0.01)
    bell.ring()
    waiting.join(30)
    assert woken == [True]
