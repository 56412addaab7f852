"""The signals of the simulated car: names, types, units and bounds of COVESA's Vehicle Signal Specification 6.0.

https://github.com/COVESA/vehicle_signal_specification, tag v6.0. Only what the simulator has is here; a signal keeps
its meaning from there: a window at 0 % is closed, gear 126 is park and 127 is drive, fan speed 0 is climate off.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite
from typing import Final, Literal

from ....core.errors import UsageError
from ....core.skill import nearest

Value = bool | int | float | str | list[str]
Kind = Literal["sensor", "actuator", "attribute"]

_INTEGERS: Final = {"uint8": (0, 255), "int8": (-128, 127), "uint16": (0, 65_535), "uint32": (0, 4_294_967_295)}


@dataclass(frozen=True, slots=True)
class Signal:
    """One leaf of the tree; `None` is a unit or a bound that the specification leaves open."""

    name: str
    kind: Kind
    datatype: str
    unit: str | None = None
    least: float | None = None
    most: float | None = None
    allowed: tuple[str, ...] = ()

    def check(self, value: Value) -> Value:
        """The value as this signal holds it.

        Raises:
            UsageError: it has the wrong type, or is out of bounds.
        """
        if self.datatype == "boolean" and isinstance(value, bool):
            return value
        if self.datatype == "string" and isinstance(value, str) and (not self.allowed or value in self.allowed):
            return value
        if self.datatype == "string[]" and isinstance(value, list):
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            low, high = _INTEGERS.get(self.datatype, (float("-inf"), float("inf")))
            low, high = max(low, self._or(self.least, low)), min(high, self._or(self.most, high))
            real = self.datatype in ("float", "double")
            fits = isfinite(value) and low <= value <= high and (real or value == int(value))
            if fits and (real or self.datatype in _INTEGERS):
                return float(value) if real else int(value)
        bounds = f" within {self.least} to {self.most}" if self.least is not None else ""
        wanted = f"one of {', '.join(self.allowed)}" if self.allowed else f"{self.datatype}{bounds}"
        raise UsageError(f"{self.name} cannot be {value!r:.60}", f"it is {wanted}", field=self.name)

    @staticmethod
    def _or(bound: float | None, otherwise: float) -> float:
        return otherwise if bound is None else bound


ROWS, SIDES = (1, 2), ("DriverSide", "PassengerSide")
DOORS: Final = tuple(f"Vehicle.Cabin.Door.Row{row}.{side}" for row in ROWS for side in SIDES)
SEATS: Final = tuple(f"Vehicle.Cabin.Seat.Row1.{side}" for side in SIDES)
TIRES: Final = tuple(f"Vehicle.Chassis.Axle.Row{row}.Wheel.{side}.Tire" for row in ROWS for side in ("Left", "Right"))
BATTERY, CHARGING = "Vehicle.Powertrain.TractionBattery", "Vehicle.Powertrain.TractionBattery.Charging"
CABLE = f"{CHARGING}.ChargingPort.AnyPosition.IsChargingCableConnected"
SOC, IS_CHARGING = f"{BATTERY}.StateOfCharge.Current", f"{CHARGING}.IsCharging"
CHARGE_LIMIT, START_STOP = f"{CHARGING}.ChargeLimit", f"{CHARGING}.StartStopCharging"
SPEED, GEAR = "Vehicle.Speed", "Vehicle.Powertrain.Transmission.SelectedGear"
HVAC, STATION = "Vehicle.Cabin.HVAC", "Vehicle.Cabin.HVAC.Station.Row1.Driver"
TARGET, FAN, INSIDE = f"{STATION}.Temperature", f"{STATION}.FanSpeed", f"{HVAC}.AmbientAirTemperature"
OUTSIDE = "Vehicle.Exterior.AirTemperature"
LIGHTS, HORN = "Vehicle.Body.Lights", "Vehicle.Body.Horn.IsActive"
SWITCH, HAZARD, LOW_BEAM = f"{LIGHTS}.LightSwitch", f"{LIGHTS}.Hazard.IsSignaling", f"{LIGHTS}.Beam.Low.IsOn"
MEDIA, DESTINATION = "Vehicle.Cabin.Infotainment.Media", "Vehicle.Cabin.Infotainment.Navigation.DestinationSet"

PARK_LOCK, ACTION = "Vehicle.Powertrain.Transmission.IsParkLockEngaged", f"{MEDIA}.Action"
TRACK, LOCATION = f"{MEDIA}.Played.Track", "Vehicle.CurrentLocation"
LOCKS, WINDOWS = tuple(f"{door}.IsLocked" for door in DOORS), tuple(f"{door}.Window.Position" for door in DOORS)
SEAT_HEAT: Final = tuple(f"{seat}.HeatingCooling" for seat in SEATS)

PARK, DRIVE, NEUTRAL, REVERSE = 126, 127, 0, -1
"""Values of `SelectedGear`."""
MOVABLE: Final = frozenset(
    (CHARGE_LIMIT, START_STOP, TARGET, FAN, SWITCH, HAZARD, HORN, ACTION, *LOCKS, *WINDOWS, *SEAT_HEAT)
)
"""The actuators that a program may command; gears, handles and the navigation's own screen are the driver's."""

_ALL: tuple[Signal, ...] = (
    Signal(SPEED, "sensor", "float", "km/h"),
    Signal("Vehicle.IsMoving", "sensor", "boolean"),
    Signal("Vehicle.TraveledDistance", "sensor", "uint32", "m"),
    Signal(GEAR, "actuator", "int8"),
    Signal("Vehicle.Powertrain.Transmission.CurrentGear", "sensor", "int8"),
    Signal(PARK_LOCK, "actuator", "boolean"),
    Signal(f"{LOCATION}.Latitude", "sensor", "double", "degrees", -90, 90),
    Signal(f"{LOCATION}.Longitude", "sensor", "double", "degrees", -180, 180),
    Signal(f"{LOCATION}.Altitude", "sensor", "double", "m"),
    Signal(f"{LOCATION}.Heading", "sensor", "double", "degrees", 0, 360),
    Signal(OUTSIDE, "sensor", "float", "Celsius"),
    Signal(SOC, "sensor", "float", "percent", 0, 100),
    Signal(f"{BATTERY}.StateOfCharge.CurrentEnergy", "sensor", "float", "kWh"),
    Signal(f"{BATTERY}.NetCapacity", "sensor", "uint16", "kWh"),
    Signal(f"{BATTERY}.GrossCapacity", "attribute", "uint16", "kWh"),
    Signal(f"{BATTERY}.StateOfHealth", "sensor", "float", "percent", 0, 100),
    Signal(f"{BATTERY}.Temperature.Average", "sensor", "float", "Celsius"),
    Signal(f"{BATTERY}.CurrentPower", "sensor", "float", "W"),
    Signal(f"{BATTERY}.Range", "sensor", "uint32", "m"),
    Signal(f"{BATTERY}.AccumulatedChargedEnergy", "sensor", "float", "kWh"),
    Signal(f"{BATTERY}.AccumulatedConsumedEnergy", "sensor", "float", "kWh"),
    Signal(CABLE, "sensor", "boolean"),
    Signal(CHARGE_LIMIT, "actuator", "uint8", "percent", 0, 100),
    Signal(START_STOP, "actuator", "string", allowed=("START", "STOP")),
    Signal(IS_CHARGING, "sensor", "boolean"),
    Signal(f"{CHARGING}.TimeToComplete", "sensor", "uint32", "s"),
    Signal(INSIDE, "sensor", "float", "Celsius"),
    Signal(TARGET, "actuator", "float", "Celsius"),
    Signal(FAN, "actuator", "uint8", "percent", 0, 100),
    *(Signal(lock, "actuator", "boolean") for lock in LOCKS),
    *(Signal(f"{door}.IsOpen", "actuator", "boolean") for door in DOORS),
    *(Signal(window, "actuator", "uint8", "percent", 0, 100) for window in WINDOWS),
    *(Signal(heat, "actuator", "int8", "percent", -100, 100) for heat in SEAT_HEAT),
    *(Signal(f"{seat}.OccupancyStatus", "sensor", "string", allowed=("UNKNOWN", "OCCUPIED", "EMPTY"))
      for seat in SEATS),
    Signal(SWITCH, "actuator", "string", allowed=("OFF", "POSITION", "DAYTIME_RUNNING_LIGHTS", "AUTO", "BEAM")),
    Signal(LOW_BEAM, "actuator", "boolean"),
    Signal(HAZARD, "actuator", "boolean"),
    Signal(HORN, "actuator", "boolean"),
    Signal(f"{DESTINATION}.Latitude", "actuator", "double", "degrees", -90, 90),
    Signal(f"{DESTINATION}.Longitude", "actuator", "double", "degrees", -180, 180),
    Signal(ACTION, "actuator", "string", allowed=(
        "UNKNOWN", "STOP", "PLAY", "FAST_FORWARD", "FAST_BACKWARD", "SKIP_FORWARD", "SKIP_BACKWARD")),
    Signal(TRACK, "sensor", "string"),
    *(Signal(f"{tire}.Pressure", "sensor", "uint16", "kPa") for tire in TIRES),
    *(Signal(f"{tire}.IsPressureLow", "sensor", "boolean") for tire in TIRES),
    Signal("Vehicle.LowVoltageBattery.CurrentVoltage", "sensor", "float", "V"),
    Signal("Vehicle.LowVoltageSystemState", "sensor", "string", allowed=(
        "UNDEFINED", "LOCK", "OFF", "ACC", "ON", "START")),
    Signal("Vehicle.Diagnostics.DTCCount", "sensor", "uint8"),
    Signal("Vehicle.Diagnostics.DTCList", "sensor", "string[]"),
    Signal("Vehicle.Service.DistanceToService", "sensor", "float", "km"),
    Signal("Vehicle.VersionVSS.Major", "attribute", "uint32"),
    Signal("Vehicle.VersionVSS.Minor", "attribute", "uint32"),
)  # fmt: skip

SIGNALS: Final = {signal.name: signal for signal in _ALL}


def signal_of(name: str) -> Signal:
    """The signal of that name.

    Raises:
        UsageError: this car has none.
    """
    if (signal := SIGNALS.get(name)) is None:
        raise UsageError(f"this car has no signal {name[:100]!r}", hint=nearest(name, SIGNALS), field="signal")
    return signal


def branches(names: set[str]) -> set[str]:
    """These signals and every branch above them: what a skill may say that it needs, as `vss:` and the name."""
    found = set()
    for name in names:
        while name:
            found.add(f"vss:{name}")
            name = name.rpartition(".")[0]
    return found
