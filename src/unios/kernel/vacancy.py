"""Vacancy: the life of an init before its job: makes it and its launcher, says that it is ready, and waits for the one job that it will have.

Where a job cannot be begun it says why and ends: whoever is asked again gets another init.
"""

import contextlib
import os
import socket
import sys
from typing import Any, NoReturn

from unios.kernel import init, launcher, program, trees_protocol
from unios.kernel.freezer import Freezer


def receive(control: socket.socket) -> dict[str, Any] | None:
    """Wait for the guard's one frame; None if the guard is gone."""
    decoder = trees_protocol.Decoder()
    while data := control.recv(64 * 1024):
        for frame in decoder.feed(data):
            return frame.fields
    return None


def serve(control: socket.socket, node_folder: str, group: str, freezer: Freezer, *, namespaces: bool) -> NoReturn:
    """Be an init, spare first: say ready, wait for a job, serve it to its end. Never returns."""
    try:
        try:
            freezer.prepare()
            one = init.Init(node_folder, group, freezer, launcher.prepare(freezer, namespaces=namespaces), namespaces=namespaces)
        except OSError as error:
            text = f"the folder of a process cannot be made: {error.strerror or error}"
            control.sendall(trees_protocol.encode({"ready": False, "text": text}))
            os._exit(1)
        one.rehearse()
        control.sendall(trees_protocol.encode({"ready": True}))
        fields = receive(control)
        if fields is None:
            one.leave()
            os._exit(0)
        try:
            one.take(program.parse(fields), control)
        except program.Refused as refused:
            freezer.remove()
            init.refuse(control, *refused.args)
            os._exit(0)
        except OSError as error:
            freezer.remove()
            init.refuse(control, "unavailable", f"the tree could not be made: {error}")
            os._exit(0)
        one.run()
    except BaseException as error:  # noqa: BLE001 the end of a process: leave the cause in the guard's log, and no tree without a leash
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
        with contextlib.suppress(BaseException):
            init.refuse(control, "internal", f"{type(error).__name__}: {error}")
        os._exit(70)
