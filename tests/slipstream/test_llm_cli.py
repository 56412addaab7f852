"""`slip llm`, as a person and a script meet it: answers, exit codes, Ctrl-C, and what a terminal is spared."""

from __future__ import annotations

import importlib.util
import json
import os
import pty
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("regex", reason="tokenizers need the package regex")
pytest.importorskip("jinja2", reason="chat templates need the package jinja2")

from slipstream import cli
from slipstream.cli import call, llm, llm_run, output
from slipstream.core.energy import Drain
from slipstream.core.errors import SlipError
from slipstream.runtime_ext.architecture import Shape
from slipstream.runtime_ext.generate import Generation, Options
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.memory import available
from slipstream.runtime_ext.model import BLOCK_TOKENS, Model, Session
from slipstream.runtime_ext.tokens import Tokenizer

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
SCHEMA = {
    "type": "object",
    "properties": {"degrees": {"type": "integer", "minimum": 0, "maximum": 99}, "now": {"type": "boolean"}},
    "required": ["degrees", "now"],
    "additionalProperties": False,
}
LONG = ("--chat", "none", "--max-tokens", "200000", "--context", "200000")
"""Minutes of it, for whoever does not stop it: the likeliest tokens, of which none is the end."""

Said = Callable[..., tuple[int, list[dict[str, Any]]]]


def models() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_gguf", MAKE)
    assert spec
    assert spec.loader
    found = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = found  # dataclasses look their module up
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    models().make(made, kind="Q4_0")
    return made


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Said:
    """Run `slip llm` in this process with --json: its exit code and the objects that it printed."""

    def run(*args: object) -> tuple[int, list[dict[str, Any]]]:
        capsys.readouterr()
        code = cli.main(["llm", *map(str, args), "--json"])
        captured = capsys.readouterr()
        assert captured.err == ""
        return code, [json.loads(line) for line in captured.out.splitlines()]

    return run


def slip(*args: object, **more: Any) -> subprocess.Popen[bytes]:
    """`slip llm` in a process of its own."""
    command = [sys.executable, "-m", "slipstream", "llm", *map(str, args)]
    return subprocess.Popen(command, bufsize=0, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)


# -- info


def test_info_tells_what_the_model_will_be_and_what_it_takes(path: Path, said: Said) -> None:
    code, (told,) = said("info", path, "--context", 100, "--threads", 1)
    assert code == 0
    with Gguf.open(path) as gguf:
        shape, model = Shape.of(gguf), Model(gguf)
    assert (told["architecture"], told["layers"], told["context"]) == ("qwen2", shape.layers, shape.context)
    assert (told["kernels"][0], told["threads"], told["chat_template"]) == (model.kernels, 1, True)
    memory = told["memory"]
    assert memory["mapped"] == path.stat().st_size
    assert memory["packed"] == pytest.approx(model.packed, rel=0.05)
    assert memory["kv_per_token"] * BLOCK_TOKENS == model.block_bytes
    assert memory["kv"] == 100 * memory["kv_per_token"]
    assert {t["type"] for t in told["types"]} == {"Q4_0", "F32"}
    assert 0 <= path.stat().st_size - sum(t["bytes"] for t in told["types"]) < 100_000


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_K_M", "F16"])
def test_the_memory_that_is_foretold_is_the_memory_that_is_taken(tmp_path: Path, kind: str) -> None:
    models().make(tmp_path / "m.gguf", kind=kind, arch="llama")
    with Gguf.open(tmp_path / "m.gguf") as gguf:
        foretold = llm.Memory.of(gguf, Shape.of(gguf)).packed
        assert foretold == pytest.approx(Model(gguf).packed, rel=0.05)
    assert (foretold > 0) == (kind == "Q4_K_M")


def test_info_is_there_for_people_too(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["llm", "info", str(path)]) == 0
    out = capsys.readouterr().out
    assert all(word in out for word in ("qwen2", "gpt2/qwen2", "Q4_0", "2048 tokens", "a template in the file"))


# -- run


