"""What a snapshot of streams is made of, checked before any stream changes.

Letters: K classes, H height, W width.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from rsnn.data.events import check_sensor_size
from rsnn.errors import InputError
from rsnn.streaming import trees

FORMAT = 1

_NONE = type(None)
_Kinds = dict[str, tuple[type, ...]]
_BATCH: _Kinds = {"format": (int,), "settings": (dict,), "streams": (list,)}
_STREAM: _Kinds = {
    "slicer": (dict,),
    "step": (int,),
    "silent": (int,),
    "evidence": (np.ndarray, _NONE),
    "weight": (float, int),
    "windows": (list,),
}
_SLICER: _Kinds = {
    "clock": (dict,),
    "sensor_size": (tuple, list, _NONE),
    "counts": (np.ndarray,),
    "events": (int,),
    "origin_us": (int, _NONE),
    "step": (int,),
    "late": (int,),
    "given": (int,),
}
_CLOCK: _Kinds = {"last_raw": (int, _NONE), "last": (int,), "wraps": (bool,)}
_WINDOW: _Kinds = {"start": (int,), "events": (int,), "logits": (np.ndarray, _NONE), "state": (list,)}


def check_snapshot(snapshot: object, settings: dict[str, Any]) -> None:
    """Check that a snapshot is whole, and of streams with these settings.

    Raises:
        InputError: it is not.

    """
    if not isinstance(snapshot, dict) or snapshot.get("format") != FORMAT:
        raise InputError(
            f"got a {type(snapshot).__name__} that is no snapshot; expected what stream.snapshot() returned"
        )
    _check_fields("snapshot", snapshot, _BATCH)
    kept = snapshot["settings"]
    if not _are_equal(kept, settings):
        raise InputError(f"the snapshot is of a stream with {kept}, this one has {settings}; expected the same")
    if len(snapshot["streams"]) != settings["streams"]:
        raise _damaged(f"it has {len(snapshot['streams'])} streams, not {settings['streams']}")
    for stream in snapshot["streams"]:
        _check_fields("stream", stream, _STREAM)
        slicer = stream["slicer"]
        _check_fields("slicer", slicer, _SLICER)
        _check_fields("clock", slicer["clock"], _CLOCK)
        if slicer["sensor_size"] is not None:
            try:
                check_sensor_size(slicer["sensor_size"])
            except InputError:
                raise _damaged(f"its sensor_size is {slicer['sensor_size']!r}") from None
        counts = slicer["counts"]
        if counts.shape != (2, *settings["frame_size"]) or counts.dtype != np.float32:
            raise _damaged(f"its counts are {_said([counts])}")
        _check_slicer(slicer, stream["step"], settings)
        if not 0 <= stream["silent"] <= stream["step"]:
            raise _damaged(f"at step {stream['step']} it counts {stream['silent']} silent ones")
        if not 0 <= stream["weight"] < np.inf or (stream["evidence"] is None and stream["weight"]):
            raise _damaged(f"the weight of its evidence is {stream['weight']}")
        for window in stream["windows"]:
            _check_fields("window", window, _WINDOW)
            if not 0 <= window["events"] <= slicer["given"]:
                raise _damaged(f"of {slicer['given']} events a window has {window['events']}")
            if window["logits"] is None and any(leaf is not None for leaf in window["state"]):
                raise _damaged("a window has a state and no logits")
        step, T, stride = stream["step"], settings["num_frames"], settings["stride_steps"]
        starts = [window["start"] for window in stream["windows"]]
        if starts != list(range(max(0, (step - T) // stride * stride + stride), step, stride)):
            raise _damaged(f"at step {step} its windows begin at {starts}")


def _check_slicer(slicer: dict[str, Any], step: int, settings: dict[str, Any]) -> None:
    """Check that a slicer's numbers agree with each other, and with the step that its stream has come to."""
    origin_us, last_us, began = slicer["origin_us"], slicer["clock"]["last"], slicer["given"] > 0
    if began != (origin_us is not None) or began != (slicer["clock"]["last_raw"] is not None):
        raise _damaged(f"of {slicer['given']} events the first was at {origin_us} us")
    if min(slicer["events"], slicer["late"]) < 0 or slicer["events"] + slicer["late"] > slicer["given"]:
        raise _damaged(
            f"of {slicer['given']} events {slicer['late']} were late and {slicer['events']} are in the open step"
        )
    counts = slicer["counts"]
    # Beyond 2^24 float32 counts no further.
    if not (counts >= 0).all() or (counts.max() < 1 << 24 and counts.sum(dtype=np.float64) != slicer["events"]):
        raise _damaged(f"its counts are not those of the {slicer['events']} events of the open step")
    # The open step is the next to run, or that of the last event where steps in between have not been run.
    newest = (last_us - origin_us) * settings["num_frames"] // settings["window_us"] if began else 0
    if slicer["step"] != max(step, newest):
        raise _damaged(
            f"step {slicer['step']} is open, the stream has come to step {step} and its last event to step {newest}"
        )


