"""`slip`, as a person and a script meet it: real daemons, exit codes, shapes of --json, signals, and what is said."""

from __future__ import annotations

import json
import os
import pty
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from slipstream import cli, control, places
from slipstream.cli import VERBS, output, parsing, planfile
from slipstream.core.errors import NoDevice, UsageError, from_wire

Slip = Callable[..., subprocess.CompletedProcess[str]]
HEAVY = {"asyncio", "anyio", "pydantic", "textual", "msgpack", "sqlite3", "ssl", "cryptography", "zeroconf"}

ECHO = {
    "goal": "say it twice",
    "inputs": {"word": "ha"},
    "steps": [
        {"id": "one", "skill": "test.echo", "args": {"text": {"$ref": "inputs.word"}}},
        {"id": "two", "skill": "test.echo", "args": {"text": {"$ref": "one.text"}, "times": 2}},
    ],
    "output": {"said": {"$ref": "two.text"}},
}


@pytest.fixture
def at(alone: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The shared daemon, found through SLIPSTREAM_STATE by `cli.main` in this process."""
    monkeypatch.setenv("SLIPSTREAM_STATE", str(alone.state))
    return alone


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """Run a verb in this process with --json: its exit code and the objects that it printed."""

    def run(*args: str) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        code = cli.main([*args, "--json"])
        captured = capsys.readouterr()
        assert captured.err == ""
        lines = [json.loads(line) for line in captured.out.splitlines()]
        assert all(line["v"] == 1 for line in lines)
        return code, lines

    return run


def one_step(skill: str, **more: Any) -> dict[str, Any]:
    return {"goal": "one step", "steps": [{"id": "a", "skill": skill, **more}]}


def write(path: Path, plan: Any) -> str:
    path.write_text(plan if isinstance(plan, str) else json.dumps(plan))
    return str(path)


# -- light -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line", ["--help", "--version", "status", "status --json", "devices", "skills list", "runs list", "down --help"]
)
def test_verbs_that_only_talk_to_the_daemon_import_nothing_heavy(
    alone: Any, clean_env: dict[str, str], line: str
) -> None:
    code = (
        "import sys\nfrom slipstream import cli\n"
        "try:\n    code = cli.main(sys.argv[1:])\n"
        "except SystemExit as end:\n    code = end.code\n"
        "print('\\nMODULES', *sorted(sys.modules))\nsys.exit(code)"
    )
    env = {**clean_env, "SLIPSTREAM_STATE": str(alone.state)}
    done = subprocess.run([sys.executable, "-c", code, *line.split()], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    modules = set(done.stdout.rpartition("MODULES ")[2].split())
    assert not HEAVY & modules
    if line == "--help":
        assert "argparse" not in modules


def test_the_public_names_are_lazy_and_all_there(clean_env: dict[str, str]) -> None:
    code = (
        "import sys, slipstream\n"
        "assert not {'pydantic', 'anyio'} & set(sys.modules)\n"
        "for name in slipstream.__all__: assert getattr(slipstream, name).__name__ == name, name\n"
        "from slipstream import Context, Effect, skill, Node\n"
        "try: slipstream.nothing\nexcept AttributeError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], env=clean_env, capture_output=True, text=True)
    assert done.stdout == "module 'slipstream' has no attribute 'nothing'\n", done.stderr


def test_the_daemon_is_ready_before_anything_heavy_is_imported(alone: Any, clean_env: dict[str, str]) -> None:
    code = (
        "import os, sys, slipstream.daemon as daemon\n"
        "def ready(*said):\n    print(*sorted(sys.modules), flush=True)\n    os._exit(0)\n"
        "daemon.notify = ready\n"
        "daemon.up({'state': sys.argv[1], 'listen.hosts': ['127.0.0.1'], 'listen.port': 0, 'packs': ['phone']},"
        " mesh=daemon.Path(sys.argv[2]))"
    )
    state = alone.state.parent / "light"
    command = [sys.executable, "-c", code, str(state), str(alone.state)]
    subprocess.run(command, env=clean_env, capture_output=True, text=True)  # makes the key, which is heavy
    done = subprocess.run(command, env=clean_env, capture_output=True, text=True)
    modules = set(done.stdout.split())
    assert "slipstream.core.node" in modules, done.stderr
    roots = {module.partition(".")[0] for module in modules}
    assert not {"textual", "cryptography", "zeroconf", "mcp", "grpc", "opentelemetry", "numpy", "ifaddr"} & roots


# -- words -------------------------------------------------------------------------------------------------------------


def test_help_names_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {verb} " in out for verb in VERBS)


SLIPS = [
    (["statsu"], "unknown verb statsu", "did you mean status?"),
    (["--jsno", "status"], "unknown option --jsno", "did you mean --json?"),
    (["status", "--jsno"], "unrecognized arguments: --jsno", "did you mean --json?"),
    (["devices", "lisst"], "invalid choice: 'lisst'", "did you mean list?"),
    (["devices", "ping"], "which device?", "try: slip devices ping DEVICE"),
    (["runs", "show"], "which run?", "slip runs show ID"),
    (["call"], "the following arguments are required: skill", "slip call --help"),
    (["call", "test.echo", "text"], "'text' is no name=value", "like celsius=21.5"),
    (["call", "test.echo", "text=a", "text=b"], "text is there twice", ""),
    (["call", "test.echo", "--args", "{"], "--args is no JSON", ""),
    (["call", "test.echo", "--deadline", "soon"], "'soon' is no time like 500ms, 10s or 2m", ""),
    (["run", "/no/such/plan.json"], "cannot read the plan", "No such file"),
]


@pytest.mark.parametrize(("args", "what", "hint"), SLIPS, ids=lambda value: " ".join(value) if value is list else None)
def test_a_slip_of_the_pen_is_a_usage_error_that_says_what_was_meant(
    args: list[str], what: str, hint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(args) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert what in captured.err
    assert hint in captured.err


def test_an_error_says_what_why_and_what_next(capsys: pytest.CaptureFixture[str]) -> None:
    error = NoDevice(
        "no device can run nav.route", "ioniq-5 is asleep; hub has no nav.route", "slip devices ping ioniq-5"
    )
    output.show_error(error)
    assert capsys.readouterr().err == (
        "error: no device can run nav.route\n  ioniq-5 is asleep\n  hub has no nav.route\n"
        "  try: slip devices ping ioniq-5\n"
    )
    output.show_error(error, as_json=True)
    captured = capsys.readouterr()
    assert captured.err == ""
    assert from_wire(json.loads(captured.out)["error"]).to_wire() == error.to_wire()


def test_text_from_elsewhere_cannot_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    evil = "\x1b[2J\u202e\x9b31m\rname"
    output.table(("device",), [(evil,)])
    output.line(evil)
    output.value({"text": evil})
    output.value(f"{evil}\n{evil}")
    output.show_json({"name": evil})
    output.show_error(UsageError(evil, evil, evil))
    captured = capsys.readouterr()
    assert not set("\x1b\u202e\x9b\r") & set(captured.out + captured.err)


@pytest.mark.parametrize(
    ("text", "seconds"), [("500ms", 0.5), ("10s", 10), ("2m", 120), ("1.5", 1.5), (".5s", 0.5), ("1h", 3600)]
)
def test_times_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert parsing.seconds(text) == seconds


# -- no daemon, no devices ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["status", "devices", "skills", "runs", "events", "down", "call test.echo"])
def test_no_daemon_is_exit_code_3_and_names_the_remedy(
    tmp_path: Path, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*line.split(), "--state", str(tmp_path)]) == 3
    assert capsys.readouterr().err == (
        f"error: no daemon is running\n  nobody listens at {places.socket_of(tmp_path)}\n  try: slip up\n"
    )


def test_a_monitor_without_a_terminal_says_so_and_draws_nothing(slip: Slip, tmp_path: Path) -> None:
    ended = slip("monitor", "--state", str(tmp_path), stdin=subprocess.DEVNULL)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "needs a terminal" in ended.stderr
    assert "\x1b" not in ended.stderr


def test_a_monitor_that_is_told_to_end_leaves_the_terminal_as_it_was(clean_env: dict[str, str], tmp_path: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "slipstream", "monitor", "--state", str(tmp_path)]
    env = {**clean_env, "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "24"}
    with subprocess.Popen(command, stdin=its, stdout=its, stderr=its, env=env) as process:
        os.close(its)
        drawn = b""
        while b"no daemon" not in drawn:
            drawn += os.read(ours, 65536)
        process.send_signal(signal.SIGTERM)
        with suppress(OSError):  # how a terminal ends
            while more := os.read(ours, 65536):
                drawn += more
        assert process.wait() == 128 + signal.SIGTERM
    os.close(ours)
    assert drawn.rindex(b"\x1b[?1049l") > drawn.rindex(b"\x1b[?1049h")


def test_no_other_devices_is_a_different_answer_and_exit_code_0(at: Any, clean_env: dict[str, str]) -> None:
    code, shown = on_terminal(["devices"], {**clean_env, "SLIPSTREAM_STATE": str(at.state)})
    assert code == 0
    assert "alone" in shown
    assert "no other device is known here; start one: slip up" in shown
    assert "no daemon" not in shown


def on_terminal(args: list[str], env: dict[str, str]) -> tuple[int, str]:
    """Run `slip` with stdout and stderr on a terminal; its exit code and what the screen got."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "slipstream", *args]
    process = subprocess.Popen(command, env={**env, "TERM": "xterm"}, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # EIO: the other end is closed
            break
        if not piece:
            break
        shown += piece
    os.close(ours)
    return process.wait(), shown.decode()


def test_colour_is_for_terminals_and_only_where_it_is_wanted(at: Any, clean_env: dict[str, str]) -> None:
    env = {**clean_env, "SLIPSTREAM_STATE": str(at.state)}
    assert "\x1b[" in on_terminal(["devices"], env)[1]
    assert "\x1b[" not in on_terminal(["devices"], {**env, "NO_COLOR": "1"})[1]


# -- one device --------------------------------------------------------------------------------------------------------


def test_status_and_devices_have_their_shapes(at: Any, said: Any) -> None:
    code, (status,) = said("status")
    assert code == 0
    assert status["pid"] == at.process.pid
    assert status["device"]["name"] == "alone"
    assert status["device"]["kind"] == "hub"
    assert status["device"]["state"] == "self"
    assert status["device"]["addresses"][0].startswith("tls://127.0.0.1:")
    assert status["peers"] == []
    code, (devices,) = said("devices", "list")
    assert [d["id"] for d in devices["devices"]] == [status["device"]["id"]]
    code, (shown,) = said("devices", "show", "alone")
    assert {o["skill"] for o in shown["device"]["offers"]} >= {"test.echo", "test.fail"}
    assert said("devices", "ping", "alone")[1][0]["rtt_ms"] >= 0
    assert said("devices", "show", "nobody")[0] == 2
    assert said("devices", "forget", "alone")[0] == 2


def test_the_same_in_words(at: Any, capsys: pytest.CaptureFixture[str]) -> None:
    for line, words in {
        "status": ["alone (hub)", "8 skills", str(at.state)],
        "devices show alone": ["test.echo", "tls://127.0.0.1"],
        "devices ping alone": ["alone answered in"],
        "skills list": ["test.echo", "read", "Say it again."],
        "skills show test.echo": ["text", "string", "no: 1", "gives: text (string), times (integer)"],
        "skills search say again": ["test.echo"],
    }.items():
        assert cli.main(line.split()) == 0
        captured = capsys.readouterr()
        assert all(word in captured.out for word in words), captured.out
        assert captured.err == ""


def test_skills_are_found_by_words(at: Any, said: Any) -> None:
    assert [s["name"] for s in said("skills", "search", "blocks?", "loop")[1][0]["skills"]] == []
    assert [s["name"] for s in said("skills", "search", "block", "loop")[1][0]["skills"]] == ["test.block"]
    assert said("skills", "show", "test.echo")[1][0]["skill"]["inputSchema"]["required"] == ["text"]
    code, (wrong,) = said("skills", "show", "test.ehco")
    assert (code, wrong["error"]["hint"]) == (2, "did you mean test.echo?")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (["text=7"], "7"),
        (["text=007", "times=2"], "007007"),
        (["text=a=b", "loud=yes"], "A=B"),
        (["text=x", "loud=true", "times=3"], "XXX"),
        (["--args", '{"text": "json", "times": 2}'], "jsonjson"),
        (["text=both", "--args", '{"loud": true}'], "BOTH"),
        (["text=here", "--on", "alone"], "here"),
        (["text=kind", "--on", "hub"], "kind"),
    ],
)
def test_arguments_are_read_as_the_schema_wants(at: Any, said: Any, args: list[str], text: str) -> None:
    code, lines = said("call", "test.echo", *args)
    assert code == 0
    assert lines[-1]["value"]["text"] == text
    assert lines[-1]["device"] == "alone"
    assert lines[-1]["outcome"] == "done"
    assert lines[-1]["end"] is True