def test_what_is_said_is_what_the_model_generates(path: Path, said: Said) -> None:
    code, lines = said("run", path, "Warm the cabin.", "--chat", "none", "--max-tokens", 12, "--threads", 2)
    with Gguf.open(path) as gguf:
        tokenizer, model = Tokenizer(gguf.metadata), Model(gguf)
    pieces = list(Generation(Session(model), tokenizer, tokenizer.encode("Warm the cabin."), Options(max_tokens=12)))
    *shown, end = lines
    assert code == 0
    assert [token for line in shown for token in line["tokens"]] == [t for piece in pieces for t in piece.tokens]
    assert end["text"] == "".join(line["text"] for line in shown) == "".join(piece.text for piece in pieces)
    assert (end["end"], end["tokens"], end["prompt_tokens"]) == ("length", 12, len(tokenizer.encode("Warm the cabin.")))
    assert end["prefill_per_second"] > 0
    assert end["decode_per_second"] > 0


def test_a_seed_gives_the_same_answer_again_and_options_count(path: Path, said: Said) -> None:
    warm = ("run", path, "Hello", "--max-tokens", 16, "--temperature", 1.5, "--seed", 7)
    texts = [said(*warm, *more)[1][-1]["text"] for more in ((), (), ("--top-k", 1), ("--min-p", 1.0), ("--top-p", 0))]
    assert texts[0] == texts[1] != texts[2] == texts[3] == texts[4]
    stop = texts[0][3:5]
    _, lines = said(*warm, "--stop", stop)
    assert (lines[-1]["end"], lines[-1]["text"]) == ("stop", texts[0][: texts[0].index(stop)])


def test_a_full_context_ends_the_answer_or_is_slid_over_as_asked(path: Path, said: Said) -> None:
    small = ("run", path, "Hello", "--chat", "none", "--context", 16, "--max-tokens", 60)
    (_, stopped), (_, slid) = said(*small), said(*small, "--slide")
    assert stopped[-1]["end"] == "context"
    assert (slid[-1]["end"], slid[-1]["tokens"]) == ("length", 60)
    assert slid[-1]["text"].startswith(stopped[-1]["text"])


def test_the_file_s_template_is_used_and_a_file_without_one_takes_plain_text(
    path: Path, tmp_path: Path, said: Said, capsys: pytest.CaptureFixture[str]
) -> None:
    made, bare = models(), tmp_path / "bare.gguf"
    with Gguf.open(path) as gguf:
        tokenizer, values = Tokenizer(gguf.metadata), dict(gguf.metadata)
        del values["tokenizer.chat_template"]
        listed = [(t.name, t.shape, t.type) for t in gguf.tensors.values()]
        made.write(bare, values, listed, (iter([bytes(gguf.tensor_data(name))]) for name in gguf.tensors))

    def tokens(*args: object) -> int:
        count: int = said("run", *args, "--max-tokens", 1)[1][-1]["prompt_tokens"]
        return count

    plain = len(tokenizer.encode("Hello"))
    turn = "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    told = "<|im_start|>system\nBe brief.<|im_end|>\n" + turn
    assert tokens(bare, "Hello") == tokens(path, "Hello", "--chat", "none") == plain
    assert tokens(path, "Hello") == tokens(bare, "Hello", "--chat", "chatml") == len(tokenizer.encode(turn, True))
    assert tokens(path, "Hello", "--system", "Be brief.") == len(tokenizer.encode(told, True))
    for wrong in (("--system", "Be brief."), ("--chat", "file")):
        code, (error,) = said("run", bare, "Hello", *wrong)
        assert code == 2
        assert "--chat chatml" in error["error"]["hint"]


def test_a_prompt_comes_from_stdin_and_the_answer_goes_to_a_pipe_as_it_is(path: Path, said: Said) -> None:
    process = slip("run", path, "-", "--max-tokens", 8, stdin=subprocess.PIPE)
    out, err = process.communicate("Où est le lac? 🚗".encode())
    assert (process.returncode, err) == (0, b"")  # prose is for terminals
    assert out.decode() == said("run", path, "Où est le lac? 🚗", "--max-tokens", 8)[1][-1]["text"] + "\n"


