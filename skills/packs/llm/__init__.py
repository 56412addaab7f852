"""Language models that a device runs itself, from model files (GGUF) that its config names."""

from __future__ import annotations

from ....core.skill import Pack
from .backend import Llm, capabilities, open_llm, seconds
from .generate import llm_generate, llm_models

__all__ = ["Llm", "pack"]

pack = Pack(name="llm", skills=(llm_generate, llm_models), open=open_llm, capabilities=capabilities, seconds=seconds)
