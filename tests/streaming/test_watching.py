"""A model on a live source: what it says, what it shows, and what it does when it cannot keep up."""

from __future__ import annotations

import io
import json
import socket
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import torch
from stream_models import T, flat, random_events, small_model

import rsnn
from rsnn import nn
from rsnn.errors import RecordingError
from rsnn.streaming import Slice
from rsnn.streaming.sources import EventSource, datagrams, decode_aestream, listen
from rsnn.streaming.view import panel, picture
from rsnn.streaming.watching import WAITING_STEPS, Seen, Watch, watch

WINDOW_US = 60_000
MODEL = small_model(window_ms=60)


@pytest.fixture
def clip(tmp_path):
    events = random_events(700, 130_000, start_us=0)
    np.save(tmp_path / "clip.npy", events.to_structured())
    return str(tmp_path / "clip.npy"), events


def test_json_lines_are_what_the_stream_says(clip):
    path, events = clip
    out = io.StringIO()
    watch(MODEL, path, as_json=True, sensor_size=(10, 12), speed=float("inf"), out=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    stream = MODEL.stream()
    wanted = stream.push(events) + stream.flush()
    assert [(line["t_us"], list(line["probabilities"].values())) for line in lines] == flat(wanted)
    assert [line["label"] for line in lines] == [prediction.label for _, prediction in wanted]
    assert lines[-1]["events"] == 700
    assert all(line["dropped"] == line["late"] == 0 for line in lines)


@pytest.mark.slow
def test_a_reader_that_has_seen_enough(clip, tmp_path):
    """`rsnn watch ... | head -1` ends without a word."""
    MODEL.save_pretrained(tmp_path / "model")
    code = (
        "import rsnn; from rsnn.streaming.watching import watch; "
        f"watch(rsnn.load({str(tmp_path / 'model')!r}), {clip[0]!r}, as_json=True, sensor_size=(10, 12))"
    )
    watching = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert json.loads(watching.stdout.readline())["t_us"] == 10_000
    watching.stdout.close()
    assert watching.stderr.read() == b""
    watching.stderr.close()
    assert watching.wait(30) == 0


def test_a_replay_in_real_time_keeps_up(clip):
    path, events = clip
    out = io.StringIO()
    watch(MODEL, path, as_json=True, hop=0.06, sensor_size=(10, 12), out=out)
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    stream = MODEL.stream(hop_us=60_000)
    wanted = stream.push(events) + stream.flush()
    if not lines[-1]["dropped"]:  # a busy machine may have dropped some
        assert [line["t_us"] for line in lines] == [t_us for t_us, _ in wanted]
    assert 0 < lines[-1]["events_per_second"] < 700 / 0.1  # it lasts 0.13 s, or longer on a busy machine


class Terminal(io.TextIOWrapper):
    """A terminal of some encoding, which keeps what it was told."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def isatty(self):
        return True

    def text(self):
        return self.buffer.getvalue().decode(self.encoding)


def test_the_live_view(clip, monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    path, _ = clip
    out = Terminal("utf-8")
    watch(MODEL, path, sensor_size=(10, 12), speed=float("inf"), out=out)
    text = out.text()
    assert "▀" in text
    assert "events/s" in text
    assert "clip.npy" in text


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp437"])
def test_the_live_view_on_a_terminal_without_its_characters(clip, encoding, monkeypatch):
    """Only it says what it cannot; a name is one of the things."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    model = small_model(window_ms=60)
    model.class_names = ("ant", "bée", "катя", "dog", "eel")
    out = Terminal(encoding)
    watch(model, clip[0], sensor_size=(10, 12), speed=float("inf"), out=out)
    text = out.text()
    assert "====" in text
    assert "????" in text
    assert "events/s" in text


@pytest.mark.parametrize("dumb", [False, True])
def test_what_is_no_terminal_gets_a_line_for_each_prediction(clip, dumb, monkeypatch):
    """A terminal that cannot move its cursor as well."""
    monkeypatch.setenv("TERM", "dumb" if dumb else "xterm")
    path, events = clip
    model = small_model(window_ms=60)
    model.load_state_dict(MODEL.state_dict())
    model.class_names = ("ant", "bee", "cat", "dog", "катя")
    out = Terminal("ascii") if dumb else io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    watch(model, path, sensor_size=(10, 12), speed=float("inf"), out=out)
    lines = out.buffer.getvalue().decode("ascii").splitlines()
    stream = MODEL.stream()
    wanted = stream.push(events) + stream.flush()
    names = ("ant", "bee", "cat", "dog", "????")
    assert [line.split("   ")[:2] for line in lines] == [
        [f"{t_us / 1e6:.3f} s", f"{names[p.index]} {p.probabilities[p.index]:.1%}"] for t_us, p in wanted
    ]
    assert all(line.endswith("dropped 0   late 0") for line in lines)


def test_json_lines_in_ascii(clip):
    model = small_model(window_ms=60)
    model.class_names = ("ant", "bée", "катя", "dog", "eel")
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    watch(model, clip[0], sensor_size=(10, 12), speed=float("inf"), as_json=True, out=out)
    line = json.loads(out.buffer.getvalue().splitlines()[0])
    assert tuple(line["probabilities"]) == model.class_names


def test_the_picture():
    """Two rows of pixels a line: the upper one in the foreground, the lower one behind it."""
    frame = np.zeros((2, 4, 3), dtype=np.float32)
    frame[1, 0, 1] = 5.0  # brighter, top
    frame[0, 3, 2] = 5.0  # darker, bottom
    text = picture(frame)
    assert text.plain == "▀▀▀\n▀▀▀\n"
    styles = [span.style for span in text.spans]
    assert styles[1] == "#ff0000 on #000000"
    assert styles[5] == "#000000 on #0000ff"
    assert {styles[k] for k in (0, 2, 3, 4)} == {"#000000 on #000000"}


def test_a_large_picture_is_drawn_in_cells():
    frame = np.zeros((2, 130, 131), dtype=np.float32)
    frame[1, 129, 130] = 1.0
    lines = picture(frame, widest=64).plain.splitlines()
    assert [len(line) for line in lines] == [44] * 22  # cells of 3 pixels: 44 x 44
    assert picture(np.zeros((2, 5, 5), dtype=np.float32)).plain.count("\n") == 3


def test_the_bars_show_the_likeliest_first():
    from rich.console import Console

    prediction = MODEL.predictions(torch.tensor([[0.0, 3.0, 1.0, 0.0, 2.0]]))[0]
    seen = Seen(1_500_000, prediction, 2.5, 10, 1e6, 3, 4, np.zeros((2, 4, 4), dtype=np.float32))
    console = Console(file=io.StringIO(), width=100)
    console.print(panel(seen, ("ant", "[bee]", "cat", "dog", "eel"), "a [title]"))
    lines = console.file.getvalue().splitlines()
    names = [line.split()[1] for line in lines if "%" in line]
    assert names == ["[bee]", "eel", "cat", "ant", "dog"]
    assert "1.50 s   1,000,000 events/s   latency 2.5 ms   dropped 3   late 4" in "".join(lines)
    assert "a [title]" in lines[0]
    assert "restarts" not in "".join(lines)
    console.print(panel(replace(seen, bad_packets=5, restarts=6), (), ""))
    assert "late 4   bad packets 5   restarts 6" in console.file.getvalue()


def test_udp_from_a_packet_to_a_prediction():
    """60 ms of events on loopback in AEStream's format, then silence: time goes on without events."""
    server = listen(0)
    port = server.getsockname()[1]
    events = random_events(300, 59_000, start_us=0)
    watched = Watch(MODEL.stream(), EventSource(datagrams(server, decode_aestream), (10, 12), waits=False))

    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            for k in range(0, 300, 30):
                words = []
                for t, x, y, p in zip(*(getattr(events, n)[k : k + 30].tolist() for n in "txyp"), strict=True):
                    words += [x << 16 | p << 15 | y, t]
                client.sendto(struct.pack(f"<{len(words)}I", *words), ("127.0.0.1", port))
                time.sleep(0.006)

    sender = threading.Thread(target=send)
    sender.start()
    with watched:
        last = next(seen for seen in watched if seen.t_us >= WINDOW_US)
    sender.join()
    assert last.t_us == WINDOW_US
    if not last.dropped and not last.late:
        assert last.events == 300
        stream = MODEL.stream()
        wanted = stream.push(events) + stream.advance_to(WINDOW_US)
        assert flat([(last.t_us, last.prediction)]) == flat(wanted[-1:])


class Wall:
    """A clock that a source sets, in place of the module `time`."""

    def __init__(self, monkeypatch):
        self.now = 0.0
        monkeypatch.setattr("rsnn.streaming.watching.time", self)

    def perf_counter(self):
        return self.now

    def watch(self, packets, until, *, waits=False, idle=0.02):
        """Return a watch on packets (arrival in seconds, events), whose model is always ready for the next one."""

        def wait(seconds):
            self.now = seconds
            while not watched._steps.empty():
                time.sleep(0.0001)

        def chunks():
            for arrival, events in packets:
                while self.now + idle < arrival:
                    wait(self.now + idle)
                    yield None
                wait(max(self.now, arrival))
                yield events
            while self.now < until:
                wait(self.now + idle)
                yield None

        watched = Watch(MODEL.stream(), EventSource(chunks(), (10, 12), waits=waits))
        return watched


def moved(events, by_us):
    array = events.to_structured()
    array["t"] += by_us
    return array


def burst_packets(events, period_us):
    """Events as a sender hands them over that collects for so long, in packets of 20."""
    for end in range(period_us, int(events.t[-1]) + period_us, period_us):
        burst = events.between(end - period_us, end)
        for k in range(0, len(burst), 20):
            yield end / 1e6 + k * 1e-6, burst[k : k + 20]


@pytest.mark.parametrize("period_us", [5_000, 33_000, 50_000])
def test_a_sender_of_bursts_loses_nothing(period_us, monkeypatch):
    """Between bursts of 33 ms, steps of 10 ms must not end before their events have come; after the last they do."""
    events = random_events(4_000, 2_000_000, start_us=0)
    watched = Wall(monkeypatch).watch(burst_packets(events, period_us), until=4.0)
    seen = list(watched)
    wanted = dict(MODEL.stream().push(events))
    assert seen[-1].late == watched.restarts == watched.dropped == 0
    assert seen[-1].events == 4_000
    assert seen[-1].t_us == 2_000_000 + 40_000, "the window from 1.98 s on"
    assert all(torch.equal(one.prediction.probabilities, wanted[one.t_us].probabilities) for one in seen[:199])


@pytest.mark.parametrize("waits", [True, False])
def test_a_clock_that_is_set_back(waits, monkeypatch):
    """Packets from t = 10 s, a pause, then from t = 0: the stream begins anew, unless it is one that waits."""
    piece = random_events(20, 10_000, start_us=0)
    before = [(k / 100, moved(piece, 10_000_000 + 10_000 * k)) for k in range(60)]
    after = [(2 + k / 100, moved(piece, 10_000 * k)) for k in range(100)]
    watched = Wall(monkeypatch).watch([*before, *after], until=3.2, waits=waits)
    seen = list(watched)
    if waits:
        assert seen[-1].t_us > 10_000_000
        assert (watched.restarts, watched.stream.late) == (0, 2_000)
        return
    first = next(k for k, one in enumerate(seen) if one.restarts)
    assert all(one.t_us > 10_000_000 and not one.late for one in seen[:first])
    assert all(one.restarts == 1 for one in seen[first:])
    assert seen[-1].late == 26 * 20, "what came in a quarter of a second, and the packet after it"
    fresh = MODEL.stream()
    wanted = [output for _, array in after[26:] for output in fresh.push(array)]
    got = [(one.t_us, one.prediction) for one in seen[first:]]
    assert flat(got[: len(wanted)]) == flat(wanted)


def test_an_event_with_a_wild_timestamp(monkeypatch):
    """It takes the stream with it for a quarter of a second; then that begins anew."""
    piece = random_events(20, 10_000, start_us=0)
    packets = [(k / 100, moved(piece, 10_000 * k)) for k in range(150)]
    packets.insert(60, (0.6, moved(piece[:1], 0x70000000)))
    seen = list(Wall(monkeypatch).watch(packets, until=1.5))
    assert seen[-1].restarts == 1
    assert 1_400_000 < seen[-1].t_us < 1_600_000
    assert 25 * 20 <= seen[-1].late <= 27 * 20


def test_a_source_that_was_only_paused_does_not_begin_anew(monkeypatch):
    """It goes on where it stopped: what it sends for one window at most is late."""
    piece = random_events(20, 10_000, start_us=0)
    packets = [(k / 100 + (10 if k >= 60 else 0), moved(piece, 10_000 * k)) for k in range(120)]
    last = list(Wall(monkeypatch).watch(packets, until=12))[-1]
    assert last.restarts == 0
    assert 0 < last.late <= 7 * 20


def test_an_error_of_the_source_is_the_callers():
    def chunks():
        yield random_events(10, 5_000)
        raise RecordingError("the cable is gone")

    with pytest.raises(RecordingError, match="the cable is gone"):
        list(Watch(MODEL.stream(), EventSource(chunks(), (10, 12), waits=True)))


class Slow(nn.SumFrames):
    """A reduction that takes 0.1 s a step."""

    def forward(self, features, state=None):
        time.sleep(0.1)
        return super().forward(features, state)


def test_ten_million_events_a_second_are_dropped_in_whole_steps():
    """A model of 0.1 s on steps of 10 ms, with 100,000 events in each: memory and delay stay as they are."""
    model = small_model("mean")
    model.classifier.reduction = Slow()
    generator = np.random.default_rng(0)
    n, seconds = 10_000, 1.0
    x, y, p = (generator.integers(0, high, n) for high in (10, 12, 2))
    piece = np.arange(n) // 10

    def chunks():
        began = time.perf_counter()
        for k in range(round(1_000 * seconds)):
            time.sleep(max(0.0, began + k / 1_000 - time.perf_counter()))
            yield rsnn.Events(t=piece + 1_000 * k, x=x, y=y, p=p, sensor_size=(10, 12))

    stream = model.stream(window_us=WINDOW_US)
    watched = Watch(stream, EventSource(chunks(), (10, 12), waits=False))
    frames, memory, seen = [], [], None
    hook = model.encoder.register_forward_hook(lambda _m, args, _out: frames.append(float(args[0].sum())))
    tracemalloc.start()
    for seen in watched:  # noqa: B007 - the last one is looked at
        memory.append(tracemalloc.get_traced_memory()[0])
        assert watched._steps.qsize() <= WAITING_STEPS
    tracemalloc.stop()
    hook.remove()
    assert watched.dropped > 20
    assert seen.events == 10_000_000
    assert set(frames) == {100_000.0}, "a step is dropped as a whole or not at all"
    assert len(frames) + watched.dropped == 100
    assert max(memory[5:]) < min(memory[5:]) + 2_000_000


def test_dropped_steps_leave_windows_on_their_grid():
    """Steps 2 and 3 are dropped: the window goes on without them, and the next one begins where it would have."""
    events = random_events(600, 2 * WINDOW_US + 1_000)
    stream, whole = MODEL.stream(), MODEL.stream()
    slices = list(stream.slicer.add(events))
    kept = [slices[0], slices[1], slices[4]._replace(lost=2), *slices[5:]]
    got = dict(stream.run(kept))
    wanted = dict(whole.push(events))
    missing = {1_000 + 10_000 * k for k in (3, 4)}
    assert set(got) == set(wanted) - missing
    for t_us in got:
        equal = torch.equal(got[t_us].probabilities, wanted[t_us].probabilities)
        assert equal or 5 <= (t_us - 1_000) // 10_000 <= T
    with torch.no_grad():
        frames = torch.from_numpy(np.stack([slices[k].frame for k in (0, 1, 4)]))[:, None]
        assert torch.equal(got[51_000].probabilities, MODEL(frames).softmax(1)[0])


@pytest.mark.parametrize("lost_until", [7, 12, 13, 500, 10**9])
@pytest.mark.parametrize("overlap", [1, 3])
def test_after_any_loss_new_windows_are_whole(lost_until, overlap):
    stream = MODEL.stream(overlap=overlap)
    events = random_events(600, 2 * WINDOW_US + 1_000)
    slices = [s for s in stream.slicer.add(events) if s.frame is not None]
    later = [s._replace(step=lost_until + k, lost=3 if k == 0 else 0) for k, s in enumerate(slices)]
    got = dict(stream.run([slices[0], *later]))
    # The first window that began after the loss, and had gone as far as it goes when it predicts.
    first = -(-lost_until // T) * T
    frames = np.stack([s.frame for s in later if first <= s.step < first + T])
    with torch.no_grad():
        logits = MODEL(torch.from_numpy(frames)[:, None])
    assert torch.equal(got[1_000 + 10_000 * (first + T)].probabilities, logits.softmax(1)[0])


def test_a_loss_within_a_silence():
    """Step 20 is lost, all others but 0 and 41 are silent: the window of step 36 runs five zeros and the last frame."""
    frame = np.ones((2, 12, 10), dtype=np.float32)
    stream = MODEL.stream()
    stream.push(rsnn.Events(t=[0], x=[0], y=[0], p=[0], sensor_size=(10, 12)))  # the time line
    got = stream.run(
        [
            Slice(0, frame, 240),
            Slice(19, None, 0),
            Slice(21, None, 0, lost=1),
            Slice(40, None, 0),
            Slice(41, frame, 240),
        ]
    )
    frames = torch.zeros(T, 1, 2, 12, 10)
    frames[-1] = 1.0
    with torch.no_grad():
        assert torch.equal(got[-1][1].probabilities, MODEL(frames).softmax(1)[0])
    assert got[-1][0] == 42 * 10_000