def test_json_fits_its_schema_and_what_is_cut_fails(path: Path, tmp_path: Path, said: Said) -> None:
    pytest.importorskip("llguidance", reason="constrained decoding needs the library llguidance")
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    command = ("run", path, "How warm?", "--schema", tmp_path / "schema.json")
    code, lines = said(*command)
    found = json.loads(lines[-1]["text"])
    assert code == 0
    assert set(found) == {"degrees", "now"}
    assert 0 <= found["degrees"] < 100
    code, lines = said(*command, "--max-tokens", 2)
    assert (code, lines[-1]["end"]) == (1, "length")


# -- what is wrong


@pytest.mark.parametrize(
    ("args", "code", "word"),
    [
        (["info", "NONE.gguf"], 2, "cannot be opened"),
        (["info", __file__], 2, "no GGUF file"),
        (["info", "MODEL", "Hello"], 2, "no use for Hello"),
        (["info"], 2, "which model"),
        (["run", "MODEL"], 2, "which prompt"),
        (["run", "MODEL", ""], 2, "which prompt"),
        (["run", "MODEL", "Hello", "--temperature", "-1"], 2, "temperature"),
        (["run", "MODEL", "Hello", "--max-tokens", "0"], 2, "max_tokens"),
        (["run", "MODEL", "Hello", "--threads", "0"], 2, "threads"),
        (["run", "MODEL", "Hello", "--threads", "257"], 2, "threads"),
        (["run", "MODEL", "Hello", "--context", "3"], 2, "the session holds 3"),
        (["run", "MODEL", "Hello", "--schema", "NONE.json"], 2, "cannot be opened"),
        (["run", "MODEL", "Hello", "--schema", __file__], 2, "no JSON"),
        (["run", "MODEL", "Hello", "--system", "Be brief.", "--chat", "none"], 2, "chat template"),
    ],
)
def test_what_cannot_be_is_said_in_one_error(path: Path, said: Said, args: list[str], code: int, word: str) -> None:
    given, (error,) = said(*[path if arg == "MODEL" else arg for arg in args])
    assert given == code
    assert word in f"{error['error']['what']} {error['error']['why']}"


def test_a_model_of_another_kind_is_refused_by_name(path: Path, tmp_path: Path, said: Said) -> None:
    (tmp_path / "m.gguf").write_bytes(path.read_bytes().replace(b"qwen2", b"mamba"))
    for action in (("info",), ("run", "Hello")):
        code, (error,) = said(action[0], tmp_path / "m.gguf", *action[1:])
        assert code == 2
        assert "mamba" in error["error"]["why"]
        assert "qwen2" in error["error"]["why"]


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    path: Path, said: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(llm_run, "available", lambda: 100_000)
    code, (error,) = said("run", path, "Hello", "--context", 100)
    assert code == 1
    assert "100 kB are free" in error["error"]["why"]
    assert "smaller model" in error["error"]["hint"]


def test_what_is_free_is_what_linux_tells_or_unknown(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal:  9 kB\nMemAvailable:       7 kB\n")
    assert available(tmp_path / "meminfo") == 7168
    assert available(tmp_path / "none") is None


@pytest.mark.parametrize("library", ["regex", "jinja2"])
def test_a_library_that_is_missing_is_named_with_what_to_type(path: Path, library: str) -> None:
    code = (
        f"import sys\nsys.modules[{library!r}] = None\nfrom slipstream import cli\n"
        "sys.exit(cli.main(['llm', 'run', sys.argv[1], 'Hello']))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True)
    assert done.returncode == 1
    assert library in done.stderr
    assert "pip install 'slipstream-mesh[llm]'" in done.stderr


# -- Ctrl-C, terminals, pipes


@pytest.mark.parametrize("as_json", [False, True])
def test_ctrl_c_keeps_what_was_said_and_exits_130(path: Path, as_json: bool) -> None:
    process = slip("run", path, "Hello", *LONG, *(["--json"] if as_json else []))
    assert process.stdout
    first = process.stdout.read(20)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate()
    assert (process.returncode, err) == (130, b"")
    assert first
    if as_json:
        *shown, end = [json.loads(line) for line in (first + out).splitlines()]
        assert end["end"] == "cancelled"
        assert end["text"] == "".join(line["text"] for line in shown)
    else:
        assert out.endswith(b"\n")


def test_a_reader_that_had_enough_ends_it(path: Path) -> None:
    process = slip("run", path, "Hello", *LONG)
    assert process.stdout
    assert process.stderr
    process.stdout.read(20)
    process.stdout.close()
    assert process.wait() == 0
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_terminal_is_shown_nothing_that_could_steer_it_and_told_what_it_took(path: Path) -> None:
    command = ("run", path, "Hello", "--chat", "none", "--max-tokens", 300, "--temperature", 3, "--seed", 1)
    piped = slip(*command).communicate()[0].decode()
    assert any(ord(letter) < 32 and letter not in "\n\t" for letter in piped)  # so there is something to spare it
    near, far = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "slipstream", "llm", *map(str, command)], stdin=far, stdout=far, stderr=far
    )
    os.close(far)
    seen = b""
    while chunk := _read(near):
        seen += chunk
    os.close(near)
    assert process.wait() == 0
    text = seen.decode().replace("\r\n", "\n")
    answer = text.rpartition("\r\x1b[K")[2]  # after the progress of loading
    assert output.harmless(piped) in answer
    assert not any(ord(letter) < 32 and letter not in "\n\t" for letter in answer)
    assert "300 written at" in answer
    assert "/token" in answer or "energy: not measurable here" in answer


