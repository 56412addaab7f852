"""Where settings come from, which of them counts, what is said about a wrong one, and changing a file with care."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from slipstream import cli, config, config_edit, places
from slipstream.core.errors import UsageError

PEER = "a" * 32


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of its own: no config but what the test writes."""
    for name in config.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)
    monkeypatch.setattr(places, "SYSTEM", tmp_path / "etc" / "config.toml")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def write(home: Path, layer: str, text: str) -> Path:
    path = dict(places.config_files())[layer]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_without_any_layer_the_defaults_count(home: Path) -> None:
    loaded = config.load({})
    assert loaded.config.listen.port == 7447
    assert loaded.config.listen.hosts == ("0.0.0.0", "::")
    assert loaded.config.packs == ()
    assert loaded.config.state == home / "state" / "slipstream"
    assert loaded.origin("listen.port") == "default"


def test_each_layer_hides_the_ones_below_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {layer: write(home, layer, f'name = "{layer}"\n') for layer in ("system", "user", "project")}
    assert config.load({"name": "flag"}).origins["name"] == "--name"
    monkeypatch.setenv("SLIPSTREAM_NAME", "variable")
    loaded = config.load({"name": None})
    assert (loaded.config.name, loaded.origin("name")) == ("variable", "SLIPSTREAM_NAME")
    monkeypatch.delenv("SLIPSTREAM_NAME")
    for layer in ("project", "user", "system"):
        loaded = config.load({})
        assert (loaded.config.name, loaded.origin("name")) == (layer, str(files[layer]))
        files[layer].unlink()


def test_layers_are_merged_setting_by_setting_also_inside_tables(home: Path) -> None:
    write(home, "user", f'[listen]\nport = 1\nmdns = false\n[peers]\n{PEER} = ["tls://10.0.0.1:1"]\n')
    write(home, "project", "[listen]\nport = 2\n[settings.phone]\nnow = 3.5\n")
    loaded = config.load({}).config
    assert (loaded.listen.port, loaded.listen.mdns) == (2, False)
    assert loaded.peers == {PEER: ("tls://10.0.0.1:1",)}
    assert loaded.settings == {"phone": {"now": 3.5}}


