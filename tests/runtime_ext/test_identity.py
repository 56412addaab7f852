"""The identity of models: what changes it, what does not, and what a session is refused for."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import msgpack
import pytest

from slipstream.runtime_ext.gguf import Gguf
from slipstream.runtime_ext.identity import IdentityError, identity, manifest, refuse
from slipstream.runtime_ext.model import Model, kernels

MAKE = runpy.run_path(str(Path(__file__).parents[1] / "models" / "make_gguf.py"))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("identity") / "tiny.gguf"
    MAKE["make"](path, "tiny", "Q8_0")
    return path


def changed(file: Path, to: Path, old: bytes, new: bytes) -> Gguf:
    """The file with some bytes of its header in another form, of the same length."""
    data = file.read_bytes()
    assert data.count(old) == 1
    assert len(old) == len(new)
    to.write_bytes(data.replace(old, new))
    return Gguf.open(to)


def told(gguf: Gguf, **keys: Any) -> dict[str, Any]:
    found = manifest(gguf, Model(gguf, **keys), identity(gguf))
    assert msgpack.unpackb(msgpack.packb(found)) == found
    return found


def test_one_bit_of_one_weight_makes_another_model(file: Path, tmp_path: Path) -> None:
    with Gguf.open(file) as gguf:
        right = identity(gguf)
        place = gguf.tensors["blk.1.ffn_down.weight"].offset
    data = bytearray(file.read_bytes())
    data[place + 1000] ^= 1
    (tmp_path / "other.gguf").write_bytes(data)
    with Gguf.open(tmp_path / "other.gguf") as gguf:
        assert identity(gguf) != right


def test_the_same_weights_by_other_names_are_another_model(file: Path, tmp_path: Path) -> None:
    with Gguf.open(file) as gguf:
        right = identity(gguf)
    with changed(file, tmp_path / "other.gguf", b"blk.1.attn_norm.weight", b"blk.1.attn_mron.weight") as gguf:
        assert identity(gguf) != right


def test_the_same_file_goes_on_whatever_it_is_called_and_by_any_kernels(file: Path, tmp_path: Path) -> None:
    with Gguf.open(file) as gguf:
        here = told(gguf)
        for name in kernels():
            refuse(told(gguf, kernels=name, threads=2), here)
    with changed(file, tmp_path / "other.gguf", b"random qwen2", b"RANDOM QWEN2") as gguf:
        refuse(told(gguf), here)


@pytest.mark.parametrize(
    ("old", "new", "differs"),
    [
        (b"rope.freq_base\x06\0\0\0\0\x40\x1c\x46", b"rope.freq_base\x06\0\0\0\0\x40\x1d\x46", "shape"),
        (b"rms_epsilon\x06\0\0\0\xbd\x37\x86\x35", b"rms_epsilon\x06\0\0\0\xbe\x37\x86\x35", "shape"),
        (b"add_bos_token\x07\0\0\0\0", b"add_bos_token\x07\0\0\0\1", "tokenizer"),
    ],
)  # fmt: skip
def test_a_file_that_is_run_otherwise_is_refused(
    file: Path, tmp_path: Path, old: bytes, new: bytes, differs: str
) -> None:
    with Gguf.open(file) as gguf:
        here = told(gguf)
    with changed(file, tmp_path / "other.gguf", old, new) as gguf, pytest.raises(IdentityError) as error:
        refuse(told(gguf), here)
    assert error.value.differs == differs
    assert "both devices" in str(error.value)


def test_a_session_that_keeps_its_keys_and_values_in_another_form_is_refused(file: Path) -> None:
    with Gguf.open(file) as gguf:
        model, weights = Model(gguf), identity(gguf)
        halves, bytes_ = manifest(gguf, model, weights), manifest(gguf, model, weights, "q8_0")
    refuse(bytes_, bytes_)
    with pytest.raises(IdentityError, match="kv: keys and values are kept in another form; use the same kv"):
        refuse(halves, bytes_)


@pytest.mark.parametrize("name", ["weights", "shape", "tokenizer", "kv", "numerics"])
def test_a_session_is_refused_for_whatever_differs_or_is_missing(file: Path, name: str) -> None:
    with Gguf.open(file) as gguf:
        here = told(gguf)
    for there in (here | {name: "another"}, {key: value for key, value in here.items() if key != name}):
        with pytest.raises(IdentityError, match=f"^{name}: "):
            refuse(there, here)
