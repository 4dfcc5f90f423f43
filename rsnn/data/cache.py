"""Frames of a whole data set, computed once and kept in one file that is mapped into memory.

Letters: N recordings, T frames, H height, W width.
"""

from __future__ import annotations

import hashlib
import json
import operator
import os
import re
import shutil
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from rsnn.checks import is_whole
from rsnn.data.archive import as_text
from rsnn.data.events import check_events
from rsnn.data.files import as_path, make_folder
from rsnn.data.fingerprint import DIGEST_BYTES, cache_root, code_digest, file_digests
from rsnn.data.frames import (
    POLARITIES,
    check_memory,
    check_num_frames,
    check_size,
    check_split_by,
    crop_to_shape,
    memory_warning,
    to_frames,
)
from rsnn.data.progress import progress
from rsnn.data.protocols import Recordings, class_indices
from rsnn.errors import InputError, RecordingError, RSNNError

LARGEST_BYTE = 255
KINDS = {"uint8": np.uint8, "uint16": np.uint16}
FRAMES_FILE, META_FILE = "frames.bin", "meta.json"
PATIENCE_S = 2.0  # how long this process builds alone before it asks how long the rest will take
WORTH_WORKERS_S = 10.0  # what the rest must take for worker processes to be started
MOST_WORKERS = 16
BATCH = 16  # recordings of a usual one
_ATTRIBUTES = ("labels", "ids", "class_names", "name", "split", "split_name", "sensor_size", "files", "events")
_ELSEWHERE = (
    "a folder with room for it: RSNN_CACHE or root= names another one (rsnn train: --set data.cache=false goes without)"
)


class FrameCache:
    """The frames of a data set's recordings: `cache[i]` is (frames (T, 2, H, W), label).

    Frames are counts as `to_frames` makes them, after the largest centred crop of the frames' shape if the sensor's is
    another. They are kept in one file as uint8, or all as uint16 if one count needs it, which is mapped into memory:
    many processes share one copy of it, and what does not fit in memory is read again when it is needed.

    The file is made when it is not there. Its folder's name is a hash of the content of the source files, of the
    parameters and of the code that reads and frames them, so that a changed file, parameter or version gets another
    one. It appears when it is complete; a killed process leaves nothing under its name. Two processes that need the
    same one make it once. Old folders are not removed: deleting any of them is safe.

    Args:
        dataset: recordings with labels, such as a `DVS128Gesture`, an `EventFolder` or an `EventArchive`; not kept.
        num_frames: T.
        split_by: "time" or "number".
        size: (H, W) of the frames; by default the sensor's.
        root: the folder for caches; by default `$RSNN_CACHE`, else `rsnn` in `$XDG_CACHE_HOME` or `~/.cache`.
        workers: processes that build it. By default this process alone, unless that would take more than ten seconds:
            then one for each processor, up to 16.

    Attributes:
        folder: where the frames are kept.
        frames: all of them as a read-only array (N, T, 2, H, W) in the file's type.
        labels: class index of each recording, int64, shape (N,).
        ids: name of each recording.
        class_names: name of each class, or `None`.
        name: the data set's name.
        split: the part of the data set.
        split_name: how the parts were made.

    Raises:
        RecordingError: a recording cannot be read, has no events in the crop, or has more than 65,535 events at one
            pixel of one frame.
        InputError: an argument is not one of the above, the cache cannot be written, or the frames of one recording do
            not fit in memory.

    Warns:
        UserWarning: a batch of 16 recordings takes more than a quarter of this machine's memory.

    """

    def __init__(
        self,
        dataset: Recordings,
        num_frames: int = 20,
        split_by: str = "time",
        *,
        size: tuple[int, int] | None = None,
        root: str | os.PathLike[str] | None = None,
        workers: int | None = None,
    ) -> None:
        _check_recordings(dataset)
        if workers is not None and (not is_whole(workers) or workers < 0):
            raise InputError(f"workers is {workers!r}; expected a whole number of processes, 0 for this one alone")
        height, width = check_size(size, dataset.sensor_size)
        framing = _Framing(check_num_frames(num_frames), check_split_by(split_by), (height, width))
        _check_memory(framing)
        self.labels = class_indices(dataset)
        self.ids = [as_text(name) for name in (range(len(dataset)) if dataset.ids is None else dataset.ids)]
        self.class_names = None if dataset.class_names is None else tuple(dataset.class_names)
        self.name, self.split, self.split_name = dataset.name, dataset.split, dataset.split_name
        self._depth = getattr(dataset, "_depth", -1)  # as `Transformed` has it
        caches = (cache_root() / "frames" if root is None else as_path(root)).absolute()
        key = _key(dataset, framing, self.ids, caches / "digests.json")
        readable = re.sub(r"[^\w.-]+", "_", f"{self.name}-{self.split}")
        self.folder = caches / f"{readable}-{framing.num_frames}-{framing.split_by}-{height}x{width}-{key}"
        shape = (len(dataset), framing.num_frames, POLARITIES, height, width)

        def fill(partial: Path) -> None:
            _build(partial, dataset, framing, shape, workers)
            if _key(dataset, framing, self.ids, caches / "digests.json") != key:
                raise RecordingError(
                    f"files of {self.name} changed while they were framed; expected none to: try again"
                )

        try:
            make_folder(self.folder, fill, is_whole=lambda folder: _kind(folder, shape) is not None)
        except OSError as error:
            raise InputError(
                f"the cache {self.folder} cannot be written ({error.strerror or error}); expected {_ELSEWHERE}"
            ) from error
        self._shape = shape
        self._mapped: npt.NDArray[Any] | None = None

    @property
    def frames(self) -> npt.NDArray[Any]:
        """All frames, uint8 or uint16, shape (N, T, 2, H, W)."""
        if self._mapped is None:
            kind = _kind(self.folder, self._shape)
            if kind is None:
                raise RecordingError(
                    f"{self.folder} is gone or damaged; expected the cached frames: make the cache anew"
                )
            self._mapped = np.memmap(self.folder / FRAMES_FILE, dtype=kind, mode="r", shape=self._shape)
        return self._mapped

    def __len__(self) -> int:
        return self._shape[0]

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return the frames (T, 2, H, W) and the label of recording `index`; negative indices count from the end."""
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"recording {place} of {self.name}; it has {len(self)}")
        return torch.from_numpy(np.array(self.frames[place])), int(self.labels[place])

    def __iter__(self) -> Iterator[tuple[Tensor, int]]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the mapped frames: every process maps the file for itself."""
        return {**self.__dict__, "_mapped": None}

    def __repr__(self) -> str:
        return f"<FrameCache of {self.name} {self.split} ({self.split_name}): {self._shape} in {self.folder}>"


