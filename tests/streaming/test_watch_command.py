"""`rsnn watch` as a user runs it: in a process of its own, with pipes, ports and signals."""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from stream_models import flat, random_events, small_model
from typer.testing import CliRunner

from rsnn.cli import app

MODEL = small_model(window_ms=60)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("watch") / "model"
    MODEL.save_pretrained(path)
    return str(path)


def watching(*arguments, **pipes):
    return subprocess.Popen(
        [sys.executable, "-m", "rsnn", "watch", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "100"},
        **pipes,
    )


def wanted_of(events):
    stream = MODEL.stream()
    return stream.push(events) + stream.flush()


def test_a_file_as_json_lines(folder, tmp_path):
    events = random_events(700, 130_000, start_us=0)
    np.save(tmp_path / "clip.npy", events.to_structured())
    ran = CliRunner().invoke(
        app,
        ["watch", str(tmp_path / "clip.npy"), "--model", folder, "--sensor-size", "10x12", "--speed", "inf", "--json"],
    )
    assert ran.exit_code == 0, ran.output
    lines = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [(line["t_us"], list(line["probabilities"].values())) for line in lines] == flat(wanted_of(events))
    assert set(lines[0]) == {
        *("t_us", "label", "index", "probabilities", "latency_ms", "events", "events_per_second", "dropped", "late")
    }


def test_gestures_are_the_default():
    assert "there is no source" in CliRunner().invoke(app, ["watch", "nothing.aedat"]).output
    assert "rsnn-gesture-cl" in CliRunner().invoke(app, ["watch", "--help"]).output


def test_the_process_is_left_as_it_was(folder, tmp_path):
    np.save(tmp_path / "clip.npy", random_events(700, 130_000, start_us=0).to_structured())
    before = torch.get_num_threads(), sys.getswitchinterval(), gc.get_freeze_count()
    arguments = ["--model", folder, "--sensor-size", "10x12", "--speed", "inf", "--threads", "3", "--json"]
    assert CliRunner().invoke(app, ["watch", str(tmp_path / "clip.npy"), *arguments]).exit_code == 0
    assert (torch.get_num_threads(), sys.getswitchinterval(), gc.get_freeze_count()) == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.aedat"], "there is no source 'nothing.aedat'"),
        (["camera"], "no camera library is installed"),
        (["-", "--sensor-size", "big"], "expected WIDTHxHEIGHT"),
        (["aestream:0", "--hop", "7"], "expected whole steps"),
        (["-", "--decay", "1"], "below 1"),
    ],
)
def test_mistakes_are_one_line(folder, arguments, message):
    ran = CliRunner().invoke(app, ["watch", *arguments, "--model", folder])
    assert ran.exit_code == 1
    assert message in ran.output
    assert "Traceback" not in ran.output


@pytest.mark.slow
def test_standard_input(folder):
    events = random_events(700, 130_000, start_us=0)
    text = "".join(f"{t},{x},{y},{p}\n" for t, x, y, p in events.to_structured().tolist())
    process = watching("-", "--model", folder, "--json", "--sensor-size", "10x12", stdin=subprocess.PIPE)
    out, errors = process.communicate(text, timeout=300)
    assert process.returncode == 0, errors
    assert errors == ""
    lines = [json.loads(line) for line in out.splitlines()]
    assert [(line["t_us"], list(line["probabilities"].values())) for line in lines] == flat(wanted_of(events))


def free_port():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def aestream_packet(rows, _number):
    return b"".join(struct.pack("<2I", x << 16 | p << 15 | y, t) for t, x, y, p in rows)


def jaer_packet(rows, number):
    words = [number]
    for t, x, y, p in rows:
        words += [y << 8 | x << 1 | (1 - p), t]
    return struct.pack(f">{len(words)}I", *words)


@pytest.mark.slow
@pytest.mark.parametrize(("source", "packet"), [("aestream", aestream_packet), ("jaer", jaer_packet)])
def test_a_port_until_interrupted(folder, source, packet):
    """Packets in the program's format come in, lines of JSON go out; Ctrl-C ends it without a word."""
    port = free_port()
    size = ["--sensor-size", "10x12"]
    process = watching(f"{source}:{port}", "--model", folder, "--json", *size)
    done = threading.Event()

    def send():
        rows = random_events(50, 9_000, start_us=0).to_structured().tolist()
        number = 0
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            while not done.is_set():
                moved = [(t + 10_000 * number, x, y, p) for t, x, y, p in rows]
                client.sendto(packet(moved, number), ("127.0.0.1", port))
                number += 1
                time.sleep(0.01)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        lines = [json.loads(process.stdout.readline()) for _ in range(8)]
    finally:
        done.set()
        sender.join()
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 0
    assert process.stderr.read() == ""
    process.stdout.close()
    process.stderr.close()
    assert [line["t_us"] for line in lines] == sorted(line["t_us"] for line in lines)
    assert lines[-1]["events"] >= 50 * 8
    assert all(sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-5) for line in lines)
    assert all(line["latency_ms"] > 0 for line in lines)
