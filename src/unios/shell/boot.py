"""`unios up`, `join`, `leave`, `down`: from machines to a system and back."""

import base64
import contextlib
import os
import re
import sys
from typing import Final

import msgspec

from unios.client import boot, nodes
from unios.client.connection import Connection
from unios.client.firewall import opening
from unios.counted import counted, is_or_are
from unios.errors import UniosError
from unios.limits import NODES_PER_MACHINE_MAX, TOKEN_TTL_S_MAX
from unios.shell.session import Session
from unios.shell.table import is_terminal, moment
from unios.shell.words import Given, Misused, Option, Word

_NODE_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,30}[A-Za-z0-9])?")
_ADDRESS: Final = re.compile(r"(\[[0-9A-Fa-f:.]+(%[A-Za-z0-9]+)?\]|[A-Za-z0-9._-]{1,253})(:(?P<port>[0-9]{0,5}))?|[0-9A-Fa-f]*(:[0-9A-Fa-f]*){2,}")
_TOKEN: Final = re.compile(r"unios1\.[A-Za-z0-9_-]+")
"""As kernel/tokens.py and kernel/links.py take them, which the shell may not import: a test holds the two together."""

_PASSWORD: Final = re.compile(r"etcd://[^/@]*:[^/@]*@")

_LOOPBACKS: Final = ("127.", "[::1]", "localhost:")

_LISTEN = Option("listen", "--listen", metavar="ADDRESS[:PORT]", text="Where this machine takes links from other machines.")
_ADVERTISE = Option("advertise", "--advertise", metavar="ADDRESS[:PORT]", text="Where others reach it, if that is another address.")
_NAME = Option("name", "--name", metavar="NAME", text="The new node's name [default: the next free of n1, n2, ...].")
_FORCE = Option("force", "--force", text="Even if that ends processes that cannot run elsewhere.")


def _progress(session: Session) -> boot.Progress:
    return session.note if is_terminal(2) and not session.json else lambda _text: None


def _tell_ready(session: Session, ready: list[str], warnings: list[tuple[str, int]]) -> int:
    """Say which nodes are there, what is odd, and what a firewall has to let in if others may come."""
    texts = [text + _opening(port) for text, port in warnings]
    doors = {name: addresses for name in ready if (addresses := _outer(session, name))}
    if session.json:
        session.print_json({"ready": ready, "addresses": doors, "warnings": texts})
        return 0
    session.print(f"ready: {', '.join(sorted(ready, key=lambda name: (len(name), name)))}")
    for text in texts:
        session.note(text)
    for name, addresses in doors.items():
        session.note(
            f"{name} takes links from other machines at {', '.join(addresses)}: a firewall has to let that one TCP port in{_opening_of(addresses)}"
        )
    return 0


def _outer(session: Session, name: str) -> tuple[str, ...]:
    """Return where others reach a node of this machine; nothing if it only takes links of this machine, or does not say."""
    try:
        with Connection(session.home.path, name) as connection:
            addresses = nodes.info(connection).addresses
    except UniosError:
        return ()
    return tuple(each for each in addresses if not each.startswith(_LOOPBACKS))


def _opening(port: int) -> str:
    command = opening(port) if port else ""
    return f" (here: {command})" if command else ""


def _opening_of(addresses: tuple[str, ...]) -> str:
    return _opening(int(addresses[0].rpartition(":")[2] or 0))


def check_new_node(given: Given) -> None:
    """Raise Misused if what is said of a new node cannot be a node's name or address, whatever the machine."""
    name = given.text("name")
    if "name" in given.values and not _NODE_NAME.fullmatch(name):
        raise Misused(f"{name[:80]!r} is no name for a node: use up to 32 letters, digits and . _ - with a letter or digit at both ends")
    for key in ("listen", "advertise", "store_address"):
        address = given.text(key)
        match = _ADDRESS.fullmatch(address)
        if key in given.values and (match is None or int(match["port"] or 0) > 65_535):
            raise Misused(f"--{key.replace('_', '-')}: {address[:80]!r} is no address: write HOST or HOST:PORT")


def check_token(token: str) -> None:
    """Raise Misused if it cannot be a token. Whether it is good is for the system to say that made it."""
    with contextlib.suppress(ValueError, msgspec.MsgspecError):
        body = token.partition(".")[2]
        if _TOKEN.fullmatch(token) and msgspec.msgpack.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)), type=dict):
            return
    raise Misused("this is no token of unios, or a part of it is missing: `unios join` on a machine of the system makes one")


def up(session: Session, given: Given) -> int:
    if "nodes" in given.values and given.number("nodes", 1) < 1:
        raise Misused("--nodes takes a number from 1 on")
    if given.number("nodes") > NODES_PER_MACHINE_MAX:
        raise Misused(f"--nodes takes at most {NODES_PER_MACHINE_MAX}: several nodes on one machine are for trying out")
    if given.number("nodes") > 1 and given.text("name"):
        raise Misused("--name is for one node; several are called n1, n2, ...")
    check_new_node(given)
    store = _store(given)
    ready = boot.up(
        session.home,
        nodes=given.number("nodes"),
        name=given.text("name"),
        listen=given.text("listen"),
        advertise=given.text("advertise"),
        store_address=given.text("store_address"),
        store=store,
        cores=given.number("cores", -1),
        progress=_progress(session),
    )
    return _tell_ready(session, ready, [])


