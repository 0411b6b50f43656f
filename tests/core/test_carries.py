"""What a process may say of the folder that it takes along."""

import pytest

from unios.core import carries
from unios.demands import Carry
from unios.errors import CallerError
from unios.limits import MANIFEST_BYTES_MAX


def test_what_run_makes_is_taken() -> None:
    carries.check(Carry())
    carries.check(Carry(b"m" * 64, b"src/deep", (b"*.csv", b"out/"), True, ((b"", b"/home/ann/p"), (b"data", b"/data")), (b"/data/x.csv",)))
    carries.check(Carry(b"m" * 32 * (MANIFEST_BYTES_MAX // 2**20)))


@pytest.mark.parametrize(
    "carry",
    [
        Carry(b"m" * 31),
        Carry(b"m" * 32 * (MANIFEST_BYTES_MAX // 2**20 + 1)),
        Carry(b"m" * 32, b"/etc"),
        Carry(b"m" * 32, b"a/../../b"),
        Carry(b"m" * 32, b"a\0b"),
        Carry(b"m" * 32, results=(b"x",) * 65),
        Carry(b"m" * 32, results=(b"x" * 4_097,)),
        Carry(b"m" * 32, folders=((b"", b"x" * 4_097),)),
        Carry(b"m" * 32, folders=((b"a", b"/a"),) * 65),
        Carry(named=(b"/x",) * 17),
    ],
    ids=lambda carry: repr(carry)[:60],
)
def test_what_makes_no_sense_is_refused_whoever_wrote_it(carry: Carry) -> None:
    with pytest.raises(CallerError):
        carries.check(carry)
