"""The training loop: against steps written out, gone on from any step, and what it refuses."""

import csv
from itertools import chain

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mer_fast
from mer_fast import seeds, training
from mer_fast.losses import BalancedFocalLoss
from mer_fast.training import STATISTICS, Recipe, epoch_batches, fit

from .mer_sets import Tiny, TinySet, one_thread, same, weights  # noqa: F401 (the fixture)

RECIPE = Recipe(lr=0.05, epochs=4, batch_size=4)


def new(seed=0, classes=3):
    torch.manual_seed(seed)
    return Tiny(classes)


def test_is_the_loop_anyone_would_write():
    data, model, other = TinySet(), new(), new()
    trained = fit(model, data, RECIPE, seed=5)
    optimizer = torch.optim.SGD(other.parameters(), 0.05, momentum=0.9)
    step = 0
    for epoch in range(4):
        total = 0.0
        for batch in epoch_batches(data.classes, 4, 5, epoch):
            torch.manual_seed(seeds.derive(5, "step", step))
            optimizer.zero_grad()
            loss = F.cross_entropy(other(data.inputs[batch]), torch.tensor([data.classes[i] for i in batch]))
            loss.backward()
            optimizer.step()
            step, total = step + 1, total + loss.item() * len(batch)
        row = trained.history[epoch]
        assert row == {"epoch": epoch + 1, "step": step, "rate": 0.05, "loss": pytest.approx(total / 13), "validation_loss": None}
    assert same(weights(model), weights(other)) and trained.model is model and not model.training


def test_it_learns():
    data = TinySet(sizes=(8, 8, 8))
    history = fit(new(), data, RECIPE.replace(epochs=30)).history
    assert history[-1]["loss"] < 0.2 * history[0]["loss"]


FULL = Recipe(
    lr=0.02, epochs=6, batch_size=4, optimizer="adam", weight_decay=0.01, schedule="cosine", loss="focal",
    class_weights="effective", oversample=True, augment=("mirror_flow", "intensity"), statistics=("gray_range",), clip_norm=1.0,
    validation=0.3,
)  # fmt: skip


class Stop(Exception):
    pass


@pytest.mark.parametrize(
    "recipe",
    [
        FULL,
        FULL.replace(optimizer="sgd"),
        FULL.replace(optimizer="rmsprop", iterations=20),
        FULL.replace(optimizer="adamw", amp="bfloat16"),
        FULL.replace(amp="float16", schedule="step", step_every=5),
        FULL.replace(patience=2, epochs=40),
    ],
    ids=["adam", "sgd", "iterations", "bfloat16", "float16", "patience"],
)
def test_goes_on_exactly_from_any_step(recipe, tmp_path):
    """Stopped every few steps, and gone on from its checkpoint: weights, history and log as of one that ran through."""
    data, through = TinySet(sizes=(4, 2, 5, 3)), new()
    trained = fit(through, data, recipe, log=tmp_path / "through")
    stops = 0

    class Stopping(TinySet):
        """Stops after some clips were read, be it for statistics, a step or validation."""

        def __getitem__(self, index):
            self.left -= 1
            if self.left == 0:
                raise Stop
            return super().__getitem__(index)

    stopping = Stopping(sizes=(4, 2, 5, 3))
    path = tmp_path / "state.safetensors"
    for _ in range(1000):
        model = new(seed=99) if path.exists() else new()
        stopping.left = 14 * 4
        try:
            result = fit(model, stopping, recipe, checkpoint=path, checkpoint_seconds=0.0, log=tmp_path / "stopped")
            break
        except Stop:
            stops += 1
    assert stops > 2
    assert result.history == trained.history and same(weights(result.model), weights(trained.model))
    assert (tmp_path / "stopped" / "log.csv").read_text() == (tmp_path / "through" / "log.csv").read_text()
    # The file's last state is that behind the last step; from there too it ends as it did.
    again = fit(new(seed=99), data, recipe, checkpoint=path)
    assert again.history == trained.history and same(weights(again.model), weights(trained.model))


