"""Memory is measured by reading it, for as much as there is."""

from __future__ import annotations

import pytest

from slipstream.runtime_ext.model import read_bandwidth


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_memory_is_read_at_a_rate_that_can_be(threads: int) -> None:
    assert 1e6 < read_bandwidth(8 << 20, threads) < 1e14


@pytest.mark.parametrize(("size", "threads"), [(0, 1), ((1 << 20) - 1, 1), (1 << 20, 0), (1 << 20, 257)])
def test_nothing_cannot_be_read_nor_by_nobody(size: int, threads: int) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_bandwidth(size, threads)


def test_more_than_there_is_is_no_crash() -> None:
    with pytest.raises(MemoryError, match="no room"):
        read_bandwidth(1 << 60)
