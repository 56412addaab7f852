"""What a car offers. The backend is a simulator, and says so: its physics, its signals and its map are in here."""

from __future__ import annotations

from ....core.skill import Pack
from ..common import summary_text, weather_at
from .body import doors_lock, doors_unlock, horn_honk, lights_set, windows_set
from .cabin import cabin_camera, climate_get, climate_set, preheat, seat_heat
from .energy import car_range, car_soc, charge_limit, charge_start, charge_stop, resources
from .nav import nav_chargers, nav_route, nav_set
from .sim import CarSim, capabilities, open_car
from .sound import car_pause, car_play, car_speak
from .status import car_diagnostics, car_location, car_state, driving

__all__ = ["CarSim", "pack"]

pack = Pack(
    name="car",
    skills=(
        car_state, car_location, car_diagnostics, car_soc, car_range, charge_limit, charge_start, charge_stop,
        nav_route, nav_chargers, nav_set, climate_get, climate_set, preheat, seat_heat, cabin_camera, windows_set,
        doors_lock, doors_unlock, lights_set, horn_honk, car_play, car_pause, car_speak, weather_at, summary_text,
    ),
    open=open_car,
    capabilities=capabilities,
    resources=resources,
    simulated=True,
    driving=driving,
)  # fmt: skip
