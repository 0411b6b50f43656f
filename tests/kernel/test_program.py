"""What is said of a program that cannot be started."""

import os
from pathlib import Path
from typing import Any

import pytest

from unios.kernel import program

ODD = os.fsdecode(b"\xff\x1b[31m\n\xc3\xbc")
SHOWN = "\\xff\\x1b[31m\\x0aü"


def job(**fields: Any) -> program.Job:
    return program.parse({"pid": 1001, "incarnation": 1, "argv": ["x"], "env": [], "uid": os.geteuid(), **fields})


def refused(**fields: Any) -> tuple[str, str]:
    with pytest.raises(program.Refused) as caught:
        program.find(job(**fields))
    code, text = caught.value.args
    return code, text


def test_odd_bytes_of_a_programs_name_are_escaped_as_ps_has_them() -> None:
    assert refused(argv=[ODD]) == ("program-not-found", f"there is no program {SHOWN} in PATH")
    assert refused(argv=[f"/none/{ODD}"]) == ("program-not-found", f"there is no program /none/{SHOWN}")


def test_so_are_those_of_a_folder_of_path_and_of_a_program_that_is_none(tmp_path: Path) -> None:
    folder = tmp_path / ODD
    folder.mkdir()
    (folder / "x").touch(mode=0o600)
    assert refused(env=[["PATH", str(folder)]]) == (
        "program-not-runnable",
        f"{tmp_path}/{SHOWN}/x is there but may not be executed: Permission denied",
    )
    assert program.refusal(str(folder), PermissionError(13, "no")).args[1] == f"{tmp_path}/{SHOWN} is a folder, not a program"


def test_so_are_those_of_the_working_folder() -> None:
    code = """if True:
        import os, sys
        from unios.kernel import program
        try:
            program.prepare(program.parse({"pid": 1001, "incarnation": 1, "argv": ["x"], "cwd": "/none/" + sys.argv[1]}))
        except program.Refused as refused:
            print(refused.args[1])
    """
    import subprocess
    import sys

    done = subprocess.run([sys.executable, "-c", code, ODD], capture_output=True, check=True)
    assert done.stdout.decode() == f"cannot enter /none/{SHOWN}: No such file or directory\n"


def test_a_long_name_is_cut() -> None:
    assert refused(argv=["x" * 100_000])[1] == f"there is no program {'x' * 500}... in PATH"
