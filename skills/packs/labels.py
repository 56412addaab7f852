"""Privacy labels as types: `number: DeviceOnly[str]` marks the field in the schema that others see.

`personal` stays in the mesh; `device` never leaves its device, others see an opaque handle; `secret` is never in a
trace or log either. What has no label is public. A label covers all below it; of two around one type the outer counts.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

from pydantic import Field

T = TypeVar("T")

Personal = Annotated[T, Field(json_schema_extra={"privacy": "personal"})]
DeviceOnly = Annotated[T, Field(json_schema_extra={"privacy": "device"})]
Secret = Annotated[T, Field(json_schema_extra={"privacy": "secret"})]
