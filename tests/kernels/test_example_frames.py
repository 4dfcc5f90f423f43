"""The CUDA kernels of examples/gesture_windows.py, on the CPU, against what PyTorch makes of the same events there."""

from __future__ import annotations

import functools

import cuda_on_host
import gesture_windows
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(cuda_on_host.COMPILER is None, reason="no C++ compiler (g++ or clang++)")
PLAIN = (1, 0, 64, 0, 1, 64, 1, 1, 0)  # a sensor that changes nothing


@functools.cache
def kernel(name):
    return cuda_on_host.launcher(gesture_windows.kernel_source(), name, once=True)


def no_noise():
    return gesture_windows.Noise(*np.zeros((4, 0), dtype=np.int64))


def both(parts, sensors, noise, view, seed=0):
    """Return frames by PyTorch and by the kernels."""
    of_sample = np.array(sensors, dtype=np.float32).T.copy()
    target = np.arange(len(parts))
    torch.manual_seed(seed)
    expected = gesture_windows._seen(parts, torch.from_numpy(of_sample), noise, view)
    rng = np.random.default_rng(seed)
    found, labels = gesture_windows._seen_by_kernel(parts, of_sample, target, noise, view, rng, kernel)
    assert torch.equal(labels, torch.arange(len(parts)))
    return expected, found


def random_words(number, ticks, seed=0):
    rng = np.random.default_rng(seed)
    t = np.sort(rng.integers(*ticks, number))
    x, y, p = (rng.integers(high, size=number) for high in (128, 128, 2))
    return torch.from_numpy((t << 15 | y << 8 | x << 1 | p).astype(np.int32))


@pytest.mark.parametrize("side", [128, 64])
def test_nothing_is_random_where_all_events_are_kept_where_they_are(side):
    parts = [random_words(n, (b, b + s), n) for n, b, s in [(3000, 500, 4000), (20, 0, 700), (900, 60_000, 5000)]]
    mirrored, swapped = (-1, 0, 64, 0, 1, 60, 1, 1, 0), (1, 0, 67, 0, 1, 64, 1, 1, 1)
    sensors = [(*PLAIN, 500, 4000), (*mirrored, 0, 700), (*swapped, 60_000, 5000)]
    expected, found = both(parts, sensors, no_noise(), gesture_windows.View(side, (1, 1), 20))
    assert torch.equal(found, expected)
    assert found[:, 0].sum() == 3000


@pytest.mark.parametrize("gain", [0.5, 1.7])
def test_events_are_dropped_and_repeated_alike(gain):
    sensors = [(*PLAIN[:6], gain, 0, 0, 0, 1000), (1, 0.2, 64, -0.2, 1.1, 64, 0.8 * gain, gain, 0, 0, 1000)]
    parts = [random_words(200_000, (0, 1000), seed) for seed in (1, 2)]
    expected, found = both(parts, sensors, no_noise(), gesture_windows.View(64, (1, 1), 5))
    assert found[:, 0, 1].sum() == 0
    whole, other = (x.sum(0).double() for x in (expected, found))
    assert other[0, 0].sum().item() == pytest.approx(100_000 * gain, rel=0.02)
    cells = whole.reshape(2, 2, 16, 4, 16, 4).sum((3, 5)), other.reshape(2, 2, 16, 4, 16, 4).sum((3, 5))
    # Counts of the same events, so the difference varies less than that of independent ones.
    apart = ((cells[0] - cells[1]) ** 2 / (cells[0] + cells[1]).clamp(min=1))[cells[0] > 20]
    assert len(apart) > 500
    assert 0.05 < apart.mean() < 1.2
    torch.testing.assert_close(found.sum((2, 3, 4)), expected.sum((2, 3, 4)), rtol=0.02, atol=0)


def test_chances_are_those_of_their_distributions():
    words = torch.full((100_000,), 64 << 8 | 64 << 1, dtype=torch.int32)
    magnified = (16, 0, 56, 0, 16, 56, 2, 2, 0, 0, 10)  # a pixel is 16 wide, from 56 to 72
    expected, found = both([words], [magnified], no_noise(), gesture_windows.View(128, (1, 1), 1))
    for counts in (expected, found):
        image = counts[0, 0, 0].double()
        assert image.sum().item() == pytest.approx(200_000, rel=0.001)
        first = image[56:72, 56:72]
        assert (first / first.mean() - 1).abs().max() < 0.25
        place = torch.arange(128) + 0.5 - 64
        columns, rows = image.sum(0), image.sum(1)
        # Half of the events are uniform in a pixel, the others have a normal 0.7 times as wide added.
        for marginal in (columns, rows):
            share = marginal / marginal.sum()
            mean, square = (share * place).sum().item(), (share * place**2).sum().item()
            assert mean == pytest.approx(0, abs=0.1)
            assert square == pytest.approx(16**2 * (1 / 12 + 0.7**2 / 2), rel=0.02)
        together = (image * place * place[:, None]).sum() / image.sum() / square
        assert abs(together) < 0.02
    bands = [x[0, 0, 0].reshape(16, 8, 128).sum((1, 2)) for x in (expected, found)]
    assert (bands[0] - bands[1]).abs().max() < 6 * 300
    other = both([words], [magnified], no_noise(), gesture_windows.View(128, (1, 1), 1), seed=1)[1]
    assert not torch.equal(found, other)