def test_the_generators_are_given_back():
    torch.manual_seed(3)
    np.random.seed(3)
    expected = torch.rand(1), np.random.rand()
    torch.manual_seed(3)
    np.random.seed(3)
    fit(MODEL, TinySet(), RECIPE)
    assert torch.equal(torch.rand(1), expected[0]) and np.random.rand() == expected[1]


MODEL = Tiny()


def test_another_seed_is_another_training():
    one, two, three = new(), new(), new()
    for model, seed in ((one, 1), (two, 1), (three, 2)):
        fit(model, TinySet(), RECIPE, seed=seed)
    assert same(weights(one), weights(two)) and not same(weights(one), weights(three))
    fit(four := new(), TinySet(), RECIPE.replace(seed=1))
    assert same(weights(one), weights(four))


def test_order_of_the_clips():
    labels = [0] * 9 + [1] * 3 + [2]
    first, second = (epoch_batches(labels, 4, 0, epoch) for epoch in (0, 1))
    assert first != second and first == epoch_batches(labels, 4, 0, 0) != epoch_batches(labels, 4, 1, 0)
    assert [len(batch) for batch in first] == [4, 4, 5] and sorted(chain(*first)) == list(range(13))
    assert [len(batch) for batch in epoch_batches(labels, 1, 0, 0)] == [1] * 13
    assert [len(batch) for batch in epoch_batches(labels, 20, 0, 0)] == [13] and epoch_batches([0], 4, 0, 0) == [[0]]
    balanced = list(chain(*epoch_batches(labels, 4, 0, 0, oversample=True)))
    assert [sum(labels[i] == label for i in balanced) for label in range(3)] == [9, 9, 9]
    assert all(balanced.count(i) == 3 for i in range(9, 12)) and balanced.count(12) == 9
    uneven = list(chain(*epoch_batches([0] * 8 + [1] * 3, 4, 0, 0, oversample=True)))
    assert sorted(uneven.count(i) for i in range(8, 11)) == [2, 3, 3]


def test_validation_keeps_the_best_epoch_and_trains_on_no_held_subject():
    data = TinySet(sizes=(3,) * 8, noise=1.5)
    recipe = Recipe(lr=0.03, epochs=12, batch_size=6, validation=0.25)
    kept = {}

    class Watched(Tiny):
        """Writes down the weights at the end of each epoch: the first time it evaluates after training."""

        def eval(self):
            kept.setdefault(len(kept), weights(self)) if self.training else None
            return super().eval()

    torch.manual_seed(1)
    data.read.clear()
    trained = fit(Watched(), data, recipe)
    losses = [row["validation_loss"] for row in trained.history]
    best = min(range(12), key=losses.__getitem__)
    assert 0 < best < 11  # else this shows nothing
    assert same(weights(trained.model), kept[best])
    first_epoch = data.read[24:42]  # behind the labels of all
    held = {data.subjects[i] for i in set(range(24)) - set(first_epoch)}
    assert len(held) == 2 and not held & {data.subjects[i] for i in first_epoch} and len(set(first_epoch)) == 18


def test_patience():
    data = TinySet(sizes=(3,) * 8, noise=2.0)
    through, patient = (
        fit(new(), data, Recipe(lr=0.3, epochs=30, batch_size=6, validation=0.25, patience=patience)).history
        for patience in (None, 3)
    )
    losses = [row["validation_loss"] for row in through]
    stop = next(k for k in range(3, 30) if min(losses[: k - 2]) <= min(losses[k - 2 : k + 1]))
    assert patient == through[: stop + 1] and len(patient) < 30


