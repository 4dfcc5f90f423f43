"""N-MNIST: the 70,000 digits of MNIST, seen by a camera in three quick moves, 34 x 34 pixels, about 0.3 s each.

Orchard et al., "Converting Static Image Datasets to Spiking Neuromorphic Datasets Using Saccades", Frontiers in
Neuroscience 2015. CC BY-SA 4.0. The split is MNIST's own: 60,000 to train, 10,000 to test. Events are as in the files.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from rsnn.data.datasets.archives import Archive, check_md5, find_archives, make, unpack_inner
from rsnn.data.datasets.base import EventDataset, Sample, check_split
from rsnn.data.files import as_path
from rsnn.data.readers import read_events
from rsnn.errors import RecordingError

_ADDRESS = "https://data.mendeley.com/public-files/datasets/468j46mzdv/files/{}/file_downloaded"
ARCHIVES = {
    "train": Archive(
        "Train.zip", _ADDRESS.format("39c25547-014b-4137-a934-9d29fa53c7a0"), "20959b8e626244a1b502305a9e6e2031"
    ),
    "test": Archive(
        "Test.zip", _ADDRESS.format("05a4d654-7e03-4c15-bdfa-9bb2bcbea494"), "69ca8762b2fe404d9b9bad1103e97832"
    ),
}
FOLDERS = {"train": "Train", "test": "Test"}
CLASS_NAMES = tuple(str(digit) for digit in range(10))
SENSOR_SIZE = (34, 34)
SPLITS = ("train", "test")
SAMPLES = {"train": 60_000, "test": 10_000}


class NMNIST(EventDataset):
    """N-MNIST.

    Looked for below `root`, in this order: the unpacked folders `Train` and `Test` (in `root`, in tonic's `NMNIST`, or
    in SpikingJelly's `extract`); SpikingJelly's `events_np`; the archives `Train.zip` and `Test.zip`, which are checked
    and unpacked, each folder appearing when it is complete.

    Args:
        root: the folder that holds, or will hold, the data.
        split: "train" or "test".
        download: fetch a missing archive (1.0 and 0.17 GB) into `root`; an interrupted download goes on where it ended.

    Raises:
        RecordingError: the data are not there, or are damaged.
        InputError: `split` is another word, or what the archives unpack to cannot be written.

    """

    def __init__(self, root: str | os.PathLike[str], split: str, *, download: bool = False) -> None:
        root = as_path(root)
        check_split(split, SPLITS)
        folder = _find(root, split) or _prepare(root, split, download=download)
        samples = [
            Sample(f"{split}/{label}/{path.stem}", label, path)
            for label, name in enumerate(CLASS_NAMES)
            for path in sorted((folder / name).iterdir() if (folder / name).is_dir() else [])
            if path.suffix in {".bin", ".npz"}
        ]
        if len(samples) != SAMPLES[split]:
            raise RecordingError(
                f"{folder} holds {len(samples)} samples; expected {SAMPLES[split]} of the form <digit>/<number>.bin: "
                "delete the folder, so that it is unpacked again"
            )
        super().__init__(
            name="NMNIST",
            split=split,
            split_name="official",
            samples=samples,
            class_names=CLASS_NAMES,
            sensor_size=SENSOR_SIZE,
            read=functools.partial(read_events, sensor_size=SENSOR_SIZE),
        )


def _find(root: Path, split: str) -> Path | None:
    folders = [parent / FOLDERS[split] for parent in (root, root / "NMNIST", root / "extract")]
    return next((folder for folder in [*folders, root / "events_np" / split] if folder.is_dir()), None)


def _prepare(root: Path, split: str, *, download: bool) -> Path:
    archive = ARCHIVES[split]
    (path,) = find_archives(root, [archive], download=download)
    check_md5(archive, path)
    folder = root / FOLDERS[split]
    make(folder, functools.partial(unpack_inner, path, FOLDERS[split]))
    return folder