def check_states(snapshot: dict[str, Any], first: Any, second: Any) -> None:
    """Check that the logits and states of a snapshot that is whole are a model's.

    Args:
        snapshot: what `check_snapshot` let pass.
        first, second: logits (1, K) and state of the model after one step, and after two: an axis in which they differ
            grows with the steps, and may have any length.

    Raises:
        InputError: they are of another model.

    """
    made = list(zip(map(to_array, trees.leaves(first)), map(to_array, trees.leaves(second)), strict=True))
    for stream in snapshot["streams"]:
        if stream["evidence"] is not None:
            _check_leaves([stream["evidence"]], made[:1])
        for window in stream["windows"]:
            if window["logits"] is not None:
                _check_leaves([window["logits"], *window["state"]], made)


def _check_leaves(leaves: list[Any], made: list[tuple[Any, Any]]) -> None:
    if len(leaves) != len(made) or not all(_is_made_as(leaf, *pair) for leaf, pair in zip(leaves, made, strict=True)):
        raise InputError(
            f"the snapshot is of another model: it holds {_said(leaves)}, and this model makes "
            f"{_said([pair[0] for pair in made])}; expected a snapshot of this model"
        )


def _is_made_as(leaf: Any, first: Any, second: Any) -> bool:
    if not isinstance(first, np.ndarray):
        return type(leaf) is type(first)
    return (
        isinstance(leaf, np.ndarray)
        and leaf.dtype == first.dtype
        and leaf.ndim == first.ndim
        and all(n == a or a != b for n, a, b in zip(leaf.shape, first.shape, second.shape, strict=True))
    )


def _are_equal(kept: dict[str, Any], settings: dict[str, Any]) -> bool:
    try:
        return kept == settings
    except ValueError:  # arrays among them
        return False


def _said(leaves: list[Any]) -> str:
    return ", ".join(
        f"{leaf.dtype}{list(leaf.shape)}" if isinstance(leaf, np.ndarray) else type(leaf).__name__ for leaf in leaves
    )


def _check_fields(what: str, given: Any, kinds: _Kinds) -> None:
    if not isinstance(given, dict) or given.keys() != kinds.keys():
        found = sorted(map(str, given)) if isinstance(given, dict) else f"a {type(given).__name__}"
        raise _damaged(f"its {what} is {found}, not {sorted(kinds)}")
    for name, allowed in kinds.items():
        if not isinstance(given[name], allowed):
            raise _damaged(f"{name!r} of its {what} is a {type(given[name]).__name__}")


def _damaged(found: str) -> InputError:
    return InputError(f"the snapshot is damaged: {found}; expected what stream.snapshot() returned")


def to_array(value: Any) -> Any:
    """Return a tensor as an array, and anything else as it is."""
    if not isinstance(value, Tensor):
        return value
    # NumPy knows no bfloat16; float32 holds every value of it.
    exact = value.float() if value.dtype == torch.bfloat16 else value
    return exact.detach().cpu().numpy().copy()
