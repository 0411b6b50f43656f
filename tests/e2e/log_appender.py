"""A program that writes a log until it is killed: one line of output for each entry that was acknowledged. `python -m tests.e2e.log_appender HOME NODE LOG WHO`."""

import asyncio
import sys
from pathlib import Path

from unios.client.aio import Kernel
from unios.client.log import LogWriter
from unios.errors import UniosError
from unios.wire.home import Home

LANES = 8


async def main(home: str, node: str, name: str, who: str) -> None:
    kernel = Kernel(Home(Path(home)).node(node), role="appender")
    running = asyncio.create_task(kernel.run())
    writer = await LogWriter.open(kernel, name)
    print("open", writer.end, *writer.replicas, flush=True)
    count = 0

    async def lane() -> None:
        nonlocal count
        while True:
            count += 1
            entry = f"{who}.{count}"
            offset = await writer.append(entry.encode())
            print(offset, entry, flush=True)

    try:
        await asyncio.gather(*(lane() for _ in range(LANES)))
    except UniosError as error:
        print("ended", type(error).__name__, error, flush=True)
    running.cancel()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
