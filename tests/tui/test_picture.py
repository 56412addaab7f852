"""The picture: read back from its XML, every text of every frame stands in the cells where the terminal has it."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from slipstream.tui.picture import BASE, CELL, MARGIN, ROW, svg
from slipstream.tui.text import Line, plain, text_of, width_of
from slipstream.tui.theme import STYLES

NS = "{http://www.w3.org/2000/svg}"
styles = st.sampled_from(sorted(STYLES))
glyphs = st.text("ab <&>\"'é●✓⇄▶█░─╮┊日本é̈👍🇩🇪❤\ufe0f", max_size=12)
lines = st.lists(st.tuples(glyphs | st.text(max_size=8).map(plain), styles), max_size=4).map(tuple)
screens = st.lists(st.lists(lines, max_size=4), min_size=1, max_size=4)

Placed = dict[int, tuple[str, str]]
"""Cell → the text that begins there, and its style."""


def placed(element: ElementTree.Element) -> Placed:
    """The texts of a line by their cells, each as long as it says."""
    found = {}
    for text in element.iter(f"{NS}text"):
        x, said = int(text.get("x", "")), text.text or ""
        assert x % CELL == 0
        assert len(said) == 1 or int(text.get("textLength", "")) == cell_len(said) * CELL
        found[x // CELL] = (said, text.get("class", ""))
    return found


def read(picture: str) -> list[dict[int, Placed]]:
    """For each frame: row → its texts."""
    root = ElementTree.fromstring(picture)
    defined = {group.get("id"): placed(group) for group in root.iter(f"{NS}g") if group.get("id")}
    frames = []
    for group in root.iter(f"{NS}g"):
        if group.get("class") == "frame":
            uses = [(use.get("href", "")[1:], int(use.get("y", ""))) for use in group]
            frames.append({(y - MARGIN - BASE) // ROW: defined[name] for name, y in uses})
    return frames


def words(text: str) -> str:
    """What is seen of a text: no blanks, and no marks, which alone would be seen nowhere."""
    return "".join(char for char in text if cell_len(char) and not char.isspace())


@given(screens, st.floats(0.1, 10))
def test_every_text_of_every_frame_is_in_it_at_its_cell(screen: list[list[Line]], seconds: float) -> None:
    frames = read(svg(screen, seconds))
    assert len(frames) == len(screen)
    for frame, lines in zip(frames, screen, strict=True):
        for row, line in enumerate(lines):
            texts = sorted(frame.get(row, {}).items())
            assert words("".join(said for _, (said, _) in texts)) == words(text_of(line))
            ends = [0, *(cell + cell_len(said) for cell, (said, _) in texts)]
            assert all(end <= cell for end, (cell, _) in zip(ends, texts, strict=False)), "texts lie over each other"
            assert ends[-1] <= width_of(line)


def test_wide_characters_and_symbols_keep_the_grid() -> None:
    line: Line = (("日本 ok  ", ""), ("██░░", "good"), (" e\u0301a ✓done┤", ""), ("é x", "bad"))
    assert read(svg([[line]], 1))[0][0] == {
        0: ("日", ""), 2: ("本", ""), 5: ("ok", ""), 9: ("██", "good"), 11: ("░░", "good"), 14: ("e\u0301", ""),
        15: ("a", ""), 17: ("✓", ""), 18: ("done", ""), 22: ("┤", ""), 23: ("é x", "bad"),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "a & b", "]]>", "</text>", "&lt;", "'\""])
def test_texts_are_escaped(text: str) -> None:
    picture = svg([[((text, ""),)]], 1)
    assert read(picture)[0][0] == {0: (text, "")}
    assert "<script" not in picture


def test_each_frame_is_seen_once_in_turn_and_the_last_where_nothing_moves() -> None:
    picture = svg([[((word, ""),)] for word in ("one", "two", "three", "four")], 1.5)
    assert re.findall(r"animation-delay:(\S+?)s", picture) == ["-6", "-4.5", "-3", "-1.5"]
    assert "animation:seen 6s step-end infinite" in picture
    assert "@keyframes seen{0%{visibility:visible}25%,100%{visibility:hidden}}" in picture
    assert ".frame:last-of-type{visibility:visible}" in picture


def test_every_style_of_the_theme_is_drawn_and_what_is_reversed_has_its_background() -> None:
    picture = svg([[((name or "plain", name),) for name in STYLES]], 1)
    for name in filter(None, STYLES):
        assert f"text.{name}{{fill:#" in picture
    assert re.search(r"text\.title\{[^}]*font-weight:bold", picture)
    assert re.search(r"text\.dim\{[^}]*fill-opacity", picture)
    behind = f'<rect x="0" y="{-BASE}" width="{6 * CELL}" height="{ROW}" class="cursor"/>'
    assert re.findall(r"<rect x=[^>]*>", picture) == [behind]


def test_it_has_no_script_and_asks_for_nothing() -> None:
    picture = svg([[(("a", "good"),)]], 1)
    assert set(re.findall(r"\w+://[^\"' ]+", picture)) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<script|<image|<foreignObject|\bon\w+=|url\(|@import", picture)


def test_lines_that_stay_are_drawn_once() -> None:
    same: Line = (("the same", ""),)
    assert svg([[same, same, ((str(n), ""),)] for n in range(8)], 1).count("the same") == 1


def test_eight_full_screens_of_which_half_the_lines_change_are_below_200_kB() -> None:
    def line(n: int, row: int) -> Line:
        return (f"{n * (row % 2)}{row:3} ", "dim"), *[("│✓", "accent"), ("step-7", "good")] * 9

    frames = [[line(n, row) for row in range(24)] for n in range(8)]
    assert all(75 < width_of(line) <= 80 for lines in frames for line in lines)
    assert len(svg(frames, 2).encode()) < 200_000


@pytest.mark.parametrize(("frames", "seconds"), [([], 1.0), ([[]], 0.0), ([[]], float("nan"))])
def test_nothing_to_show_is_an_error(frames: list[list[Line]], seconds: float) -> None:
    with pytest.raises(ValueError):
        svg(frames, seconds)