def test_lists_in_the_environment_are_separated_by_commas(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPSTREAM_PACKS", "phone, hub")
    monkeypatch.setenv("SLIPSTREAM_MDNS", "false")
    loaded = config.load({}).config
    assert loaded.packs == ("phone", "hub")
    assert loaded.listen.mdns is False


def test_paths_in_a_file_are_relative_to_the_file(home: Path) -> None:
    path = write(home, "user", 'state = "here"\npacks = ["tea.py", "phone"]\n')
    loaded = config.load({}).config
    assert loaded.state == path.parent / "here"
    assert loaded.packs == (str(path.parent / "tea.py"), "phone")


WRONG = [
    ("nmae = 1", "nmae", "there is no such setting", "did you mean name?"),
    ("[listen]\nprot = 1", "listen.prot", "there is no such setting", "did you mean listen.port?"),
    ("[listen]\nport = 70000", "listen.port", "less than or equal to 65535", "slip config show"),
    ('[listen]\nhosts = ["nowhere"]', "listen.hosts.0", "does not appear to be an IPv4 or IPv6 address", ""),
    ("name = 5", "name", "valid string", ""),
    ('kind = "A Phone"', "kind", "should match pattern", ""),
    ('[peers]\nx = ["tls://1.2.3.4:5"]', "peers.x", "device id", ""),
    (f'[peers]\n{PEER} = ["1.2.3.4:5"]', f"peers.{PEER}.0", "looks like tls://", ""),
    ('log = "loud"', "log", "'auto', 'json' or 'plain'", ""),
    ("packs = 3", "packs", "valid tuple", ""),
]


@pytest.mark.parametrize(("text", "field", "why", "hint"), WRONG)
@pytest.mark.parametrize("layer", ["user", "project"])
def test_an_error_names_the_file_and_the_field(
    home: Path, layer: str, text: str, field: str, why: str, hint: str
) -> None:
    path = write(home, layer, text)
    with pytest.raises(UsageError) as caught:
        config.load({"name": "hidden by this", "log": "plain"})
    assert caught.value.what.startswith(f"{path}: {field}: ")
    assert why in caught.value.what
    assert hint in caught.value.hint
    assert caught.value.exit_code == 2


def test_what_is_no_toml_is_said_with_line_and_column(home: Path) -> None:
    path = write(home, "user", 'name = "x"\nkind = \n')
    with pytest.raises(UsageError, match=r"line 2, column 8") as caught:
        config.load({})
    assert str(path) in caught.value.what


def test_a_wrong_variable_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLIPSTREAM_PORT", "many")
    with pytest.raises(UsageError, match=r"SLIPSTREAM_PORT: listen\.port: .*integer"):
        config.load({})


def test_the_state_folder_that_clients_look_in_is_the_one_the_daemon_uses(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert places.state_folder(None) == config.load({}).config.state
    write(home, "user", 'state = "/srv/slip"\n')
    assert places.state_folder(None) == config.load({}).config.state == Path("/srv/slip")
    monkeypatch.setenv("SLIPSTREAM_STATE", "/tmp/other")
    assert places.state_folder(None) == config.load({}).config.state == Path("/tmp/other")
    assert places.state_folder("/tmp/flag") == Path("/tmp/flag")


def test_sockets_of_different_state_folders_never_meet(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = Path("/a/state"), Path("/b/state")
    assert places.socket_of(one) == one / "rw.sock"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/7")
    assert places.socket_of(places.default_state()) == Path("/run/user/7/slipstream/rw.sock")
    assert places.socket_of(one) != places.socket_of(other)
    assert places.socket_of(one).is_relative_to("/run/user/7/slipstream")


keys = st.sampled_from(["name", "kind", "listen.port", "listen.mdns", f"peers.{PEER}", "settings.phone.now", "packs"])
values = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    st.integers(-(2**60), 2**60), st.booleans(), st.lists(st.sampled_from(["a", "b c", '"']), max_size=3),
)  # fmt: skip


@example([("name", "\x85"), ("name", 0)])
@example([("name", "\x7f"), ("name", "\u2028"), ("kind", "\r\n")])
@given(st.lists(st.tuples(keys, values), max_size=8))
def test_a_setting_that_was_written_reads_the_same_and_touches_no_other(changes: list[tuple[str, Any]]) -> None:
    text, expected = "# mine\n", {}
    for key, value in changes:
        text = config_edit.changed(text, key, value)
        expected[key] = value
        assert config.flatten(tomllib.loads(text)) == expected
    assert text.startswith("# mine\n") or not expected or "# mine" in text


def test_editing_keeps_comments_order_and_other_tables() -> None:
    before = '# me\nname = "a"  # short\n\n[listen]\n# fixed\nport = 1\n\n[peers]\n'
    after = config_edit.changed(before, "listen.mdns", False)
    assert after == '# me\nname = "a"  # short\n\n[listen]\n# fixed\nport = 1\nmdns = false\n\n[peers]\n'
    assert config_edit.changed(after, "listen.port", 2).count("port") == 1


def test_what_cannot_be_edited_safely_is_left_to_the_person() -> None:
    before = 'packs = [\n  "phone",\n]\nlisten = { port = 1 }\n'
    for key, value in (("packs", ["hub"]), ("listen.port", 2)):
        with pytest.raises(UsageError, match="in a form that slip cannot change"):
            config_edit.changed(before, key, value)


def test_set_get_show_and_check_from_the_command_line(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "set", "listen.port", "7001"]) == 0
    assert cli.main(["config", "set", "packs", "phone,hub", "--project"]) == 0
    assert cli.main(["config", "set", f"peers.{PEER}", "tls://10.0.0.1:1"]) == 0
    capsys.readouterr()
    assert cli.main(["config", "get", "listen.port"]) == 0
    assert capsys.readouterr().out == "7001\n"
    assert cli.main(["config", "show", "--show-origin", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["v"] == 1
    assert shown["config"]["packs"] == {"value": ["phone", "hub"], "origin": str(home / "work" / "slipstream.toml")}
    assert shown["config"][f"peers.{PEER}"]["value"] == ["tls://10.0.0.1:1"]
    assert shown["config"]["log"]["origin"] == "default"
    assert cli.main(["config", "check"]) == 0
    assert capsys.readouterr().out.count(" ok\n") == 2
    assert cli.main(["config", "set", "listen.port", "many"]) == 2
    assert "listen.port" in capsys.readouterr().err
    assert cli.main(["config", "get", "listen.prot"]) == 2
    assert "did you mean listen.port?" in capsys.readouterr().err


def test_check_finds_the_problem_of_every_file(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(home, "user", "[listen]\nport = -1\n")
    write(home, "project", "nmae = 1\n")
    assert cli.main(["config", "check", "--json"]) == 2
    problems = json.loads(capsys.readouterr().out)["problems"]
    assert [p["where"]["field"] for p in problems] == ["nmae", "listen.port"]
