"""How long a key takes to its echo through `ssh -tt` on a shared connection: `keys.py ssh`, in a room of the lab."""

import subprocess
import sys

import lab  # type: ignore[import-not-found]  # of ../shared/peers, by PYTHONPATH

AREA = "terminal"
COUNT = 500
RAW_ECHO = "stty raw -echo; printf ready; exec cat"


def ssh() -> None:
    """A private sshd on the room's loopback; the shared connection is made before the first key."""
    folder = lab.room()
    _daemon, options = lab.private_sshd(folder)
    shared = ["-o", f"ControlPath={folder}/mux", "-o", "ControlMaster=auto", "-o", "ControlPersist=120"]
    subprocess.run(["ssh", *options, *shared, "root@127.0.0.1", "true"], check=True)
    words = ["ssh", "-tt", *options, *shared, "root@127.0.0.1", RAW_ECHO]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as command:
        keys, shown = command.stdin, command.stdout
        assert keys is not None and shown is not None
        said = b""
        while b"ready" not in said:
            said += shown.read(4096)

        def key() -> None:
            keys.write(b"k")
            while b"k" not in shown.read(4096):
                pass

        lab.emit_latency(AREA, "ssh-multiplexed", "key_echo", lab.timed(key, COUNT), "-tt, raw cat, loopback")
        command.kill()


def main() -> None:
    if "--inside" in sys.argv:
        ssh()
    else:
        lab.run_peers(__file__, ["ssh"], AREA, limit=120)


if __name__ == "__main__":
    main()
