"""`unios devices`: what GPUs, serial ports, cameras and sound cards there are on which node, and what to type to get one."""

from unios.client import nodes as client
from unios.shell.session import Session
from unios.shell.table import table
from unios.shell.words import Given, Word

HEAD = ("NODE", "KIND", "PATH", "NAME", "ALSO")


def devices(session: Session, given: Given) -> int:
    views = client.list_nodes(session.connection)
    found = [(view.name, device) for view in views for device in view.devices if view.state in ("ready", "suspect")]
    if session.json:
        session.print_json([{"node": node, **{name: getattr(device, name) for name in device.__struct_fields__}} for node, device in found])
    elif found:
        session.print_table(table(HEAD, [(node, one.kind, one.path, one.name, " ".join(one.aliases)) for node, one in found]))
        session.print("`unios run --device KIND` or `--device PATH` gives one to a program, for it alone")
    else:
        session.print("no node has a device that could be given to a program")
    return 0


WORDS = {"devices": Word(devices, text="List the devices of all nodes: GPUs, serial ports, cameras, sound cards.")}
