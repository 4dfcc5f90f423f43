"""What all models share: an encoder, a classifier over its features, and what a user does with the two.

Shapes: T steps, N batch, C channels, H height, W width, K classes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple, Self, overload

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from rsnn import hub
from rsnn.checks import is_number
from rsnn.errors import CheckpointError, InputError
from rsnn.models import cards, pretrained
from rsnn.models.composition import check_class_names, check_fit, with_state
from rsnn.models.prediction import Prediction, Recording, classify, decide_early, frames_of
from rsnn.models.preprocessing import Preprocessing
from rsnn.nn.checks import as_tensor, check_features, check_kind, check_positive, quantized_part
from rsnn.nn.modes import evaluating
from rsnn.streaming import Stream
from rsnn.streaming.timing import microseconds

Part = Literal["encoder", "classifier"]


class ModelState(NamedTuple):
    """What a model carries on from one chunk of frames to the next."""

    encoder: Any
    classifier: Any


class EventClassifier(nn.Module):
    """An encoder of frames under a classifier of its features; the base of every model in the zoo.

    Args:
        encoder: any module from frames (T, N, C, H, W) to features (T, N, C', H', W'), alone or as
            `(features, state)`.
        classifier: any module from such features to logits (N, K), alone or as `(logits, state)`.
        class_names: names of the K classes, in order.
        preprocessing: how recordings become frames; without it only frames can be classified.
        logit_scale: the classifier's output times this is the logits. Rates of spiking outputs lie between 0 and 1,
            too close together for a softmax to tell them apart.

    Raises:
        InputError: encoder, classifier, preprocessing and names do not fit each other.

    """

    def __init__(
        self,
        encoder: nn.Module,
        classifier: nn.Module,
        *,
        class_names: tuple[str, ...] | None = None,
        preprocessing: Preprocessing | None = None,
        logit_scale: float = 1.0,
    ) -> None:
        super().__init__()
        check_fit(encoder, classifier, preprocessing)
        if not is_number(logit_scale) or not 0 < logit_scale < float("inf"):
            raise InputError(f"logit_scale={logit_scale!r}: expected a positive number")
        self.encoder = encoder
        self.classifier = classifier
        self.class_names = class_names
        self.preprocessing = preprocessing
        self.logit_scale = float(logit_scale)
        self._frozen: set[Part] = set()

    # Running it

    def forward(self, frames: Float[Tensor, "T N C H W"]) -> Float[Tensor, "N K"]:
        """Return the logits (N, K) of frames of event counts (T, N, C, H, W); each call starts afresh.

        Shapes and types are checked, values are not: frames with NaN, which `predict` refuses, give logits that mean
        nothing.

        Raises:
            InputError: `frames` has another shape or type.

        """
        return self.advance(frames)[0]

    def advance(
        self, frames: Float[Tensor, "T N C H W"], state: ModelState | None = None
    ) -> tuple[Float[Tensor, "N K"], ModelState]:
        """Go on from `state` (None: afresh) through a chunk of frames, one step or many.

        Returns:
            the logits (N, K) of all steps since the state was None, and the state after the last step. The last of
            several calls on chunks returns what one call on all of the frames returns.

        Raises:
            InputError: `frames` or `state` has another shape or type, or the classifier keeps no state.

        """
        check_kind(state, ModelState, type(self).__name__)
        before = ModelState(None, None) if state is None else state
        if state is not None:
            self._check_takes_parts()
            if state.classifier is None:
                raise InputError(
                    f"{type(self.classifier).__name__} returns logits alone and forgets the frames before; expected "
                    "all of them in one call, or a classifier that takes a state and returns (logits, state)"
                )
        return self._from_input(self._input(frames), before)

    def _from_input(self, frames: Tensor, before: ModelState) -> tuple[Tensor, ModelState]:
        """Do what `advance` does after `_input`."""
        features, encoder_state = with_state(self.encoder, frames, before.encoder)
        logits, classifier_state = with_state(self.classifier, features, before.classifier)
        return self.logit_scale * logits, ModelState(encoder_state, classifier_state)

    def split_forward(self) -> tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]] | None:
        """Return `forward` as two functions, the first of which normalises, or None where it has no such halves.

        The first takes frames, and `out=` to write to where they have the shape and type of frames before.
        """
        names = ("forward", "advance", "_input", "_from_input")
        preprocessing = self.preprocessing
        if preprocessing is None or preprocessing.normalize != "log1p":
            return None
        if any(getattr(type(self), name) is not getattr(EventClassifier, name) for name in names):
            return None  # a subclass may do anything with the counts

        def normalise(frames: Tensor, out: Tensor | None = None) -> Tensor:
            return self._input(frames) if out is None else preprocessing.normalized(frames, out=out)

        return normalise, lambda frames: self._from_input(frames, ModelState(None, None))[0]

    def forward_features(self, frames: Float[Tensor, "T N C H W"]) -> Float[Tensor, "T N D h w"]:
        """Return the encoder's features of every step.

        Raises:
            InputError: `frames` has another shape or type.

        """
        features: Tensor = with_state(self.encoder, self._input(frames), None)[0]
        return features

    def _check_takes_parts(self) -> None:
        """Raise InputError if only a whole recording can be classified."""
        if self.preprocessing is not None and self.preprocessing.normalize == "per-sample":
            raise InputError(
                "the model's frames are normalised by the counts of the whole recording (normalize='per-sample'); "
                "expected all of its frames in one call, without a state or until="
            )

    def _input(self, frames: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """Return frames as the encoder takes them: a floating tensor (T, N, C, H, W), normalised."""
        weight = next(self.parameters(), None)
        if isinstance(frames, np.ndarray):
            frames = as_tensor(frames)
        if isinstance(frames, Tensor) and not frames.is_floating_point() and not frames.is_complex():
            frames = frames.to(torch.float32 if weight is None else weight.dtype)
        if isinstance(frames, Tensor) and weight is not None and frames.device != weight.device:
            raise InputError(
                f"{type(self).__name__} is on {weight.device} and the frames are on {frames.device}; "
                f"expected the same device: frames.to({str(weight.device)!r})"
            )
        channels = getattr(self.encoder, "in_channels", None)
        if channels is not None:
            check_features(frames, channels, type(self).__name__)
        if self.preprocessing is None:
            return frames
        size = tuple(frames.shape[3:])
        if size != self.preprocessing.frame_size:
            raise InputError(
                f"{type(self).__name__} got frames of {size} pixels; it is built for {self.preprocessing.frame_size} "
                "(height, width): rescale with to_frames(..., size=)"
            )
        return self.preprocessing.normalized(frames)

    @overload
    def predict(
        self, recording: list[Recording], *, batch_size: int = 16, until: float | None = None
    ) -> list[Prediction]: ...

    @overload
    def predict(self, recording: Recording, *, batch_size: int = 16, until: float | None = None) -> Prediction: ...

    def predict(
        self, recording: Recording | list[Recording], *, batch_size: int = 16, until: float | None = None
    ) -> Prediction | list[Prediction]:
        """Classify a recording, or each of a list of them, in eval mode and without gradients.

        Args:
            recording: `Events`, the path of a file, or frames of counts (T, C, H, W) as `to_frames` makes them.
            batch_size: recordings of a list that run through the network together, where they have equally many steps.
            until: decide as soon as a class has this probability, from the steps until then, or at the last step; the
                prediction's `steps` says when, of all that the recording was cut into. Recordings then run one by one.

        Returns:
            a prediction, or a list of them, in the same order, for a list.

        Raises:
            RSNNError: a file cannot be read, or the recording does not fit the model.
            InputError: `until` is no probability, or the model needs the whole recording (`normalize="per-sample"`).

        """
        if not isinstance(recording, list | tuple):
            return self.predict([recording], batch_size=batch_size, until=until)[0]
        check_positive(batch_size=batch_size)
        if until is not None and (not is_number(until) or not 0 < until <= 1):
            raise InputError(f"until={until!r}: expected a probability above 0 and at most 1, or None")
        weight = next(self.parameters(), torch.empty(0))
        if weight.dtype != torch.float32 and (quantized := quantized_part(self)):
            raise InputError(
                f"the model has weights of {weight.dtype}, and {quantized} is quantized, which computes in float32; "
                "expected float32 throughout: model.float()"
            )
        frames = (frames_of(one, self) for one in recording)
        if until is not None:
            self._check_takes_parts()
            with evaluating(self):
                return [decide_early(self, one.to(weight.device), until) for one in frames]
        found = dict(pair for batch in classify(self, frames, batch_size) for pair in batch)
        return [found[place] for place in range(len(recording))]

    def stream(
        self,
        *,
        window: float | None = None,
        hop: float | None = None,
        overlap: int = 1,
        decay: float = 0.0,
        window_us: int | None = None,
        hop_us: int | None = None,
        sensor_size: tuple[int, int] | None = None,
    ) -> Stream:
        """Run on a stream of events: `stream.push(events)` returns the predictions that became due.

        Args:
            window, window_us: how long evidence is gathered before the model starts afresh, in seconds or microseconds;
                by default the duration of the recordings it was trained on, else one second.
            hop, hop_us: time between predictions, in seconds or microseconds; one step of the window by default, which
                has as many as a recording of its duration.
            overlap: windows that run at once, so that a prediction has at least `1 - 1 / overlap` of one behind it.
            decay: weight of earlier predictions in the running probabilities, from 0 to below 1.
            sensor_size: (width, height) of the camera, for events that do not say it.

        Raises:
            InputError: an argument is out of its range, or the model has no preprocessing that cuts by time.

        """
        return Stream(
            self,
            window_us=microseconds("window", window, window_us),
            hop_us=microseconds("hop", hop, hop_us),
            overlap=overlap,
            decay=decay,
            sensor_size=sensor_size,
        )

    def predictions(self, logits: Float[Tensor, "N K"]) -> list[Prediction]:
        """Return what the logits of N samples say of each.

        Raises:
            InputError: there are other numbers of classes and of names, as after another classifier was set.

        """
        if self.class_names is not None and len(self.class_names) != logits.shape[1]:
            raise InputError(
                f"the classifier tells {logits.shape[1]} classes apart and the model has {len(self.class_names)} "
                "class_names; expected a name for each: set model.class_names, or None"
            )
        probabilities = logits.float().softmax(1).cpu()
        best = probabilities.argmax(1).tolist()
        return [
            Prediction(self.class_names[index] if self.class_names else str(index), index, row)
            for index, row in zip(best, probabilities, strict=True)
        ]

    # Adapting it

    @property
    def num_classes(self) -> int | None:
        """K, None where a classifier of the user's does not tell."""
        return getattr(self.classifier, "num_classes", None)

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names of the K classes, in order; None where they have none. Other names can be set: K different ones."""
        names: tuple[str, ...] | None = vars(self)["class_names"]
        return names

    @class_names.setter
    def class_names(self, names: Iterable[str] | None) -> None:
        vars(self)["class_names"] = check_class_names(names, self.num_classes)

    def get_classifier(self) -> nn.Module:
        """Return the classifier: everything above the encoder."""
        return self.classifier

    def reset_classifier(self, num_classes: int, class_names: tuple[str, ...] | None = None) -> None:
        """Replace the last layer by a fresh one for `num_classes` classes; the rest keeps its weights.

        Args:
            num_classes: the new K.
            class_names: names of the new classes.

        Raises:
            InputError: the names are not K different ones, or the classifier is the user's own and cannot be reset.

        """
        check_positive(num_classes=num_classes)
        names = check_class_names(class_names, num_classes)
        reset = getattr(self.classifier, "reset_classifier", None)
        if reset is None:
            raise InputError(
                f"{type(self.classifier).__name__} has no reset_classifier(num_classes); replace model.classifier by a "
                "new module instead"
            )
        reset(num_classes)
        self.class_names = names

    def freeze(self, part: Part) -> Self:
        """Take `"encoder"` or `"classifier"` out of training: no gradients, and eval mode in `train()` too."""
        self._part(part).requires_grad_(False).eval()
        self._frozen.add(part)
        return self

    def unfreeze(self, part: Part) -> Self:
        """Take a frozen part back into training."""
        self._part(part).requires_grad_(True).train(self.training)
        self._frozen.discard(part)
        return self

    def train(self, mode: bool = True) -> Self:
        """Switch between training and evaluation; frozen parts stay in evaluation."""
        super().train(mode)
        for part in self._frozen:
            self._part(part).eval()
        return self

    def _part(self, part: Part) -> nn.Module:
        if part not in ("encoder", "classifier"):
            raise InputError(f"part={part!r}: expected 'encoder' or 'classifier'")
        return self.encoder if part == "encoder" else self.classifier

    def parameter_groups(
        self,
        *,
        weight_decay: float = 0.0,
        encoder_lr: float | None = None,
        classifier_lr: float | None = None,
    ) -> list[dict[str, Any]]:
        """Return the trainable parameters in groups for a torch optimiser.

        Groups are encoder and classifier, each apart in weights and in biases and norms (every tensor of at most one
        dimension), which get no weight decay; what a subclass has besides the two is a group `"others"`, without weight
        decay. Empty groups are left out; `"name"` says which is which.

        Args:
            weight_decay: of the weights.
            encoder_lr, classifier_lr: learning rates; the optimiser's own where None.

        """
        groups: list[dict[str, Any]] = []
        for part, lr in (("encoder", encoder_lr), ("classifier", classifier_lr)):
            trainable = [p for p in getattr(self, part).parameters() if p.requires_grad]
            for name, decay, chosen in (
                (part, weight_decay, [p for p in trainable if p.ndim > 1]),
                (f"{part} biases and norms", 0.0, [p for p in trainable if p.ndim <= 1]),
            ):
                if chosen:
                    group = {"name": name, "params": chosen, "weight_decay": decay}
                    groups.append(group if lr is None else {**group, "lr": lr})
        given = {id(p) for group in groups for p in group["params"]}
        if others := [p for p in self.parameters() if p.requires_grad and id(p) not in given]:
            groups.append({"name": "others", "params": others, "weight_decay": 0.0})
        return groups

    # Keeping it

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        num_classes: int | None = None,
        revision: str | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        force_download: bool = False,
    ) -> Self:
        """Load a checkpoint of this class, in eval mode on the CPU.

        Args:
            source: a zoo name (`"rsnn-nmnist-cl"`, with a tag `"rsnn-gesture-cl.sim"`), a folder written as a path
                (`"./my-model"`), or `"org/name[@revision]"` on the Hub.
            num_classes: another number than the checkpoint's replaces the last layer by a fresh one.
            revision: branch, tag or commit on the Hub.
            cache_dir, token, local_files_only, force_download: as in huggingface_hub.

        Raises:
            RSNNError: there is no such checkpoint, it is damaged, or it is of another class.

        """
        model = pretrained.load_model(
            source,
            expected=cls.__name__,
            revision=revision,
            cache_dir=cache_dir,
            token=token,
            local_files_only=local_files_only,
            force_download=force_download,
        )
        if not isinstance(model, cls):
            raise CheckpointError(
                f"{source} is the library's {type(model).__name__}, not {cls.__module__}.{cls.__qualname__}, of which "
                "a checkpoint knows nothing: build yours, and give it the weights of rsnn.load(...).state_dict()"
            )
        if num_classes not in (None, model.num_classes):
            model.reset_classifier(num_classes)
        return model

    def save_pretrained(self, folder: str | os.PathLike[str], *, dtype: torch.dtype | None = None) -> None:
        """Write config, weights and model card into `folder`; `from_pretrained` on it gives the same model.

        Args:
            folder: where to; made where it is missing.
            dtype: `torch.float16` or `torch.bfloat16` halves the file: all but biases and norms are rounded, and load
                in float32 again. None keeps the weights as they are.

        Raises:
            InputError: `folder` is no path, or `dtype` another type.
            ConfigError: a part of the model is the user's own, or was changed after it was built, which a config cannot
                describe; nothing is written.
            CheckpointError: the folder cannot be written, or the weights are not finite, or too large for `dtype`.

        """
        pretrained.save_model(self, folder, cards.plain_card, dtype=dtype)

    def push_to_hub(
        self,
        repo: str,
        *,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        commit_message: str = "Upload model with rsnn",
        dtype: torch.dtype | None = None,
    ) -> str:
        """Upload the model to `"org/name"` on the Hub and return the repository's URL.

        Args:
            repo: name of the repository; made where it is missing.
            private, token, revision, commit_message: as in huggingface_hub.
            dtype: as in `save_pretrained`.

        Raises:
            ConfigError: a part of the model is the user's own, which a config cannot describe.
            CheckpointError: the Hub refuses it.

        """
        import tempfile

        def card(config: dict[str, Any]) -> str:
            name = f"{repo}@{revision}" if revision else repo
            return cards.plain_card(config, name) if "/" in str(repo) else cards.plain_card(config)

        with tempfile.TemporaryDirectory() as folder:
            pretrained.save_model(self, folder, card, dtype=dtype)
            return hub.push(
                folder, repo, private=private, token=token, revision=revision, commit_message=commit_message
            )
