"""The published networks under their published recipes: gone on exactly, and the same report from processes."""

import pytest
import torch

from mer_fast import models
from mer_fast.evaluation import leave_one_subject_out
from mer_fast.experiment import load_experiment
from mer_fast.training import fit

from .mer_sets import one_thread, same, weights  # noqa: F401 (the fixture)

CASES = {
    "ststnet": (((3, 28, 28),), {}),
    "strcn-g": (((2, 64, 64),), {"width": 8}),
    "strcn-a": (((10, 24, 24),), {"width": 8, "frames": 8}),
    "microexpstcnn": (((1, 18, 64, 64),), {"frames": 18}),
    "microexpfusenet": (((1, 18, 32, 32),) * 2, {"frames": 18}),
    "atnet": (((1, 224, 224), (64, 128)), {"width": 4, "hidden": 8}),
}


class Clips:
    def __init__(self, shapes):
        draw = torch.Generator().manual_seed(0)
        self.inputs = [tuple(torch.rand(shape, generator=draw) for shape in shapes) for _ in range(8)]
        for clip in self.inputs:
            clip[0][..., 14:, :] = 0.5  # some pixels stay, so that STRCN-A has others to look at
        self.labels, self.subjects = [k % 3 for k in range(8)], [f"s{k % 2}" for k in range(8)]

    def __len__(self):
        return 8

    def __getitem__(self, index):
        parts = self.inputs[index]
        return (parts if len(parts) > 1 else parts[0]), self.labels[index]


@pytest.mark.full
@pytest.mark.parametrize("network", CASES)
def test_goes_on_exactly_and_is_the_same_in_processes(network, tmp_path):
    shapes, options = CASES[network]
    clips, recipe = Clips(shapes), load_experiment(network).recipe.replace(iterations=3)

    def new():
        torch.manual_seed(0)
        return models.create(network, 3, **options)

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    through = fit(new(), clips, recipe).model
    path = tmp_path / "state.safetensors"
    with pytest.raises(KeyboardInterrupt):
        fit(new(), clips, recipe, checkpoint=path, checkpoint_seconds=0.0, progress=stop)
    assert same(weights(fit(new(), clips, recipe, checkpoint=path).model), weights(through))
    one, other = (
        leave_one_subject_out(lambda: models.create(network, 3, **options), clips, train=recipe, folds=folds)
        for folds in ("sequential", "processes")
    )
    assert one == other
