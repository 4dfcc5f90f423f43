"""The validation part, cut from the training recordings by subject or by recording, never from the test part."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt

from rsnn.errors import ConfigError, InputError

GroupBy = Literal["id", "subject"]

# `user07_led:3`, `subject-12/4`, `person_3.aedat`: the word and the number that name who is seen.
_SUBJECT = re.compile(r"(?:user|subject|person|participant)[-_ ]?\d+", re.IGNORECASE)


def subjects_of(ids: Sequence[object]) -> list[str]:
    """Return who is seen in each recording, from ids such as `user07_led:3`.

    Raises:
        InputError: an id names nobody.

    """
    found = [_SUBJECT.search(str(name)) for name in ids]
    if None in found:
        raise InputError(
            f"the recording {str(ids[found.index(None)])!r} names no subject, as in 'user07_led:3'; expected one in "
            'every id: use validation.by = "id"'
        )
    return [match[0].lower() for match in found if match is not None]


def cut_validation(
    ids: Sequence[object],
    labels: npt.NDArray[np.int64],
    fraction: float,
    *,
    by: GroupBy = "id",
    seed: int = 0,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the indices of the training and of the validation recordings.

    By id, `fraction` of each class is cut, of two recordings or more at least one and not all; by subject, `fraction`
    of the people, with all their recordings. Which ones depends on their names and `seed` alone: not on their order,
    and adding a recording moves no other.

    Args:
        ids: name of each recording.
        labels: class of each.
        fraction: share that validates.
        by: what is never in both parts.
        seed: of the choice.

    Raises:
        ConfigError: one of the parts would be empty.

    """
    names = [str(name) for name in ids]
    groups = subjects_of(ids) if by == "subject" else names
    rank = {group: hashlib.sha256(f"{seed}:{group}".encode()).hexdigest() for group in groups}
    validating: set[str] = set()
    for members in _strata(groups, labels, by):
        ordered = sorted(members, key=lambda group: (rank[group], group))
        cut = round(fraction * len(ordered))
        if by == "id":
            cut = min(max(cut, 1), len(ordered) - 1)
        validating.update(ordered[:cut])
    chosen = np.array([group in validating for group in groups], dtype=bool)
    if chosen.all() or not chosen.any():
        raise ConfigError(_one_part(fraction, len(names), len(rank), by))
    return np.flatnonzero(~chosen), np.flatnonzero(chosen)


def _one_part(fraction: float, recordings: int, groups: int, by: GroupBy) -> str:
    """Say that no cut leaves both parts some, and what to do."""
    if by == "id":
        return (
            f"no class has two of the {recordings} recordings, so none can validate; expected two or more of each "
            "class, with ids of their own: add recordings"
        )
    if groups < 2:
        return (
            f"all of the {recordings} recordings are of one subject, so none can validate; expected two or more: add "
            "recordings of others, or --set validation.by=id to cut by recording"
        )
    return (
        f"validation.fraction = {fraction} of {groups} subjects leaves one part empty; expected a share of one or more "
        f"and not of all: --set validation.fraction={1 / groups:.2g}"
    )


def _strata(groups: Sequence[str], labels: npt.NDArray[np.int64], by: GroupBy) -> list[set[str]]:
    if by == "subject":
        return [set(groups)]
    return [{groups[i] for i in np.flatnonzero(labels == label).tolist()} for label in np.unique(labels)]