def test_rates():
    constant = Recipe(lr=0.1, epochs=1)
    step = Recipe(lr=0.1, iterations=2500, schedule="step", step_every=500)
    cosine = Recipe(lr=0.1, epochs=1, schedule="cosine")
    assert [constant.rate(k, 10) for k in (0, 9)] == [0.1, 0.1]
    assert [step.rate(k, 2500) for k in (0, 499, 500, 2499)] == pytest.approx([0.1, 0.1, 0.01, 1e-5])
    assert [cosine.rate(k, 10) for k in (0, 5, 10)] == pytest.approx([0.1, 0.05, 0.0])
    history = fit(new(), TinySet(), Recipe(lr=0.1, epochs=2, batch_size=4, schedule="step", step_every=3)).history
    assert [row["rate"] for row in history] == pytest.approx([0.1, 0.01])


def test_iterations_end_within_an_epoch():
    history = fit(new(), TinySet(), Recipe(lr=0.1, iterations=5, batch_size=4)).history
    assert [(row["epoch"], row["step"]) for row in history] == [(1, 3), (2, 5)]


def test_losses():
    counts = torch.tensor([6, 3, 1])
    logits, target = torch.randn(10, 3), torch.tensor([0] * 6 + [1] * 3 + [2])

    def loss(**settings):
        return Recipe(lr=1, epochs=1, **settings).make_loss(counts)(logits, target)

    torch.testing.assert_close(loss(), F.cross_entropy(logits, target))
    torch.testing.assert_close(loss(loss="focal"), BalancedFocalLoss([1.0, 1.0, 1.0])(logits, target))
    torch.testing.assert_close(loss(loss="focal", gamma=0), F.cross_entropy(logits, target))
    for weights_ in ("inverse", "effective"):
        torch.testing.assert_close(loss(class_weights=weights_), BalancedFocalLoss(weights_, 0.0, counts=counts)(logits, target))
    by_hand = loss(loss="focal", gamma=1, class_weights=(1.0, 2.0, 3.0))
    torch.testing.assert_close(by_hand, BalancedFocalLoss([1.0, 2.0, 3.0], 1.0)(logits, target))
    assert loss(loss=lambda logits, target: logits.sum() * 0 + 7) == 7


def test_optimizers():
    for name, kind in (("sgd", "SGD"), ("adam", "Adam"), ("adamw", "AdamW"), ("rmsprop", "RMSprop")):
        model = Tiny()
        model.conv.bias.requires_grad_(False)
        optimizer = Recipe(lr=0.2, epochs=1, optimizer=name, weight_decay=0.03, momentum=0.8).make_optimizer(model)
        (group,) = optimizer.param_groups
        assert type(optimizer).__name__ == kind and group["lr"] == 0.2 and group["weight_decay"] == 0.03
        assert len(group["params"]) == 5 and group.get("momentum", 0.8) == 0.8


def test_gradients_are_clipped():
    norms = []

    class Clipped(Tiny):
        def __init__(self):
            super().__init__()
            self.classifier.weight.register_post_accumulate_grad_hook(lambda w: norms.append(float(w.grad.norm())))

    moved = {}
    for limit in (None, 1e-3):
        torch.manual_seed(0)
        model = Clipped()
        before = weights(model)
        fit(model, TinySet(), Recipe(lr=1.0, momentum=0.0, iterations=1, clip_norm=limit))
        moved[limit] = sum((weights(model)[k] - before[k]).square().sum() for k, _ in model.named_parameters()).sqrt()
    assert moved[1e-3] == pytest.approx(1e-3, rel=1e-2) and moved[None] > 0.01


@pytest.mark.parametrize("amp", ["bfloat16", "float16"])
def test_mixed_precision(amp):
    seen = set()

    class Watched(Tiny):
        def forward(self, maps):
            out = super().forward(maps)
            seen.add((out.dtype, self.training))
            return out

    torch.manual_seed(0)
    data = TinySet(sizes=(8, 8, 8))
    history = fit(Watched(), data, RECIPE.replace(epochs=20, amp=amp)).history
    assert seen == {(getattr(torch, amp), True)} and history[-1]["loss"] < 0.5 * history[0]["loss"]


