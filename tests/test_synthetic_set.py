"""The synthetic benchmark set: made the same way every time, classes by region, readable as any data set."""

import numpy as np
import pytest
import torch

from mer_fast import MerFastError, ops
from mer_fast.data import SyntheticSet


@pytest.fixture(scope="module")
def people():
    return SyntheticSet(4, 6, size=64, frames=16)


def test_has_subjects_and_classes_in_equal_number(people):
    assert len(people) == 24 and len(people.subjects) == 24 and len(set(people.subjects)) == 4
    assert people.classes == ("brow", "eye", "mouth")
    for subject in set(people.subjects):
        own = [label for label, whose in zip(people.targets, people.subjects, strict=True) if whose == subject]
        assert sorted(own) == [0, 0, 1, 1, 2, 2]


def test_is_made_the_same_way_every_time_and_grows_without_change(people):
    again, more = SyntheticSet(4, 6, size=64, frames=16), SyntheticSet(5, 6, size=64, frames=16)
    for k in (0, 7, 23):
        assert all(np.array_equal(x, y) for x, y in zip(people[k].read(), again[k].read(), strict=True))
    where = [k for k, subject in enumerate(more.subjects) if subject == people.subjects[7]]
    own = [k for k, subject in enumerate(people.subjects) if subject == people.subjects[7]]
    assert np.array_equal(more[where[0]].read([5])[0], people[own[0]].read([5])[0])
    other = SyntheticSet(4, 6, size=64, frames=16, seed=1)
    assert not np.array_equal(other[0].read([5])[0], people[0].read([5])[0])


def test_the_face_moves_from_onset_to_apex(people):
    clip = people[0]
    assert 0 <= clip.onset_index < clip.apex_index <= clip.offset_index < 16
    ends = clip.read([clip.onset_index, clip.apex_index])
    onset, apex = (torch.from_numpy(np.asarray(frame)).float().mean(-1) / 255 for frame in ends)
    assert ops.tvl1_flow(onset, apex).abs().max() > 0.1


def test_says_what_is_wrong():
    for wrong, message in (({"subjects": 0}, "subjects"), ({"size": 8}, "size"), ({"amplitude": (2.0, 1.0)}, "amplitude")):
        with pytest.raises(MerFastError, match=message):
            SyntheticSet(**wrong)
