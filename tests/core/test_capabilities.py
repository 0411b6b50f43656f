"""A capability is never stronger than any that it comes from, and gone with the first of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unios.core.capabilities import ALL, Capabilities, Terms
from unios.errors import CallerError, Denied, Unavailable
from unios.security_limits import CAPABILITIES_MAX, CAPABILITY_DEPTH_MAX

terms = st.builds(
    Terms,
    st.none() | st.frozensets(st.sampled_from("abc")),
    st.none() | st.integers(0, 20),
    st.none() | st.integers(0, 4),
    st.sampled_from(["", "", "ann", "bob"]),
)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("mint"), st.just(0), terms, st.just("")),
        st.tuples(st.just("derive"), st.integers(0, 9), terms, st.sampled_from(["ann", "bob"])),
        st.tuples(st.just("admit"), st.integers(0, 9), st.sampled_from("abc"), st.sampled_from(["ann", "bob"])),
        st.tuples(st.just("revoke"), st.integers(0, 9), st.none(), st.just("")),
    ),
    min_size=1,
    max_size=40,
)


def works(table: Capabilities, name: str, operation: str, user: str = "ann", now: int = 0) -> bool:
    try:
        table.admit(name, operation, user, now)
    except Denied:
        return False
    return True


@settings(max_examples=300, deadline=None)
@given(steps)
def test_what_is_admitted_is_admitted_by_all_that_it_comes_from(told: list[tuple[str, int, Terms | str | None, str]]) -> None:
    """Against a plain model: the whole line of ancestors is written down beside, and looked through."""
    table = Capabilities()
    lines: list[list[tuple[int, Terms]]] = []
    used: dict[int, int] = {}
    revoked: set[int] = set()
    for now, (what, number, given_, user) in enumerate(told):
        line = lines[number] if number < len(lines) else None
        alive = line is not None and all(one not in revoked and (t.until_ms is None or now < t.until_ms) for one, t in line)
        mine = line is not None and line[-1][1].user in ("", user)
        if what == "mint":
            assert isinstance(given_, Terms)
            table.mint(str(len(lines)), given_, now)
            lines.append([(len(lines), given_)])
        elif what == "derive":
            assert isinstance(given_, Terms)
            try:
                table.derive(str(number), str(len(lines)), given_, user, now)
            except Denied:
                assert not (alive and mine)
                continue
            assert alive and mine and line is not None
            lines.append([*line, (len(lines), given_._replace(user=given_.user or line[-1][1].user))])
        elif what == "admit":
            assert isinstance(given_, str)
            may = alive and mine and line is not None
            for one, t in line or ():
                may = may and (t.operations is None or given_ in t.operations) and (t.uses is None or used.get(one, 0) < t.uses)
            assert works(table, str(number), given_, user, now) == may
            for one, _terms in (line or ()) if may else ():
                used[one] = used.get(one, 0) + 1
        else:
            table.revoke(str(number))
            if line is not None:
                revoked.add(number)
                revoked.update(other for other, chain in enumerate(lines) if any(one == number for one, _terms in chain))


def test_what_was_derived_goes_with_its_parent_and_leaves_its_siblings() -> None:
    table = Capabilities()
    table.mint("root", ALL, 0)
    table.derive("root", "left", ALL, "ann", 0)
    table.derive("left", "leaf", ALL, "ann", 0)
    table.derive("root", "right", ALL, "ann", 0)
    assert table.revoke("left") == 2
    assert not works(table, "leaf", "a") and not works(table, "left", "a")
    assert works(table, "right", "a") and works(table, "root", "a")
    assert table.revoke("left") == 0 and len(table) == 2


def test_nothing_is_counted_of_a_call_that_is_denied() -> None:
    table = Capabilities()
    table.mint("root", Terms(uses=1), 0)
    table.derive("root", "weak", Terms(operations=frozenset("a")), "ann", 0)
    assert not works(table, "weak", "b")
    assert works(table, "weak", "a") and not works(table, "root", "a")


def test_there_are_bounds_and_what_is_over_makes_room() -> None:
    table = Capabilities()
    for number in range(CAPABILITIES_MAX):
        table.mint(str(number), Terms(until_ms=10) if number == 5 else ALL, 0)
    with pytest.raises(Unavailable):
        table.mint("one more", ALL, 9)
    table.mint("one more", ALL, 10)
    deep = Capabilities()
    deep.mint("0", ALL, 0)
    for number in range(1, CAPABILITY_DEPTH_MAX):
        deep.derive(str(number - 1), str(number), ALL, "ann", 0)
    with pytest.raises(CallerError):
        deep.derive(str(CAPABILITY_DEPTH_MAX - 1), "deeper", ALL, "ann", 0)


def test_one_for_a_user_stays_his_unless_another_is_named() -> None:
    table = Capabilities()
    table.mint("ann's", Terms(user="ann"), 0)
    with pytest.raises(Denied):
        table.derive("ann's", "bob's", Terms(user="bob"), "bob", 0)
    table.derive("ann's", "weak", ALL, "ann", 0)
    table.derive("ann's", "bob's", Terms(user="bob"), "ann", 0)
    assert works(table, "weak", "a", "ann") and not works(table, "weak", "a", "bob")
    assert works(table, "bob's", "a", "bob") and not works(table, "bob's", "a", "ann")
