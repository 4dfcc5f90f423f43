"""What a checkpoint's preprocessing does with recordings of other sensors, in numbers worked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hub_models import small_model
from hypothesis import given, settings
from hypothesis import strategies as st

import rsnn
from rsnn.errors import InputError

DAVIS = (346, 260)


def events(pixels, sensor_size):
    """One brighter event a microsecond at each (x, y)."""
    x, y = zip(*pixels, strict=True)
    return rsnn.Events(t=range(len(x)), x=list(x), y=list(y), p=[1] * len(x), sensor_size=sensor_size)


def counts(pixels, sensor_size, frame_size=(128, 128)):
    """Return {(row, column): count} of one frame."""
    frame = rsnn.Preprocessing(frame_size=frame_size, num_frames=1).frames(events(pixels, sensor_size))
    assert frame.shape == (1, 2, *frame_size)
    assert frame.dtype == torch.float32
    assert not frame[0, 0].any()
    return {(int(row), int(column)): frame[0, 1, row, column].item() for row, column in frame[0, 1].nonzero()}


def test_davis346_for_a_model_of_128():
    """346 x 260: columns 43 to 302 are kept, and pixel p of the 260 x 260 falls on p * 128 // 260."""
    inside = {
        (43, 0): (0, 0),
        (45, 2): (0, 0),  # 2 * 128 // 260 = 0
        (46, 3): (1, 1),  # 3 * 128 // 260 = 1
        (173, 130): (64, 64),  # the middle: 130 * 128 // 260 = 64
        (172, 129): (63, 63),
        (302, 259): (127, 127),  # 259 * 128 // 260 = 127
        (302, 0): (0, 127),
    }
    for pixel, place in inside.items():
        assert counts([pixel], DAVIS) == {place: 1.0}
    assert counts([(43, 0), (45, 2), (42, 100), (303, 100), (0, 0), (345, 259)], DAVIS) == {(0, 0): 2.0}


def test_every_pixel_of_the_crop_is_counted_once():
    pixels = [(x, y) for y in range(260) for x in range(346)]
    frame = rsnn.Preprocessing(num_frames=1).frames(events(pixels, DAVIS))
    assert frame.sum() == 260 * 260
    # 260 = 128 * 2 + 4: of 128 rows, 4 take three sensor rows, the rest two.
    rows = frame[0, 1].sum(1)
    assert sorted(rows.unique().tolist()) == [2 * 260, 3 * 260]
    assert int((rows == 3 * 260).sum()) == 4


def test_times_are_those_of_the_crop():
    """Events outside the crop are gone before the recording is cut into steps."""
    recording = rsnn.Events(t=[0, 100, 109, 500], x=[0, 100, 100, 340], y=[9] * 4, p=[1] * 4, sensor_size=DAVIS)
    frames = rsnn.Preprocessing(num_frames=2).frames(recording)
    assert frames.sum((1, 2, 3)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    ("sensor_size", "frame_size", "pixel", "place"),
    [
        ((34, 34), (34, 34), (33, 5), (5, 33)),  # its own size: as it is
        ((256, 256), (128, 128), (255, 3), (1, 127)),  # the same shape: two by two
        ((640, 480), (60, 80), (639, 479), (59, 79)),  # the same shape, not square: eight by eight
        ((640, 480), (128, 128), (80, 0), (0, 0)),  # 480 x 480 from column 80
        ((640, 480), (128, 128), (559, 479), (127, 127)),
        ((480, 640), (128, 128), (0, 80), (0, 0)),  # upright
        ((1280, 720), (128, 128), (280, 0), (0, 0)),  # 720 x 720 from column 280
        ((130, 128), (128, 128), (1, 0), (0, 0)),  # 128 x 128 from column 1
        ((34, 34), (17, 34), (0, 8), (0, 0)),  # a wide frame: 34 x 17 from row 8
    ],
)
def test_other_sensors(sensor_size, frame_size, pixel, place):
    assert counts([pixel], sensor_size, frame_size) == {place: 1.0}


@pytest.mark.parametrize("sensor_size", [(127, 128), (128, 127), (34, 34), (346, 120)])
def test_smaller_sensors_are_refused(sensor_size):
    width, height = sensor_size
    message = f"sensor is {width} x {height}, smaller than the model's frames of 128 x 128; expected at least that size"
    with pytest.raises(InputError, match=message):
        rsnn.Preprocessing().frames(events([(0, 0)], sensor_size))


def test_predict_refuses_smaller_sensors():
    with pytest.raises(InputError, match="sensor is 8 x 12, smaller than the model's frames of 12 x 12"):
        small_model().predict(events([(0, 0)], (8, 12)))


