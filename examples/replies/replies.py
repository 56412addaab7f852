"""A skill that thinks: it sorts a message by a language model of whichever device of the mesh has one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from slipstream import Context, Cost, Effect, Pack, skill
from slipstream.core.errors import SkillFailed


class Sorted(BaseModel):
    """What a message asks for."""

    model_config = ConfigDict(extra="forbid")  # else a model may go on with fields of its own, and never end

    wants: Literal["an answer", "a call", "nothing"]
    urgent: bool


@skill("replies.sort", effect=Effect.READ, cost=Cost(latency_ms=8000))
async def sort(
    ctx: Context, message: Annotated[str, Field(max_length=2000, json_schema_extra={"privacy": "personal"})]
) -> Sorted:
    """Say what a message asks for, and whether it can wait."""
    answer = await ctx.call(
        "llm.generate",
        messages=[
            {"role": "system", "content": "Sort the message of a friend."},
            {"role": "user", "content": message},
        ],
        schema=Sorted.model_json_schema(),  # the answer is JSON that fits it, whatever the model would rather say
        max_tokens=100,
        stream=False,
    )
    (said,) = answer["result"]
    if said["finish"] != "stop":
        raise SkillFailed("the model did not come to an end", f"it ran out of: {said['finish']}", "allow it more")
    return Sorted.model_validate_json(said["text"])


pack = Pack("replies", (sort,))
