"""Count the words of the files that each named list names, one path per line; print `count word` lines, then a last line that says so.

One worker of examples/wordcount.py. A plain program: it knows nothing of unios.
"""

import collections
import re
import sys

WORD = re.compile(rb"[A-Za-z_]+")


def main() -> None:
    counts: collections.Counter[bytes] = collections.Counter()
    for line in sys.argv[1:]:
        with open(line, encoding="utf-8") as names:
            for name in names.read().splitlines():
                with open(name, "rb") as file:
                    counts.update(WORD.findall(file.read()))
    out = sys.stdout.buffer
    for word, count in counts.items():
        out.write(b"%d %s\n" % (count, word))
    out.write(b"complete %d\n" % len(counts))


if __name__ == "__main__":
    main()
