"""When a certificate is renewed, in virtual time; and from when to when one holds, read from its DER."""

import ssl
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from unios.core.renewal import Failed, Renewal, Renewed, Tick, authority_ends
from unios.core.validity import DATED_BACK_MS, Validity, validity
from unios.errors import ProtocolError
from unios.kernel import certificates
from unios.kernel.certificates import LIFE_VARIABLE, Identity
from unios.security_limits import AUTHORITY_LIFE_S, CERTIFICATE_LIFE_S, RENEW_AGAIN_MS

DAY_MS = 86_400_000
LIFE_MS = 1_000 * CERTIFICATE_LIFE_S


def made(at_ms: int, life_ms: int = LIFE_MS) -> Validity:
    return Validity(at_ms - DATED_BACK_MS, at_ms + life_ms)


def test_another_one_is_asked_for_at_half_of_the_life_and_once_at_a_time() -> None:
    renewal = Renewal(made(0))
    assert not renewal.on(Tick(LIFE_MS // 2 - 1))
    assert renewal.on(Tick(LIFE_MS // 2))
    assert not renewal.on(Tick(LIFE_MS))
    renewal.on(Renewed(made(LIFE_MS // 2)))
    assert not renewal.on(Tick(LIFE_MS - 1))
    assert renewal.on(Tick(LIFE_MS))


def test_one_that_could_not_be_had_is_asked_for_again_and_a_person_is_told_before_it_is_too_late() -> None:
    renewal, now, asked, told = Renewal(made(0)), 0, 0, 0
    while now < LIFE_MS:
        now += RENEW_AGAIN_MS // 2
        if renewal.on(Tick(now)):
            asked += 1
            renewal.on(Failed(now, "nobody answers"))
        if renewal.is_urgent(now) and not told:
            told = now
    assert asked >= LIFE_MS // 2 // RENEW_AGAIN_MS - 1
    assert renewal.why == "nobody answers"
    assert LIFE_MS - told > 20 * DAY_MS


def test_one_that_was_made_for_ten_years_is_renewed_as_if_it_lived_as_long_as_today() -> None:
    renewal = Renewal(made(0, 3_650 * DAY_MS))
    assert not renewal.on(Tick(44 * DAY_MS))
    assert renewal.on(Tick(45 * DAY_MS))


def test_a_clock_that_is_set_back_asks_for_nothing_and_does_not_forbid_for_long() -> None:
    renewal = Renewal(made(0))
    assert renewal.on(Tick(10 * LIFE_MS))
    renewal.on(Failed(10 * LIFE_MS, "no"))
    assert not renewal.on(Tick(0))
    assert renewal.on(Tick(LIFE_MS))


def test_the_end_of_the_authority_is_told_a_year_before() -> None:
    ends = Validity(0, 10_000 * DAY_MS)
    assert not authority_ends(ends, (10_000 - 366) * DAY_MS)
    assert authority_ends(ends, (10_000 - 364) * DAY_MS)


def signed(folder: Path) -> bytes:
    certificates.make_authority(folder, "sys")
    _key, public = certificates.make_key()
    return ssl.PEM_cert_to_DER_cert(certificates.sign(folder, public, Identity("sys", "n1", "m1", ("alice",))).decode())


def test_validity_is_read_as_it_was_signed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = validity(signed(tmp_path))
    assert found.until_ms - found.made_ms == LIFE_MS
    authority = validity(ssl.PEM_cert_to_DER_cert((tmp_path / "ca.crt").read_text()))
    assert authority.until_ms - authority.made_ms == 1_000 * AUTHORITY_LIFE_S
    monkeypatch.setenv(LIFE_VARIABLE, str(100 * AUTHORITY_LIFE_S))  # no certificate outlives who signed it
    assert validity(signed(tmp_path)).until_ms == authority.until_ms


@given(st.binary(max_size=200), st.integers(0, 400), st.binary(min_size=1, max_size=4))
@example(b"\x30\x84\xff\xff\xff\xff", 0, b"\x00")
def test_bytes_that_are_no_certificate_are_told_so(data: bytes, place: int, other: bytes) -> None:
    for each in (data, CERTIFICATE[:place] + other + CERTIFICATE[place + len(other) :], CERTIFICATE[:place]):
        try:
            found = validity(each)
            assert isinstance(found.from_ms, int)
        except ProtocolError:
            pass


CERTIFICATE = ssl.PEM_cert_to_DER_cert((Path(__file__).parent.parent / "corpus" / "certificates" / "node.pem").read_text())