def test_statistics_stand_in_the_state_dict():
    data = TinySet()
    model = fit(new(), data, RECIPE.replace(statistics=("gray_range",))).model
    assert model.mean.tolist() == pytest.approx([data.inputs.mean().item()], rel=1e-5)
    assert model.maximum.tolist() == pytest.approx([(data.inputs.max() - data.inputs.mean()).item()], rel=1e-5)
    assert {"mean", "maximum", "network.conv.weight"} <= set(model.state_dict())
    expected = model.network((data.inputs - model.mean) / model.maximum)
    torch.testing.assert_close(model(data.inputs), expected)


class Gray:
    """Still faces, each of a tone of its own, of which one half brightens."""

    def __init__(self, change=20, channel=False):
        self.subjects, self.labels = [f"s{k // 2}" for k in range(16)], [k % 2 for k in range(16)]
        generator = torch.Generator().manual_seed(1)
        self.clips = torch.randint(40, 200, (16, 1, 8, 8), generator=generator).repeat(1, 4, 1, 1)
        for clip, label in zip(self.clips, self.labels, strict=True):
            clip[:, :, 4 * label : 4 * label + 4] += (change * torch.arange(4) // 3)[:, None, None]
        self.clips = self.clips.to(torch.uint8)
        if channel:
            self.clips = self.clips[:, None].float() / 255

    def __len__(self):
        return 16

    def __getitem__(self, index):
        return self.clips[index], self.labels[index]


@pytest.mark.parametrize("channel", [False, True])
def test_changes_are_of_the_first_frame(channel):
    data = Gray(channel=channel)
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 64, 2))
    recipe = Recipe(lr=0.01, epochs=12, batch_size=8, statistics=("gray_change",))
    model = fit(network, data, recipe).model
    changes = data.clips.float() - data.clips.float()[..., :1, :, :]
    assert model.deviation.tolist() == pytest.approx([changes.square().mean().sqrt().item()], rel=1e-5)
    torch.testing.assert_close(model(data.clips), model.network(changes / model.deviation))
    assert model(data.clips).argmax(1).tolist() == data.labels  # and brighter faces are the same to it
    torch.testing.assert_close(model(data.clips.float() + 0.25), model(data.clips), atol=1e-3, rtol=0)


def test_changes_need_frames_that_change():
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4 * 64, 2))
    recipe = Recipe(lr=0.01, epochs=1, statistics=("gray_change",))
    with pytest.raises(mer_fast.MerFastError, match="statistics: gray_change needs clips in which something moves"):
        fit(network, Gray(change=0), recipe)
    colours = Gray()
    colours.clips = colours.clips[:, :, None].repeat(1, 1, 3, 1, 1)
    with pytest.raises(mer_fast.MerFastError, match=r"gray_change is for gray clips .* got \(4, 3, 8, 8\)"):
        fit(network, colours, recipe)
    with pytest.raises(mer_fast.MerFastError, match=r"gray_change is for gray clips .* got \(2, 6, 6\)"):
        fit(new(), TinySet(), recipe)


def test_sequences_have_columns_of_one_deviation():
    generator = torch.Generator().manual_seed(2)
    sequences = torch.zeros(6, 64, 128)
    sequences[:, 30:34] = 0.2 * torch.rand(6, 4, 128, generator=generator) + 3
    sequences[:, 30:34, 5] = 2.0  # never changes
    data = [((torch.zeros(1, 4, 4), sequence), 0) for sequence in sequences]

    class Read(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, apex, sequence):
            return self.scale * sequence

    model = STATISTICS["sequence_deviation"](Read(), data)
    read = model(torch.zeros(6, 1, 4, 4), sequences).detach()
    rows = read[:, 30:34].flatten(0, 1)
    assert not read[:, :30].any() and not read[:, 34:].any() and rows[:, 5].abs().max() < 1e-4
    assert model.spread[5] == pytest.approx(0.05 * model.spread[1::2].median().item(), rel=0.01)  # it could move in another clip
    assert model(torch.zeros(6, 1, 4, 4), sequences.double()).dtype == torch.float32
    others = [k for k in range(128) if k != 5]
    assert rows.mean(0).abs().max() < 1e-4 and (rows.std(0, correction=0)[others] - 1).abs().max() < 1e-3
    with pytest.raises(mer_fast.MerFastError, match=r"sequence_deviation is for ATNet's inputs, .* \(64, 128\)"):
        fit(new(), TinySet(), Recipe(lr=0.01, epochs=1, statistics=("sequence_deviation",)))


