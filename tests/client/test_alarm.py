"""Alarm: a thread that polls is woken a moment later, at once if that is asked for, and never for what it has heard."""

import os
import select
import threading
import time

import pytest

from unios.client.objects import alarm as module
from unios.client.objects.alarm import Alarm

SOON_S = 0.05


@pytest.fixture
def alarm() -> Alarm:
    return Alarm(SOON_S)


def rings(alarm: Alarm, within_s: float) -> bool:
    return bool(select.select([alarm.descriptor], [], [], within_s)[0])


def test_it_rings_a_moment_later_for_all_who_asked_meanwhile(alarm: Alarm) -> None:
    began = time.monotonic()
    threads = [threading.Thread(target=alarm.soon) for _ in range(5)]
    for thread in threads:
        thread.start()
    assert rings(alarm, 5) and time.monotonic() - began >= SOON_S * 0.9
    for thread in threads:
        thread.join()
    alarm.heard()
    assert not rings(alarm, 0)


def test_what_cannot_wait_rings_at_once_although_it_was_to_ring_later(alarm: Alarm) -> None:
    alarm = Alarm(3600)
    alarm.soon()
    alarm.now()
    assert rings(alarm, 5)


def test_who_has_heard_it_is_woken_by_the_next(alarm: Alarm) -> None:
    alarm.soon()
    alarm.heard()
    alarm.soon()
    assert rings(alarm, 5)
    alarm.heard()
    alarm.soon()
    assert rings(alarm, 5)


def test_one_that_is_closed_does_nothing_to_whatever_has_its_descriptor_now(alarm: Alarm) -> None:
    descriptor = alarm.descriptor
    alarm.close()
    alarm.close()
    pipe = os.pipe()
    assert descriptor in pipe
    alarm.soon()
    alarm.now()
    alarm.heard()
    assert not select.select([pipe[0]], [], [], 0.1)[0]
    for each in pipe:
        os.close(each)


def test_who_is_interrupted_while_setting_it_costs_nobody_his_alarm(monkeypatch: pytest.MonkeyPatch) -> None:
    alarm = Alarm(0.001)
    library = module._libc

    class Interrupted:
        """What a signal's handler raises comes out of the call, once."""

        asked = 0

        def timerfd_settime(self, *args: object) -> int:
            self.asked += 1
            if self.asked == 1:
                raise KeyboardInterrupt
            return int(library.timerfd_settime(*args))

    monkeypatch.setattr(module, "_libc", Interrupted())
    with pytest.raises(KeyboardInterrupt):
        alarm.soon()
    assert select.select([alarm.descriptor], [], [], 20)[0], "what was asked for is done"
    alarm.heard()
    alarm.soon()
    assert select.select([alarm.descriptor], [], [], 20)[0]
    alarm.close()


def test_it_is_not_set_twice_however_early_he_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def timerfd_settime(self, *_args: object) -> int:
            raise KeyboardInterrupt

    alarm = Alarm(0.001)
    with monkeypatch.context() as patch:
        patch.setattr(module, "_libc", Broken())
        with pytest.raises(KeyboardInterrupt):
            alarm.soon()
    alarm.soon()
    assert select.select([alarm.descriptor], [], [], 20)[0], "the next one sets it"
    alarm.close()


def test_who_asks_while_it_is_being_heard_is_not_taken_for_one_who_will_be(monkeypatch: pytest.MonkeyPatch) -> None:
    alarm = Alarm(0.001)
    alarm.soon()
    assert rings(alarm, 20)
    read = os.read

    def late(descriptor: int, most: int) -> bytes:
        """Another thread asks, and this one gets no processor before that has rung."""
        alarm.soon()
        assert rings(alarm, 20)
        return read(descriptor, most)

    with monkeypatch.context() as patch:
        patch.setattr(module.os, "read", late)
        alarm.heard()
    alarm.soon()
    assert rings(alarm, 20)
    alarm.close()
