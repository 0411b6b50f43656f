"""`unios upgrade`: the nodes of this machine run another version, one after the other, while what runs on them goes on."""

from unios.client import boot
from unios.shell.session import Session
from unios.shell.words import Given, Misused, Option, Word


def upgrade(session: Session, given: Given) -> int:
    if given.flag("back") and given.text("to"):
        raise Misused("--back leads to what was there before, --to to somewhere else: give one of them")
    warnings: list[str] = []

    def warn(text: str, _port: int) -> None:
        warnings.append(text)
        if not session.json:
            session.note(text)

    done = boot.upgrade(
        session.home,
        to=given.text("to"),
        back=given.flag("back"),
        node=session.node,
        check=given.flag("check"),
        progress=(lambda _text: None) if session.json else session.note,
        warn=warn,
    )
    if session.json:
        session.print_json({**done._asdict(), "checked": given.flag("check"), "warnings": warnings})
    elif given.flag("check"):
        session.print(f"{done.release} could take over on this machine; nothing was changed")
    elif done.replaced:
        session.print(f"{done.release} runs on {', '.join((*done.had, *done.replaced))}")
    else:
        session.print(f"{done.release} runs on {', '.join(done.had)} already")
    return 0


WORDS = {
    "upgrade": Word(
        upgrade,
        Option(
            "to", "--to", metavar="PATH", text="The new version: an interpreter, a virtual environment or a checkout [default: this command's own]."
        ),
        Option("back", "--back", text="Back to what the nodes ran before the last upgrade, or before one that stopped half way."),
        Option("check", "--check", text="Only say whether it could be done."),
        text="Have the nodes of this machine, or with --node one of them, run another version, one after the other; processes go on, with their pids and their "
        "output. A node that does not get ready is put back by itself, and the roll stops. On each machine of a system it is typed once.",
    )
}