def _store(given: Given) -> str:
    """Return the address of the etcd that is to keep the records, of the option or the file that it names. Raises Misused."""
    text = given.text("store")
    if text.startswith("@"):
        try:
            with open(os.path.expanduser(text[1:]), encoding="utf-8") as file:
                text = file.read().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Misused(f"--store: {text[1:200]} cannot be read: {getattr(error, 'strerror', '') or 'it is no text'}") from error
    elif _PASSWORD.match(text):
        raise Misused(
            "--store: a password in a command line is everybody's to read: write the address into a file that only you may read, and give --store @FILE"
        )
    if "store" in given.values and text != "etcd" and not text.startswith("etcd://"):
        raise Misused(
            "--store takes `etcd`, which unios then runs itself, or where one is, as etcd://HOST:PORT,HOST:PORT/NAME, or @FILE with that in it"
        )
    return text


def join(session: Session, given: Given) -> int:
    if not given.arguments:
        return _invite(session, given)
    token = given.arguments[0].strip()
    if token == "-":
        token = sys.stdin.readline().strip()
    check_token(token)
    check_new_node(given)
    warnings: list[tuple[str, int]] = []
    ready = boot.join(
        session.home,
        token,
        name=given.text("name"),
        listen=given.text("listen"),
        advertise=given.text("advertise"),
        progress=_progress(session),
        warn=lambda text, port: warnings.append((text, port)),
    )
    return _tell_ready(session, ready, warnings)


def _invite(session: Session, given: Given) -> int:
    if "ttl" in given.values and not 1 <= given.number("ttl") <= TOKEN_TTL_S_MAX:
        raise Misused(f"--ttl takes seconds, from 1 to {TOKEN_TTL_S_MAX} (30 days)")
    token = nodes.make_token(session.connection, ttl_s=given.number("ttl"), root=given.flag("root"))
    if session.json:
        session.print_json({"token": token.token, "expires_ms": token.expires_ms, "addresses": token.addresses})
        return 0
    session.print(f"unios join {token.token}")
    session.note(f"type this on the other machine before {moment(token.expires_ms)[:16]}; it lets one machine in, once")
    return 0


def leave(session: Session, given: Given) -> int:
    if "dead" in given.values:
        return _remove(session, given)
    if "expel" in given.values:
        return _expel(session, given)
    name = session.node or _only_node(session)
    session.connection.node = name
    nodes.leave(session.connection, force=given.flag("force"))
    if session.json:
        session.print_json({"left": name})
    else:
        session.print(f"{name} has left")
    return 0


def _remove(session: Session, given: Given) -> int:
    """Take a lost node out: asked of any node, since that one cannot be asked."""
    dead = given.text("dead")
    if session.node == dead or given.flag("force"):
        raise Misused("--dead NAME takes out a node that cannot be asked any more: leave out --force, and --node, or name another node with it")
    if not _NODE_NAME.fullmatch(dead):
        raise Misused(f"{dead[:80]!r} is no name of a node")
    nodes.remove(session.connection, dead)
    if session.json:
        session.print_json({"left": dead})
    else:
        session.print(f"{dead} has been removed: its certificate is refused from now on")
    return 0


def _expel(session: Session, given: Given) -> int:
    """Cut off a node that is not to be trusted: asked of any other node. 75 if some have not confirmed it."""
    name = given.text("expel")
    if session.node == name or given.flag("force"):
        raise Misused("--expel NAME cuts off a node that is not asked: leave out --force, and --node, or name another node with it")
    if not _NODE_NAME.fullmatch(name):
        raise Misused(f"{name[:80]!r} is no name of a node")
    found = nodes.expel(session.connection, name)
    if session.json:
        session.print_json({"expelled": name, **{field: getattr(found, field) for field in found.__struct_fields__}})
    else:
        session.print(
            f"{name} has been expelled: {', '.join(found.confirmed)} {is_or_are(len(found.confirmed))} cut off from it and refuse its certificate"
        )
        for node, why in found.missing:
            session.note(f"{node} has not confirmed it: {why}")
        if found.tokens:
            session.note(f"{counted(found.tokens, 'unspent join token')} {is_or_are(found.tokens)} void")
        for note in found.notes:
            session.note(note)
    if not found.is_whole:
        session.note(f"type it again: until all have confirmed, {name} may still be served by those that have not")
    return 0 if found.is_whole else 75


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
        Option("cores", "--cores", metavar="N", number=True, text="How many cores each node offers from its next start on; 0: all of the machine's."),
        _LISTEN,
        _ADVERTISE,
        _NAME,
        Option(
            "store_address", "--store-address", metavar="ADDRESS:PORT", text="Where the store's machine is reached now, if all addresses changed."
        ),
        Option(
            "store",
            "--store",
            metavar="etcd[://HOST:PORT,.../NAME]",
            text="Keep the records of a new system in etcd, run by unios on up to three nodes, or in the one at that address; @FILE has the address.",
        ),
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
    "leave": Word(
        leave,
        _FORCE,
        Option("dead", "--dead", metavar="NAME", text="Remove a node that is lost and will not come back."),
        Option("expel", "--expel", metavar="NAME", text="Cut off at once, on all nodes, a node that is there and is not to be trusted."),
        text="Take a node out of the system for good; what it runs is started again elsewhere.",
    ),
    "down": Word(
        down,
        Option("every", "--all", text="Leave nothing behind, whatever still runs on them or does not answer."),
        text="Stop the nodes of this machine, or with --node one node. They stay members: `unios up` brings them back.",
    ),
}