def _read(fd: int) -> bytes:
    try:
        return os.read(fd, 65536)
    except OSError:  # how a pty says that all its writers are gone
        return b""


def test_letters_that_the_terminal_lacks_are_no_failure(path: Path) -> None:
    process = slip("run", path, "Hello", env=os.environ | {"PYTHONIOENCODING": "ascii"})
    out, err = process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert b"?" in out


@given(st.text())
def test_harmless_text_keeps_its_lines_and_loses_all_control(text: str) -> None:
    shown = output.harmless(text)
    assert shown.count("\n") == text.count("\n")
    assert not any((ord(letter) < 32 and letter not in "\n\t") or 127 <= ord(letter) < 160 for letter in shown)
    assert output.harmless(shown) == shown
    assert output.harmless("a\x1b[31mb\u202e\tc\r\n👩\u200d🚀") == "a[31mb\tc\n👩\u200d🚀"


@pytest.mark.parametrize(
    ("drains", "joules"),
    [
        ([], 0.0),
        ([None, None], 0.0),
        ([Drain("processors", 5.0), Drain("processors", 8.0)], 3.0),
        ([Drain("processors", 5.0), Drain("battery", 8.0)], 0.0),  # the charger was pulled in between
        ([Drain("processors", 5.0), Drain("processors", 2.0)], 0.0),  # the counter began again
        ([Drain("processors", 5.0), None], 0.0),
    ],
)
def test_joules_are_told_only_where_one_gauge_moved_on(drains: list[Drain | None], joules: float) -> None:
    assert llm_run.joules(drains) == joules


@pytest.mark.parametrize("broken", [False, True])
def test_pieces_of_an_answer_are_one_text_to_a_person_and_lines_to_a_program(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], broken: bool
) -> None:
    @contextmanager
    def talk(*_: object) -> Iterator[Iterator[dict[str, Any]]]:
        yield lines()

    def lines() -> Iterator[dict[str, Any]]:
        for text in ("Grüß", " Gott\x1b[2J\n", "Lena"):
            yield {"item": {"text": text, "reasoning": "", "tool_calls": [], "finish": None}}
        if broken:
            raise SlipError("the link is lost")
        yield {"item": {"text": "", "finish": "stop"}}
        yield {"end": True, "outcome": "done", "value": None}

    monkeypatch.setattr(call, "talk", talk)
    code = cli.main(["call", "llm.generate"])
    said = capsys.readouterr().out
    assert said.startswith("Grüß Gott[2J\nLena\n")
    assert ('"finish": "stop"' in said, code == 0) == (not broken, not broken)
    cli.main(["call", "llm.generate", "--json"])
    assert json.loads(capsys.readouterr().out.splitlines()[1])["item"]["text"] == " Gott\x1b[2J\n"