@pytest.mark.parametrize(
    ("args", "code", "what"),
    [
        (["test.echo", "text=a", "times=many"], 2, "test.echo: times should be integer"),
        (["test.echo", "txet=a"], 2, "test.echo: txet is unknown"),
        (["test.echo"], 2, "test.echo: text: Field required"),
        (["test.nothing"], 4, "no device can run test.nothing"),
        (["test.echo", "text=a", "--on", "car"], 4, "test.echo must run on car; none is here"),
        (["test.refuse"], 5, "nobody may do that"),
        (["test.wait", "--deadline", "50ms"], 6, "test.wait was not done in time"),
        (["test.fail"], 1, "test.fail raised ValueError"),
        (["test.block"], 1, "test.block blocked the event loop"),
    ],
)
def test_what_went_wrong_is_the_exit_code(at: Any, said: Any, args: list[str], code: int, what: str) -> None:
    found, lines = said("call", *args)
    assert lines[-1]["error"]["what"] == what
    assert found == code


def test_streams_come_as_they_are_made_and_bytes_survive(at: Any, said: Any) -> None:
    _, lines = said("call", "test.count", "to=3")
    assert [line["item"] for line in lines[:-1]] == [0, 1, 2]
    assert lines[-1]["end"] is True
    assert said("call", "test.picture")[1][-1]["value"] == {"result": {"$bytes": "AP8="}}


