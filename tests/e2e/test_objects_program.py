"""Objects of classes and functions that are the program's own, of its `__main__`: read by the tasks of its executor, in place, and by other programs."""

import pytest

from tests.e2e.remote import Remote
from tests.e2e.system import System
from tests.e2e.test_executor import run_and_leave_nothing

pytestmark = pytest.mark.timeout(90)
PROGRAM = """
import dataclasses, numpy, unios
factor = 3
@dataclasses.dataclass
class Table:
    rows: numpy.ndarray
    def total(self): return times(float(self.rows.sum()))
def times(x): return x * factor
def look(ref):
    table = unios.get(ref)
    return type(table).__name__, table.total(), table.rows.flags.owndata
def put(_): return unios.put(Table(numpy.ones(10)))
if __name__ == "__main__":
    rows = unios.empty(1_000_000)
    rows[:] = 1
    ref = unios.put(Table(rows))
    assert type(unios.get(ref)) is Table
    with unios.Executor(2, label="looks", apart=["looks"]) as pool:
        assert list(pool.map(look, [ref] * 8)) == [("Table", 3_000_000.0, False)] * 8
        called = unios.put({"f": times, "g": lambda x: times(x) + 1})
        assert pool.submit(lambda: unios.get(called)["g"](2)).result() == 7
        back = unios.get(pool.submit(put, 0).result())
        assert type(back) is Table and back.total() == 30
"""


def test_a_task_reads_what_its_program_has_put_of_classes_and_functions_of_its_own(whole: System) -> None:
    run_and_leave_nothing(whole, PROGRAM)


def test_another_program_reads_an_object_of_a_class_that_only_the_first_one_has(whole: System) -> None:
    with Remote(whole, "n1") as here, Remote(whole, "n2") as elsewhere:
        here.do("import sys, types; main = sys.modules['__main__']; exec('class Own:\\n    def twice(self): return self.x * 2', main.__dict__)")
        here.do("own = main.Own(); own.x = 4; r = unios.put(own)")
        here.give("r", elsewhere)
        assert elsewhere.ask("unios.get(r).twice()") == 8
        assert here.ask("type(unios.get(r)) is main.Own")
