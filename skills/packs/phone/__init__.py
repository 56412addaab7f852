"""What a phone offers. The backend is a simulator, and says so."""

from __future__ import annotations

from ....core.skill import Pack
from ..common import summary_text, weather_at
from .agenda import calendar_add, calendar_next, notify_show
from .hardware import battery, camera_take, clipboard_get, clipboard_set, location_get, resources, torch_set
from .people import call_end, call_start, contacts_find, message_send
from .sim import PhoneSim, open_phone
from .sound import media_play, media_stop, speech_say

__all__ = ["PhoneSim", "pack"]

pack = Pack(
    name="phone",
    skills=(
        battery, location_get, torch_set, camera_take, clipboard_get, clipboard_set, contacts_find, message_send,
        call_start, call_end, calendar_next, calendar_add, notify_show, speech_say, media_play, media_stop, weather_at,
        summary_text,
    ),
    open=open_phone,
    resources=resources,
    simulated=True,
)  # fmt: skip
