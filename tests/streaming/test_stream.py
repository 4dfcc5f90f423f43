"""A stream says what the batch call says of the same slices, however its events come in."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stream_models import SIZE, TOPS, T, flat, random_events, small_model

import rsnn
from rsnn.errors import InputError, RecordingError
from rsnn.streaming import StreamBatch

WINDOW_US = 60_000
MODEL = small_model()


def batch_logits(model, events, start_us, steps, window_us=WINDOW_US):
    """Logits of one call on the first `steps` steps of the window at `start_us`, cut by `to_frames`."""
    inside = events.between(start_us, start_us + window_us)
    in_all = model.preprocessing.steps_in(window_us)
    frames = rsnn.to_frames(inside, in_all, span_us=(start_us, start_us + window_us), dtype="float32")
    with torch.no_grad():
        return model(torch.from_numpy(frames)[:steps, None])


def probabilities(outputs):
    return {t_us: prediction.probabilities for t_us, prediction in outputs}


# Equal to the last bit, but for the LSTM head, whose matrix products depend on how many rows there are, and for the
# features of plain PyTorch's convolutions, where there is no compiler for the CPU's kernels.
EXACT = rsnn.kernels.selected("cpu", "convlstm") == "native"


@pytest.mark.parametrize("top", TOPS)
def test_every_prediction_is_that_of_the_batch_call(top):
    model = small_model(top)
    tolerance = 0 if top in ("spiking", "frames") or (EXACT and top != "lstm") else 1e-6
    events = random_events(900, 3 * WINDOW_US)
    got = probabilities(model.stream(window_us=WINDOW_US).push(events))
    assert len(got) == 3 * T - 1
    for number, (t_us, row) in enumerate(got.items()):
        start_us, steps = 1_000 + number // T * WINDOW_US, number % T + 1
        assert t_us == start_us + steps * WINDOW_US // T
        wanted = batch_logits(model, events, start_us, steps).softmax(1)[0]
        torch.testing.assert_close(row, wanted, rtol=0, atol=tolerance)


@pytest.mark.parametrize(("max_step_ms", "finer"), [(10, 1), (5, 2), (4, 3)])
@pytest.mark.parametrize("top", ["spiking", "mean"])
def test_a_long_window_has_the_steps_of_a_recording_of_its_duration(top, max_step_ms, finer):
    # 6 steps of at most 10, 5 and 4 ms in a window of 60 ms: 6, 12 of 5 ms, 18 of 3.3 ms.
    model = small_model(top, max_step_ms=max_step_ms)
    tolerance = 0 if top == "spiking" or EXACT else 1e-6
    events = random_events(900, 2 * WINDOW_US)
    stream = model.stream(window_us=WINDOW_US)
    assert stream.timing.num_frames == model.preprocessing.steps_in(WINDOW_US) == finer * T
    outputs = stream.push(events)
    got = outputs + stream.flush()
    assert len(got) == 2 * finer * T
    for number, (t_us, prediction) in enumerate(got):
        start_us, steps = 1_000 + number // (finer * T) * WINDOW_US, number % (finer * T) + 1
        assert t_us == start_us + -(-steps * WINDOW_US // (finer * T))
        wanted = batch_logits(model, events, start_us, steps).softmax(1)[0]
        torch.testing.assert_close(prediction.probabilities, wanted, rtol=0, atol=tolerance)
    halves = model.stream(window_us=WINDOW_US, hop_us=WINDOW_US // 2).push(events)
    assert [t_us for t_us, _ in halves] == [1_000 + k * WINDOW_US // 2 for k in range(1, len(halves) + 1)]
    taken = dict(got)
    assert all(torch.equal(prediction.probabilities, taken[t_us].probabilities) for t_us, prediction in halves)


def test_the_models_tell_recordings_apart():
    """Else the comparisons above would compare constants."""
    for top in TOPS:
        model = small_model(top)
        rows = [
            model.stream(window_us=WINDOW_US).push(random_events(900, 2 * WINDOW_US, seed=seed))[T - 1][1].probabilities
            for seed in range(2)
        ]
        assert (rows[0] - rows[1]).abs().max() > 5e-5, top


@pytest.mark.parametrize("overlap", [2, 3, 6])
def test_overlapping_windows_are_batch_calls_too(overlap):
    """The oldest window predicts: the one that began last among those that began before everything younger."""
    model = small_model()
    events = random_events(900, 3 * WINDOW_US)
    got = model.stream(window_us=WINDOW_US, overlap=overlap).push(events)
    stride = T // overlap
    for number, (_, prediction) in enumerate(got):
        first = next(w for w in range(0, number + 1, stride) if number < w + T)
        wanted = batch_logits(model, events, 1_000 + first * WINDOW_US // T, number - first + 1).softmax(1)[0]
        assert torch.equal(prediction.probabilities, wanted), number


def test_steps_of_no_whole_number_of_microseconds():
    """A window of 100,003 us in 6 steps: the edges are those of `to_frames`, rounded nowhere."""
    model, window_us = small_model(), 100_003
    t = sorted({1_000 + edge + shift for k in range(T) for edge in [-(-k * window_us // T)] for shift in (-1, 0, 1)})
    t = [time for time in t if time >= 1_000]
    n = len(t)
    events = rsnn.Events(
        t=t, x=[k % 10 for k in range(n)], y=[k % 12 for k in range(n)], p=[1] * n, sensor_size=(10, 12)
    )
    stream = model.stream(window_us=window_us)
    frames = [s.frame for s in stream.slicer.add(events)] + [s.frame for s in stream.slicer.close(T)]
    wanted = rsnn.to_frames(events, T, span_us=(1_000, 1_000 + window_us), dtype="float32")
    np.testing.assert_array_equal(np.stack(frames), wanted)


@settings(max_examples=25)
@given(cuts=st.lists(st.integers(0, 300), max_size=30), overlap=st.sampled_from([1, 2]))
def test_any_chunks_give_the_same(cuts, overlap):
    events = random_events(300, 2 * WINDOW_US, seed=3)
    edges = [0, *sorted(cuts), len(events)]
    whole, pieces = (MODEL.stream(window_us=WINDOW_US, overlap=overlap, decay=0.5) for _ in range(2))
    wanted = whole.push(events) + whole.flush()
    got = [out for first, end in pairwise(edges) for out in pieces.push(events[first:end])]
    assert flat(got + pieces.flush()) == flat(wanted)


def test_single_events_and_none():
    events = random_events(80, WINDOW_US + 20_000, seed=5)
    one_by_one, whole = MODEL.stream(window_us=WINDOW_US), MODEL.stream(window_us=WINDOW_US)
    none = rsnn.Events.empty((10, 12))
    got = [
        out for k in range(len(events)) for chunk in (none, events[k : k + 1], none) for out in one_by_one.push(chunk)
    ]
    assert flat(got) == flat(whole.push(events))
    assert got
    assert MODEL.stream().push(none) == []
    assert MODEL.stream().flush() == []
    assert MODEL.stream().advance_to(10**9) == []


def test_hop_leaves_predictions_out_and_changes_none():
    events = random_events(600, 3 * WINDOW_US)
    every = MODEL.stream(window_us=WINDOW_US).push(events)
    for hop_us, steps in ((10_000, 1), (20_000, 2), (30_000, 3), (60_000, 6)):
        some = MODEL.stream(window_us=WINDOW_US, hop_us=hop_us).push(events)
        assert flat(some) == flat(every[steps - 1 :: steps])


def test_decay_is_the_weighted_mean_of_logits():
    """With decay 1/2: (l_n + l_(n-1) / 2 + l_(n-2) / 4 + ...) / (1 + 1/2 + 1/4 + ...)."""
    events = random_events(600, WINDOW_US + 1_000)
    running = MODEL.stream(window_us=WINDOW_US, decay=0.5).push(events)
    logits = [batch_logits(MODEL, events, 1_000, steps)[0].double() for steps in range(1, T)]
    for n in range(len(logits)):
        weights = [0.5 ** (n - k) for k in range(n + 1)]
        mean = sum(w * row for w, row in zip(weights, logits[: n + 1], strict=True)) / sum(weights)
        torch.testing.assert_close(running[n][1].probabilities.double(), mean.softmax(0), rtol=0, atol=1e-6)


def test_flush_predicts_between_hops_and_does_not_disturb_them():
    events = random_events(300, 30_500, start_us=1_000)  # into step 2 of 6
    stream = MODEL.stream(window_us=WINDOW_US, hop_us=WINDOW_US)
    assert stream.push(events) == []
    ((t_us, prediction),) = stream.flush()
    assert t_us == 31_000
    assert torch.equal(prediction.probabilities, batch_logits(MODEL, events, 1_000, 3).softmax(1)[0])


def test_a_silent_step_advances_time():
    """Steps 1 to 3 without events are run as zeros once an event, or `advance_to`, says that they are over."""
    early = rsnn.Events(t=[1_000] * 5, x=[1, 2, 3, 4, 5], y=[1, 2, 3, 4, 5], p=[1] * 5, sensor_size=(10, 12))
    late = rsnn.Events(t=[41_000], x=[0], y=[0], p=[0], sensor_size=(10, 12))
    stream, told = MODEL.stream(window_us=WINDOW_US), MODEL.stream(window_us=WINDOW_US)
    assert stream.push(early) == []
    got = stream.push(late)
    assert [t_us for t_us, _ in got] == [11_000, 21_000, 31_000, 41_000]
    for steps, (_, prediction) in enumerate(got, 1):
        assert torch.equal(prediction.probabilities, batch_logits(MODEL, early, 1_000, steps).softmax(1)[0])
    told.push(early)
    assert flat(told.advance_to(40_999)) == flat(got[:3])
    assert flat(told.advance_to(41_000)) == flat(got[3:])
    assert told.advance_to(41_500) == []
    assert told.advance_to(5) == []


@pytest.mark.parametrize("gap_steps", [0, 1, 5, 6, 7, 8, 11, 12, 13, 40])
@pytest.mark.parametrize("overlap", [1, 2])
def test_after_a_silence_all_goes_on_as_if_it_had_been_run(gap_steps, overlap):
    """Long silences are skipped; what comes after is what the batch call says of the windows on the same grid."""
    begun = random_events(60, 11_000)
    start_us = 11_000 + gap_steps * 10_000
    after = random_events(400, start_us + 2 * WINDOW_US, start_us=start_us, seed=1)
    events = rsnn.Events(
        **{n: np.concatenate([getattr(e, n) for e in (begun, after)]) for n in "txyp"}, sensor_size=(10, 12)
    )
    stride = T // overlap
    for t_us, prediction in MODEL.stream(window_us=WINDOW_US, overlap=overlap).push(events):
        number = (t_us - 1_000) // 10_000 - 1
        first = next(w for w in range(0, number + 1, stride) if number < w + T)
        seen = events.between(1_000 + first * 10_000, t_us)
        assert len(seen), "a window without events says nothing"
        wanted = batch_logits(MODEL, events, 1_000 + first * 10_000, number - first + 1).softmax(1)[0]
        assert torch.equal(prediction.probabilities, wanted), t_us


def test_decay_counts_the_hops_of_a_silence():
    begun = random_events(60, 11_000)
    last = {}
    for gap_steps in (7, 30):
        stream = MODEL.stream(window_us=WINDOW_US, decay=0.9)
        stream.push(begun)
        start_us = 1_000 + gap_steps * 10_000
        stream.push(rsnn.Events(t=[start_us], x=[5], y=[5], p=[1], sensor_size=(10, 12)))
        track = stream._batch._tracks[0]
        last[gap_steps] = track.weight
    # Six predictions of the first window, the last of them at step 6; then each further hop forgets a tenth.
    assert last[7] == pytest.approx(sum(0.9**k for k in range(6)) * 0.9)
    assert last[30] == pytest.approx(sum(0.9**k for k in range(6)) * 0.9**24)


def test_reset_begins_anew():
    events = random_events(300, 2 * WINDOW_US)
    stream = MODEL.stream(window_us=WINDOW_US, decay=0.3, overlap=3)
    first = stream.push(events)
    stream.reset()
    assert flat(stream.push(events)) == flat(first)


@pytest.mark.parametrize("top", TOPS)
def test_snapshot_and_restore(top):
    model = small_model(top)
    events = random_events(400, 3 * WINDOW_US)
    stream = model.stream(window_us=WINDOW_US, overlap=2, decay=0.4)
    stream.push(events[:170])
    kept = stream.snapshot()
    frozen = pickle.dumps(kept)
    assert b"torch" not in frozen
    rest = flat(stream.push(events[170:]))
    assert pickle.dumps(kept) == frozen, "a snapshot must not change when its stream goes on"
    stream.restore(kept)
    assert flat(stream.push(events[170:])) == rest
    other = model.stream(window_us=WINDOW_US, overlap=2, decay=0.4)
    other.restore(pickle.loads(frozen))
    assert flat(other.push(events[170:])) == rest
    assert rest


@pytest.mark.parametrize("top", ["spiking", "last"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
def test_snapshots_keep_every_digit_whatever_the_weights_are(top, dtype):
    """The logits of models in half precision are float32."""
    model = small_model(top).to(dtype)
    events = random_events(900, 2 * WINDOW_US)
    stream, other = (model.stream(window_us=WINDOW_US, overlap=2, decay=0.5) for _ in range(2))
    stream.push(events[:400])
    kept = stream.snapshot()
    rest = flat(stream.push(events[400:]))
    other.restore(kept)
    assert flat(other.push(events[400:])) == rest


def test_a_snapshot_of_another_stream_is_refused():
    kept = MODEL.stream(window_us=WINDOW_US).snapshot()
    with pytest.raises(InputError, match="window_us"):
        MODEL.stream(window_us=WINDOW_US + 6).restore(kept)
    with pytest.raises(InputError, match=r"expected what stream\.snapshot\(\) returned"):
        MODEL.stream().restore({})
    stream = MODEL.stream(window_us=WINDOW_US)
    stream.push(random_events(100, WINDOW_US))
    with pytest.raises(InputError, match="another model"):
        small_model("last").stream(window_us=WINDOW_US).restore(stream.snapshot())


def edited(snapshot, *path, value=None):
    """Return a copy of a snapshot in which one entry is another, or is not there."""
    snapshot = pickle.loads(pickle.dumps(snapshot))
    *way, last = path
    place = snapshot
    for key in way:
        place = place[key]
    if value is None:
        del place[last]
    else:
        place[last] = value
    return snapshot


@pytest.mark.parametrize("way", ["fresh", "out of order", "silence", "flushed", "late", "cut and not run"])
def test_snapshots_of_every_kind_are_taken_back(way):
    stream, events = MODEL.stream(window_us=WINDOW_US), random_events(100, WINDOW_US).to_structured()
    if way != "fresh":
        stream.push(events[::-1] if way == "out of order" else events)
    if way == "silence":
        stream.advance_to(10 * WINDOW_US)
    if way == "flushed":
        stream.flush()
    if way == "late":
        stream.push(events[:5])
        assert stream.late == 5
    if way == "cut and not run":
        later = events.copy()
        later["t"] += 2 * WINDOW_US
        list(stream.slicer.add(later))
    kept = stream.snapshot()
    other = MODEL.stream(window_us=WINDOW_US)
    other.restore(kept)
    assert pickle.dumps(other.snapshot()) == pickle.dumps(kept)


def test_times_are_integers():
    """Seconds would be one step, and no number no time at all."""
    events = random_events(100, WINDOW_US).to_structured()
    kind = [("t", np.float64), *((name, np.uint16) for name in "xyp")]
    for seconds in (events["t"] / 1e6, np.full(100, np.nan)):
        array = np.zeros(100, dtype=kind)
        array["t"] = seconds
        stream = MODEL.stream(window_us=WINDOW_US)
        with pytest.raises(InputError, match="t holds float64 values; expected integers: multiply seconds by 1e6"):
            stream.push(array)
    array = events.astype([("t", np.uint64), *((name, np.uint16) for name in "xyp")])
    array["t"][-1] = 1 << 63
    with pytest.raises(InputError, match="t reaches 9223372036854775808; expected microseconds that fit in 63 bits"):
        MODEL.stream(window_us=WINDOW_US).push(array)
    for kind in (">i8", np.uint32, np.int32):
        array = events.astype([("t", kind), *((name, np.uint16) for name in "xyp")])
        assert flat(MODEL.stream(window_us=WINDOW_US).push(array)) == flat(
            MODEL.stream(window_us=WINDOW_US).push(events)
        )


def test_a_refused_snapshot_changes_nothing():
    options = {"window_us": WINDOW_US, "decay": 0.5, "overlap": 2}
    events = random_events(100, WINDOW_US)
    batch = StreamBatch(MODEL, 2, **options)
    batch.push([events[:80], events[:60]])
    kept = batch.snapshot()
    window = ("streams", 1, "windows", 0)
    for bad, message in (
        (edited(kept, "settings"), "damaged: its snapshot is"),
        (edited(kept, "streams", 1), "damaged: it has 1 streams, not 2"),
        (edited(kept, "streams", 1, "weight"), "damaged: its stream is"),
        (edited(kept, "streams", 1, "slicer", "counts"), "damaged: its slicer is"),
        (edited(kept, "streams", 1, "slicer", "counts", value=np.zeros((2, 3, 3), np.float32)), "its counts are"),
        (edited(kept, "streams", 1, "slicer", "clock", "last", value="now"), "'last' of its clock is a str"),
        (edited(kept, *window, "start"), "damaged: its window is"),
        (edited(kept, *window, "state", 0), "another model"),
        (edited(kept, *window, "logits", value=np.zeros((1, 7), np.float32)), "another model"),
        (edited(kept, "streams", 1, "evidence", value=np.zeros((1, 5))), "another model: it holds float64"),
        (edited(kept, "settings", "decay", value=np.zeros(2)), "expected the same"),
        (edited(kept, "settings", "frame_size", value=[np.zeros(2)]), "expected the same"),
        (edited(kept, *window), "its windows begin at"),
        (edited(kept, "streams", 1, "slicer", "sensor_size", value=(1, 2, 3)), "its sensor_size is"),
        (edited(kept, "streams", 1, "slicer", "step", value=10**9), "step 1000000000 is open, the stream has come to"),
        (edited(kept, "streams", 1, "slicer", "step", value=1), "step 1 is open, the stream has come to"),
        (edited(kept, "streams", 1, "slicer", "origin_us", value=-(10**12)), "and its last event to step"),
        (edited(kept, "streams", 1, "slicer", "clock", "last", value=10**12), "and its last event to step"),
        (edited(kept, "streams", 1, "slicer", "given", value=0), "of 0 events the first was at 1000 us"),
        (edited(kept, "streams", 1, "slicer", "late", value=-1), "of 60 events -1 were late"),
        (edited(kept, "streams", 1, "slicer", "late", value=60), "of 60 events 60 were late"),
        (edited(kept, "streams", 1, "slicer", "events", value=0), "counts are not those of the 0 events"),
        (edited(kept, "streams", 1, "slicer", "counts", value=np.full((2, 12, 10), np.nan, np.float32)), "its counts"),
        (edited(kept, "streams", 1, "silent", value=-1), "it counts -1 silent ones"),
        (edited(kept, "streams", 1, "weight", value=float("nan")), "the weight of its evidence is nan"),
        (edited(kept, *window, "events", value=10**9), "of 60 events a window has 1000000000"),
    ):
        with pytest.raises(InputError, match=message):
            batch.restore(bad)
    wider = small_model()
    wider.encoder = rsnn.nn.ConvLSTMEncoder(2, (5, 4), pool=2)
    other = StreamBatch(wider, 2, **options)
    other.push([events[:20], events[:20]])
    before = pickle.dumps(other.snapshot())
    with pytest.raises(InputError, match="another model"):
        other.restore(kept)
    assert pickle.dumps(other.snapshot()) == before
    expected = [flat(outputs) for outputs in batch.push([events[80:], events[60:]])]
    batch.restore(kept)
    assert [flat(outputs) for outputs in batch.push([events[80:], events[60:]])] == expected


@pytest.mark.parametrize("top", TOPS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_a_copy_goes_on_like_its_stream_and_without_it(top, copied):
    events = random_events(400, 3 * WINDOW_US)
    stream = small_model(top).stream(window_us=WINDOW_US, overlap=2, decay=0.4)
    stream.push(events[:170])
    first, second = copied(stream), copied(stream)
    rest = flat(first.push(events[170:]))
    assert rest
    first.reset()
    assert flat(stream.push(events[170:])) == rest
    with torch.no_grad():
        for weight in stream._batch.model.parameters():
            weight.zero_()
    assert flat(second.push(events[170:])) == rest


def test_the_model_is_left_in_training_mode():
    model = small_model().train()
    events = random_events(300, WINDOW_US + 5_000)
    got = model.stream(window_us=WINDOW_US).push(events)
    assert model.training
    assert flat(got) == flat(small_model().stream(window_us=WINDOW_US).push(events))


def test_the_window_of_the_checkpoint_is_the_default():
    assert small_model(window_ms=60).stream().timing.window_us == 60_000
    assert small_model().stream().timing.window_us == 1_000_000
    timing = small_model(window_ms=60).stream(window=0.3, hop=0.1, overlap=2).timing
    assert (timing.window_us, timing.hop_steps, timing.stride_steps) == (300_000, 2, 3)


def test_larger_sensors_are_cropped_as_for_predict():
    """24 x 24 on frames of 12 x 10 (height x width): the centred 20 columns, then two pixels become one."""
    events = random_events(900, WINDOW_US + 1_000, sensor_size=(24, 24))
    stream = MODEL.stream(window_us=WINDOW_US)
    frames = [s.frame for s in stream.slicer.add(stream.slicer.checked(events))] + [
        s.frame for s in stream.slicer.close(T)
    ]
    inside = (events.x >= 2) & (events.x < 22)
    wanted = np.zeros((T, 2, *SIZE))
    step = (events.t - 1_000) * T // WINDOW_US
    np.add.at(wanted, (step[inside], events.p[inside], events.y[inside] // 2, (events.x[inside] - 2) // 2), 1)
    np.testing.assert_array_equal(np.stack(frames), wanted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 0.1, "window_us": 5}, "expected one of them"),
        ({"window": 300_000}, "window_us takes microseconds"),
        ({"window": -1.0}, "expected seconds"),
        ({"window_us": 5}, "window_us is 5; expected a whole number of at least 6"),
        ({"window_us": 60_000.0}, "window_us is 60000.0"),
        ({"window_us": 60_000, "hop_us": 15_000}, "one of 10000, 20000, 30000, 60000"),
        ({"window_us": 60_000, "hop_us": 120_000}, "expected whole steps"),
        ({"overlap": 4}, "the window.s 6 steps"),
        ({"overlap": 0}, "overlap is 0"),
        ({"decay": 1.0}, "below 1"),
        ({"decay": "much"}, "decay='much'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(InputError, match=message):
        MODEL.stream(**options)


def test_models_that_cannot_cut_a_stream():
    with pytest.raises(InputError, match="split_by"):
        small_model(split_by="number").stream()
    bare = small_model()
    bare.preprocessing = None
    with pytest.raises(InputError, match="no preprocessing"):
        bare.stream()


def test_bad_chunks_change_nothing():
    stream = MODEL.stream(window_us=WINDOW_US)
    stream.push(random_events(50, 30_000))
    before = pickle.dumps(stream.snapshot())
    good = random_events(5, 90_000, start_us=80_000)
    array = good.to_structured()
    array["x"][2] = 10
    for chunk, error, message in (
        ([1, 2], InputError, "expected rsnn.Events"),
        (np.zeros(1, [("ts", int), ("x", int)]), InputError, "ndarray with the fields ts, x; expected rsnn.Events"),
        (good.to_structured()[["t", "x", "y"]], InputError, "fields t, x, y and p"),
        (random_events(5, 90_000, start_us=80_000, sensor_size=(34, 34)), InputError, "one sensor a stream"),
        (array, RecordingError, r"event 52 of the stream .*x = 10 lies outside.*sensor_size=.*--sensor-size"),
    ):
        with pytest.raises(error, match=message):
            stream.push(chunk)
    assert pickle.dumps(stream.snapshot()) == before
    for fresh in (MODEL.stream(), stream):
        fresh.reset()
        with pytest.raises(InputError, match="smaller than the model's frames"):
            fresh.push(random_events(5, 9_000, sensor_size=(4, 4)))
        assert fresh.slicer.origin_us is None


@settings(max_examples=15)
@given(gaps=st.lists(st.integers(0, 20), min_size=2, max_size=8), overlap=st.sampled_from([1, 2, 6]))
def test_any_pattern_of_silence(gaps, overlap):
    """Single events with silent steps between them: each prediction is the batch call's, and none is missing."""
    steps = np.cumsum([0, *(gap + 1 for gap in gaps)])
    n = len(steps)
    events = rsnn.Events(
        t=1_000 + 10_000 * steps, x=np.arange(n) % 10, y=np.arange(n) % 12, p=np.arange(n) % 2, sensor_size=(10, 12)
    )
    got = dict(MODEL.stream(window_us=WINDOW_US, overlap=overlap).push(events))
    stride = T // overlap
    for number in range(steps[-1]):
        first = next(w for w in range(0, number + 1, stride) if number < w + T)
        t_us = 11_000 + 10_000 * number
        if not len(events.between(1_000 + first * 10_000, t_us)):
            assert t_us not in got
            continue
        wanted = batch_logits(MODEL, events, 1_000 + first * 10_000, number - first + 1).softmax(1)[0]
        assert torch.equal(got[t_us].probabilities, wanted), number


