"""The chosen row of a list stays chosen, and on the screen."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from slipstream.tui.window import Window


def test_the_chosen_row_stays_chosen_while_rows_come_and_go_before_it() -> None:
    window = Window("c")
    window.show(["a", "b", "c"], 3)
    window.show(["c", "d"], 3)
    assert window.key == "c"


def test_when_the_chosen_row_goes_the_one_in_its_place_is_chosen() -> None:
    window = Window("b")
    window.show(["a", "b", "c"], 3)
    window.show(["a", "c"], 3)
    assert window.key == "c"
    window.show(["a"], 3)
    assert window.key == "a"
    window.show([], 3)
    assert window.key is None


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 10), st.integers(-40, 40)), min_size=1))
def test_the_chosen_row_is_always_among_those_shown(steps: list[tuple[int, int, int]]) -> None:
    window = Window()
    for count, height, by in steps:
        keys = [f"k{i}" for i in range(count)]
        window.move(keys, by)
        shown = window.show(keys, height)
        assert len(shown) == min(count, height)
        assert not keys or keys.index(str(window.key)) in shown