def test_interrupting_a_call_cancels_the_skill(at: Any, said: Any, clean_env: dict[str, str]) -> None:
    with interruptible(["call", "test.wait", "--json"], at, clean_env) as caller:
        assert json.loads(caller.stdout.readline()) == {"v": 1, "progress": 0.25, "note": "waiting"}
        caller.send_signal(signal.SIGINT)
        assert caller.wait() == 130
    assert said("call", "test.ended")[1][-1]["value"] == {"result": True}


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_plan_is_shown_before_it_runs_and_starts_nothing(at: Any, said: Any, tmp_path: Path) -> None:
    before = said("runs", "list")
    code, (shown,) = said("plan", write(tmp_path / "p.json", ECHO))
    assert code == 0
    assert [(s["step"], s["device"], s["needs"]) for s in shown["plan"]["steps"]] == [
        ("one", "alone", []),
        ("two", "alone", ["one"]),
    ]
    assert all(s["why"] for s in shown["plan"]["steps"])
    (one,) = shown["plan"]["steps"][0]["candidates"]
    assert (one["device"], one["chosen"], one["why_not"]) == ("alone", True, "")
    assert 0 <= one["ready"] <= one["end"]
    assert (one["joules"], shown["plan"]["joules"]) == (None, None)  # its author says nothing
    assert said("runs", "list") == before


