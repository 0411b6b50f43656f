"""Which unit of a semaphore is given back: each once, whoever of several threads gives back what."""

from unios.client.synchronisation.memory import given_for, naming, without_units
from unios.client.synchronisation.pending import Pending
from unios.wire.synchronising import YES, Answer, Ask, Held, Token

FIRST, SECOND = Token(7, 1), Token(7, 2)


def holding(**actors: Token) -> dict[Token, Held]:
    return {token: Held("semaphore", "seats", token, 1, 3, actor) for actor, token in actors.items()}


def release(actor: str) -> Ask:
    return Ask(0, "release", "semaphore", "seats", actor)


def taken(token: Token, value: int = 1, *, answered: bool = True) -> Pending:
    pending = Pending(Ask(1, "take", "semaphore", "seats", "main"))
    pending.token = token
    pending.answer = Answer(1, YES, token.number, value) if answered else None
    return pending


def named(ask: Ask) -> Token:
    return Token(int(ask.text), ask.number)


def test_a_thread_gives_back_its_own_unit_before_another_s() -> None:
    held = holding(main=FIRST, steady=SECOND)
    assert named(naming(held, release("steady"), ())) == SECOND
    assert named(naming(held, release("main"), ())) == FIRST
    assert named(naming(held, release("a third"), ())) == FIRST


def test_two_releases_do_not_mean_one_unit() -> None:
    held = holding(main=FIRST, other=SECOND)
    one = Pending(naming(held, release("main"), ()))
    another = naming(held, release("main"), [one])
    assert {named(one.ask), named(another)} == {FIRST, SECOND}
    assert naming(holding(main=FIRST), release("main"), [one]).number == 0
    left = without_units(without_units(held, one.ask), another)
    assert left == {}


def test_who_was_interrupted_gives_back_another_unit_if_a_release_has_taken_his() -> None:
    held = holding(main=FIRST, steady=SECOND)
    assert given_for(held, FIRST, taken(FIRST), ()) == FIRST
    under_way = [Pending(naming(held, release("main"), ()))]
    assert given_for(held, FIRST, taken(FIRST), under_way) == SECOND
    assert given_for(holding(steady=SECOND), FIRST, taken(FIRST), ()) == SECOND  # that release has been answered


def test_what_is_held_by_nobody_yet_or_never_is_not_swapped() -> None:
    held = holding(steady=SECOND)
    assert given_for(held, FIRST, taken(FIRST, 0), ()) == FIRST  # a signal
    assert given_for(held, FIRST, taken(FIRST, answered=False), ()) == FIRST  # its listener was interrupted in between
    assert given_for({}, FIRST, taken(FIRST), ()) == FIRST
