"""`rsnn watch` as a user runs it: in a process of its own, with pipes, ports and signals."""

from __future__ import annotations

import errno
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
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import typer
from stream_models import flat, random_events, small_model
from typer.testing import CliRunner

from rsnn.cli import app
from rsnn.cli.console import user_errors
from rsnn.errors import InputError
from rsnn.streaming.watching import _terminated_as_interrupted, watch

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
        *("t_us", "label", "index", "probabilities", "latency_ms", "events", "events_per_second", "dropped", "late"),
        *("bad_packets", "restarts"),
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


def test_pipes_that_are_closed(folder, monkeypatch, tmp_path):
    np.save(tmp_path / "clip.npy", random_events(700, 130_000, start_us=0).to_structured())
    for name, source, message in (
        ("stdin", "-", "standard input is closed"),
        ("stdout", str(tmp_path / "clip.npy"), "standard output is closed"),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(sys, name, None)
            with pytest.raises(InputError, match=message):
                watch(MODEL, source, sensor_size=(10, 12))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_output_that_cannot_be_written_is_one_line(number, capsys):
    with pytest.raises(typer.Exit) as ended, user_errors():
        raise OSError(number, os.strerror(number))
    assert ended.value.exit_code == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert os.strerror(number) in said
    assert ("the output cannot be written" in said) == (number == errno.ENOSPC)


def test_a_file_that_the_system_refuses_is_named(capsys):
    with pytest.raises(typer.Exit), user_errors():
        raise PermissionError(errno.EACCES, "Permission denied", "secret.npz")
    assert capsys.readouterr().err == "error: secret.npz: Permission denied\n"


def test_who_has_seen_enough_is_no_error():
    with pytest.raises(BrokenPipeError), user_errors():
        raise BrokenPipeError


def test_output_without_the_characters_is_one_line(capsys):
    with pytest.raises(typer.Exit), user_errors():
        "µJ".encode("ascii")
    assert capsys.readouterr().err == "error: '\\xb5' cannot be written in ascii; set PYTHONIOENCODING=utf-8\n"


def test_sigterm_is_ctrl_c_for_a_while():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), _terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before
    with mine(), _terminated_as_interrupted():
        os.kill(os.getpid(), signal.SIGTERM)  # whoever has a handler keeps it


@contextmanager
def mine():
    got = []
    before = signal.signal(signal.SIGTERM, lambda number, _: got.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    assert got == [signal.SIGTERM]


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
def test_a_full_disk(folder, tmp_path):
    np.save(tmp_path / "clip.npy", random_events(700, 130_000, start_us=0).to_structured())
    command = [sys.executable, "-m", "rsnn", "watch", str(tmp_path / "clip.npy"), "--model", folder, "--speed", "inf"]
    for options in ([], ["--json"]):
        with open("/dev/full", "w") as full:  # noqa: PTH123
            ran = subprocess.run(
                [*command, "--sensor-size", "10x12", *options], stdout=full, stderr=subprocess.PIPE, text=True
            )
        assert ran.returncode == 1
        assert ran.stderr.count("\n") == 1
        assert "the output cannot be written" in ran.stderr


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_standard_input_is_awaited(folder, number):
    events = random_events(700, 130_000, start_us=0)
    text = "".join(f"{t},{x},{y},{p}\n" for t, x, y, p in events.to_structured().tolist())
    process = watching("-", "--model", folder, "--json", "--sensor-size", "10x12", stdin=subprocess.PIPE)
    process.stdin.write(text)
    process.stdin.flush()
    assert json.loads(process.stdout.readline())["t_us"] == 10_000
    process.send_signal(number)
    _, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")


@pytest.mark.slow
def test_a_pipe_gets_each_prediction_at_once(folder):
    """For `rsnn watch - | grep`: while more is to come."""
    events = random_events(700, 130_000, start_us=0)
    text = "".join(f"{t},{x},{y},{p}\n" for t, x, y, p in events.to_structured().tolist())
    (t_us, prediction), *_ = wanted_of(events)
    said = f"{t_us / 1e6:.3f} s   {prediction.label} {prediction.probabilities[prediction.index]:.1%}   "
    with watching("-", "--model", folder, "--sensor-size", "10x12", stdin=subprocess.PIPE) as process:
        process.stdin.write(text)
        process.stdin.flush()
        assert process.stdout.readline().startswith(said)
        assert process.poll() is None
        process.stdin.close()
        others = process.stdout.readlines()  # `communicate` would leave out what came with the first line
        assert (process.wait(timeout=300), process.stderr.read()) == (0, "")
    assert 1 + len(others) == len(wanted_of(events))


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
