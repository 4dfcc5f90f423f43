"""Models as ONNX files, for programs without PyTorch.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import json
import os
import warnings
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from rsnn.data.files import as_path, replacing
from rsnn.errors import InputError, MissingDependencyError, RSNNError
from rsnn.models import EventClassifier
from rsnn.nn.checks import check_positive, quantized_part

NEXT = "next."  # before the name of a state: what it is after the step
CHECKED_STEPS = 20  # spikes take some steps from the first layer to the last
CHECKED_SAMPLES = 4
EVENTS_A_CELL = (0.3, 3.0, 30.0)  # of random frames, the first that makes the model tell classes apart
TOLERANCE = 1e-3  # of the largest logit; a spike that rounding decides on is rarely in all samples


def to_onnx(
    model: EventClassifier,
    path: str | os.PathLike[str],
    *,
    num_frames: int | None = None,
    frame_size: tuple[int, int] | None = None,
) -> float:
    """Write a model as an ONNX file: one step of it with its state in the caller's hands, or a whole recording.

    A step has the inputs `frame` (N, C, H, W), event counts, and a tensor for every state, such as
    `encoder.0.hidden`; the outputs `logits` (N, K), of all steps since the state was fresh, and every state after the
    step, such as `next.encoder.0.hidden`. Zeros are the fresh state. A whole recording has the input `frames`
    (T, N, C, H, W) and the output `logits` (N, K). N may be any number. The file's metadata has `class_names` and
    `preprocessing` as JSON.

    Args:
        model: any model of the library; it stays as it is.
        path: of the file, which ends in `.onnx`; one that is there is replaced.
        num_frames: T of a whole recording, whose steps are unrolled in the file; None writes a step.
        frame_size: (height, width), for a model without preprocessing.

    Returns:
        the largest difference between logits of the file, in ONNX Runtime, and of the model, on random frames.

    Raises:
        InputError: an argument does not fit the model, a model that needs the whole recording is to be written as a
            step, or the file cannot be written.
        RSNNError: the file's logits are not the model's; nothing is written then.
        MissingDependencyError: onnx, onnxscript or onnxruntime is not installed.

    """
    _check_installed()
    target = as_path(path)
    if target.suffix.lower() != ".onnx":  # it may be a recording, or another file that is not meant
        raise InputError(f"the file to write is {target}; expected a name that ends in .onnx")
    if num_frames is not None:
        check_positive(num_frames=num_frames)
    if quantized := quantized_part(model):
        raise InputError(
            f"{quantized} is quantized, which the ONNX exporter of torch cannot write; expected the model before: "
            "export that one, and quantize the file with onnxruntime.quantization"
        )
    size = _frame_size(model, frame_size)
    model = copy.deepcopy(model).cpu().float().eval()
    with replacing(target) as partial, torch.no_grad(), torch.autocast("cpu", enabled=False):
        batch = torch.export.Dim("N")
        if num_frames is None:
            frames = _random_frames(model, 2, size)
            step = _Step(model, *_states(model, frames))
            example: tuple[Any, ...] = (frames[0, :2], step.fresh)
            shapes: tuple[Any, ...] = ({0: batch}, [{} if d is None else {d: batch} for d in step.batch_dims])
            inputs, outputs = ["frame", *step.names], ["logits", *(NEXT + name for name in step.names)]
            program = _exported(step, example, shapes, inputs, outputs)
        else:
            frames = _random_frames(model, num_frames, size)
            program = _exported(_Whole(model), (frames,), ({1: batch},), ["frames"], ["logits"])
        frames, expected = _telling(model, num_frames or CHECKED_STEPS, size)
        facts = {"class_names": model.class_names, "preprocessing": model.preprocessing and asdict(model.preprocessing)}
        program.model.metadata_props.update({name: json.dumps(value) for name, value in facts.items()})
        program.save(partial, external_data=False)
        found = _run(partial, frames.numpy(), whole=num_frames is not None)
        differences = np.abs(found - expected.numpy()).max(axis=1)
        if not differences.min() <= TOLERANCE * max(1.0, float(expected.abs().max())):  # for every sample; NaN too
            raise RSNNError(
                f"the file would give logits that differ by up to {differences.max():.2g} from the model's, so it was "
                f"not written: the ONNX exporter of torch {torch.__version__} translates a part of it wrongly. If that "
                "part is your own, write it with other operations"
            )
    return float(differences.max())


class _Whole(nn.Module):
    """Frames of a recording (T, N, C, H, W) to logits (N, K)."""

    def __init__(self, model: EventClassifier) -> None:
        super().__init__()
        self.model = model

    def forward(self, frames: Tensor) -> Tensor:
        logits: Tensor = self.model(frames)
        return logits


class _Step(nn.Module):
    """A frame (N, C, H, W) and a state as a list of tensors to logits (N, K) and the state's tensors after it.

    Args:
        model: what makes the step.
        state: one of its states, of a batch of two.
        of_three: the same of a batch of three, which tells what dimension of a tensor is the batch.

    """

    def __init__(self, model: EventClassifier, state: Any, of_three: Any) -> None:
        super().__init__()
        self.model = model
        leaves, self.structure = pytree.tree_flatten_with_path(state)
        self.there = [leaf is not None for _, leaf in leaves]
        self.names = [_name(pytree.keystr(path)) for path, leaf in leaves if leaf is not None]
        self.fresh = [torch.zeros_like(tensor) for tensor in _tensors(state)]
        sizes = zip(_tensors(state), _tensors(of_three), strict=True)
        self.batch_dims = [next((d for d in range(a.ndim) if a.shape[d] != b.shape[d]), None) for a, b in sizes]

    def forward(self, frame: Tensor, state: Sequence[Tensor]) -> tuple[Tensor, ...]:
        given = iter(state)
        leaves = [next(given) if there else None for there in self.there]
        logits, after = self.model.advance(frame[None], pytree.tree_unflatten(leaves, self.structure))
        return logits, *_tensors(after)


def _tensors(state: Any) -> list[Tensor]:
    """Return the tensors of a state; a number of steps becomes one."""
    return [torch.as_tensor(leaf, dtype=torch.float32) for leaf in pytree.tree_leaves(state) if leaf is not None]


def _name(keys: str) -> str:
    """Return `".encoder[0].hidden"` as `"encoder.0.hidden"`."""
    return keys.replace("[", ".").replace("]", "").strip(".")


def _states(model: EventClassifier, frames: Tensor) -> tuple[Any, Any]:
    """Return states of the model after a frame of two samples and of three, if it can be run step by step."""
    two, three = frames[:, :2], frames[:, :3]
    logits, state = model.advance(two[:1])
    zeros = pytree.tree_map(lambda leaf: None if leaf is None else leaf * 0, state)
    try:
        _, after_two = model.advance(two[1:2], state)
        shapes = [[tensor.shape for tensor in _tensors(each)] for each in (state, after_two)]
        by_steps = shapes[0] == shapes[1] and torch.allclose(model.advance(two[:1], zeros)[0], logits)
    except InputError:  # it takes no state, or not so many steps
        by_steps = False
    if not by_steps:
        raise InputError(
            f"{type(model).__name__} with {type(model.classifier).__name__} cannot be written as a step, since it "
            "needs all frames of a recording; expected num_frames= (--frames), which writes all of them"
        )
    return state, model.advance(three[:1])[1]


def _frame_size(model: EventClassifier, frame_size: tuple[int, int] | None) -> tuple[int, int]:
    """Return (height, width) of the model's frames."""
    own = None if model.preprocessing is None else model.preprocessing.frame_size
    chosen = own if frame_size is None else tuple(frame_size)
    if chosen is None:
        raise InputError("the model has no preprocessing that says how large its frames are; expected frame_size=")
    if own not in (None, chosen):
        raise InputError(f"frame_size={frame_size!r}: the model takes frames of {own} (height, width)")
    height, width = chosen
    return height, width


