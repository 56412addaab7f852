"""A skill is an async function, so its test needs no mesh: only a Context with the backend."""

from pathlib import Path

import pytest
from slipstream_parking import Remembered, find, open_book, remember

from slipstream.core.errors import UsageError
from slipstream.core.skill import Context, spec_of

pytestmark = pytest.mark.anyio


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


async def test_what_was_remembered_is_found_after_a_restart(tmp_path: Path) -> None:
    async with open_book({"state": tmp_path}) as book:
        await remember(Context(book), "level 3, blue")
    async with open_book({"state": tmp_path}) as book:
        assert (await find(Context(book))).spot == "level 3, blue"


async def test_undo_brings_the_place_before_back_and_then_none() -> None:
    async with open_book({}) as book:
        ctx, undo = Context(book), spec_of(remember).undo_fn
        assert undo is not None
        first: Remembered = await remember(ctx, "at home")
        second: Remembered = await remember(ctx, "level 3")
        await undo(ctx, {"spot": "level 3"}, second)
        assert (await find(ctx)).spot == "at home"
        await undo(ctx, {"spot": "at home"}, first)
        with pytest.raises(UsageError, match="nobody said"):
            await find(ctx)


def test_an_empty_spot_is_refused_before_the_skill_runs() -> None:
    with pytest.raises(UsageError, match="spot"):
        spec_of(remember).check({"spot": ""})
