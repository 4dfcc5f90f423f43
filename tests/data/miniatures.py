"""Archives of the data sets in their official formats with a few short recordings, and a server that has them."""

from __future__ import annotations

import functools
import hashlib
import http.server
import io
import re
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import writers
from made import random_events

from rsnn.data.datasets import cifar10dvs, gesture, nmnist

LABELS = (
    (1, 1000, 3000),
    (8, 3000, 5000),
    (8, 5500, 7000),
    (11, 8000, 9000),
)  # of every recording, as in the label files
RECORDINGS = {"train": ["user01_led", "user02_lab"], "test": ["user24_led"]}


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


@functools.cache
def recording(name: str):
    return random_events(np.random.default_rng(len(name) + sum(name.encode())), 400, last_us=10_000)


def tar_with(path: Path, folder: Path) -> None:
    with tarfile.open(path, "w:gz") as archive:
        archive.add(folder, arcname=folder.name)


def gesture_folder(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for split, names in RECORDINGS.items():
        (folder / f"trials_to_{split}.txt").write_text("".join(f"{name}.aedat\n" for name in names))
        for name in names:
            writers.write_aedat31(folder / f"{name}.aedat", recording(name))
            rows = "".join(f"{label},{start},{end}\n" for label, start, end in LABELS)
            (folder / f"{name}_labels.csv").write_text(f"class,startTime_usec,endTime_usec\n{rows}")
    return folder


def gesture_archive(root: Path, monkeypatch) -> Path:
    """`DvsGesture.tar.gz` of three recordings with four gestures each, which the loader is made to expect."""
    tar_with(root / "DvsGesture.tar.gz", gesture_folder(root / "made" / "DvsGesture"))
    expect_gestures(monkeypatch, md5(root / "DvsGesture.tar.gz"))
    return root


def expect_gestures(monkeypatch, checksum: str = "") -> None:
    monkeypatch.setattr(gesture, "ARCHIVE", gesture.ARCHIVE._replace(md5=checksum))
    monkeypatch.setattr(gesture, "RECORDINGS", RECORDINGS)
    monkeypatch.setattr(gesture, "SAMPLES", {split: 4 * len(names) for split, names in RECORDINGS.items()})


def cifar10dvs_archives(root: Path, monkeypatch, per_class: int = 10) -> None:
    monkeypatch.setattr(cifar10dvs, "SAMPLES_A_CLASS", per_class)
    archives = []
    for archive in cifar10dvs.ARCHIVES:
        name = archive.name.removesuffix(".zip")
        with zipfile.ZipFile(root / archive.name, "w") as zipped:
            for number in range(per_class):
                path = root / "one.aedat"
                writers.write_aedat20(path, cifar10dvs_events(name, number))
                zipped.write(path, f"{name}/cifar10_{name}_{number}.aedat")
                path.unlink()
        archives.append(archive._replace(md5=md5(root / archive.name)))
    monkeypatch.setattr(cifar10dvs, "ARCHIVES", tuple(archives))


def cifar10dvs_events(name: str, number: int):
    return random_events(np.random.default_rng((sum(name.encode()), number)), 30)


def nmnist_archives(root: Path, monkeypatch) -> None:
    archives = {}
    for split, archive in nmnist.ARCHIVES.items():
        with zipfile.ZipFile(root / archive.name, "w") as zipped:
            zipped.writestr(f"{nmnist.FOLDERS[split]}/", "")
            for digit in range(10):
                for number in range(2 if split == "train" else 1):
                    path = root / "one.bin"
                    writers.write_nmnist(path, nmnist_events(split, digit, number))
                    zipped.write(path, f"{nmnist.FOLDERS[split]}/{digit}/{10 * number + digit:05}.bin")
                    path.unlink()
        archives[split] = archive._replace(md5=md5(root / archive.name))
    monkeypatch.setattr(nmnist, "ARCHIVES", archives)
    monkeypatch.setattr(nmnist, "SAMPLES", {"train": 20, "test": 10})


def nmnist_events(split: str, digit: int, number: int):
    return random_events(np.random.default_rng((len(split), digit, number)), 40, (34, 34))


class Server(http.server.ThreadingHTTPServer):
    """Serves a folder, as the hosts of the data sets do: with parts of files, or in the ways that hosts fail."""

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.ranges = True
        self.break_after: int | None = None
        self.requests: list[tuple[str, str | None]] = []

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        name, wanted = self.path.lstrip("/"), self.headers.get("Range")
        self.server.requests.append((name, wanted))
        path = self.server.folder / name
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        begin = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and self.server.ranges else 0
        if begin >= len(data):
            self.send_error(416)
            return
        self.send_response(206 if begin else 200)
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = len(data) if self.server.break_after is None else begin + self.server.break_after
        self.wfile.write(data[begin:end])

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving(folder: Path):
    server = Server(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def tar_of(names: list[str], data: bytes = b"x", links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name in names:
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
        for name, target in (links or {}).items():
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = tarfile.SYMTYPE, target
            archive.addfile(entry)
    return buffer.getvalue()
