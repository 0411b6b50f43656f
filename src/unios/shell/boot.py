"""`unios up`, `join`, `leave`, `down`: from machines to a system and back."""

import sys

from unios.client import boot, nodes
from unios.shell.session import Session
from unios.shell.table import is_terminal, moment
from unios.shell.words import Given, Misused, Option, Word

_LISTEN = Option("listen", "--listen", metavar="ADDRESS[:PORT]", text="Where this machine takes links from other machines.")
_ADVERTISE = Option("advertise", "--advertise", metavar="ADDRESS[:PORT]", text="Where others reach it, if that is another address.")
_NAME = Option("name", "--name", metavar="NAME", text="The new node's name [default: the next free of n1, n2, ...].")
_FORCE = Option("force", "--force", text="Even if that ends processes that cannot run elsewhere.")


def _progress(session: Session) -> boot.Progress:
    return session.note if is_terminal(2) and not session.json else lambda _text: None


def _tell_ready(session: Session, ready: list[str]) -> int:
    if session.json:
        session.print_json({"ready": ready})
    else:
        session.print(f"ready: {', '.join(ready)}")
    return 0


def up(session: Session, given: Given) -> int:
    if "nodes" in given.values and given.number("nodes", 1) < 1:
        raise Misused("--nodes takes a number from 1 on")
    ready = boot.up(
        session.home,
        nodes=given.number("nodes"),
        name=given.text("name"),
        listen=given.text("listen"),
        advertise=given.text("advertise"),
        progress=_progress(session),
    )
    return _tell_ready(session, ready)


def join(session: Session, given: Given) -> int:
    if not given.arguments:
        return _invite(session, given)
    token = given.arguments[0]
    if token == "-":
        token = sys.stdin.readline().strip()
    if not token or not token.isascii() or not token.isprintable():
        raise Misused("this is no token: `unios join` on a machine of the system makes one")
    ready = boot.join(
        session.home,
        token,
        name=given.text("name"),
        listen=given.text("listen"),
        advertise=given.text("advertise"),
        progress=_progress(session),
    )
    return _tell_ready(session, ready)


def _invite(session: Session, given: Given) -> int:
    token = nodes.make_token(session.connection, ttl_s=given.number("ttl"), root=given.flag("root"))
    if session.json:
        session.print_json({"token": token.token, "expires_ms": token.expires_ms, "addresses": token.addresses})
        return 0
    session.print(f"unios join {token.token}")
    session.note(f"type this on the other machine before {moment(token.expires_ms)[:16]}; it lets one machine in, once")
    return 0


def leave(session: Session, given: Given) -> int:
    name = session.node or _only_node(session)
    session.connection.node = name
    nodes.leave(session.connection, force=given.flag("force"))
    if session.json:
        session.print_json({"left": name})
    else:
        session.print(f"{name} has left")
    return 0


def _only_node(session: Session) -> str:
    names = [folder.name for folder in session.home.nodes()]
    if len(names) > 1:
        raise Misused(f"this machine has the nodes {', '.join(names)}: say which one leaves with --node NAME")
    return names[0] if names else ""


def down(session: Session, given: Given) -> int:
    if given.flag("every") and session.node:
        raise Misused("--all stops every node of this machine and --node only one: give one of them")
    if session.node and session.node not in [folder.name for folder in session.home.nodes()]:
        nodes.stop(session.connection, force=False)
    else:
        boot.down(session.home, node=session.node, everything=given.flag("every"), progress=_progress(session))
    if session.json:
        session.print_json({"down": session.node or "all"})
    return 0


WORDS = {
    "up": Word(
        up,
        Option("nodes", "--nodes", metavar="N", number=True, text="How many nodes this machine shall have at least."),
        _LISTEN,
        _ADVERTISE,
        _NAME,
        text="Start the nodes of this machine and wait until all are ready; the first time, make a system.",
    ),
    "join": Word(
        join,
        _LISTEN,
        _ADVERTISE,
        _NAME,
        Option("root", "--root", text="Trust the joining machine's root as root of the whole system (for making a token)."),
        Option("ttl", "--ttl", metavar="SECONDS", number=True, text="How long the token made is good."),
        argument="[TOKEN]",
        one=True,
        text="Without TOKEN: print the line to type on another machine. With TOKEN: make this machine a member of its system. "
        "`-` reads the token from stdin.",
    ),
    "leave": Word(leave, _FORCE, text="Take a node out of the system for good; what it runs is started again elsewhere."),
    "down": Word(
        down,
        Option("every", "--all", text="Leave nothing behind, whatever still runs on them or does not answer."),
        text="Stop the nodes of this machine, or with --node one node. They stay members: `unios up` brings them back.",
    ),
}
