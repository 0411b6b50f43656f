"""What data refer to on a third node is not lost, however long that node does not answer while whoever kept the data lets go."""

import os
import signal
import time

from tests.e2e.remote import Remote
from tests.e2e.system import System, wait_for
from tests.e2e.test_objects_broken import holder_of
from unios.object_limits import OBJECT_RECEIVED_MS


def test_what_data_refer_to_on_a_node_that_hangs_is_kept_for_who_has_read_them(fresh: System) -> None:
    with Remote(fresh, "n1") as here, Remote(fresh, "n2") as reader, Remote(fresh, "n3") as third:
        third.do("inner = unios.put('kept')")
        third.give("inner", here)
        here.do("outer = unios.put([inner]); del inner; gc.collect()")
        third.do("del inner; gc.collect()")
        here.give("outer", reader)
        reader.do("unios.get(unios.put(1))")
        wait_for(third.statistics, lambda found: found["loans"] == 0, "only the outer object refers to it", 40)
        pid = holder_of(third)
        os.kill(pid, signal.SIGSTOP)
        try:
            reader.do("found = unios.get(outer)[0]; del outer; gc.collect()")
            here.do("del outer; gc.collect()")
            time.sleep(3 * OBJECT_RECEIVED_MS / 1000)  # nothing is to happen, however long that node hangs
        finally:
            os.kill(pid, signal.SIGCONT)
        assert reader.ask("found.get(timeout=20)") == "kept"
