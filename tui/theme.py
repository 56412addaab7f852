"""The styles that lines name, in colour; a glyph and a word carry the meaning without it (https://no-color.org)."""

from __future__ import annotations

from typing import Final

STYLES: Final = {
    "": "",
    "dim": "dim",
    "title": "bold",
    "head": "bold dim",
    "good": "green",
    "busy": "yellow",
    "bad": "red",
    "warn": "bold yellow",
    "accent": "cyan",
    "cursor": "reverse",
}
"""Name → style in Rich's words, with colours of the terminal's own palette only (so that any theme of it fits)."""
