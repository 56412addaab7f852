"""Models and sessions on small files with random weights: what is computed is the same wherever and however it is."""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slipstream.runtime_ext.architecture import ModelError, Shape
from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.model import BLOCK_TOKENS, Model, Session, Stopped, digest, kernels

MAKE = Path(__file__).parents[1] / "models" / "make_gguf.py"
TOKENS = [(7 * i * i + 3 * i) % 900 for i in range(75)]

Maker = Callable[..., Path]
Kv = Literal["f16", "q8_0"]
KV: list[Kv] = ["f16", "q8_0"]


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Maker:
    """Makes a small model file, each kind once."""
    folder = tmp_path_factory.mktemp("models")

    def make(type_: str = "Q8_0", arch: str = "qwen2") -> Path:
        path = folder / f"{arch}-{type_}.gguf"
        if not path.exists():
            command = [sys.executable, MAKE, "--shape", "tiny", "--type", type_, "--arch", arch, path]
            subprocess.run(command, check=True, capture_output=True)
        return path

    return make


@pytest.fixture(scope="session")
def model(made: Maker) -> Model:
    with Gguf.open(made()) as gguf:
        return Model(gguf)


def cosine(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def after(model: Model, tokens: list[int], at_once: int = 1000, kv: Kv = "f16") -> list[float]:
    session = Session(model, 256, kv=kv)
    for i in range(0, len(tokens), at_once):
        session.advance(tokens[i : i + at_once])
    return session.logits()


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("type_", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q5_0", "Q4_K", "Q5_K", "Q6_K", "Q4_K_M"])
def test_all_kernels_threads_and_pass_sizes_give_the_same_bits(made: Maker, arch: str, type_: str) -> None:
    with Gguf.open(made(type_, arch)) as gguf:
        right = after(Model(gguf, kernels="scalar"), TOKENS)
        assert all(map(math.isfinite, right))
        assert max(right) - min(right) > 1  # it says something
        for name in kernels():
            assert after(Model(gguf, kernels=name), TOKENS) == right
        model = Model(gguf, 3)
        for at_once in (1, 13, 1000):
            assert after(model, TOKENS, at_once) == right


@pytest.mark.parametrize("arch", ["llama", "qwen2", "qwen3"])
def test_keys_and_values_as_bytes_give_the_same_bits_on_all_kernels_threads_and_pass_sizes(
    made: Maker, arch: str
) -> None:
    with Gguf.open(made("Q8_0", arch)) as gguf:
        right = after(Model(gguf, kernels="scalar"), TOKENS, kv="q8_0")
        for name in kernels():
            assert after(Model(gguf, kernels=name), TOKENS, kv="q8_0") == right
        model = Model(gguf, 3)
        for at_once in (1, 13, 1000):
            assert after(model, TOKENS, at_once, "q8_0") == right
        assert 0.999 < cosine(after(model, TOKENS), right) < 1


def test_keys_and_values_as_bytes_take_about_half_the_memory(model: Model) -> None:
    assert Session(model).block_bytes == model.block_bytes
    assert Session(model, kv="q8_0").block_bytes * 32 == model.block_bytes * 17
    with pytest.raises(ValueError, match="kv: 'q4_0' is not supported; supported: f16, q8_0"):
        Session(model, kv="q4_0")  # type: ignore[arg-type]


def test_rows_and_blocks_of_another_form_are_refused(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS)
    with pytest.raises(ValueError, match="bytes"):
        Session.restore(model, session.tokens, session.blocks(), session.tail(), kv="q8_0")
    with pytest.raises(ValueError, match="rows: "):
        Session(model, kv="q8_0").extend(TOKENS[64:], session.tail())


def test_the_weights_of_a_quantised_file_are_those_of_the_floats(made: Maker) -> None:
    with Gguf.open(made("F32")) as gguf:
        exact = after(Model(gguf), TOKENS[:20])
    for type_, least in (("F16", 0.99999), ("Q8_0", 0.999), ("Q6_K", 0.99), ("Q5_K", 0.98), ("Q4_K", 0.93)):
        with Gguf.open(made(type_)) as gguf:
            assert cosine(after(Model(gguf), TOKENS[:20]), exact) > least


@pytest.mark.parametrize("kv", KV)
def test_a_session_that_went_back_goes_on_as_if_it_had_never_been_further(model: Model, kv: Kv) -> None:
    session = Session(model, 256, kv=kv)
    session.advance(TOKENS)
    session.rewind(40)
    assert session.tokens == TOKENS[:40]
    session.advance(TOKENS[10:20])
    assert session.logits() == after(model, TOKENS[:40] + TOKENS[10:20], kv=kv)


@pytest.mark.parametrize("kv", KV)
def test_a_fork_and_its_origin_do_not_disturb_each_other(model: Model, kv: Kv) -> None:
    session = Session(model, 256, kv=kv)
    session.advance(TOKENS[:45])
    fork = session.fork()
    session.advance(TOKENS[:30])
    fork.advance(TOKENS[30:60])
    assert session.logits() == after(model, TOKENS[:45] + TOKENS[:30], kv=kv)
    assert fork.logits() == after(model, TOKENS[:45] + TOKENS[30:60], kv=kv)


@pytest.mark.parametrize("kv", KV)
def test_blocks_that_were_given_out_stay_as_they_were(model: Model, kv: Kv) -> None:
    session = Session(model, 256, kv=kv)
    session.advance(TOKENS[:70])
    blocks = session.blocks()
    assert len(blocks) == 70 // BLOCK_TOKENS
    before = [bytes(block) for block in blocks]
    session.rewind(5)
    session.advance(TOKENS[:70])
    del session
    assert [bytes(block) for block in blocks] == before


@given(kv=st.sampled_from(KV), cut=st.integers(1, len(TOKENS)), since=st.integers(0, 2), copy=st.booleans())
@settings(deadline=None, max_examples=30)
def test_a_restored_session_goes_on_bit_for_bit(model: Model, cut: int, since: int, copy: bool, kv: Kv) -> None:
    session = Session(model, 256, seed=7, kv=kv)
    session.advance(TOKENS[:cut])
    early = session.blocks()[:since]
    blocks: list[memoryview | bytearray] = [*early, *session.blocks(len(early))]
    if copy:
        blocks = [bytearray(block) for block in blocks]
    other = Session.restore(model, session.tokens, blocks, session.tail(), 256, kv=kv)
    other.advance(TOKENS[:9])
    session.advance(TOKENS[:9])
    assert other.logits() == session.logits()
    assert other.tokens == session.tokens


@given(kv=st.sampled_from(KV), cut=st.integers(1, len(TOKENS)), since=st.integers(1, len(TOKENS)))
@settings(deadline=None, max_examples=30)
def test_rows_that_come_later_make_the_same_session(model: Model, cut: int, since: int, kv: Kv) -> None:
    session = Session(model, 256, kv=kv)
    session.advance(TOKENS[:cut])
    full = (cut - 1) // BLOCK_TOKENS * BLOCK_TOKENS
    since = min(max(since, full, 1), cut)
    early = Session(model, 256, kv=kv)
    early.advance(TOKENS[:since])
    other = Session.restore(model, TOKENS[:full], session.blocks()[: full // BLOCK_TOKENS], b"", 256, kv=kv)
    other.extend(TOKENS[full:since], early.tail(full))
    other.extend(TOKENS[since:cut], session.tail(since))
    other.advance(TOKENS[:3])
    session.advance(TOKENS[:3])
    assert other.logits() == session.logits()


def test_what_does_not_fit_is_not_restored(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS)
    tokens, blocks, tail = session.tokens, session.blocks(), session.tail()
    for bad in (
        lambda: Session.restore(model, tokens, blocks[:1], tail),
        lambda: Session.restore(model, tokens, blocks, tail[:-2]),
        lambda: Session.restore(model, tokens, [blocks[0], bytes(8)], tail),
        lambda: Session.restore(model, [*tokens[:-1], 10**6], blocks, tail),
        lambda: Session.restore(model, tokens, blocks, tail, context=10),
    ):
        with pytest.raises(ValueError):
            bad()


def test_equal_blocks_have_equal_digests_and_a_flipped_bit_shows(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS[:64])
    first, second = session.blocks()
    assert digest(first) == digest(bytes(first)) != digest(second)
    for at in (0, len(first) // 2, len(first) - 1):
        damaged = bytearray(first)
        damaged[at] ^= 4
        assert digest(damaged) != digest(first)


def test_a_pass_that_is_stopped_takes_nothing_in(model: Model) -> None:
    session = Session(model, 4096)
    session.advance(TOKENS[:10])
    errors: list[BaseException] = []
    begun = threading.Event()

    def run() -> None:
        begun.set()
        try:
            while True:
                session.advance(TOKENS * 50, 0)
                session.rewind(10)
        except Stopped as error:
            errors.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    begun.wait()
    while thread.is_alive():
        session.stop()
        thread.join(0.001)
    assert errors
    assert session.tokens == TOKENS[:10]
    session.advance(TOKENS[10:20])
    assert session.logits() == after(model, TOKENS[:20])


def test_a_full_context_is_an_error_before_anything_is_computed(model: Model) -> None:
    session = Session(model, 40)
    session.advance(TOKENS[:38])
    with pytest.raises(ValueError, match="3 tokens do not fit: 38 of 40 are taken"):
        session.advance(TOKENS[:3])
    session.advance(TOKENS[:2])
    assert len(session) == 40
    for bad in ([], [-1], [10**9]):
        with pytest.raises(ValueError):
            Session(model, 40).advance(bad)


def test_the_likeliest_token_is_taken_when_there_is_no_temperature(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS)
    logits = session.logits()
    best = session.sample()
    assert logits[best] == max(logits)
    assert session.likeliest(3)[0][0] == best
    (logprob,) = session.logprobs([best])
    total = math.log(sum(math.exp(x - max(logits)) for x in logits)) + max(logits)
    assert logprob == pytest.approx(max(logits) - total, abs=1e-5)
    assert session.sample(temperature=1.0, top_k=1) == best
    assert session.sample(temperature=1.0, top_p=0.0) == best
    assert session.sample(temperature=1.0, min_p=1.0) == best


@pytest.mark.parametrize("settings_", [{}, {"top_k": 20}, {"top_p": 0.7}, {"top_k": 40, "top_p": 0.6}, {"min_p": 0.2}])
def test_tokens_are_drawn_as_often_as_their_probability_says(model: Model, settings_: dict[str, float]) -> None:
    session = Session(model, 256, seed=3)
    session.advance(TOKENS)
    logits = session.logits()
    weights = {t: math.exp((x - max(logits)) / 0.6) for t, x in enumerate(logits)}
    order = sorted(weights, key=lambda t: (-weights[t], t))
    if "top_k" in settings_:
        order = order[: int(settings_["top_k"])]
    if "top_p" in settings_:
        total, kept = sum(weights[t] for t in order), 0.0
        for n, t in enumerate(order, 1):
            kept += weights[t]
            if kept >= settings_["top_p"] * total:
                order = order[:n]
                break
    if "min_p" in settings_:
        order = [t for t in order if weights[t] >= settings_["min_p"] * weights[order[0]]]
    total, draws = sum(weights[t] for t in order), 4000
    seen: dict[int, int] = {}
    for _ in range(draws):
        token = session.sample(temperature=0.6, **settings_)  # type: ignore[arg-type]
        seen[token] = seen.get(token, 0) + 1
    assert set(seen) <= set(order)
    for t in order[:5]:
        p = weights[t] / total
        assert abs(seen.get(t, 0) - draws * p) < 6 * math.sqrt(draws * p * (1 - p) + 1)


def test_the_same_seed_draws_the_same_tokens(model: Model) -> None:
    def drawn(seed: int) -> list[int]:
        session = Session(model, 256, seed=seed)
        session.advance(TOKENS)
        return [session.sample(temperature=1.0) for _ in range(30)]

    assert drawn(5) == drawn(5) != drawn(6)


def test_a_mask_allows_what_it_allows_and_nothing_else(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS)
    size = (model.shape.vocabulary + 7) // 8
    mask = bytearray(size)
    assert session.sample(mask=mask) == -1
    assert session.sample(mask=mask, temperature=1.0) == -1
    mask[13] = 0b100
    assert session.sample(mask=mask) == 106
    assert session.sample(mask=mask, temperature=2.0, top_p=0.5) == 106
    with pytest.raises(ValueError):
        session.sample(mask=bytes(3))


def test_a_penalty_makes_what_was_said_lately_less_likely(model: Model) -> None:
    session = Session(model, 256)
    session.advance(TOKENS)
    best = session.sample()
    session.advance([best])
    again = session.logits()
    penalised = [(x / 1.5 if x > 0 else x * 1.5) if t in session.tokens[-64:] else x for t, x in enumerate(again)]
    assert session.sample(penalty=1.5) == penalised.index(max(penalised))


def test_a_model_that_does_not_run_here_says_what_is_wrong_with_it(made: Maker, tmp_path: Path) -> None:
    data = made("F32", "qwen2").read_bytes()
    other = tmp_path / "other.gguf"
    other.write_bytes(data.replace(b"qwen2", b"zwen2"))
    with Gguf.open(other) as gguf, pytest.raises(ModelError, match=r"'zwen2' is not supported; supported: llama, "):
        Model(gguf)
    with Gguf.open(made()) as gguf:
        for bad in ({"threads": 0}, {"kernels": "abacus"}):
            with pytest.raises(ValueError, match=next(iter(bad))):
                Model(gguf, **bad)  # type: ignore[arg-type]


def test_rotation_scales_as_yarn_does(made: Maker) -> None:
    """Against the formula of Peng et al. (2023), worked out with floats."""
    with Gguf.open(made()) as gguf:
        plain = Shape.of(gguf)
        a = f"{plain.architecture}.rope.scaling."
        gguf.metadata = {
            **gguf.metadata, a + "type": "yarn", a + "factor": 4.0, a + "original_context_length": 32768,
        }  # fmt: skip
        yarn = Shape.of(gguf)
        gguf.metadata = {**gguf.metadata, a + "type": "linear"}
        assert Shape.of(gguf).frequencies == tuple(f / 4 for f in plain.frequencies)
    d = 2 * len(plain.frequencies)
    base = plain.frequencies[1] ** (-d / 2)
    low, high = (d * math.log(32768 / (turns * 2 * math.pi)) / (2 * math.log(base)) for turns in (32, 1))
    for i, (was, now) in enumerate(zip(plain.frequencies, yarn.frequencies, strict=True)):
        part = min(max((i - math.floor(max(low, 0))) / (min(math.ceil(high), d - 1) - math.floor(max(low, 0))), 0), 1)
        assert now == pytest.approx(was * (1 - part) + was / 4 * part, rel=1e-9)
    assert yarn.attention_factor == pytest.approx(0.1 * math.log(4) + 1)


def test_the_module_brings_no_numpy() -> None:
    code = "import sys, slipstream.runtime_ext.model; assert 'numpy' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
