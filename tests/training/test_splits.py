from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rsnn.errors import ConfigError, InputError
from rsnn.training.splits import cut_validation, subjects_of


def ids_of(subjects, each):
    return [f"user{s:02d}_led:{i}" for s in range(subjects) for i in range(each)]


@given(st.integers(3, 20), st.integers(1, 8), st.integers(0, 5))
def test_no_subject_is_in_both_parts_and_nothing_is_lost(subjects, each, seed):
    ids = ids_of(subjects, each)
    training, validation = cut_validation(ids, np.zeros(len(ids), int), 0.3, by="subject", seed=seed)
    assert sorted([*training, *validation]) == list(range(len(ids)))
    seen, held = ({ids[i].split("_")[0] for i in part} for part in (training, validation))
    assert not seen & held
    assert len(held) == round(0.3 * subjects)


@given(st.permutations(range(30)))
def test_the_cut_follows_the_names_and_not_their_order(order):
    ids, labels = np.array([f"clip{i}" for i in range(30)]), np.arange(30) % 3
    _, plain = cut_validation(ids, labels, 0.2)
    _, shuffled = cut_validation(ids[list(order)], labels[list(order)], 0.2)
    assert set(ids[plain]) == set(ids[list(order)][shuffled])


def test_each_class_gives_its_share():
    labels = np.repeat([0, 1, 2], [10, 20, 40])
    _, validation = cut_validation([f"clip{i}" for i in range(70)], labels, 0.2)
    assert np.bincount(labels[validation]).tolist() == [2, 4, 8]


def test_another_seed_cuts_another_part():
    ids, labels = [f"clip{i}" for i in range(100)], np.zeros(100, int)
    cuts = {tuple(cut_validation(ids, labels, 0.2, seed=seed)[1]) for seed in range(5)}
    assert len(cuts) == 5


def test_subjects_by_hand():
    assert subjects_of(["user07_led:3", "a/Subject-12/4", "person_3.aedat"]) == ["user07", "subject-12", "person_3"]


def test_ids_without_a_subject_say_what_to_do():
    with pytest.raises(InputError, match=r"'train/3'.*validation\.by"):
        subjects_of(["user01_led:1", "train/3"])


@given(st.lists(st.integers(0, 4), min_size=2, max_size=40), st.floats(0.01, 0.99))
def test_every_class_of_two_is_in_both_parts_and_one_alone_trains(labels, fraction):
    labels = np.array(labels)
    counts = np.bincount(labels)
    if counts.max() < 2:
        return
    training, validation = cut_validation([f"clip{i}" for i in range(len(labels))], labels, fraction)
    trained, validated = (np.bincount(labels[part], minlength=len(counts)) for part in (training, validation))
    assert (trained + validated == counts).all()
    assert (trained[counts > 0] > 0).all()
    assert (validated[counts > 1] > 0).all()
    assert not validated[counts == 1].any()


def test_one_recording_of_each_class_cannot_be_cut():
    with pytest.raises(ConfigError, match=r"no class has two of the 3 recordings.*add recordings"):
        cut_validation(["a", "b", "c"], np.arange(3), 0.2)


@pytest.mark.parametrize("subjects", [2, 3, 6, 7, 15, 29])
@pytest.mark.parametrize("fraction", [0.01, 0.99])
def test_a_share_of_subjects_that_leaves_one_part_empty_is_answered_with_one_that_does_not(subjects, fraction):
    ids = ids_of(subjects, 2)
    labels = np.zeros(len(ids), int)
    with pytest.raises(ConfigError, match=f"= {fraction} of {subjects} subjects") as raised:
        cut_validation(ids, labels, fraction, by="subject")
    advice = float(str(raised.value).rpartition("=")[2])
    assert all(map(len, cut_validation(ids, labels, advice, by="subject")))


def test_one_subject_cannot_be_cut_by_subject():
    with pytest.raises(ConfigError, match=r"of one subject.*validation\.by=id"):
        cut_validation(ids_of(1, 4), np.zeros(4, int), 0.2, by="subject")
