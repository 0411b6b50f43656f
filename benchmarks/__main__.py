"""python -m benchmarks NAME [--peers] [--json]: measure, print every figure as a row, write the section of RESULTS.md. `--help` lists the names."""

import argparse
import importlib
import json
import signal
import sys
from pathlib import Path

from benchmarks import machine, results
from benchmarks.peers import Peers
from benchmarks.row import Report, text_table


def main() -> int:
    """Return 0 if everything was measured; 1 if a figure of a strict benchmark is over its limit; 130 if it was interrupted."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("benchmark", choices=results.ORDER)
    parser.add_argument("--peers", action="store_true", help="run the peers side by side (root; see the README of shared/peers for PEERS_VENV)")
    parser.add_argument("--json", action="store_true", help="print one JSON object a row")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that a stopped run cleans up too
    where = f"{machine.describe()}; before the run {100 * machine.busy():.0f} % of the processors were busy with other things"
    try:
        report = importlib.import_module(f"benchmarks.{options.benchmark}").run(Peers(options.peers))
    except KeyboardInterrupt:
        print("interrupted; RESULTS.md is as it was", file=sys.stderr)
        return 130
    where += f", after it {100 * machine.busy():.0f} %."
    return tell(report, where, as_json=options.json)


def tell(report: Report, where: str, *, as_json: bool, file: Path = results.FILE) -> int:
    """Print the report, write its section, and return the exit code: 1 if a limit of a strict one is missed."""
    if as_json:
        for row in report.rows:
            print(json.dumps(row.fields()))
    else:
        print(f"{where}\n\n{text_table(report.rows)}\n")
        print("\n".join(report.notes))
    results.write(report, where, file)
    if report.strict and report.missed:
        print("over the limit: " + "; ".join(f"{row.what} ({row.ratio:.3g} of it)" for row in report.missed), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