def _check_recordings(dataset: Recordings) -> None:
    """Raise InputError unless a data set has what is asked of it."""
    missing = [name for name in _ATTRIBUTES if not hasattr(dataset, name)]
    if missing:
        raise InputError(
            f"FrameCache got a {type(dataset).__name__}, which has no {missing[0]!r}; expected recordings with labels, "
            "such as an EventFolder or an EventArchive: a part of them is dataset.select(ids, split, split_name), and "
            "frames go through transforms.Transformed after the cache"
        )
    if dataset.labels is None:
        raise InputError("the data set has no labels; expected a class for each recording")
    if not len(dataset):
        raise InputError("the data set has no recordings; expected at least one")


def _check_memory(framing: _Framing) -> None:
    """Warn where a batch takes much of the memory, and raise InputError where a recording takes more than there is."""
    T, (H, W) = framing.num_frames, framing.size
    check_memory(T, H, W, np.dtype(np.float32))  # as networks take them
    if said := memory_warning(T, H, W, BATCH):
        warnings.warn(said, stacklevel=3)


class _Framing(NamedTuple):
    num_frames: int
    split_by: str
    size: tuple[int, int]


def _key(dataset: Recordings, framing: _Framing, ids: Sequence[str], memory: Path) -> str:
    files, made_from = list(dataset.files), getattr(dataset, "fingerprint", None)
    if not files and made_from is None:
        raise InputError(
            f"{dataset.name} has no files, whose content would name the cache; expected files, or an attribute "
            "'fingerprint': a text that is another one whenever an event is"
        )
    parts = {
        "files": file_digests(files, memory),
        "fingerprint": made_from,
        "ids": list(ids),
        "sensor_size": list(dataset.sensor_size),
        "framing": framing,
        "code": code_digest(),
    }
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=DIGEST_BYTES // 2).hexdigest()


