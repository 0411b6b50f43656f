"""Carried folders, by the command line: a folder goes along to the node that suffers, and what the program makes of it comes back whole."""

import hashlib
import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.matrix.drivers.work import Late, Wrong, repeat
from unios import errors

UNIOS = str(Path(sys.executable).parent / "unios")
FILES, FILE_BYTES = 100, 20_000
ENDS_S = 90
_BY_EXIT = {125: errors.Unavailable, 75: errors.Unavailable, 76: errors.OutcomeUnknown, 74: errors.DataLost}


def main() -> None:
    numbers = itertools.count()

    def step() -> None:
        number = next(numbers)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for index in range(FILES):
                (folder / f"f{index:03}").write_bytes(number.to_bytes(4, "big") * (FILE_BYTES // 4))
            right = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.iterdir()))).hexdigest()
            words = [UNIOS, "run", "--cpus", "0.1", "--on", os.environ["MATRIX_VICTIM"], "--carry", name, "--result", "sum", "--"]
            script = "cat f* | sha256sum | cut -d' ' -f1 > sum; exit 7"
            try:
                done = subprocess.run(
                    [*words, "sh", "-c", script], cwd=folder, capture_output=True, text=True, timeout=ENDS_S, stdin=subprocess.DEVNULL
                )
            except subprocess.TimeoutExpired as error:
                raise Late(f"carrying {FILES} small files did not end within {ENDS_S} s: {error.stderr!r}") from error
            if (told := _BY_EXIT.get(done.returncode)) is not None and done.stderr.strip():
                raise told(done.stderr.strip())
            if done.returncode != 7:
                raise Wrong(f"unios run ended with {done.returncode} and not with 7: {done.stderr}")
            if not (folder / "sum").exists():
                if not done.stderr.strip():
                    raise Wrong("no result came back, and no word why")
                raise errors.DataLost(done.stderr.strip())
            if (got := (folder / "sum").read_text().strip()) != right:
                raise Wrong(f"the program found {got} in the folder and not {right}: {done.stderr}")

    repeat({"carry": step}, pause_s=0.2)


if __name__ == "__main__":
    main()
