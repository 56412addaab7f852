"""What a home hub offers. The backend is a simulator, and says so."""

from __future__ import annotations

from ....core.skill import Pack
from ..common import summary_text, weather_at
from .garage import garage_close, garage_open, garage_state
from .home import heating_get, heating_set, home_calendar, lights_get, lights_set
from .sim import HubSim, open_hub

__all__ = ["HubSim", "pack"]

pack = Pack(
    name="hub",
    skills=(
        lights_get, lights_set, heating_get, heating_set, home_calendar, garage_state, garage_open, garage_close,
        weather_at, summary_text,
    ),
    open=open_hub,
    simulated=True,
)  # fmt: skip
