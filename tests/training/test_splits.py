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


@pytest.mark.parametrize(("fraction", "by"), [(0.01, "id"), (0.9, "subject")])
def test_an_empty_part_is_refused(fraction, by):
    ids = ids_of(3, 4)
    with pytest.raises(ConfigError, match=r"validation\.fraction"):
        cut_validation(ids, np.zeros(12, int), fraction if by == "id" else 0.99, by=by)
