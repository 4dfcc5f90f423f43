"""Recordings to test with."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from rsnn.data import Events


def random_events(
    rng: np.random.Generator, n: int, sensor_size: tuple[int, int] = (128, 128), last_us: int = 10**6
) -> Events:
    width, height = sensor_size
    return Events(
        t=np.sort(rng.integers(0, last_us, n)),
        x=rng.integers(0, width, n),
        y=rng.integers(0, height, n),
        p=rng.integers(0, 2, n),
        sensor_size=sensor_size,
    )


@st.composite
def recordings(
    draw: st.DrawFn, *, sensor_size: tuple[int, int] = (34, 34), max_time: int = 2**40, min_events: int = 1
) -> Events:
    """Recordings of a few events, many of them at equal times and pixels."""
    n = draw(st.integers(min_events, 60))
    times = st.one_of(st.integers(0, min(50, max_time)), st.integers(0, max_time))
    width, height = sensor_size
    return Events(
        t=np.sort(np.array(draw(st.lists(times, min_size=n, max_size=n)), dtype=np.int64)),
        x=np.array(draw(st.lists(st.integers(0, width - 1), min_size=n, max_size=n)), dtype=np.int64),
        y=np.array(draw(st.lists(st.integers(0, height - 1), min_size=n, max_size=n)), dtype=np.int64),
        p=np.array(draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)), dtype=np.int64),
        sensor_size=sensor_size,
    )