def test_flush_leaves_the_running_probabilities_alone():
    events = random_events(300, 2 * WINDOW_US)
    options = {"window_us": WINDOW_US, "hop_us": 20_000, "decay": 0.7}
    flushed, told = MODEL.stream(**options), MODEL.stream(**options)
    first, rest = events.between(0, 44_000), events.between(51_000, 2 * WINDOW_US)  # into step 4 of 6
    for stream in (flushed, told):
        stream.push(first)
    (extra,) = flushed.flush()
    assert extra[0] == 51_000
    assert told.advance_to(51_000) == []
    assert flat(flushed.push(rest)) == flat(told.push(rest))


def test_a_step_ends_at_the_first_microsecond_after_it():
    """Steps of 16,667 1/6 us: 16,667 still belongs to step 0, and its prediction is of 16,668."""
    stream = MODEL.stream(window_us=100_003)
    pixel = {"x": [1], "y": [1], "p": [1], "sensor_size": (10, 12)}
    assert stream.push(rsnn.Events(t=[0], **pixel)) == []
    assert stream.push(rsnn.Events(t=[16_667], **pixel)) == []
    ((t_us, _),) = stream.push(rsnn.Events(t=[16_668], **pixel))
    assert t_us == 16_668
    stream.push(rsnn.Events(t=[16_667], **pixel))
    assert stream.late == 1


def test_warming_up_leaves_no_trace():
    stream = MODEL.stream(window_us=WINDOW_US)
    before = pickle.dumps(stream.snapshot())
    stream.warm_up()
    assert pickle.dumps(stream.snapshot()) == before
    events = random_events(300, WINDOW_US + 5_000)
    assert flat(stream.push(events)) == flat(MODEL.stream(window_us=WINDOW_US).push(events))