def test_a_run_tells_what_happens_and_ends_with_its_timeline(at: Any, said: Any, tmp_path: Path) -> None:
    code, lines = said("run", write(tmp_path / "p.json", ECHO), "--input", "word=ho")
    assert code == 0
    kinds = [line["event"]["kind"] for line in lines if "event" in line]
    assert kinds.count("step.done") == 2
    assert kinds[-1] == "run.done"
    run = lines[-1]["run"]
    assert run["state"] == "done"
    assert run["output"] == {"said": "hoho"}
    for step in run["steps"]:
        assert step["device"] == "alone"
        assert step["seconds"] >= 0
        assert step["why"]
    assert said("runs", "show", run["run"][:6]) == (0, [{"v": 1, "run": {**run}}])


def test_the_timeline_says_where_and_why(at: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", write(tmp_path / "p.json", ECHO)]) == 0
    out = capsys.readouterr().out
    assert "one   done" in out
    assert "alone" in out
    assert "the only device that has test.echo" in out
    assert '"said": "haha"' in out


@pytest.mark.parametrize(
    ("plan", "code"),
    [
        (one_step("test.fail"), 1),
        (one_step("test.refuse"), 5),
        ({**one_step("test.wait"), "deadline_ms": 50}, 6),
        (one_step("test.wait", deadline_ms=50), 6),
    ],
)
def test_how_a_run_failed_is_the_exit_code(at: Any, said: Any, tmp_path: Path, plan: Any, code: int) -> None:
    found, lines = said("run", write(tmp_path / "p.json", plan))
    assert found == code
    assert lines[-1]["run"]["state"] == "failed"
    assert lines[-1]["run"]["error"]["what"]
    assert said("runs", "show", lines[-1]["run"]["run"])[0] == code


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"goal": "x",\n "steps": [}', "Expecting value at line 2, column 12"),
        ("[]", ""),
        (json.dumps({"goal": "x", "steps": []}), "there are none"),
        (json.dumps(one_step("test.ehco")), "no device has test.ehco"),
        (json.dumps(one_step("test.echo")), "is missing"),
        (json.dumps(one_step("test.echo", args={"text": 1})), "should be string, not integer"),
    ],
)
def test_a_plan_that_will_not_do_starts_nothing(at: Any, said: Any, tmp_path: Path, text: str, why: str) -> None:
    before = said("runs")[1]
    for verb in ("plan", "run"):
        code, (line,) = said(verb, write(tmp_path / "p.json", text))
        assert code == 2
        assert why in line["error"]["why"]
    assert said("runs")[1] == before


