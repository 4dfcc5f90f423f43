"""CIFAR10-DVS: 1,000 images of each CIFAR-10 class, moved on a screen before a DVS128.

Li et al., "CIFAR10-DVS: An Event-Stream Dataset for Object Classification", Frontiers in Neuroscience 2017. CC BY 4.0.

There is no official split. `per-class-90-10` takes the first 900 samples of each class to train and the last 100 to
test, in the order of their file names as text (`..._1`, `..._10`, `..._100`, `..._2`, ...), which is the order in which
SpikingJelly lists them, so that its `split_to_train_test_set` gives the same parts. Events are as in the AEDAT 2.0
files: the camera's addresses, in which the images lie on their side (see `rsnn.data.readers.aedat20`).
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

from rsnn.data.datasets.archives import Archive, check_md5, find_archives, make, unpack_inner
from rsnn.data.datasets.base import EventDataset, Sample, check_complete, check_split
from rsnn.data.events import Events
from rsnn.data.files import as_path
from rsnn.data.readers import read_events

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
ARCHIVES = tuple(
    Archive(f"{name}.zip", f"https://ndownloader.figshare.com/files/{number}", md5)
    for name, number, md5 in (
        ("airplane", 7712788, "0afd5c4bf9ae06af762a77b180354fdd"),
        ("automobile", 7712791, "8438dfeba3bc970c94962d995b1b9bdd"),
        ("bird", 7712794, "a9c207c91c55b9dc2002dc21c684d785"),
        ("cat", 7712812, "52c63c677c2b15fa5146a8daf4d56687"),
        ("deer", 7712815, "b6bf21f6c04d21ba4e23fc3e36c8a4a3"),
        ("dog", 7712818, "f379ebdf6703d16e0a690782e62639c3"),
        ("frog", 7712842, "cad6ed91214b1c7388a5f6ee56d08803"),
        ("horse", 7712851, "e7cbbf77bec584ffbf913f00e682782a"),
        ("ship", 7712836, "41c7bd7d6b251be82557c6cce9a7d5c9"),
        ("truck", 7712839, "89f3922fd147d9aeff89e76a2b0b70a7"),
    )
)
SENSOR_SIZE = (128, 128)
LAST = 127
SAMPLES_A_CLASS = 1000
TRAIN_SHARE = 0.9
SPLITS = ("train", "test", "all")
SPLIT_NAME = "per-class-90-10"


class CIFAR10DVS(EventDataset):
    """CIFAR10-DVS.

    Looked for below `root`, in this order: a folder of AEDAT 2.0 files for each class (in `root`, or in SpikingJelly's
    `extract`); SpikingJelly's `events_np`, whose upright images are turned back to the camera's addresses; the ten
    archives, which are checked and unpacked, each folder appearing when it is complete; tonic's `CIFAR10DVS` of AEDAT 4
    files, with the addresses that tonic gave them.

    Args:
        root: the folder that holds, or will hold, the data.
        split: "train", "test" or "all".
        download: fetch missing archives (6.7 GB) into `root`; an interrupted download goes on where it ended.

    Raises:
        RecordingError: the data are not there, or are damaged or incomplete.
        InputError: `split` is another word, or what the archives unpack to cannot be written.

    """

    def __init__(self, root: str | os.PathLike[str], split: str, *, download: bool = False) -> None:
        root = as_path(root)
        check_split(split, SPLITS)
        folder, suffix = _find(root) or (_prepare(root, download=download), ".aedat")
        samples = [
            Sample(path.stem, label, path)
            for label, name in enumerate(CLASS_NAMES)
            for path in sorted((folder / name).glob(f"*{suffix}"), key=lambda path: path.stem)
        ]
        wanted = split_ids(split)
        check_complete("CIFAR10DVS", folder, wanted, samples)
        by_id = {sample.id: sample for sample in samples}
        super().__init__(
            name="CIFAR10DVS",
            split=split,
            split_name=SPLIT_NAME,
            samples=[by_id[sample] for sample in wanted],
            class_names=CLASS_NAMES,
            sensor_size=SENSOR_SIZE,
            read=read_spikingjelly if suffix == ".npz" else functools.partial(read_events, sensor_size=SENSOR_SIZE),
        )


def split_ids(split: str) -> list[str]:
    """Return the ids of the samples in "train", "test" or "all", class after class."""
    check_split(split, SPLITS)
    ids = []
    for name in CLASS_NAMES:
        of_class = sorted(f"cifar10_{name}_{number}" for number in range(SAMPLES_A_CLASS))
        border = int(len(of_class) * TRAIN_SHARE)
        ids += {"train": of_class[:border], "test": of_class[border:], "all": of_class}[split]
    return ids


def _find(root: Path) -> tuple[Path, str] | None:
    for folder, suffix in (
        (root, ".aedat"),
        (root / "extract", ".aedat"),
        (root / "events_np", ".npz"),
        (root / "CIFAR10DVS", ".aedat4"),
    ):
        if all((folder / name).is_dir() for name in CLASS_NAMES):
            return folder, suffix
    return None


def _prepare(root: Path, *, download: bool) -> Path:
    missing = [archive for archive in ARCHIVES if not (root / Path(archive.name).stem).is_dir()]
    for archive, path in zip(missing, find_archives(root, missing, download=download), strict=True):
        check_md5(archive, path)
        make(root / Path(archive.name).stem, functools.partial(unpack_inner, path, Path(archive.name).stem))
    return root


def read_spikingjelly(path: Path) -> Events:
    """Read a sample as SpikingJelly keeps it, turned back to the camera's addresses."""
    upright = read_events(path, sensor_size=SENSOR_SIZE)
    return Events(t=upright.t, x=LAST - upright.y, y=LAST - upright.x, p=upright.p, sensor_size=SENSOR_SIZE)