def _kind(folder: Path, shape: tuple[int, ...]) -> np.dtype[Any] | None:
    """Return the type of the frames in a cache's folder; `None` if it is not whole."""
    try:
        meta = json.loads((folder / META_FILE).read_text())
        kind = np.dtype(KINDS[meta["dtype"]])
        size = (folder / FRAMES_FILE).stat().st_size
        kept = meta["shape"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return kind if kept == list(shape) and size == kind.itemsize * int(np.prod(shape)) else None


class _Frames:
    """Writes frame sets to their places: `self[i]` does it for recording i, wherever it runs.

    Returns:
        The index, the largest count, and what is wrong with the recording if anything is.

    """

    def __init__(self, folder: Path, dataset: Recordings, framing: _Framing) -> None:
        self.folder, self.dataset, self.framing = folder, dataset, framing

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[int, int, str]:
        try:
            frames = self._frames(index)
        except (RSNNError, OSError) as error:
            return index, 0, str(error)
        largest = int(frames.max())
        try:
            if largest > LARGEST_BYTE:
                np.save(_wide(self.folder, index), frames)
            else:
                with (self.folder / FRAMES_FILE).open("r+b", buffering=0) as file:
                    file.seek(index * frames.size)
                    file.write(frames.astype(np.uint8).data)
        except OSError as error:
            return index, 0, f"its frames cannot be written ({error.strerror or error}); expected {_ELSEWHERE}"
        return index, largest, ""

    def _frames(self, index: int) -> npt.NDArray[Any]:
        events = crop_to_shape(check_events(self.dataset.events(index), "FrameCache"), *self.framing.size)
        if not len(events):
            raise RecordingError("it has no events within the frames; expected at least one")
        T, split_by, size = self.framing
        return to_frames(events, T, split_by, size=size, dtype="uint16")


def _build(folder: Path, dataset: Recordings, framing: _Framing, shape: tuple[int, ...], workers: int | None) -> None:
    size = int(np.prod(shape))
    free = shutil.disk_usage(folder).free
    if free < size:
        raise InputError(f"the cache {folder} takes {size:,} bytes and {free:,} are free; expected {_ELSEWHERE}")
    with (folder / FRAMES_FILE).open("wb") as file:
        file.truncate(size)
    wide = []
    with progress(f"framing {dataset.name}", len(dataset)) as advance:
        for number, (index, largest, fault) in enumerate(_results(_Frames(folder, dataset, framing), workers)):
            if fault:
                name = index if dataset.ids is None else dataset.ids[index]
                raise RecordingError(f"recording {name} of {dataset.name}: {fault}")
            if largest > LARGEST_BYTE:
                wide.append(index)
            advance(number + 1)
    if wide:
        _widen(folder, set(wide), shape)
    meta = {"shape": shape, "dtype": "uint16" if wide else "uint8", "num_frames": framing.num_frames}
    (folder / META_FILE).write_text(json.dumps(meta | {"split_by": framing.split_by, "code": code_digest()}, indent=1))


def _results(frames: _Frames, workers: int | None) -> Iterator[tuple[int, int, str]]:
    """Yield the result of every recording, from this process or from others."""
    from torch.utils.data import DataLoader, Subset  # not with `import rsnn`: it takes as long as all the rest

    total, done, began = len(frames), 0, time.perf_counter()
    processes = _processors() if workers is None else workers
    while done < total and (processes == 0 or workers is None):
        yield frames[done]
        done += 1
        passed = time.perf_counter() - began
        if (
            workers is None
            and processes > 1
            and passed > PATIENCE_S
            and passed / done * (total - done) > WORTH_WORKERS_S
        ):
            break
    if done < total:
        rest: Any = Subset(frames, range(done, total))  # type: ignore[arg-type]  # it has what a Dataset has
        try:
            yield from DataLoader(rest, batch_size=None, num_workers=processes)
        except RuntimeError as error:  # torch's, for a worker that was killed
            if "DataLoader worker (pid" not in str(error):  # a transform's own
                raise
            raise RecordingError(f"a process that builds the cache ended early ({error}); try workers=0") from error


def _processors() -> int:
    return min(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1, MOST_WORKERS)


def _widen(folder: Path, wide: set[int], shape: tuple[int, ...]) -> None:
    """Write all frames again as uint16, those that need it from files of their own, which are removed."""
    narrow = np.memmap(folder / FRAMES_FILE, dtype=np.uint8, mode="r", shape=shape)
    with (folder / "wide.bin").open("wb") as file:
        for index in range(shape[0]):
            file.write((np.load(_wide(folder, index)) if index in wide else narrow[index].astype(np.uint16)).data)
    del narrow
    (folder / "wide.bin").replace(folder / FRAMES_FILE)
    for index in wide:
        _wide(folder, index).unlink()


def _wide(folder: Path, index: int) -> Path:
    return folder / f"wide-{index}.npy"
