"""Objects: what programs and the holders of their objects say to each other, and the decider behind a holder.

The port of the holder of `user` on `node` is `objects/<user>/<node>`; its operations are in client/objects/holder.py.
"""

from unios.core.nearness import plan_node as plan_node
from unios.core.objects import Acquire as Acquire
from unios.core.objects import Drop as Drop
from unios.core.objects import Ledger as Ledger
from unios.core.objects import Order as Order
from unios.core.objects import Release as Release
from unios.core.objects import Statistics as Statistics

Known = tuple[str, str, int]
"""(id, the node that keeps it, size in bytes)"""


def port_of(user: str, node: str) -> str:
    """Return the name of the port of a user's holder on a node."""
    return f"objects/{user}/{node}"
