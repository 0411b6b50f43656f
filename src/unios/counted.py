"""Counted: a number and what it counts, as a person says it: 1 core, 2 cores. Standard library only, as all that a guard may import."""


def counted(number: float, noun: str, *, several: str = "") -> str:
    """Return "1 core", "0 cores", "1.5 cores"; `several`: the plural where that is not the noun with an s."""
    digits = str(number) if isinstance(number, int) else f"{number:g}"
    return f"{digits} {noun if number == 1 else several or noun + 's'}"


def cores(milli: int) -> str:
    """Return a number of thousandths of a core as cores."""
    return counted(milli / 1_000, "core")


def is_or_are(number: float) -> str:
    """Return the verb for so many."""
    return "is" if number == 1 else "are"
