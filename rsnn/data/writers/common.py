"""What the writers share: how a value is refused that a format has no room for."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rsnn.data.events import Events
from rsnn.errors import RecordingError


def check_room(events: Events, limits: dict[str, int], format_name: str) -> None:
    """Check that `0 <= column < limit` for each column that `limits` names.

    Raises:
        RecordingError: it does not hold for an event.

    """
    for name, limit in limits.items():
        column: npt.NDArray[Any] = getattr(events, name)
        wrong = (column < 0) | (column >= limit)
        if wrong.any():
            index = int(np.argmax(wrong))
            advice = (
                "count times from the first event (rsnn convert --from-zero), or use another format"
                if name == "t"
                else "crop the events, or use another format"
            )
            raise RecordingError(
                f"event {index} has {name} = {column[index]}, for which {format_name} has no room; expected "
                f"0 <= {name} < {limit}: {advice}"
            )


def with_fillers(
    records: npt.NDArray[Any], fillers: npt.NDArray[Any], counts: npt.NDArray[np.int64]
) -> npt.NDArray[Any]:
    """Return `records` with `counts[i]` copies of `fillers[i]` put before record i."""
    places = np.arange(len(records)) + np.cumsum(counts)
    mixed = np.empty(len(records) + int(counts.sum()), dtype=records.dtype)
    is_record = np.zeros(mixed.size, dtype=bool)
    is_record[places] = True
    mixed[is_record] = records
    mixed[~is_record] = np.repeat(fillers, counts)
    return mixed
