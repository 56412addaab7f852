"""The roster of a daemon: read here, written by a child process that can check signatures.

So the daemon does without `cryptography` (12 MB), and no signature is checked on its loop. What the child wrote is
sealed with this device's own key, and the seal is checked on every read.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import anyio
import msgpack

from .core.errors import SlipError, from_wire
from .core.roster_file import RosterFile
from .core.trust import Roster

CLERK_SECONDS: Final = 30.0


class RosterKeeper:
    """Keeps the roster that lies in a state folder.

    Raises:
        UsageError: there is none, or somebody else wrote it.
    """

    def __init__(self, state: Path) -> None:
        self._state, self._file = state, RosterFile(state)
        self._roster = self._file.load()

    @property
    def roster(self) -> Roster:
        """As it was read last."""
        return self._roster

    def read_again(self) -> None:
        """Another process of this device wrote it."""
        self._roster = self._file.load()

    async def take(self, statements: list[bytes]) -> None:
        """Let the clerk check and keep statements.

        Raises:
            SlipError: it could not.
        """
        await self.ask({"take": statements})
        self.read_again()

    async def renew(self, device: str, csr: bytes) -> dict[str, Any]:
        """Let the new key of a device in; what it is told (authority.Admitted).

        Raises:
            SlipError: this device is no owner, or the request proves no key.
        """
        answer = await self.ask({"renew": csr, "device": device})
        self.read_again()
        return answer

    async def retire(self, device: str) -> None:
        """Throw the key of a device out that asked for it, and has a new one.

        Raises:
            SlipError: it has none, or this device is no owner.
        """
        await self.ask({"retire": device})
        self.read_again()

    async def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the clerk answers.

        Raises:
            SlipError: it refused, broke off or took too long.
        """
        command = [sys.executable, "-m", "slipstream.clerk", str(self._state)]
        try:
            with anyio.fail_after(CLERK_SECONDS):
                done = await anyio.run_process(
                    command, input=msgpack.packb(request), stderr=subprocess.PIPE, check=False
                )
        except (TimeoutError, OSError) as error:
            raise SlipError("the clerk could not check signatures", str(error) or "it took too long") from None
        if done.returncode:
            raise SlipError("the clerk broke off", done.stderr.decode("utf-8", "replace")[-500:])
        answer: dict[str, Any] = msgpack.unpackb(done.stdout)
        if error_wire := answer.get("error"):
            raise from_wire(error_wire)
        return answer
