"""A stream's step through its model: in one native call, where the model is made of what that knows.

Module by module a step takes more than twice as long: each module checks its input, each kernel lays out its weights
and takes its memory anew. Known are the ConvLSTM encoder, with attention or without, `FramePool` and the spiking CNN,
in evaluation, in float32 and with the CPU's kernels; of a model with one of them that half is run so. Everything else
(attention with heads of many channels, tied gates, ...), and whatever is watched (hooks, autocast, modes of PyTorch),
is left to the model's own `advance`, which gives the same numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rsnn.kernels import attention_native, lif_native, native, selected
from rsnn.kernels.step_native import (
    JOINS,
    AttentionLayer,
    AveragePoolLayer,
    ConvLSTMLayer,
    Layer,
    Network,
    Runner,
    Samples,
    SpikingLayer,
    States,
)
from rsnn.kernels.watched import has_its_own, is_watched, nothing_looks, sees_no_steps
from rsnn.nn import (
    LIF,
    SCNN,
    ConvLSTM,
    ConvLSTMAttention,
    ConvLSTMEncoder,
    DecisionHead,
    FramePool,
    LSTMHead,
    Voting,
)
from rsnn.nn.attention import PixelAttention
from rsnn.nn.stages import SpikingConv, SpikingLinear
from rsnn.streaming import trees

if TYPE_CHECKING:
    from rsnn.models import EventClassifier

CONVOLUTION = ("stride", "padding", "dilation", "groups", "padding_mode", "kernel_size")  # what it is besides weights
KNOWN_COUNTS = 1024  # of events at a pixel; a step with more at one is normalised by the model itself


class _Unknown(Exception):  # noqa: N818  (no error: it never leaves this file)
    """A module is none that the native step knows."""


class _Watched(Exception):  # noqa: N818
    """Somebody expects a module's calls, or has it do something of its own."""


class _Reading:
    """What was read where in a model, so that it takes microseconds to tell whether all of it is still so.

    Reading it anew takes ten times as long: a model has a hundred attributes behind `nn.Module.__getattr__`.
    """

    def __init__(self) -> None:
        self._places: list[tuple[dict[str, Any], str, Any]] = []
        self._modules: list[nn.Module] = []
        self._tensors: list[Tensor] = []
        self._samples: Samples | None = None

    def module(self, parent: nn.Module, name: str, *kinds: type) -> Any:
        """Return a child of exactly one of these kinds.

        Raises:
            _Unknown: it is of another kind.
            _Watched: its calls are.

        """
        child = parent._modules.get(name)
        self._places.append((parent._modules, name, child))
        if child is None or type(child) not in kinds:
            raise _Unknown
        if is_watched(child):
            raise _Watched
        self._modules.append(child)
        return child

    def modules(self, parent: nn.Module, name: str, *kinds: type) -> list[Any]:
        """Return the members of a list of modules of these kinds."""
        members = self.module(parent, name, nn.ModuleList)
        self._places.append((members._modules, str(len(members)), None))  # there is not one more
        return [self.module(members, str(i), *kinds) for i in range(len(members))]

    def value(self, module: nn.Module, name: str) -> Any:
        """Return an attribute that is neither module nor tensor; None where there is none.

        Raises:
            _Unknown: it is a tensor, which could change in place.

        """
        value = vars(module).get(name)
        self._places.append((vars(module), name, value))
        if isinstance(value, Tensor):
            raise _Unknown
        return value

    def optional(self, module: nn.Module, name: str) -> Tensor | None:
        """Return a parameter or buffer, which may be None.

        Raises:
            _Unknown: it is not of float32, or not on the CPU.

        """
        places: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
        holder = next((place for place in places if name in place), vars(module))
        x: Tensor | None = holder.get(name)
        self._places.append((holder, name, x))
        if x is not None:
            if x.dtype != torch.float32 or x.device.type != "cpu" or x.is_inference() or not sees_no_steps(x):
                raise _Unknown
            self._tensors.append(x)
        return x

    def tensor(self, module: nn.Module, name: str) -> Tensor:
        """Return a parameter or buffer, as `optional` does."""
        x = self.optional(module, name)
        if x is None:
            raise _Unknown
        return x

    def sample(self) -> None:
        """Take samples of the tensors, for what is written behind PyTorch's back, through `.data` or NumPy."""
        self._samples = Samples([x.detach() for x in self._tensors])

    def end(self) -> None:
        """Take down how all of it is now."""
        self._writes = [x._version for x in self._tensors]
        self._addresses = [x.data_ptr() for x in self._tensors]
        self._aliases = [x.detach() for x in self._tensors]  # keep the memory: no other tensor may come to lie there
        self._attributes = [vars(module) for module in self._modules]
        self._hooks = RemovableHandle.next_id

    def holds(self) -> bool:
        """Tell whether all of it still is as it was, weights changed in place included, and nobody watches."""
        return (
            all(place.get(name) is value for place, name, value in self._places)
            and [x._version for x in self._tensors] == self._writes
            and [x.data_ptr() for x in self._tensors] == self._addresses
            and (self._samples is None or self._samples.hold())
            and self._unwatched()
        )

    def _unwatched(self) -> bool:
        # Every hook of PyTorch, of whatever kind, takes the next of these numbers.
        if self._hooks != RemovableHandle.next_id:
            if is_watched(*self._modules):
                return False
            self._hooks = RemovableHandle.next_id
        return not any(map(has_its_own, self._attributes))