def test_a_plan_that_is_too_large_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(200 * 2**30)  # a hole: reading it would be noticed
    parser = parsing.Parser("slip run", "")
    planfile.add(parser)
    with pytest.raises(UsageError, match="too large"):
        planfile.request(parser.parse_args([str(path)]))


def test_a_plan_comes_from_stdin_too(at: Any, slip: Slip) -> None:
    done = slip("run", "-", "--json", state=at.state, input=json.dumps(ECHO))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1])["run"]["output"] == {"said": "haha"}


def test_interrupting_a_run_cancels_it_and_shows_how_it_ended(
    at: Any, said: Any, tmp_path: Path, clean_env: dict[str, str]
) -> None:
    plan = write(tmp_path / "p.json", one_step("test.wait"))
    with interruptible(["run", plan, "--json"], at, clean_env) as runner:
        for text in runner.stdout:
            if json.loads(text).get("event", {}).get("kind") == "step.progress":
                break
        runner.send_signal(signal.SIGINT)
        last = json.loads(runner.stdout.read().splitlines()[-1])
        assert runner.wait() == 130
    assert last["run"]["state"] == "cancelled"


def test_a_detached_run_goes_on_and_can_be_cancelled(at: Any, said: Any, tmp_path: Path) -> None:
    code, (line,) = said("run", write(tmp_path / "p.json", one_step("test.wait")), "--detach")
    assert code == 0
    run_id = line["run"]["run"]
    with control.talk(at.state, "events", {"since": 0, "kinds": ["run.done"]}) as lines:
        assert said("runs", "cancel", run_id)[1][0]["state"] == "cancelling"
        for told in lines:
            if told.get("event", {}).get("run") == run_id:
                break
    assert told["event"]["state"] == "cancelled"
    assert said("runs", "show", run_id)[0] == 130
    code, (again,) = said("runs", "cancel", run_id)
    assert (code, again["error"]["why"]) == (2, "it is cancelled")
    assert said("runs", "resume", run_id)[0] == 2


@pytest.mark.parametrize(
    ("form", "start"),
    [("--json", '{"v": 1, "event": {"seq": 1, '), ("--plain", "Node started: on alone, addresses tls://127.0.0.1:")],
)
def test_events_are_streamed_as_json_and_as_sentences(
    at: Any, clean_env: dict[str, str], form: str, start: str
) -> None:
    with interruptible(["events", "node", "--since", "0", form], at, clean_env) as reader:
        assert reader.stdout.readline().startswith(start)
        reader.send_signal(signal.SIGINT)
        assert reader.wait() == 130