def test_logs(tmp_path):
    data = TinySet(sizes=(3,) * 4)
    history = fit(new(), data, FULL, log=tmp_path / "run", tensorboard=True).history
    with (tmp_path / "run" / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [row["loss"] for row in history]
    assert [int(row["step"]) for row in rows] == [row["step"] for row in history]
    assert [float(row["validation_loss"]) for row in rows] == [row["validation_loss"] for row in history]
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "run"))
    events.Reload()
    assert [point.step for point in events.Scalars("loss")] == [1, 2, 3, 4, 5, 6]
    assert [point.value for point in events.Scalars("loss")] == pytest.approx([row["loss"] for row in history])


def test_tells_of_progress():
    told = []
    fit(new(), TinySet(), RECIPE, progress=lambda *words: told.append(words))
    assert told == [("epoch", k, 4) for k in (1, 2, 3, 4)]
    told.clear()
    fit(new(), TinySet(), Recipe(lr=0.1, iterations=3), progress=lambda *words: told.append(words))
    assert told == [("iteration", k, 3) for k in (1, 2, 3)]


def test_a_checkpoint_belongs_to_its_training(tmp_path):
    path = tmp_path / "state.safetensors"
    fit(new(), TinySet(), RECIPE, checkpoint=path, checkpoint_seconds=0.0)
    other = TinySet()
    other.classes = other.classes[::-1]
    for data, recipe, seed in ((TinySet(), RECIPE.replace(lr=0.06), 0), (TinySet(), RECIPE, 1), (other, RECIPE, 0)):
        with pytest.raises(mer_fast.MerFastError, match=r"is of another training \(.*\): delete it"):
            fit(new(), data, recipe, seed=seed, checkpoint=path)
    with pytest.raises(mer_fast.MerFastError, match="is of another network: delete it"):
        fit(torch.nn.Sequential(new()), TinySet(), RECIPE, checkpoint=path)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_noticed(tmp_path, damage):
    path = tmp_path / "state.safetensors"
    fit(new(), TinySet(), RECIPE, checkpoint=path, checkpoint_seconds=0.0)
    content = bytearray(path.read_bytes())
    flipped = bytearray(content)
    flipped[-9] ^= 4
    path.write_bytes({"truncated": content[:-30], "flipped": flipped, "empty": b"", "foreign": b"PK" * 90}[damage])
    with pytest.raises(mer_fast.MerFastError, match="damaged"):
        fit(new(), TinySet(), RECIPE, checkpoint=path)