def test_noise_comes_everywhere_and_from_hot_pixels():
    columns = [(0, 2, 2, 1), (5000, 40_000, 700, 300), (-1, -1, 3.5, 100.2), (-1, -1, 90.5, 7.9)]
    noise = gesture_windows.Noise(*map(np.array, columns))
    part = random_words(40, (0, 100))
    sensors = [(*PLAIN, 0, 100)] * 3
    expected, found = both([part] * 3, sensors, noise, gesture_windows.View(128, (1, 1), 10))
    for counts in (expected, found):
        assert counts.sum((0, 2, 3, 4)).tolist() == [5040, 340, 40_740]
        assert counts[:, 2, :, 90, 3].sum() >= 700
        assert counts[:, 1, :, 7, 100].sum() >= 300
        assert counts[:, 2].sum((1, 2, 3)) == pytest.approx(4074, rel=0.08)
        assert counts[:, 2, 0].sum().item() == pytest.approx(20_370, rel=0.05)
        blocks = counts[:, 2].sum((0, 1)).reshape(8, 16, 8, 16).sum((1, 3))
        assert blocks.flatten().sort().values[:-1] == pytest.approx(625, rel=0.25)


def test_no_event_of_another_window_and_none_beyond_the_frames():
    words = [random_words(5000, (0, 100), seed) for seed in range(3)]
    outside = (1, 0, 64 + 200, 0, 1, 64, 1, 1, 0, 0, 100)
    late = (*PLAIN, 0, 10)  # ends long before its events
    expected, found = both(words, [outside, late, (*PLAIN, 0, 100)], no_noise(), gesture_windows.View(64, (1, 1), 4))
    assert torch.equal(found, expected)
    assert found[:, 0].sum() == 0
    assert found[3, 1].sum() > 4400


def made_clips(folder, device="cpu"):
    """Two files of random clips of all classes, one of which has too few events."""
    for number in range(2):
        labels = [*range(11), 10, 10, 10]
        lengths = [4000 + 10 * i for i in range(13)] + [5]
        events = [random_words(n, (0, 60_000 if i % 2 else 12_000), i).numpy() for i, n in enumerate(lengths)]
        np.savez(
            folder / f"train-0-{number}.npz", events=np.concatenate(events), ends=np.cumsum(lengths), labels=labels
        )
    clips = gesture_windows.Clips(folder, "train", torch.device(device))
    clips.refresh()
    return clips


def test_windows_are_of_their_classes_and_lengths(tmp_path):
    clips = made_clips(tmp_path)
    assert len(clips) == 26
    assert clips.of_class.tolist() == [2] * 10 + [6]
    rng = np.random.default_rng(0)
    labels = rng.integers(11, size=500)
    chosen, begin, window, first, end = gesture_windows._windows(clips, labels, (0.5, 2.0), rng)
    assert (clips.labels[chosen] == labels).all()
    assert len(set(chosen.tolist())) == 26
    for i in range(500):
        ticks = clips.events[chosen[i]] >> 15
        inside = (ticks >= begin[i] * 100) & (ticks < (begin[i] + window[i]) * 100)
        assert inside.nonzero().flatten().tolist() == list(range(first[i], end[i]))
        assert end[i] - first[i] >= 20
    whole = window == clips.slices[chosen]
    assert 0.05 < whole.mean() < 0.5
    assert (window[~whole] >= 50).all()
    assert (window[~whole] <= 200).all()
    # Only every other clip lasts longer than two seconds, and some classes have none.
    chosen = gesture_windows._windows(clips, labels, (2.0, 4.0), rng)[0]
    assert (clips.slices[chosen] > 200)[labels % 2 == 1].all()
    assert (clips.slices[chosen] > 200)[labels == 10].all()


@pytest.mark.parametrize("share", [0, 1])
def test_a_batch_by_the_kernels(tmp_path, monkeypatch, share):
    clips = made_clips(tmp_path)
    view = gesture_windows.View(64, (0.5, 3.0), distorted=share)
    frames, labels = gesture_windows.batch(clips, 32, view, np.random.default_rng(3))
    assert frames.shape == (20, 32, 2, 64, 64)
    # The same batch, as on a GPU.
    monkeypatch.setattr(gesture_windows, "made_by_kernel", lambda device: True)
    monkeypatch.setattr(gesture_windows, "_kernel", kernel)
    clips.device = type("Device", (), {"type": "cuda"})()
    again, same = gesture_windows.batch(clips, 32, view, np.random.default_rng(3))
    assert torch.equal(labels, same)
    torch.testing.assert_close(again.sum((2, 3, 4)), frames.sum((2, 3, 4)), rtol=0.3, atol=60)
    assert again.sum().item() == pytest.approx(frames.sum().item(), rel=0.02)


def test_kernels_that_do_not_run_or_are_wrong_are_left_out(monkeypatch, capsys):
    made_by_kernel, cpu = gesture_windows.made_by_kernel.__wrapped__, torch.device("cpu")
    monkeypatch.setattr(gesture_windows, "_kernel", kernel)
    assert made_by_kernel(cpu)
    monkeypatch.setattr(gesture_windows, "_kernel", lambda name: lambda blocks, arguments, device: None)
    assert not made_by_kernel(cpu)
    assert "wrong frames" in capsys.readouterr().out
    monkeypatch.setattr(gesture_windows, "_kernel", lambda name: 1 / 0)
    assert not made_by_kernel(cpu)
    assert "PyTorch makes the frames" in capsys.readouterr().out
