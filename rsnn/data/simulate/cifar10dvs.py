"""A stand-in for CIFAR10-DVS: the same kind of pictures, moved in the same way before a simulated DVS128."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from rsnn.data.datasets.base import EventDataset, Sample, check_split
from rsnn.data.datasets.cifar10dvs import CLASS_NAMES, SAMPLES_A_CLASS, SENSOR_SIZE, SPLIT_NAME, SPLITS, TRAIN_SHARE
from rsnn.data.files import as_path
from rsnn.data.readers import read_events
from rsnn.data.simulate.parameters import PRESETS
from rsnn.data.simulate.stills import MANIFEST, SETTINGS, Recorder, list_members, record
from rsnn.errors import InputError, RecordingError

# Thresholds that give some 200,000 events in a recording of 1.2 s.
PARAMETERS = dataclasses.replace(PRESETS["dvs128"], pos_thres=0.3, neg_thres=0.3, sigma_thres=0.045)
SUFFIX = ".raw"


class SimulatedCIFAR10DVS(EventDataset):
    """Simulated recordings of CIFAR-10 pictures, in the form of `CIFAR10DVS`: 128 x 128 pixels, 1,000 of each class.

    The pictures move as those of CIFAR10-DVS did (see `rsnn.data.simulate.moving`), and the camera lies on its side as
    theirs did, so that a network trained on one set can be tested on the other. The first 900 pictures of each class,
    by name, are to train and the last 100 to test.

    Args:
        root: the folder that `build_cifar10dvs` or `rsnn simulate --cifar10dvs` has made.
        split: "train", "test" or "all".

    Raises:
        RecordingError: the recordings are not there, or not all of them.
        InputError: `split` is another word.

    """

    def __init__(self, root: str | os.PathLike[str], split: str) -> None:
        root = as_path(root)
        check_split(split, SPLITS)
        if not self.is_in(root):
            raise RecordingError(
                f"{root} holds no simulated CIFAR10-DVS, or not all of it; expected the folder that "
                f"`rsnn simulate IMAGES {root} --cifar10dvs` makes of the CIFAR-10 pictures in a folder or zip: run it"
            )
        samples = []
        for label, name in enumerate(CLASS_NAMES):
            paths = sorted((root / name).glob(f"[!.]*{SUFFIX}"))
            if len(paths) != SAMPLES_A_CLASS:
                raise RecordingError(
                    f"{root / name} holds {len(paths)} recordings; expected {SAMPLES_A_CLASS}: run `rsnn simulate` "
                    "again, which makes those that are missing"
                )
            border = int(len(paths) * TRAIN_SHARE)
            chosen = {"train": paths[:border], "test": paths[border:], "all": paths}[split]
            samples += [Sample(f"{name}/{path.stem}", label, path) for path in chosen]
        super().__init__(
            name="SimulatedCIFAR10DVS",
            split=split,
            split_name=SPLIT_NAME,
            samples=samples,
            class_names=CLASS_NAMES,
            sensor_size=SENSOR_SIZE,
            read=functools.partial(read_events, sensor_size=SENSOR_SIZE),
        )

    @staticmethod
    def is_in(root: Path) -> bool:
        """Tell whether a folder holds recordings that `build_cifar10dvs` has made to the end."""
        return all((root / name).exists() for name in (SETTINGS, MANIFEST, CLASS_NAMES[0]))


def build_cifar10dvs(
    images: str | os.PathLike[str],
    root: str | os.PathLike[str],
    *,
    seed: int = 0,
    jobs: int | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Path:
    """Make the recordings of `SimulatedCIFAR10DVS`, several at a time; an interrupted run goes on where it ended.

    Args:
        images: a folder or a zip with CIFAR-10 pictures in a folder for each class, 1,000 or more of each; the first
            1,000 by name are taken.
        root: where the recordings go, some 9 GB.
        seed: of mismatch and noise.
        jobs: processes; as many as there are cores by default. With more than one, a script calls this below
            `if __name__ == "__main__":`, since each process runs the rest of the script.
        on_progress: called with the number of recordings that are there, of 10,000.

    Returns:
        The folder.

    Raises:
        InputError: the pictures are not as above, or the folder holds other recordings.
        RSNNError: a process ended before its work was done.

    """
    recorder = Recorder(as_path(images), PARAMETERS, seed, on_its_side=True)
    parts = _choose(recorder.images)
    return record(recorder, as_path(root), SUFFIX, jobs, on_progress, list(parts), parts.__getitem__)


def _choose(images: Path) -> dict[str, str]:
    """Return the pictures to record and in which part each is."""
    by_class: dict[str, list[str]] = {name: [] for name in CLASS_NAMES}
    for member in list_members(images):
        path = PurePosixPath(member)
        if len(path.parts) == 2 and path.parts[0] in by_class:
            by_class[path.parts[0]].append(member)
    parts = {}
    for name, members in by_class.items():
        if len(members) < SAMPLES_A_CLASS:
            raise InputError(
                f"{images} holds {len(members)} pictures in the folder {name!r}; expected {SAMPLES_A_CLASS} or more of "
                f"each class: {', '.join(CLASS_NAMES)}"
            )
        border = int(SAMPLES_A_CLASS * TRAIN_SHARE)
        for number, member in enumerate(members[:SAMPLES_A_CLASS]):
            parts[member] = "train" if number < border else "test"
    return parts