def _random_frames(model: EventClassifier, T: int, size: tuple[int, int], events: float = EVENTS_A_CELL[0]) -> Tensor:
    """Return counts (T, N, C, H, W) of so many events a cell."""
    shape = (T, CHECKED_SAMPLES, getattr(model.encoder, "in_channels", 2), *size)
    return torch.poisson(torch.full(shape, events, dtype=torch.float32), torch.Generator().manual_seed(0))


def _telling(model: EventClassifier, T: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return random frames and the model's logits of them, which are not all the same if the model can be made to."""
    for events in EVENTS_A_CELL:
        frames = _random_frames(model, T, size, events)
        logits = model(frames)
        if len(logits.unique()) > 1:
            break
    return frames, logits


def _exported(
    module: nn.Module, example: tuple[Any, ...], shapes: tuple[Any, ...], inputs: list[str], outputs: list[str]
) -> torch.onnx.ONNXProgram:
    """Return the module in ONNX; the exporter's own talk is left out."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            module.eval(),
            example,
            dynamic_shapes=shapes,
            input_names=inputs,
            output_names=outputs,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program


def _run(path: Path, frames: np.ndarray[Any, Any], *, whole: bool) -> np.ndarray[Any, Any]:
    """Return the logits of frames (T, N, C, H, W) by ONNX Runtime."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    if whole:
        return session.run(["logits"], {"frames": frames})[0]
    names = [output.name for output in session.get_outputs()]
    N = frames.shape[1]
    state = {
        given.name: np.zeros([N if isinstance(size, str) else size for size in given.shape], np.float32)
        for given in session.get_inputs()[1:]
    }
    for frame in frames:
        found = dict(zip(names, session.run(names, {"frame": frame, **state}), strict=True))
        state = {name: found[NEXT + name] for name in state}
    return found["logits"]


def _check_installed() -> None:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingDependencyError(
            f"{' and '.join(missing)} not found, which writing ONNX needs; install pip install 'rsnn[export]'"
        )
