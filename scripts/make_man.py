"""Makes docs/man/unios.1 of the declared words and docs/man/examples.txt. A test holds that it is up to date.

python scripts/make_man.py
"""

from pathlib import Path

from unios import __version__
from unios.shell.manual import page, read

MAN = Path(__file__).resolve().parent.parent / "docs" / "man"


def make() -> str:
    """Return the page."""
    return page(read((MAN / "examples.txt").read_text()), __version__)


if __name__ == "__main__":
    (MAN / "unios.1").write_text(make())