GOOD = {"lr": 0.1, "epochs": 1}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"epochs": 1}, "lr must be given"),
        ({**GOOD, "learning_rate": 1}, "learning_rate is no setting; there are lr, epochs"),
        ({"lr": 0.1}, "epochs, iterations exactly one must be given"),
        ({**GOOD, "iterations": 1}, "epochs, iterations exactly one must be given"),
        ({**GOOD, "lr": 0}, "lr must lie between 0 and"),
        ({**GOOD, "lr": "5e-5"}, "lr must be a number, got 5e-5"),
        ({**GOOD, "epochs": 1.5}, "epochs must be a whole number"),
        ({**GOOD, "batch_size": 0}, "batch_size must be at least 1"),
        ({**GOOD, "momentum": 1}, "momentum must lie between"),
        ({**GOOD, "weight_decay": -1}, "weight_decay must lie between"),
        ({**GOOD, "optimizer": "lion"}, "optimizer must be one of 'sgd', 'adam', 'adamw', 'rmsprop', got 'lion'"),
        ({**GOOD, "schedule": "step"}, "step_every goes with schedule 'step'"),
        ({**GOOD, "step_every": 5}, "step_every goes with schedule 'step'"),
        ({**GOOD, "loss": "hinge"}, "loss must be 'cross_entropy', 'focal' or a function, got 'hinge'"),
        ({**GOOD, "loss": F.cross_entropy, "class_weights": "inverse"}, "class_weights are of no use with a loss of your own"),
        ({**GOOD, "augment": ["mirror", "blur"]}, "augment must name some of mirror, .*, got 'blur'"),
        ({**GOOD, "statistics": ["gray_range", "gray_change"]}, "statistics can have one of gray_change, gray_range, .*got"),
        ({**GOOD, "statistics": ["gray_change", "appearance_mask"]}, "statistics must have appearance_mask first"),
        ({**GOOD, "statistics": "gray"}, "statistics must name some of appearance_mask, .*, got 'gray'"),
        ({**GOOD, "amp": "float8"}, "amp must be one of None, 'bfloat16', 'float16', got 'float8'"),
        ({**GOOD, "validation": 1}, "validation must lie between"),
        ({**GOOD, "patience": 3}, "patience needs validation"),
    ],
)
def test_recipes_that_will_not_do(settings, message):
    with pytest.raises(mer_fast.MerFastError, match="Recipe: " + message):
        Recipe.of(settings)


def nan_when_tested(logits, target):
    return F.cross_entropy(logits, target) + (0.0 if logits.requires_grad else torch.nan)


def unlike():
    data = TinySet()
    data.inputs = [torch.zeros(2, 6, 6 + i % 2) for i in range(13)]
    return data


def without_subjects():
    data = TinySet()
    del data.subjects
    return data


@pytest.mark.parametrize(
    ("data", "recipe", "message"),
    [
        ([], RECIPE, "the training set holds no clip"),
        ([(torch.zeros(2, 6, 6), 3)], RECIPE, "clip 0 is of class 3, and the network has 3"),
        ([("a frame", 0)], RECIPE, "a clip's input must be a tensor, an array of numbers, .* got str"),
        (unlike(), RECIPE, r"clips of one batch have shapes \(2, 6, 6\), \(2, 6, 7\)"),
        (without_subjects(), FULL, "validation holds out subjects"),
        (TinySet(sizes=(4,)), FULL, "of 1 subjects none can be held out"),
        (TinySet(), RECIPE.replace(lr=1e30, epochs=50), r"the loss is (nan|inf) in epoch .*\(by step .*lower the rate"),
        (TinySet(), RECIPE.replace(loss=lambda logits, target: logits.sum() / 0), "the loss is .* in epoch 1"),
        (TinySet(), RECIPE.replace(loss=nan_when_tested, validation=0.3), "the loss on the validation clips is nan in epoch 1"),
    ],
)
def test_says_what_is_wrong(data, recipe, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        fit(new(), data, recipe)


def test_a_loss_that_is_not_finite_is_not_kept(tmp_path):
    path = tmp_path / "state.safetensors"
    with pytest.raises(mer_fast.MerFastError, match="the loss is nan in epoch 1"):
        fit(new(), TinySet(), RECIPE.replace(loss=lambda y, t: y.sum() * torch.nan), checkpoint=path, checkpoint_seconds=0.0)
    assert not path.exists()


def test_replacing_a_recipes_length():
    assert RECIPE.replace(iterations=7).epochs is None and RECIPE.replace(iterations=7).replace(epochs=2).iterations is None
    assert training.Recipe.of({"lr": 1, "epochs": 2, "augment": ["mirror"]}).augment == ("mirror",)
