"""Moments of the past, and ports, as people write them."""

import time
from datetime import UTC, datetime

import pytest

from unios.shell.forwarding import Pair, pair_of
from unios.shell.moments import moment_of, since
from unios.shell.words import Misused

NOW = int(time.mktime((2026, 11, 24, 14, 0, 0, 0, 0, -1))) * 1000


@pytest.mark.parametrize(("text", "ms"), [("10m", 600_000), ("1h30m", 5_400_000), ("45s", 45_000), ("2d", 172_800_000), ("0s", 1)])
def test_an_age_counts_back_from_now(text: str, ms: int) -> None:
    assert moment_of(text, NOW) == NOW - ms
    assert since(text, NOW) == -ms  # whoever has another clock counts by that


@pytest.mark.parametrize(("text", "ago_s"), [("13:59", 60), ("13:59:50", 10), ("14:01", 86_340), ("2026-11-24 13:00", 3600)])
def test_a_time_of_day_is_the_latest_that_is_not_to_come(text: str, ago_s: int) -> None:
    assert moment_of(text, NOW) == since(text, NOW) == NOW - ago_s * 1000


def test_a_time_is_local_unless_it_says_where() -> None:
    at = datetime(2026, 11, 24, 10, 0)
    assert moment_of("2026-11-24T10:00", NOW) == moment_of("2026-11-24 10:00:00", NOW) == int(at.timestamp() * 1000)
    assert moment_of("2026-11-24T10:00:00Z", NOW) == int(at.replace(tzinfo=UTC).timestamp() * 1000)


@pytest.mark.parametrize(
    "text", ["", "yesterday", "10", "m", "30m1h", "-5m", "2026-13-01T00:00", "9" * 30 + "s", "soon", "10y", "25:00", "99999999d", "\u0663m"]
)
def test_what_is_no_time_is_refused_with_a_sentence(text: str) -> None:
    for read in (moment_of, since):
        with pytest.raises(Misused, match="--since"):
            read(text, NOW)


@pytest.mark.parametrize(("text", "pair"), [("8888", Pair(8888, 8888)), ("8888:9000", Pair(8888, 9000)), ("80:0", Pair(80, 0))])
def test_ports_are_written_as_in_ssh_the_process_first(text: str, pair: Pair) -> None:
    assert pair_of(text) == pair


@pytest.mark.parametrize("text", ["", "0", "65536", "80:65536", "80:", ":80", "a", "80:80:80", "-1", "٣"])
def test_what_is_no_port_is_refused_with_a_sentence(text: str) -> None:
    with pytest.raises(Misused, match="port"):
        pair_of(text)