@contextmanager
def interruptible(args: list[str], at: Any, env: dict[str, str]) -> Iterator[Any]:
    """`slip` under way, for signals and for what it prints meanwhile."""
    command = [sys.executable, "-m", "slipstream", *args]
    env = {**env, "SLIPSTREAM_STATE": str(at.state)}
    with subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_reader_that_has_enough_is_no_error(at: Any, slip: Slip, clean_env: dict[str, str]) -> None:
    env = {**clean_env, "SLIPSTREAM_STATE": str(at.state)}
    command = f"'{sys.executable}' -m slipstream call test.count to=20000 --json | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], env=env, capture_output=True, text=True)
    assert done.stdout == '{"v": 1, "item": 0}\n0\n'
    assert done.stderr == ""


# -- starting, and not starting ----------------------------------------------------------------------------------------


def refused(slip: Slip, *args: str, **more: Any) -> str:
    done = slip("up", "--log", "json", *args, **more)
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done.stderr


def test_without_an_identity_it_says_how_to_get_one(slip: Slip, tmp_path: Path) -> None:
    error = refused(slip, "--state", str(tmp_path / "s"))
    assert error.startswith(f"error: no identity in {tmp_path / 's'}\n")
    assert "slip demo" in error
    assert "slip pair join CODE" in error
    assert "slip pair new" in error
    assert not (tmp_path / "s").exists()


def test_a_folder_of_no_owner_lets_nobody_in(slip: Slip, tmp_path: Path) -> None:
    (tmp_path / "mesh").mkdir(mode=0o700)
    error = refused(slip, "--state", str(tmp_path / "s"), "--mesh", str(tmp_path / "mesh"))
    assert f"no identity in {tmp_path / 'mesh'}" in error
    assert not (tmp_path / "s" / "device.pem").exists()


