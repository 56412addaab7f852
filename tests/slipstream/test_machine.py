"""What a machine tells of its power and its network, from folders as Linux shows them."""

from pathlib import Path
from typing import Any

import pytest

from slipstream.core.energy import WH, Drain
from slipstream.machine import machine

LAPTOP = {
    "power_supply/BAT0/type": "Battery\n", "power_supply/BAT0/present": "1", "power_supply/BAT0/status": "Discharging",
    "power_supply/BAT0/energy_now": "20000000", "power_supply/BAT0/energy_full": "50000000",
    "power_supply/AC/type": "Mains", "power_supply/AC/online": "0",
}  # fmt: skip
PHONE = {
    "power_supply/battery/type": "Battery", "power_supply/battery/status": "Discharging",
    "power_supply/battery/charge_now": "2000000", "power_supply/battery/charge_full": "4000000",
    "power_supply/battery/voltage_now": "3700000", "power_supply/battery/voltage_min_design": "3850000",
}  # fmt: skip
COARSE = {
    "power_supply/b/type": "Battery", "power_supply/b/status": "Discharging", "power_supply/b/capacity": "42",
}  # fmt: skip
MOUSE = {
    "power_supply/hid/type": "Battery", "power_supply/hid/scope": "Device", "power_supply/hid/status": "Discharging",
    "power_supply/hid/capacity": "5",
}  # fmt: skip
RAPL = {
    "powercap/intel-rapl:0/name": "package-0", "powercap/intel-rapl:0/energy_uj": "3000000",
    "powercap/intel-rapl:0:0/name": "core", "powercap/intel-rapl:0:0/energy_uj": "1000000",
    "powercap/intel-rapl:1/name": "package-1", "powercap/intel-rapl:1/energy_uj": "2000000",
    "powercap/intel-rapl:2/name": "psys", "powercap/intel-rapl:2/energy_uj": "9000000",
}  # fmt: skip
ROUTES = """Iface\tDestination\tGateway\tFlags\tRefCnt\tUse\tMetric\tMask\tMTU\tWindow\tIRTT
eth0\t00000000\t0100A8C0\t0003\t0\t0\t600\t00000000\t0\t0\t0
wlan0\t00000000\t0100A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0000A8C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


def told(folder: Path, files: dict[str, str]) -> dict[str, Any]:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return dict(machine(folder, folder / "proc")())


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, {}),
        (LAPTOP, {"battery": 0.4, "charging": False, "capacity": 50 * WH, "drain": Drain("battery", 30 * WH)}),
        (LAPTOP | {"power_supply/BAT0/status": "Charging"}, {"battery": 0.4, "charging": True, "capacity": 50 * WH}),
        (LAPTOP | {"power_supply/BAT0/status": "Full"}, {"battery": 0.4, "charging": True, "capacity": 50 * WH}),
        (LAPTOP | {"power_supply/BAT0/present": "0"}, {}),
        (PHONE, {"battery": 0.5, "charging": False, "capacity": 15.4 * WH, "drain": Drain("battery", 7.7 * WH)}),
        (COARSE, {"battery": 0.42, "charging": False}),
        (COARSE | {"power_supply/b/capacity": "what"}, {}),
        (MOUSE, {}),
        (RAPL, {"drain": Drain("processors", 5.0)}),
        (RAPL | COARSE, {"battery": 0.42, "charging": False, "drain": Drain("processors", 5.0)}),
        (RAPL | {"powercap/intel-rapl:1/energy_uj": ""}, {}),
    ],
)
def test_only_what_can_be_read_is_told(tmp_path: Path, files: dict[str, str], expected: dict[str, Any]) -> None:
    found = told(tmp_path, files)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name == "drain":
            assert found[name].source == value.source
            assert found[name].joules == pytest.approx(value.joules)
        else:
            assert found[name] == pytest.approx(value)


def test_two_batteries_are_one(tmp_path: Path) -> None:
    second = {name.replace("BAT0", "BAT1"): text for name, text in LAPTOP.items()}
    second["power_supply/BAT1/energy_now"] = "50000000"
    second["power_supply/BAT1/status"] = "Unknown"
    found = told(tmp_path, LAPTOP | second)
    assert (found["battery"], found["capacity"], found["charging"]) == (pytest.approx(0.7), 100 * WH, False)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"net/wlan0/uevent": "DEVTYPE=wlan\nINTERFACE=wlan0\n", "net/wlan0/type": "1"}, "wifi"),
        ({"net/wlan0/uevent": "DEVTYPE=wwan\n", "net/wlan0/type": "1"}, "cellular"),
        ({"net/wlan0/uevent": "INTERFACE=wlan0\n", "net/wlan0/type": "519"}, "cellular"),
        ({"net/wlan0/uevent": "DEVTYPE=bluetooth\n", "net/wlan0/type": "1"}, "bluetooth"),
        ({"net/wlan0/uevent": "INTERFACE=wlan0\n", "net/wlan0/type": "1"}, "ethernet"),
        ({"net/wlan0/type": "65534"}, None),
        ({}, None),
    ],
)
def test_the_interface_of_the_best_default_route_is_named_by_its_kind(
    tmp_path: Path, files: dict[str, str], expected: str | None
) -> None:
    assert told(tmp_path, files | {"proc/net/route": ROUTES}).get("radio") == expected


def test_without_a_default_route_no_interface_is_named(tmp_path: Path) -> None:
    assert "radio" not in told(tmp_path, {"proc/net/route": ROUTES.splitlines()[0]})
