"""Strangers at a door, in a process of their own: `python tests/attacks/crowd.py PORT SILENT SLOW`.

SILENT of them say nothing, SLOW of them give the first bytes of a handshake one by one. Says `here` before the first
one connects, and at the end, when all were closed, how long each was let stay, in seconds, as a JSON list.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

FIRST_BYTES = b"\x16\x03\x01\x02\x00\x01\x00"
"""Of a ClientHello (RFC 8446, 5.1)."""


async def stand(port: int, drip: bytes) -> float:
    """Connect and stay until thrown out; how long that took."""
    began, writer = time.monotonic(), None
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        began = time.monotonic()
        ended = asyncio.ensure_future(reader.read())
        for i in range(len(drip)):
            writer.write(drip[i : i + 1])
            await asyncio.wait([ended], timeout=0.2)
        await ended
    except ConnectionError:  # reset, as it should be
        pass
    finally:
        if writer is not None:
            writer.transport.abort()
    return time.monotonic() - began


async def main(port: int, silent: int, slow: int) -> None:
    print("here", flush=True)
    stayed = await asyncio.gather(*(stand(port, FIRST_BYTES if i >= silent else b"") for i in range(silent + slow)))
    print(json.dumps(stayed), flush=True)


asyncio.run(main(*map(int, sys.argv[1:])))
