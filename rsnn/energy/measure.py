"""`energy_report`: run a model on recordings under the recorder, and divide by the number of recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rsnn.data import Events
from rsnn.data.frames import check_polarities
from rsnn.data.grouping import of_equal_shape
from rsnn.energy.costs import EnergyModel, energy_model
from rsnn.energy.ledger import Ledger
from rsnn.energy.recorder import Recorder
from rsnn.energy.report import EnergyReport, LayerEnergy
from rsnn.energy.states import memories
from rsnn.errors import InputError
from rsnn.nn.checks import as_tensor

_AT_ONCE = 16  # recordings that came one by one
_PER_PASS = (
    *("dense_mac", "mac", "dense_ac", "ac", "spikes", "neuron_steps", "inputs", "nonzero_inputs"),
    *("state_bytes", "activation_bytes", "outputs"),
)


def energy_report(model: nn.Module, frames: Any, *, energy: str | EnergyModel = "horowitz") -> EnergyReport:
    """Count the operations that `model` performs on recordings, per layer and per sample; see docs/energy.md.

    Args:
        model: any module from frames (T, N, C, H, W) to logits; it runs in eval mode and is left as it was. A compiled
            one runs as if it were not; one that keeps its state between calls, as SpikingJelly's do, starts every batch
            from its reset state.
        frames: frames (T, N, C, H, W), or (T, C, H, W) of one sample, as a tensor or array; or `Events`, for a model
            with a preprocessing; or an iterable (a `DataLoader`, a data set) of these, alone or with labels as
            `(frames, labels)`.
        energy: an energy model or its name, as in `rsnn.energy.energy_models()`.

    Raises:
        InputError: `frames` is of another kind or shape, or empty, or does not fit the model.
        UnknownNameError: there is no energy model of that name.

    """
    if not isinstance(model, nn.Module):
        raise InputError(f"got a {type(model).__name__} as the model; expected a torch.nn.Module")
    costs = energy_model(energy)
    model = getattr(model, "_orig_mod", model)  # of torch.compile(model)
    weight = next(model.parameters(), torch.empty(0))
    modes = {module: module.training for module in model.modules()}
    fused_attention = torch.backends.mha.get_fastpath_enabled()
    recorder = Recorder(model)
    samples = steps = 0
    try:
        torch.backends.mha.set_fastpath_enabled(False)  # it runs a whole transformer layer as one operation
        model.eval()
        recorder.attach()
        for batch in _batches(frames, model):
            batch = batch.to(weight)
            with torch.no_grad(), _uncompiled(model), _fresh(model), recorder.watching(batch.shape[1]):
                model(batch)
            samples, steps = samples + batch.shape[1], steps + batch.shape[0] * batch.shape[1]
    finally:
        recorder.close()
        torch.backends.mha.set_fastpath_enabled(fused_attention)
        for module, training in modes.items():
            module.training = training
    if not samples:
        raise InputError("there are no recordings to measure; expected at least one batch of frames (T, N, C, H, W)")
    ledger = recorder.ledger
    layers = list(ledger.layers.values())
    _add_parameters(model, layers)
    for layer in layers:
        for field in _PER_PASS:
            setattr(layer, field, getattr(layer, field) / samples)
        # Rows of a linear layer may be pixels too, and operations by element do not say how often they ran.
        layer.steps = min(layer.steps or steps, steps) / samples
        layer.name = layer.name.replace("._orig_mod", "")  # of compiled parts
        head = layer.name.partition(".")[0]
        layer.part = head if head in ("encoder", "classifier") else "other"
        layer.name = layer.name or type(model).__name__
        layer.joules = layer.cost(costs)
    return EnergyReport(tuple(layers), dict(ledger.not_counted) | _unseen(model, ledger), samples, costs)


@contextmanager
def _uncompiled(model: nn.Module) -> Iterator[None]:
    """Have what is compiled or scripted run operation by operation for a while."""
    compiled = any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in model.modules())
    eager = torch.compiler.set_stance("force_eager") if compiled else nullcontext()
    with eager, torch.jit.optimized_execution(False):  # type: ignore[attr-defined]  # would fuse on a GPU
        yield


@contextmanager
def _fresh(model: nn.Module) -> Iterator[None]:
    """Have what keeps its state between calls start from its reset state, and leave it with the state it had."""
    kept: list[tuple[Any, dict[str, Any]]] = []
    for module in model.modules():
        found = memories(module)
        if found is not None:
            kept.append((module, dict(vars(module))))
            # A reset writes into the tensors that it finds.
            copies = {name: value.clone() if isinstance(value, Tensor) else value for name, value in found.items()}
            vars(module)["_memories"] = copies
    try:
        for module, _ in kept:
            module.reset()
        yield
    finally:
        for module, attributes in kept:
            vars(module).clear()
            vars(module).update(attributes)


def _add_parameters(model: nn.Module, layers: list[LayerEnergy]) -> None:
    """Give each parameter to the layer named after it or its module; to a row of its own where none ran."""
    seen: set[int] = set()
    for owner, module in model.named_modules():
        for key, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            named = [layer for layer in layers if layer.name in (f"{owner}.{key}".lstrip("."), owner)]
            if not named:
                named = [LayerEnergy(owner, "parameters")]
                layers.append(named[0])
            exact = [layer for layer in named if layer.name != owner]
            (exact or named)[0].parameters += parameter.numel()


def _unseen(model: nn.Module, ledger: Ledger) -> dict[str, int]:
    """Return the weights that no operation was seen to use: part of the model that did not run, or ran unwatched."""
    return {
        f"weights {name}, not seen in use": 1
        for name, parameter in model.named_parameters()
        if parameter.ndim > 1 and parameter.numel() and parameter.data_ptr() not in ledger.seen
    }


def _batches(frames: Any, model: nn.Module) -> Iterator[Tensor]:
    """Yield batches (T, N, C, H, W); recordings that come one by one are put together."""
    parts = _parts(frames, model)
    for batch in of_equal_shape(parts, _AT_ONCE, whole=lambda part: part.shape[1] > 1):
        yield batch[0][1] if len(batch) == 1 else torch.cat([part for _, part in batch], dim=1)


def _parts(frames: Any, model: nn.Module) -> Iterator[Tensor]:
    if isinstance(frames, Tensor | np.ndarray | Events):
        yield _batch(frames, model)
        return
    if not isinstance(frames, Iterable) or isinstance(frames, str | bytes | dict):
        raise InputError(
            f"got {type(frames).__name__} as the frames; expected frames (T, N, C, H, W), Events, or many of either"
        )
    for item in frames:
        yield _batch(item[0] if isinstance(item, tuple | list) and item else item, model)


def _batch(frames: Any, model: nn.Module) -> Tensor:
    if isinstance(frames, Events):
        preprocessing: Any = getattr(model, "preprocessing", None)
        if preprocessing is None:
            raise InputError("got Events for a model without preprocessing; expected frames (T, N, C, H, W)")
        check_polarities(model)
        frames = preprocessing.frames(frames)
    if isinstance(frames, np.ndarray):
        frames = as_tensor(frames)
    if not isinstance(frames, Tensor):
        raise InputError(
            f"got a batch of {type(frames).__name__}; expected frames (T, N, C, H, W), Events, or such with labels"
        )
    if frames.ndim == 4:
        frames = frames[:, None]
    if frames.ndim != 5 or 0 in frames.shape:
        raise InputError(f"got frames of shape {tuple(frames.shape)}; expected (T, N, C, H, W), or (T, C, H, W)")
    if not frames.isfinite().all():
        raise InputError("got frames with NaN or infinite numbers; expected counts of events")
    return frames
