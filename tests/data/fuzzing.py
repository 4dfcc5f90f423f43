"""Damaged files for the readers, and what has to hold whatever they are given.

    python tests/data/fuzzing.py --seconds 600

runs atheris, which looks for inputs that reach new code, from whole files of every format; it ends with an error at the
first input that breaks a rule, and leaves that input in the folder `--found`. `--runs` in place of `--seconds` gives
inputs that depend on nothing but the code and `--seed`.
"""

from __future__ import annotations

import argparse
import ctypes
import faulthandler
import os
import sys
import tempfile
from pathlib import Path

import numpy as np

FORMATS = (
    "aedat-3.1", "aedat-2.0", "evt2", "evt21", "evt3", "dat", "es", "atis", "nmnist", "npz", "npz-compressed", "npy",
    "csv", "e2vid", "hdf5", "hdf5-table", "mat", "mat-compressed",
)  # fmt: skip
EVENTS_A_BYTE = 6  # a vector of EVT 3.0 is twelve events in two bytes: nothing is denser
COMPRESSED = ("npz-compressed", "hdf5", "hdf5-table", "mat-compressed")


def whole_file(name: str, folder: Path, n: int = 30) -> bytes:
    """Return a small valid file of a format, the same bytes each time."""
    import writers
    from made import random_events

    from rsnn.data import write_events

    events = random_events(np.random.default_rng(5), n, (34, 34), last_us=20_000)
    path = folder / f"whole-{name}"
    columns = {column: getattr(events, column) for column in "txyp"}
    table = events.to_structured()
    with path.open("wb") as file:
        if name == "npz-compressed":
            np.savez_compressed(file, **columns)
        elif name == "npy":
            np.save(file, table)
        elif name == "e2vid":
            rows = "".join(f"{t / 1e6:.6f} {x} {y} {p}\n" for t, x, y, p in table.tolist())
            file.write(b"34 34\n" + rows.encode())
        elif name in ("mat", "mat-compressed"):
            from scipy.io import savemat

            matrix = np.zeros((101, n), dtype=np.float32)
            matrix[events.y % 10 * 10 + events.x % 10, range(n)] = events.p * 2.0 - 1
            matrix[100] = events.t / 1e6
            savemat(file, {"spiketrain": matrix}, do_compression=name == "mat-compressed")
            file.seek(0)
            file.write(b"MATLAB 5.0 MAT-file".ljust(116))  # in place of text with the date
        elif name == "hdf5-table":
            import h5py

            with h5py.File(file, "w") as opened:
                opened["events"] = np.stack([columns[column] for column in "txyp"], axis=1)
    by_hand = {
        "aedat-3.1": lambda: writers.write_aedat31(path, events, packet_events=7),
        "aedat-2.0": lambda: writers.write_aedat20(path, events),
        "evt2": lambda: writers.write_evt2(path, events),
        "evt21": lambda: writers.write_evt21(path, events, upper_first=True),
        "evt3": lambda: writers.write_evt3(path, events),
        "dat": lambda: writers.write_dat(path, events),
        "es": lambda: writers.write_es(path, events),
        "atis": lambda: writers.write_es(path, events, kind=2),
        "nmnist": lambda: writers.write_nmnist(path, events),
        "npz": lambda: write_events(path, events, format="numpy"),
        "csv": lambda: write_events(path, events, format="text"),
        "hdf5": lambda: write_events(path, events, format="hdf5"),
    }
    by_hand.get(name, lambda: None)()
    return path.read_bytes()


def check(path: Path, data: bytes, *, compressed: bool = False) -> None:
    """Read `data` in every way; either valid events come, the same each way, or one error that names the file."""
    from rsnn.data import Events, iter_events, read_events
    from rsnn.errors import RecordingError

    path.write_bytes(data)
    found = []
    for truncated in ("error", "keep"):
        try:
            events = read_events(path, truncated=truncated)
        except RecordingError as error:
            message = str(error)
            assert str(path) in message, message
            assert "expected" in message or "copy it again" in message, message
            assert "llocate" not in message, message  # what NumPy and the system say when memory is not there
            found.append(None)
            continue
        assert isinstance(events, Events)
        assert len(events) > 0
        assert compressed or len(events) <= EVENTS_A_BYTE * len(data)
        found.append(events)
        pieces = list(iter_events(path, duration_us=1 << 40, truncated=truncated))
        assert all(piece.sensor_size == events.sensor_size for piece in pieces)
        for name in "txyp":
            assert np.array_equal(np.concatenate([getattr(piece, name) for piece in pieces]), getattr(events, name))
    strict, kept = found
    assert strict is None or strict == kept


def fuzz(limit: list[str], found: Path, corpus: Path) -> None:
    """Let atheris look for inputs that break `check`, within limits in libFuzzer's words."""
    import atheris

    sys.path.insert(0, str(Path(__file__).parent))
    with atheris.instrument_imports(include=["rsnn.data"]):
        import rsnn.data  # noqa: F401

    folder = Path(tempfile.mkdtemp(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    for name in FORMATS:
        (corpus / name).write_bytes(whole_file(name, folder))
    os.chdir(folder)
    path = Path("input")  # without the random name of its folder, which libFuzzer would take for a hint

    def one(data: bytes) -> None:
        if not faulthandler.is_enabled():  # before libFuzzer's own handlers are set it would keep them out
            faulthandler.enable()
        check(path, data, compressed=True)

    options = [*limit, f"-artifact_prefix={found}/", "-timeout=10", "-rss_limit_mb=3000"]
    options.append("-reload=0")  # it would read the corpus again each second: the clock would choose inputs
    atheris.Setup([sys.argv[0], *options, "-max_len=16384", "-print_final_stats=1", str(corpus)], one)
    atheris.Fuzz()


def without_chance() -> None:
    """Start this program anew without what differs from run to run: hashes of strings and, on Linux, addresses."""
    if os.environ.get("PYTHONHASHSEED") != "0":
        ctypes.CDLL(None).personality(0x0040000)  # ADDR_NO_RANDOMIZE; where it is not allowed, addresses still differ
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--runs", type=int, help="number of inputs, the same ones each time, in place of --seconds")
    parser.add_argument("--seed", type=int, default=1, help="which inputs --runs tries")
    parser.add_argument("--found", type=Path, default=Path(tempfile.gettempdir()))
    options = parser.parse_args()
    if options.runs:
        without_chance()
    with tempfile.TemporaryDirectory() as corpus:
        limit = [f"-max_total_time={options.seconds}"]
        if options.runs:
            limit = [f"-runs={options.runs}", f"-seed={options.seed}"]
        fuzz(limit, options.found.absolute(), Path(corpus))


if __name__ == "__main__":
    main()