def test_a_state_folder_that_cannot_be_written_is_said_so(slip: Slip, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for state in (tmp_path / "file" / "s", Path("/proc/slip")):
        error = refused(slip, "--new-mesh", "--state", str(state))
        assert f"the state folder {state} cannot be written" in error
        assert "slip up --state DIR" in error


def test_a_wrong_setting_is_said_with_its_file(slip: Slip, tmp_path: Path) -> None:
    (tmp_path / "slipstream.toml").write_text("[listen]\nprot = 1\n")
    error = refused(slip, "--new-mesh", "--state", str(tmp_path / "s"), cwd=tmp_path)
    assert f"error: {tmp_path / 'slipstream.toml'}: listen.prot: there is no such setting\n" in error
    assert "did you mean listen.port?" in error
    assert not (tmp_path / "s").exists()


def test_what_a_second_daemon_a_taken_port_and_an_open_folder_are_told(
    make: Any, slip: Slip, tmp_path: Path, alone: Any
) -> None:
    mesh = str(alone.state)
    error = refused(slip, "--state", str(alone.state), "--port", "0")
    assert f"another daemon has {alone.state}" in error
    assert f"its process is {alone.process.pid}" in error
    port = control.ask(alone.state, "status")["device"]["addresses"][0].rpartition(":")[2]
    error = refused(slip, "--state", str(tmp_path / "s"), "--mesh", mesh, "--host", "127.0.0.1", "--port", port)
    assert f"port {port} is taken" in error
    assert "slip up --port 0" in error
    error = refused(slip, "--state", str(tmp_path / "s"), "--host", "203.0.113.1", "--port", "0")
    assert "cannot listen on 203.0.113.1" in error
    error = refused(slip, "--state", str(tmp_path / "s"), "--pack", "phnoe", "--port", "0")
    assert "unknown pack 'phnoe'" in error
    assert "did you mean phone?" in error
    (tmp_path / "s").chmod(0o755)
    error = refused(slip, "--state", str(tmp_path / "s"), "--port", "0")
    assert "is open to others" in error
    assert f"chmod 700 {tmp_path / 's'}" in error


def test_a_second_mesh_in_the_same_folder_is_refused(alone: Any, make: Any, slip: Slip, tmp_path: Path) -> None:
    own = make("own").start("--new-mesh")
    assert own.end() == 0
    assert "belongs to a mesh already" in refused(slip, "--state", str(own.state), "--new-mesh", "--port", "0")
    error = refused(slip, "--state", str(own.state), "--mesh", str(alone.state), "--port", "0")
    assert "belongs to another mesh" in error


def test_what_holds_keys_is_the_owners_alone(alone: Any) -> None:
    assert stat.S_IMODE(alone.state.stat().st_mode) == 0o700
    for name in ("device.key", "rw.sock", "owner.pem", "roster"):
        assert stat.S_IMODE((alone.state / name).stat().st_mode) == 0o600


# -- a life ------------------------------------------------------------------------------------------------------------


def test_sigterm_sigint_and_slip_down_leave_cleanly(make: Any, slip: Slip) -> None:
    daemon = make("a").start("--new-mesh")
    device = control.ask(daemon.state, "status")["device"]["id"]
    for number in (signal.SIGTERM, signal.SIGINT):
        assert daemon.end(number) == 0
        assert not places.socket_of(daemon.state, {}).exists()
        assert daemon.logged("node.stopping")
        daemon.start()
        assert control.ask(daemon.state, "status")["device"]["id"] == device
    done = slip("down", "--json", state=daemon.state)
    assert (done.returncode, json.loads(done.stdout)) == (0, {"v": 1, "stopped": daemon.process.pid})
    assert daemon.process.wait() == 0
    assert slip("down", state=daemon.state).returncode == 3


def test_a_killed_daemon_starts_again_as_itself_and_tells_what_it_left_open(
    make: Any, said: Any, skills_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon = make("a", "--pack", str(skills_file)).start("--new-mesh")
    monkeypatch.setenv("SLIPSTREAM_STATE", str(daemon.state))
    first = {"id": "first", "skill": "test.echo", "args": {"text": "x"}}
    plan = {"goal": "wait", "steps": [first, {"id": "then", "skill": "test.wait", "after": ["first"]}]}
    run_id = said("run", write(tmp_path / "p.json", plan), "--detach")[1][0]["run"]["run"]
    with control.talk(daemon.state, "events", {"since": 0, "kinds": ["step.progress"]}) as lines:
        assert any(line["event"]["step"] == "then" for line in lines if "event" in line)
    assert daemon.end(signal.SIGKILL) == -signal.SIGKILL
    assert places.socket_of(daemon.state, {}).exists()
    assert said("status")[0] == 3
    daemon.start()
    assert said("status")[1][0]["interrupted"] == [run_id]
    assert [e["hint"] for e in daemon.logged("warning")] == [f"slip runs resume {run_id}"]
    run = said("runs", "show", run_id)[1][0]["run"]
    assert run["state"] == "interrupted"
    assert run["steps"][0]["state"] == "done"
    assert said("runs", "cancel", run_id)[1][0]["state"] == "cancelled"
    assert said("status")[1][0]["interrupted"] == []


def test_sighup_takes_over_name_skills_and_peers_and_says_what_waits(
    make: Any, said: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    skill = (
        "from slipstream import Context, Effect, skill\n"
        '@skill("tea.%s", effect=Effect.READ)\nasync def tea(ctx: Context) -> str:\n    """Tea."""\n    return "tea"\n'
    )
    pack = tmp_path / "tea.py"
    pack.write_text(skill % "green")
    user = tmp_path / "xdg" / "slipstream" / "config.toml"
    user.parent.mkdir(parents=True)
    user.write_text(f'name = "before"\npacks = ["{pack}"]\n')
    daemon = make("a", XDG_CONFIG_HOME=str(tmp_path / "xdg")).start("--new-mesh")
    monkeypatch.setenv("SLIPSTREAM_STATE", str(daemon.state))
    assert said("status")[1][0]["device"]["name"] == "before"
    user.write_text(f'name = "after"\npacks = ["{pack}"]\nkind = "car"\n[peers]\n{"a" * 32} = ["tls://127.0.0.1:1"]\n')
    pack.write_text(skill % "black")
    assert daemon.reload() == "READY=1"
    assert said("status")[1][0]["device"]["name"] == "after"
    assert "tea.black" in {s["name"] for s in said("skills")[1][0]["skills"]}
    assert said("call", "tea.black")[1][-1]["value"] == {"result": "tea"}
    assert [(e["what"], e["why"]) for e in daemon.logged("warning")] == [("some settings wait for a restart", "kind")]
    user.write_text("name = 3\n")
    assert daemon.reload() == "READY=1"
    assert "the config was not reloaded" in daemon.logged("warning")[-1]["what"]
    assert said("status")[1][0]["device"]["name"] == "after"


def test_the_watchdog_is_fed_only_when_asked_for(make: Any) -> None:
    daemon = make("a", WATCHDOG_USEC="200000").start("--new-mesh")
    assert [daemon.heard() for _ in range(3)] == ["WATCHDOG=1"] * 3
    quiet = make("b", WATCHDOG_USEC="200000", WATCHDOG_PID="1").start("--new-mesh")
    quiet.process.send_signal(signal.SIGTERM)
    assert quiet.heard() == "STOPPING=1"


def test_the_socket_lies_in_the_runtime_folder_where_there_is_one(make: Any, slip: Slip, tmp_path: Path) -> None:
    env = {"XDG_RUNTIME_DIR": str(tmp_path / "run")}
    daemon = make("a", **env).start("--new-mesh")
    path = places.socket_of(daemon.state, env)
    assert path.is_relative_to(tmp_path / "run" / "slipstream")
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert slip("status", state=daemon.state, env=env).returncode == 0
    assert slip("status", state=daemon.state).returncode == 3


def test_two_daemons_of_one_mesh_find_each_other_by_a_static_address_and_share_their_skills(
    make: Any, said: Any, alone: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    me = control.ask(alone.state, "status")["device"]
    other = make(
        "other",
        "--name",
        "other",
        "--mesh",
        str(alone.state),
        "--peer",
        f"{me['id']}={me['addresses'][0]}",
    ).start()
    with control.talk(other.state, "events", {"since": 0, "kinds": ["device.joined"]}) as lines:
        assert any(line["event"]["name"] == "alone" for line in lines if "event" in line)
    monkeypatch.setenv("SLIPSTREAM_STATE", str(other.state))
    code, lines = said("call", "test.echo", "text=far")
    assert (code, lines[-1]["value"]["text"], lines[-1]["device"]) == (0, "far", "alone")
    assert [line["item"] for line in said("call", "test.count", "to=3")[1][:-1]] == [0, 1, 2]
    assert said("devices", "ping", "alone")[1][0]["device"] == "alone"
    assert [d["state"] for d in said("devices")[1][0]["devices"]] == ["self", "linked"]
    assert other.end() == 0
    code, (told,) = said("devices", "list", "--state", str(alone.state))
    assert [d["name"] for d in told["devices"] if d["state"] == "absent"] == ["other"]
    assert said("devices", "forget", "other", "--state", str(alone.state))[0] == 0
    assert len(said("devices", "list", "--state", str(alone.state))[1][0]["devices"]) == 1


def test_a_stranger_of_another_mesh_is_refused(make: Any, alone: Any) -> None:
    me = control.ask(alone.state, "status")["device"]
    before = len(alone.logged("warning"))
    stranger = make("stranger", "--peer", f"{me['id']}={me['addresses'][0]}").start("--new-mesh")
    with control.talk(alone.state, "events", {"since": 0, "kinds": ["warning"]}) as lines:
        for line in lines:
            if "a stranger at" in line.get("event", {}).get("what", ""):
                break
    assert stranger.end() == 0
    assert control.ask(alone.state, "status")["peers"] == []
    assert len(alone.logged("warning")) > before


# -- doctor ------------------------------------------------------------------------------------------------------------


def test_doctor_finds_what_is_wrong_and_says_the_fix(at: Any, said: Any, tmp_path: Path) -> None:
    _, (found,) = said("doctor")
    checks = {f["check"]: f for f in found["findings"]}
    assert checks["daemon"]["state"] == checks["identity"]["state"] == checks["extension"]["state"] == "ok"
    assert all(f["fix"] for f in found["findings"] if f["state"] != "ok")
    code, (found,) = said("doctor", "--state", str(tmp_path / "none"))
    checks = {f["check"]: f for f in found["findings"]}
    assert code == 1
    assert checks["identity"]["state"] == "failed"
    assert "slip pair new" in checks["identity"]["fix"]
    assert checks["daemon"]["fix"] == "slip up"


@pytest.mark.parametrize("verb", cli.VERBS)
def test_every_verb_explains_itself(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code = cli.main([verb, "--help"])
    except SystemExit as done:
        code = int(done.code or 0)
    assert code == 0
    assert f"usage: slip {verb}" in capsys.readouterr().out
