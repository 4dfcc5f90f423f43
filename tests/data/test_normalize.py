"""What the network sees of counts, recorded in the checkpoint."""

from __future__ import annotations

import pytest
import torch

import rsnn
from rsnn.errors import InputError


def test_clipped_counts():
    counts = torch.tensor([0.0, 1.0, 4.0, 5.0, 300.0])
    assert rsnn.Preprocessing(normalize="clip", clip_at=4).normalized(counts).tolist() == [0, 1, 4, 4, 4]
    for wrong in ({"normalize": "clip"}, {"clip_at": 4}, {"normalize": "log1p", "clip_at": 4}):
        with pytest.raises(InputError, match="expected clip_at, the largest count, with normalize='clip'"):
            rsnn.Preprocessing(**wrong)
    with pytest.raises(InputError, match="clip_at"):
        rsnn.Preprocessing(normalize="clip", clip_at=0)


def test_each_recording_by_its_own_counts():
    """Counts 2 and 6 have the mean 4 and become 0.5 and 1.5; how many events a recording has does not matter."""
    frames = torch.zeros(2, 3, 2, 1, 2)
    frames[0, 0, 0, 0, 0], frames[1, 0, 1, 0, 1] = 2, 6
    frames[0, 1] = 7
    normalized = rsnn.Preprocessing((1, 2), normalize="per-sample").normalized(frames)
    assert normalized[0, 0, 0, 0, 0] == 0.5
    assert normalized[1, 0, 1, 0, 1] == 1.5
    assert normalized[:, 0].sum() == 2
    assert normalized[0, 1].unique().tolist() == [1.0]
    assert not normalized[1, 1].any()
    assert not normalized[:, 2].any()  # a recording without events stays what it is
    assert torch.equal(rsnn.Preprocessing((1, 2), normalize="per-sample").normalized(frames[:, 0]), normalized[:, 0])
    tenfold = rsnn.Preprocessing((1, 2), normalize="per-sample").normalized(10 * frames)
    assert torch.allclose(tenfold, normalized)


def test_more_events_than_float16_can_count():
    """Each of 131072 pixels has 2 events, so each is at the mean; float16 ends at 65504."""
    frames = torch.full((4, 1, 2, 128, 128), 2.0, dtype=torch.float16)
    normalized = rsnn.Preprocessing(normalize="per-sample").normalized(frames)
    assert normalized.dtype == torch.float16
    assert normalized.unique().tolist() == [1.0]


@pytest.mark.parametrize("options", [{"normalize": "clip", "clip_at": 3}, {"normalize": "per-sample"}])
def test_it_travels_with_the_checkpoint(tmp_path, options):
    preprocessing = rsnn.Preprocessing((34, 34), num_frames=3, **options)
    model = rsnn.create_model("rsnn-nmnist-cl")
    model = rsnn.RSNN(model.encoder, model.classifier, preprocessing=preprocessing).eval()
    model.save_pretrained(tmp_path / "saved")
    again = rsnn.RSNN.from_pretrained(tmp_path / "saved")
    assert again.preprocessing == preprocessing
    frames = torch.randint(0, 9, (3, 2, 2, 34, 34)).float()
    assert torch.equal(again(frames), model(frames))
    plain = rsnn.RSNN(model.encoder, model.classifier, preprocessing=rsnn.Preprocessing((34, 34), num_frames=3)).eval()
    assert torch.allclose(plain(preprocessing.normalized(frames)), model(frames))


def test_a_part_of_a_recording_has_no_mean_of_all():
    preprocessing = rsnn.Preprocessing((34, 34), num_frames=4, normalize="per-sample", window_ms=300)
    parts = rsnn.create_model("rsnn-nmnist-cl")
    model = rsnn.RSNN(parts.encoder, parts.classifier, preprocessing=preprocessing).eval()
    frames = torch.ones(4, 1, 2, 34, 34)
    _, state = model.advance(frames)
    with pytest.raises(InputError, match=r"normalize='per-sample'\); expected all of its frames in one call"):
        model.advance(frames, state)
    with pytest.raises(InputError, match=r"normalize='per-sample'\), which a stream has not"):
        model.stream()