def test_help_needs_no_model_and_no_library() -> None:
    heavy = {"slipstream.runtime_ext.model", "slipstream.runtime_ext.gguf", "regex", "jinja2", "llguidance", "asyncio"}
    code = (
        "import sys\nfrom slipstream import cli\ntry:\n    cli.main(['llm', '--help'])\n"
        f"except SystemExit:\n    pass\nprint(sorted(set(sys.modules) & {heavy!r}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


# -- serve


def served(path: Path, *args: object, **more: Any) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """`slip llm serve` in a process of its own, and what it said when it was ready."""
    process = slip("serve", path, "--port", 0, "--threads", 1, "--json", *args, **more)
    assert process.stdout
    return process, json.loads(process.stdout.readline())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_server_says_where_it_is_answers_and_leaves_when_told(path: Path, number: signal.Signals) -> None:
    httpx = pytest.importorskip("httpx", reason="the server needs the package httpx")
    process, ready = served(path)
    assert (ready["host"], ready["models"], ready["url"]) == (
        "127.0.0.1", ["tiny"], f"http://127.0.0.1:{ready['port']}/v1",
    )  # fmt: skip
    asked = {"messages": [{"role": "user", "content": "Hello"}], "stream": True, "logprobs": True, "top_logprobs": 20}
    with httpx.stream("POST", f"{ready['url']}/chat/completions", json=asked, trust_env=False) as answer:
        lines = answer.iter_lines()
        assert next(lines).startswith("data: ")
        process.send_signal(number)
        last = [line for line in lines if line][-1]
    out, err = process.communicate()
    assert (process.returncode, out, err) == (0, b"", b"")
    assert "the server stops" in json.loads(last.removeprefix("data: "))["error"]["message"]


def test_a_server_with_a_key_answers_nobody_else_and_says_it_nowhere(path: Path, tmp_path: Path) -> None:
    httpx = pytest.importorskip("httpx", reason="the server needs the package httpx")
    (tmp_path / "key").write_text("s3cret\n")
    for how in (("--key-file", tmp_path / "key"), ("--key-env", "KEY")):
        process, ready = served(path, *how, env=os.environ | {"KEY": "s3cret"})
        codes = [
            httpx.get(f"{ready['url']}/models", headers=headers, trust_env=False).status_code
            for headers in ({}, {"authorization": "Bearer s3cre"}, {"authorization": "Bearer s3cret"})
        ]
        process.terminate()
        out, err = process.communicate()
        assert (process.returncode, codes) == (0, [401, 401, 200])
        assert "s3cret" not in f"{out!r}{err!r}{ready}"


def test_people_are_told_what_to_try(path: Path) -> None:
    process = slip("serve", path, "--port", 0, "--key-env", "KEY", env=os.environ | {"KEY": "s3cret"})
    assert process.stdout
    said = [process.stdout.readline().decode() for _ in range(2)]
    process.terminate()
    process.communicate()
    assert said[0].startswith("listening on http://127.0.0.1:")
    assert "curl http://127.0.0.1:" in said[1]
    assert '-H "Authorization: Bearer $KEY"' in said[1]
    assert '"model": "tiny"' in said[1]


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["serve"], "which model"),
        (["serve", "MODEL", "--port", "70000"], "70000"),
        (["serve", "MODEL", "--host", "0.0.0.0"], "no key"),
        (["serve", "MODEL", "--host", "car.example"], "no key"),
        (["serve", "MODEL", "--key-file", "NONE"], "cannot be read"),
        (["serve", "MODEL", "--key-file", os.devnull], "no key"),
        (["serve", "MODEL", "--key-env", "SLIPSTREAM_NO_SUCH_KEY"], "no key"),
        (["serve", "MODEL", "MODEL"], "one name"),
        (["serve", "MODEL", "--threads", "0"], "threads"),
        (["run", "MODEL", "Hello", "there"], "one prompt"),
    ],
)
def test_what_cannot_be_served_is_said_in_one_error(path: Path, said: Said, args: list[str], word: str) -> None:
    code, (error,) = said(*[path if arg == "MODEL" else arg for arg in args])
    assert code == 2
    assert word in f"{error['error']['what']} {error['error']['why']}"


def test_a_file_that_is_none_and_a_port_that_is_taken_are_said_before_anybody_waits(path: Path, said: Said) -> None:
    code, (error,) = said("serve", path.with_name("NONE.gguf"))
    assert (code, "cannot be opened" in error["error"]["what"]) == (1, True)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        code, (error,) = said("serve", path, "--port", taken.getsockname()[1])
    assert code == 2
    assert "--port 0" in error["error"]["hint"]
