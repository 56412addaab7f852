"""Frames of the screen as one picture that moves by itself: SVG 1.1 text and CSS, no script, nothing from elsewhere.

Law: a text stands in its cells, whatever font shows it. Only words are left to the font; every other character, and
what comes after it, is placed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from html import escape
from itertools import groupby
from typing import Final

from rich.cells import cell_len
from rich.color import Color
from rich.style import Style
from rich.terminal_theme import SVG_EXPORT_THEME

from .text import Line, width_of
from .theme import STYLES

CELL, ROW, BASE, MARGIN = 8, 16, 12, 12
"""Pixels: the width and the height of a cell, how far down in it letters stand, and what is around the screen."""
_FONT: Final = "ui-monospace,Menlo,'DejaVu Sans Mono',Consolas,'Liberation Mono',monospace"
_PIECE: Final = re.compile(r"[!-~¡-ɏ]+(?: [!-~¡-ɏ]+)*|(\S)\1*")
"""Words of letters that every such font has, or one other character as often as it is repeated."""


def svg(frames: Sequence[Sequence[Line]], seconds: float) -> str:
    """A picture that shows each frame for so many seconds, over and over; where nothing moves, the last one.

    Texts are as `plain` makes them; the widest line and the longest frame give the size.

    Raises:
        ValueError: there is no frame, or no time.
    """
    if not frames or not seconds > 0:
        raise ValueError("a picture needs a frame, and a time to show it")
    width = max((width_of(line) for lines in frames for line in lines), default=0) * CELL + 2 * MARGIN
    height = max(len(lines) for lines in frames) * ROW + 2 * MARGIN
    numbers: dict[Line, int] = {}
    shown = []
    for n, lines in enumerate(frames):
        rows = [f'<use href="#l{numbers.setdefault(line, len(numbers))}" x="{MARGIN}" y="{MARGIN + row * ROW + BASE}"/>'
                for row, line in enumerate(lines) if any(text.strip() or style for text, style in line)]  # fmt: skip
        delay = (n - len(frames)) * seconds
        shown.append(f'<g class="frame" style="animation-delay:{delay:g}s">{"".join(rows)}</g>')
    drawn = [f'<g id="l{number}">{"".join(_drawn(line))}</g>' for line, number in numbers.items()]
    styles = sorted({style for line in numbers for _, style in line if style})
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">',
        f"<style>{_sheet(styles, len(frames), seconds)}</style>", f"<defs>{''.join(drawn)}</defs>",
        f'<rect class="screen" width="{width}" height="{height}" rx="6"/>', *shown, "</svg>", "",
    ])  # fmt: skip


def _sheet(styles: Sequence[str], frames: int, seconds: float) -> str:
    """The style sheet: when a frame is seen, and what each style that is used looks like."""
    text, screen = Color.default().get_truecolor(SVG_EXPORT_THEME), SVG_EXPORT_THEME.background_color
    rules = [
        f"text{{font:{CELL / 0.6:.3f}px {_FONT};fill:{text.hex}}}.screen{{fill:{screen.hex}}}",
        f".frame{{visibility:hidden;animation:seen {frames * seconds:g}s step-end infinite}}",
        ".frame:last-of-type{visibility:visible}",
        f"@keyframes seen{{0%{{visibility:visible}}{100 / frames:.4g}%,100%{{visibility:hidden}}}}",
        "@media (prefers-reduced-motion:reduce){.frame{animation:none}}",
    ]
    for name in styles:
        style = Style.parse(STYLES[name])
        fore, back = (color.get_truecolor(SVG_EXPORT_THEME, foreground=i == 0).hex if color else usual.hex
                      for i, (color, usual) in enumerate(((style.color, text), (style.bgcolor, screen))))  # fmt: skip
        if style.reverse:
            fore, back = back, fore
        weight, faint = ";font-weight:bold" * bool(style.bold), ";fill-opacity:0.6" * bool(style.dim)
        rules.append(f"text.{name}{{fill:{fore}{weight}{faint}}}rect.{name}{{fill:{back}}}")
    return "".join(rules)


def _drawn(line: Line) -> Iterator[str]:
    """A line's elements, its letters standing on 0: what is behind its texts, and the texts."""
    cell = 0
    for name, spans in groupby((span for span in line if span[0]), lambda span: span[1]):
        text = "".join(text for text, _ in spans)
        style, named = Style.parse(STYLES[name]), f' class="{name}"' if name else ""
        if style.reverse or style.bgcolor:
            yield f'<rect x="{cell * CELL}" y="{-BASE}" width="{cell_len(text) * CELL}" height="{ROW}"{named}/>'
        for begin, end in pieces(text):
            x, length = cell_len(text[:begin]), cell_len(text[:end]) - cell_len(text[:begin])
            wide = f' textLength="{length * CELL}"' if end - begin > 1 else ""
            if wide and not text[begin].isascii():
                wide += ' lengthAdjust="spacingAndGlyphs"'
            said = escape(text[begin:end], quote=False)
            yield f'<text x="{(cell + x) * CELL}"{wide}{named}>{said}</text>'
        cell += cell_len(text)


def pieces(text: str) -> list[tuple[int, int]]:
    """Where a text is cut, as (begin, end): what a font may set without losing the grid; blanks and marks that
    stand alone are left out."""
    found: list[tuple[int, int]] = []
    for match in _PIECE.finditer(text):
        begin, end = match.span()
        if cell_len(text[:begin]) != cell_len(text[:end]):
            found.append((begin, end))
        elif found and found[-1][1] == begin:  # marks belong to the character before them
            found[-1] = (found[-1][0], end)
    return found