def _average_pool(channels: int, size: tuple[int, int], side: int) -> tuple[list[Layer], tuple[int, int]]:
    """Return the layer of an average pooling, none where it does nothing, and the size behind it."""
    if side == 1:
        return [], size
    return [AveragePoolLayer(size, channels, side)], (size[0] // side, size[1] // side)


def _encoder_layers(read: _Reading, encoder: nn.Module, size: tuple[int, int]) -> Iterator[Layer]:
    channels, pool = read.value(encoder, "in_channels"), read.value(encoder, "pool")
    alone = type(encoder) is FramePool
    pooling, size = _average_pool(channels, size, pool if alone else read.value(encoder, "input_pool"))
    yield from pooling
    if alone:
        return
    for layer in read.modules(encoder, "layers", ConvLSTM, ConvLSTMAttention):
        if type(layer) is ConvLSTMAttention:
            yield _attention(read, read.module(layer, "attention", PixelAttention), size)
            layer = read.module(layer, "convlstm", ConvLSTM)
        gates, hidden_gates = (read.module(layer, name, nn.Conv2d) for name in ("input_gates", "hidden_gates"))
        for conv in (gates, hidden_gates):
            for name in CONVOLUTION:
                read.value(conv, name)
        read.optional(hidden_gates, "bias")
        if read.value(layer, "tie_hidden_gates") or not layer._is_plain():
            raise _Unknown
        yield ConvLSTMLayer(
            size, pool, read.tensor(gates, "weight"), read.tensor(hidden_gates, "weight"), read.optional(gates, "bias")
        )
        size = size[0] // pool, size[1] // pool


def _attention(read: _Reading, attention: nn.Module, size: tuple[int, int]) -> AttentionLayer:
    heads, join = read.value(attention, "num_heads"), read.value(attention, "join")
    project = read.module(attention, "project", nn.Linear, nn.Identity)
    linears = [read.module(attention, name, nn.Linear) for name in ("query", "key", "value")]
    linears += [project] if type(project) is nn.Linear else []
    if any(read.optional(linear, "bias") is not None for linear in linears) or join not in JOINS:
        raise _Unknown
    query, key, value, *projects = (read.tensor(linear, "weight") for linear in linears)
    if max(len(query), len(value)) > heads * attention_native.MOST_CHANNELS:
        raise _Unknown
    return AttentionLayer(size, heads, query, key, value, projects[0] if projects else None, join)


def _classifier_layers(read: _Reading, classifier: nn.Module) -> Iterator[Layer]:
    if type(classifier) is not SCNN:
        raise _Unknown
    channels, in_size, side = (read.value(classifier, name) for name in ("in_channels", "in_size", "in_pool"))
    pooling, (height, width) = _average_pool(channels, in_size, side)
    yield from pooling
    for stage in read.modules(classifier, "convs", SpikingConv):
        conv, norm = read.module(stage, "conv", nn.Conv2d), read.module(stage, "norm", nn.BatchNorm2d)
        for name in CONVOLUTION:
            read.value(conv, name)
        if read.optional(conv, "bias") is not None or not stage._is_plain() or read.value(norm, "training"):
            raise _Unknown
        weight, bias = (read.optional(norm, name) for name in ("weight", "bias"))
        mean, variance = (read.tensor(norm, name) for name in ("running_mean", "running_var"))
        scale, shift = lif_native.scale_shift(weight, bias, mean, variance, read.value(norm, "eps"))
        pool, neuron = read.value(stage, "pool"), _neuron(read, stage)
        yield SpikingLayer((height, width), pool, neuron, read.tensor(conv, "weight"), scale, shift)
        height, width = height // pool, width // pool
    for stage in (read.module(classifier, name, SpikingLinear) for name in ("hidden", "output")):
        linear = read.module(stage, "linear", nn.Linear)
        dropout = read.value(stage, "dropout")
        if read.optional(linear, "bias") is not None or (read.value(stage, "training") and dropout):
            raise _Unknown
        weight = read.tensor(linear, "weight")[:, :, None, None]
        ones = weight.new_ones(len(weight))
        yield SpikingLayer((1, 1), 1, _neuron(read, stage), weight, ones, torch.zeros_like(ones))


def _neuron(read: _Reading, stage: nn.Module) -> list[float]:
    lif = read.module(stage, "lif", LIF)
    tau, threshold, reset, surrogate, detach = (
        read.value(lif, name) for name in ("tau", "v_threshold", "v_reset", "surrogate", "detach_reset")
    )
    w = read.optional(lif, "w")
    if not lif_native.supports(torch.empty(0), 1.0 if w is None else w, surrogate):
        raise _Unknown
    return lif_native.neuron_numbers(tau if w is None else 1 / w.sigmoid(), threshold, reset, surrogate, detach)


class _Prepared:
    """A model's known halves as they are now, their weights laid out.

    Attributes:
        reading: what they were made of.
        encoder, classifier: whether that half is known.
        network: None where neither is, or the layers do not fit each other.
        seen: what the network sees of 0, 1, 2, ... events at a pixel.
        takes, gives: shapes of the network's input (1, 1, C, H, W) and output: logits (1, K) or features.

    Raises:
        _Watched: something watches.

    """

    def __init__(self, model: EventClassifier) -> None:
        self.reading = read = _Reading()
        self.encoder = self.classifier = False
        self.network: Network | None = None
        self.seen: Tensor | None = None
        self.takes: tuple[int, ...] = ()
        self.gives: tuple[int, ...] = ()
        with suppress(_Unknown):
            self._lay_out(model, read)
        read.end()

    def _lay_out(self, model: EventClassifier, read: _Reading) -> None:
        for name in ("advance", "_input"):
            own = read.value(model, name) is not None
            if own or getattr(model, name).__module__ != "rsnn.models.base":  # it does with its halves what it likes
                raise _Unknown
        # The other half has to be one that takes a state and returns it.
        encoder = read.module(model, "encoder", ConvLSTMEncoder, FramePool)
        classifier = read.module(model, "classifier", SCNN, DecisionHead, LSTMHead)
        preprocessing, scale = read.value(model, "preprocessing"), read.value(model, "logit_scale")
        if preprocessing is None or not isinstance(scale, int | float):
            raise _Unknown
        layers: list[Layer] = []
        maps: tuple[int, ...] | None = None  # what comes out of the layers so far; None for anything
        votes = 0
        with suppress(_Unknown):
            layers += list(_encoder_layers(read, encoder, preprocessing.frame_size))
            self.encoder, maps = True, (2, *preprocessing.frame_size)
            self.seen = preprocessing.normalized(torch.arange(KNOWN_COUNTS, dtype=torch.float32, device="cpu"))
        with suppress(_Unknown):
            spiking = list(_classifier_layers(read, classifier))
            votes = read.value(read.module(classifier, "voting", Voting), "votes")
            layers += spiking
            self.classifier = True
        for layer in layers:
            maps = layer.output(maps)
            if maps is None:
                raise _Unknown
        if not layers or maps is None or (votes and maps[0] % votes):
            raise _Unknown
        self.takes = (1, 1, *layers[0].takes)
        self.gives = (1, maps[0] // votes) if votes else (1, 1, *maps)
        with suppress(native.NativeError, MemoryError):  # else the model does it
            read.sample()
            self.network = Network(layers, votes, scale)


_prepared: weakref.WeakKeyDictionary[Any, _Prepared] = weakref.WeakKeyDictionary()  # one a model, for all its streams
_PLAIN = torch.empty(0)


def _prepare(model: EventClassifier) -> _Prepared | None:
    """Return what is known of a model as it is now; None where something watches, or other kernels are chosen."""
    if not nothing_looks() or torch.is_autocast_enabled("cpu") or not sees_no_steps(_PLAIN):
        return None
    if not selected("cpu", "lif") == selected("cpu", "convlstm") == "native":
        return None
    prepared = _prepared.get(model)
    if prepared is None or not prepared.reading.holds():
        try:
            prepared = _prepared[model] = _Prepared(model)
        except _Watched:
            return None
    return prepared


class Step:
    """Steps of a model's windows, one at a time, for one thread at a time.

    Args:
        model: any model with a preprocessing.
        state_of_one: returns a state of it for one sample.

    """

    def __init__(self, model: EventClassifier, state_of_one: Callable[[], Any]) -> None:
        self._model = model
        self._state_of_one = state_of_one
        self._prepared: _Prepared | None = None
        self._runner: Runner | None = None
        self._template: Any = None  # such a state without its numbers
        self._last: Any = None  # the state that the last step returned
        self._states: States | None = None  # its tensors
        self._spare: Any = None  # a state that nobody needs any more

    def look(self) -> str | None:
        """Return what `run` can do of the model as it is now: "all", "half", or None for nothing."""
        self._prepared = prepared = _prepare(self._model)
        if prepared is None or prepared.network is None:
            return None
        runner, threads = self._runner, torch.get_num_threads()
        if runner is None or runner.network is not prepared.network or runner.threads != threads:
            self._last = self._states = self._spare = None
            self._template = trees.mapped(self._state_of_one(), _without_numbers)
            self._runner = Runner(prepared.network, threads)
        return "all" if prepared.encoder and prepared.classifier else "half"

    def run(self, frame: npt.NDArray[np.float32] | None, state: Any) -> tuple[Tensor, Any]:
        """Run one step, of a model that was looked at just before.

        Args:
            frame: counts of events (2, H, W); None for none.
            state: before the step, None for a fresh one; its tensors may become those after the step.

        Returns:
            logits (1, K), and the state after the step: as `model.advance` does.

        """
        model, prepared, runner = self._model, self._prepared, self._runner
        assert prepared is not None
        assert runner is not None
        assert model.preprocessing is not None
        if frame is not None:
            frame = np.ascontiguousarray(frame, dtype=np.float32)
            if frame.shape != (2, *model.preprocessing.frame_size):
                return model.advance(self._frames(frame), state)  # which has an error for it
        halves = self._own(state)
        if halves is None:  # a state of a model that was another one
            return model.advance(self._frames(frame), state)
        encoder, classifier = halves
        steps = 1 if state is None else classifier.steps + 1 if prepared.classifier else 2
        out = torch.empty(prepared.gives, dtype=torch.float32, device="cpu")
        address = None if frame is None else frame.__array_interface__["data"][0]
        assert self._states is not None
        if not prepared.encoder:
            features, encoder = model.encoder(model._input(self._frames(frame)), encoder)
            if features.shape != prepared.takes or features.dtype != torch.float32:
                return model.advance(self._frames(frame), state)  # which has an error for it
            features = features.contiguous()
            runner.step(features.data_ptr(), None, self._states, steps, out)
        elif not runner.step(address, prepared.seen, self._states, steps, out):
            frames = model._input(self._frames(frame)).contiguous()
            runner.step(frames.data_ptr(), None, self._states, steps, out)
        if prepared.classifier:
            classifier = classifier._replace(steps=steps)
        else:
            scores, classifier = model.classifier(out, classifier)
            out = model.logit_scale * scores
        self._last = type(self._template)(encoder, classifier)
        return out, self._last

    def _own(self, state: Any) -> Any:
        """Return a state's halves, the known ones with their tensors where the native step can write them.

        None is a fresh state. Returns None for a state of other shapes.
        """
        if state is not None and state is self._last:
            return state
        assert self._prepared is not None
        halves, spare = [None, None] if state is None else list(state), (None, None)
        if state is None and self._spare is not None:
            spare, self._spare = self._spare, None
        tensors: list[Tensor] = []
        for i, known in enumerate((self._prepared.encoder, self._prepared.classifier)):
            if known:
                halves[i] = _as_made(self._template[i], spare[i] if halves[i] is None else halves[i])
                if halves[i] is None:
                    return None
                tensors += _tensors(halves[i])
        self._states = States(tensors)
        return halves

    def give_back(self, state: Any) -> None:
        """Take the state of a window that is over, for the next one: memory that is in the caches."""
        self._spare = state if self._runner is not None else None

    def _frames(self, frame: npt.NDArray[np.float32] | None) -> Tensor:
        """Return a step's counts as frames (1, 1, 2, H, W)."""
        assert self._model.preprocessing is not None
        counts = np.zeros((2, *self._model.preprocessing.frame_size), np.float32) if frame is None else frame.copy()
        return torch.from_numpy(counts)[None, None]


def _without_numbers(leaf: Any) -> Any:
    return torch.empty_like(leaf, device="meta") if isinstance(leaf, Tensor) else leaf


def _tensors(state: Any) -> list[Tensor]:
    return [leaf for leaf in trees.leaves(state) if isinstance(leaf, Tensor)]


def _as_made(template: Any, state: Any) -> Any:
    """Return a state whose tensors lie in memory as the template's: itself where they do, a new one for None.

    Returns None where they have other shapes.
    """
    if state is None:
        return trees.mapped(template, lambda x: torch.empty_like(x, device="cpu") if isinstance(x, Tensor) else x)
    given, made = _tensors(state), _tensors(template)
    if [x.shape for x in given] != [x.shape for x in made]:
        return None
    if all(x.stride() == like.stride() and x.dtype == like.dtype for x, like in zip(given, made, strict=True)):
        return state
    moved = iter([torch.empty_like(like, device="cpu").copy_(x) for x, like in zip(given, made, strict=True)])
    return trees.mapped(state, lambda x: next(moved) if isinstance(x, Tensor) else x)
