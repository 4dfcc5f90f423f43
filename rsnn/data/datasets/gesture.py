"""DVS128 Gesture: 11 hand and arm gestures of 29 people under 3 to 5 kinds of light, 128 x 128 pixels.

Amir et al., "A Low Power, Fully Event-Based Gesture Recognition System", CVPR 2017. CC BY 4.0.

The official archive has one recording for each person and light, and a label file with the class and the first and last
microsecond of every gesture in it. A sample is the events with start <= t < end of one line, as SpikingJelly and
snnTorch cut them: 1,176 samples of users 1-23 to train and 288 of users 24-29 to test, twelve of each recording, for
the arm roll is there twice. Nothing else is changed. The paper counts 1,342 instances, for it leaves some out.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rsnn.data.datasets.archives import Archive, check_md5, find_archives, make, unpack_inner
from rsnn.data.datasets.base import EventDataset, Sample, check_split
from rsnn.data.events import Events
from rsnn.data.files import as_path
from rsnn.data.progress import progress
from rsnn.data.readers import read_events
from rsnn.errors import RecordingError

ARCHIVE = Archive(
    "DvsGesture.tar.gz",
    "https://ibm.ent.box.com/s/3hiq58ww1pbbjrinh367ykfdf60xsfm8/folder/50167556794",
    "8a5c71fb11e24e5ca5b11866ca6c00a1",
    direct=False,
)
SENSOR_SIZE = (128, 128)
CLASS_NAMES = (  # as the models of the zoo have them; the official mapping says hand_clapping
    "hand_clap",
    "right_hand_wave",
    "left_hand_wave",
    "right_arm_cw",
    "right_arm_ccw",
    "left_arm_cw",
    "left_arm_ccw",
    "arm_roll",
    "air_drums",
    "air_guitar",
    "other_gestures",
)
MIRRORED_LABELS = {1: 2, 2: 1, 3: 6, 6: 3, 4: 5, 5: 4}  # left and right, and with them cw and ccw; the others stay
SPLITS = ("train", "test")
SPLIT_NAME = "official"
SAMPLES = {"train": 1176, "test": 288}

# The recordings of each part, as the archive's `trials_to_*.txt` list them: the kinds of light each user was seen in.
_LIGHTS = ("fluorescent", "fluorescent_led", "lab", "led", "natural")
_USERS = {"train": range(1, 24), "test": range(24, 30)}
_NOT_SEEN_IN: dict[int, tuple[str, ...]] = {
    3: ("lab",),
    4: ("lab",),
    7: ("natural",),
    8: ("natural",),
    10: ("natural",),
    11: ("lab", "led"),
    12: ("fluorescent", "lab", "natural"),
    14: ("lab",),
    16: ("fluorescent_led",),
    18: ("natural",),
    20: ("lab", "natural"),
    21: ("led",),
    23: ("natural",),
    24: ("lab", "natural"),
    25: ("fluorescent_led", "lab", "natural"),
    27: ("lab",),
}
RECORDINGS = {
    split: [f"user{user:02}_{light}" for user in users for light in _LIGHTS if light not in _NOT_SEEN_IN.get(user, ())]
    for split, users in _USERS.items()
}
CUT_FOLDER = "DvsGesture-samples-1"  # the number changes with the way recordings are cut
TONIC_FOLDERS = {"train": "ibmGestureTrain", "test": "ibmGestureTest"}
MICROSECONDS_OF_TONIC = 1000  # tonic's archive keeps milliseconds


class DVS128Gesture(EventDataset):
    """DVS128 Gesture, cut into samples.

    Looked for below `root`, in this order: samples that this class cut before; SpikingJelly's `events_np`; the unpacked
    folder `DvsGesture` (SpikingJelly's is in `extract`), which `root` may also be itself; `DvsGesture.tar.gz`
    (SpikingJelly's is in `download`); tonic's `DVSGesture/ibmGestureTrain` (another cut of 1,077 and 264 samples with
    times in milliseconds, named so in `split_name`). The archive is checked, unpacked to `DvsGesture` and cut into
    `DvsGesture-samples-1` in `root`, each folder appearing when it is complete.

    Args:
        root: the folder that holds, or will hold, the data.
        split: "train" or "test".
        download: the official page has no address of the file itself: this only changes the error into instructions.

    Raises:
        RecordingError: the data are not there, or are damaged.
        InputError: `split` is another word, or what the archives unpack to cannot be written.

    """

    def __init__(self, root: str | os.PathLike[str], split: str, *, download: bool = False) -> None:
        root = as_path(root)
        check_split(split, SPLITS)
        split_name = SPLIT_NAME
        read: Callable[[Path], Events] = functools.partial(read_events, sensor_size=SENSOR_SIZE)
        cut = next((folder for folder in (root / CUT_FOLDER, root / "events_np") if folder.is_dir()), None)
        tonic = next((f for f in (root / "DVSGesture", root) if (f / TONIC_FOLDERS[split]).is_dir()), None)
        if (
            cut is None
            and _unpacked(root) is None
            and not any((folder / ARCHIVE.name).is_file() for folder in (root, root / "download"))
            and tonic is not None
        ):
            split_name, read = "tonic", read_tonic
            samples = _tonic_samples(tonic / TONIC_FOLDERS[split])
        else:
            samples = _cut_samples((cut or _prepare(root, download=download)) / split, SAMPLES[split])
        super().__init__(
            name="DVS128Gesture",
            split=split,
            split_name=split_name,
            samples=samples,
            class_names=CLASS_NAMES,
            sensor_size=SENSOR_SIZE,
            read=read,
        )


def _unpacked(root: Path) -> Path | None:
    if unpacked := next((f for f in (root / "DvsGesture", root / "extract" / "DvsGesture") if f.is_dir()), None):
        return unpacked
    return root if next(root.glob("user*.aedat"), None) else None


def _prepare(root: Path, *, download: bool) -> Path:
    unpacked = _unpacked(root)
    if unpacked is None:
        (archive,) = find_archives(root, [ARCHIVE], download=download)
        check_md5(ARCHIVE, archive)
        unpacked = root / "DvsGesture"
        make(unpacked, functools.partial(unpack_inner, archive, "DvsGesture"))
    samples = root / CUT_FOLDER
    make(samples, functools.partial(_cut_all, unpacked))
    return samples


def _cut_all(unpacked: Path, folder: Path) -> None:
    for split in SPLITS:
        for label in range(len(CLASS_NAMES)):
            (folder / split / str(label)).mkdir(parents=True)
    recordings = [(split, recording) for split in SPLITS for recording in RECORDINGS[split]]
    with progress("cutting recordings into samples", len(recordings)) as advance:
        for number, (split, recording) in enumerate(recordings):
            cut_recording(unpacked / f"{recording}.aedat", folder / split)
            advance(number + 1)


def cut_recording(path: Path, folder: Path) -> None:
    """Write a sample `<label>/<recording>_<number>.npz` below `folder` for each line of the recording's label file.

    Raises:
        RecordingError: the recording or its label file is missing or damaged.

    """
    labels = path.with_name(f"{path.stem}_labels.csv")
    try:
        lines = np.loadtxt(labels, dtype=np.int64, delimiter=",", skiprows=1, ndmin=2).reshape(-1, 3)
    except (OSError, ValueError) as error:
        raise RecordingError(f"{labels} cannot be read ({error}); expected lines of class, start and end") from error
    events = read_events(path, sensor_size=SENSOR_SIZE)
    number = [0] * len(CLASS_NAMES)
    for row, (gesture, start_us, end_us) in enumerate(lines.tolist()):
        if not 1 <= gesture <= len(CLASS_NAMES):
            raise RecordingError(f"{labels}: row {row + 2} has the class {gesture}; expected 1 to {len(CLASS_NAMES)}")
        label = gesture - 1
        piece = events.between(start_us, end_us)
        sample = folder / str(label) / f"{path.stem}_{number[label]}.npz"
        np.savez(sample, t=piece.t, x=piece.x, y=piece.y, p=piece.p, sensor_size=SENSOR_SIZE)
        number[label] += 1


def _cut_samples(folder: Path, expected: int) -> list[Sample]:
    samples = [
        Sample(f"{path.stem}:{label}", label, path)
        for label in range(len(CLASS_NAMES))
        for path in sorted((folder / str(label)).glob("*.npz"))
    ]
    if len(samples) != expected:
        raise RecordingError(
            f"{folder} holds {len(samples)} samples; expected {expected} of the form <label>/<recording>_<number>.npz: "
            "delete the folder, so that it is made again"
        )
    return samples


def _tonic_samples(folder: Path) -> list[Sample]:
    samples = (path for path in folder.glob("user*/*.npy") if path.stem.isdecimal())
    paths = sorted(samples, key=lambda path: (path.parent.name, int(path.stem)))
    return [Sample(f"{path.parent.name}_0:{int(path.stem)}", int(path.stem), path) for path in paths]


def read_tonic(path: Path) -> Events:
    """Read a sample of tonic's archive: columns x, y, p and t in milliseconds.

    Raises:
        RecordingError: the file is damaged.

    """
    try:
        x, y, p, t = np.load(path, allow_pickle=False).astype(np.int64).T
    except (OSError, ValueError, EOFError) as error:
        raise RecordingError(f"{path} cannot be read ({error}); expected an array of shape (n, 4)") from error
    return Events(t=t * MICROSECONDS_OF_TONIC, x=x, y=y, p=p, sensor_size=SENSOR_SIZE)