def test_nothing_in_the_crop():
    with pytest.raises(InputError, match="no events in the centred 260 x 260 pixels"):
        rsnn.Preprocessing().frames(events([(0, 0), (345, 100)], DAVIS))


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.integers(0, 400), st.integers(0, 400))
def test_the_crop_is_the_largest_of_the_frames_shape(height, width, more_height, more_width):
    """All sensor rows or all sensor columns are used, up to rounding, and as many on one side as on the other."""
    H, W = height + more_height, width + more_width
    x, y = np.meshgrid(np.arange(W), np.arange(H))
    recording = rsnn.Events(
        t=np.zeros(x.size, int), x=x.ravel(), y=y.ravel(), p=np.ones(x.size, int), sensor_size=(W, H)
    )
    frame = rsnn.Preprocessing(frame_size=(height, width), num_frames=1).frames(recording)[0, 1]
    assert frame.min() >= 1
    kept = frame.sum().item()
    scale = min(H / height, W / width)
    assert kept == round(height * scale) * round(width * scale)
    assert round(height * scale) == H or round(width * scale) == W


def test_predict_is_the_prediction_of_these_frames(tmp_path):
    """Labels and preprocessing come from the checkpoint: a loaded model needs nothing but the recording."""
    rng = np.random.default_rng(3)
    n = 5000
    recording = rsnn.Events(
        t=np.sort(rng.integers(0, 10**6, n)),
        x=rng.integers(0, 40, n),
        y=rng.integers(0, 24, n),
        p=rng.integers(0, 2, n),
        sensor_size=(40, 24),
    )
    small_model().save_pretrained(tmp_path)
    model = rsnn.load(tmp_path)
    result = model.predict(recording)
    # 40 x 24 for 12 x 12: columns 8 to 31, two pixels to one, four equal times.
    expected = torch.zeros(4, 1, 2, 12, 12)
    inside = (recording.x >= 8) & (recording.x < 32)
    first, last = (int(recording.t[inside][i]) for i in (0, -1))
    for t, x, y, p in zip(*(getattr(recording, name)[inside].tolist() for name in "txyp"), strict=True):
        step = min(4 * (t - first) // (last - first), 3)
        expected[step, 0, p, y // 2, (x - 8) // 2] += 1
    probabilities = model(expected).detach().softmax(1)[0]
    assert torch.equal(result.probabilities, probabilities)
    assert result.label == ("left", "right", "none")[result.index]
    assert result.index == int(probabilities.argmax())


@pytest.mark.filterwarnings("error")
def test_frames_are_arrays_of_any_layout():
    """Reversed in time, mirrored, turned, of the other byte order, mapped from a file that may only be read."""
    model = small_model()
    frames = np.random.default_rng(0).integers(0, 4, (4, 2, 12, 12))
    locked = frames.astype(np.float32)
    locked.flags.writeable = False
    for array in (
        *(frames[::-1], frames[..., ::-1], frames.swapaxes(2, 3), frames.astype(">u2"), frames.astype(">f4"), locked),
        *(frames.astype(kind) for kind in ("uint8", "uint16", "uint32", "int8", "bool")),
    ):
        logits = model(torch.tensor(array[:, None].astype(np.float32, order="C")))
        assert torch.equal(model(array[:, None]), logits)
        assert torch.equal(model.predict(array).probabilities, logits.softmax(1)[0])


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        (np.zeros((4, 2, 12, 12), object), "got frames of object values; expected counts of events, in any type"),
        (np.zeros((4, 2, 12, 12), complex), "got frames of complex128 values"),
        (
            rsnn.Events.empty((12, 12)),
            "the recording has no events, of which nothing can be said; expected at least one",
        ),
        (np.zeros(3, [(name, int) for name in "txyp"]), r"predict got a ndarray.*rsnn\.Events\.from_structured"),
        (np.full((4, 2, 12, 12), np.nan), "predict got frames with NaN or infinite numbers; expected counts"),
        (torch.full((4, 2, 12, 12), np.inf), "predict got frames with NaN or infinite numbers"),
        (torch.full((4, 2, 12, 12), -0.5), "predict got frames with numbers as low as -0.5; expected counts of events"),
    ],
)
def test_what_is_no_frames_of_counts(frames, message):
    with pytest.raises(InputError, match=message):
        small_model().predict(frames)


def test_settings():
    assert rsnn.Preprocessing(frame_size=[12, 10]).frame_size == (12, 10)
    for wrong in (
        {"frame_size": 12},
        {"frame_size": (12,)},
        {"frame_size": (0, 12)},
        {"num_frames": 0},
        {"split_by": "events"},
        {"normalize": "log"},
    ):
        with pytest.raises(InputError, match="expected"):
            rsnn.Preprocessing(**wrong)
    with pytest.raises(InputError, match="numbers for each recording"):
        rsnn.Preprocessing(frame_size=(2**12, 2**12), num_frames=20)
    counts = torch.tensor([0.0, 1.0, 3.0])
    normalized = {kind: rsnn.Preprocessing(normalize=kind).normalized(counts) for kind in ("counts", "log1p", "binary")}
    assert normalized["counts"].tolist() == [0, 1, 3]
    assert normalized["log1p"].tolist() == pytest.approx([0, 0.6931472, 1.3862944])
    assert normalized["binary"].tolist() == [0, 1, 1]
