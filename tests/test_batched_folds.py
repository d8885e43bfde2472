"""folds="batched": every fold becomes what it would become alone, and what cannot be batched is refused by name."""

import copy
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import mer_fast
from mer_fast import evaluation, models
from mer_fast.evaluation import leave_one_subject_out, predict_held_out, train_folds
from mer_fast.evaluation.batched import dropout_keys
from mer_fast.evaluation.fold_networks import FoldNetwork, understood
from mer_fast.reference import kept_by_dropout
from mer_fast.seeds import derive, isolated
from mer_fast.training import Recipe, fit

from .kit import relative_error
from .recurrent import threads

CLIPS, CLASSES = 40, 3


def clips(count=CLIPS, size=28, dtype=torch.float32):
    draw = torch.Generator().manual_seed(5)
    labels = torch.randint(0, CLASSES, (count,), generator=draw)
    x = torch.randn(count, 3, size, size, generator=draw) + labels[:, None, None, None] * 0.2
    return x.to(dtype), labels


def two_blocks(dropout=0.0):
    """A small network of another kind: nested, without a bias, with a hidden layer."""
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 5, 3, padding="same"), nn.ReLU(), nn.BatchNorm2d(5), nn.MaxPool2d(2), nn.Dropout(dropout)),
        nn.Sequential(
            nn.Conv2d(5, 7, 3, bias=False), nn.ReLU(inplace=True), nn.BatchNorm2d(7, momentum=0.3), nn.MaxPool2d(3, 2, 1)
        ),
        nn.Identity(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, 9), nn.ReLU(), nn.Dropout(dropout),
        nn.Linear(9, CLASSES),
    )  # fmt: skip


def averaged():
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.ReLU(), nn.BatchNorm2d(4), nn.MaxPool2d(3, 2), nn.AvgPool2d(2), nn.Flatten(), nn.Dropout(0.0),
        nn.Linear(4 * 9, CLASSES, bias=False),
    )  # fmt: skip


@pytest.fixture(autouse=True)
def one_thread():
    """Small tensors, and other programs on the machine."""
    with threads(1):
        yield


class FoldSet:
    def __init__(self, x, labels, indices):
        self.x, self.indices, self.labels = x, list(indices), [int(labels[i]) for i in indices]

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, k):
        return self.x[self.indices[k]], self.labels[k]


# Folds of unlike size: their last batches differ, and the last fold takes fewer steps an epoch.
FOLDS = [[i for i in range(CLIPS) if i % 7 != k] for k in range(3)] + [list(range(1, CLIPS)), list(range(15))]
RECIPES = [
    Recipe(lr=0.01, epochs=3, batch_size=16, weight_decay=0.01),
    Recipe(lr=1e-3, iterations=7, batch_size=16, optimizer="adam", loss="focal", class_weights="inverse", clip_norm=0.2,
           schedule="cosine"),
    Recipe(lr=1e-3, epochs=2, batch_size=13, optimizer="adamw", class_weights=(1.0, 0.5, 2.0), oversample=True),
    Recipe(lr=1e-3, epochs=2, batch_size=20, optimizer="rmsprop", loss="focal", schedule="step", step_every=2),
]  # fmt: skip


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.optimizer)
@pytest.mark.parametrize("make", [lambda: models.STSTNet(CLASSES, dropout=0.0), two_blocks, averaged], ids=["a", "b", "c"])
def test_each_fold_is_trained_as_if_alone(make, recipe):
    x, labels = clips(size=28 if isinstance(make(), models.STSTNet) else 16, dtype=torch.float64)
    trained = train_folds(lambda: make().double(), x, labels, FOLDS, recipe, seed=3)
    for k, (model, fold) in enumerate(zip(trained, FOLDS, strict=True)):
        seed = derive(3, "fold", str(k))
        with isolated(seed):
            alone = make().double()
        fit(alone, FoldSet(x, labels, fold), recipe, seed=seed)
        assert not model.training
        for name, value in alone.state_dict().items():
            assert relative_error(model.state_dict()[name], value) < 1e-7, (k, name)


def plain(model, x):
    """STSTNet as one writes it, in contiguous memory."""
    maps = F.max_pool2d(model.norm(F.relu(model.conv(x))), 3, padding=1)
    return model.classifier(F.avg_pool2d(model.dropout(maps), 2).flatten(1))


@pytest.mark.parametrize("make", [partial(torch.optim.Adam, lr=1e-3), partial(torch.optim.SGD, lr=0.01, momentum=0.9)])
def test_one_step_and_thirty_losses_follow_the_plain_loop(make):
    """In float32: one step's loss to 1e-5 and its gradients to 1e-4, thirty steps' losses to 1e-3."""
    x, labels = clips(90)
    networks = [models.STSTNet(CLASSES, dropout=0.0).train() for _ in range(2)]
    index = torch.stack([torch.stack([torch.randperm(90)[:64] for _ in networks]) for _ in range(30)])
    together = FoldNetwork(copy.deepcopy(networks))
    optimizer = make(together.parameters())
    losses = []
    for chosen in index:
        logits = together(x, chosen, None)
        losses.append(F.cross_entropy(logits.transpose(1, 2), labels[chosen], reduction="none").mean(1))
        optimizer.zero_grad()
        losses[-1].sum().backward()
        optimizer.step()
        if len(losses) == 1:
            gradients = {name: together.of(name).grad.clone() for name, _ in networks[0].named_parameters()}
    for fold, network in enumerate(networks):
        optimizer = make(network.parameters())
        for step in range(30):
            loss = F.cross_entropy(plain(network, x[index[step, fold]]), labels[index[step, fold]])
            optimizer.zero_grad()
            loss.backward()
            assert abs(losses[step][fold].item() / loss.item() - 1) < (1e-5 if step == 0 else 1e-3)
            for name, parameter in network.named_parameters() if step == 0 else ():
                assert relative_error(gradients[name][fold], parameter.grad) < 1e-4, name
            optimizer.step()


def test_dropout_is_that_of_the_fold_the_step_and_the_layer():
    x, _ = clips(6, 16, torch.float64)
    seeds = torch.tensor([3, 2**62]).numpy().astype("uint64")
    networks = [two_blocks(0.5).double().train() for _ in range(2)]
    index = torch.tensor([[0, 1, 2, 3], [5, 4, 1, 0]])
    logits = FoldNetwork(networks)(x, index, lambda layer: dropout_keys(seeds, 9, layer))

    def masked(y, layer, fold):
        return y * kept_by_dropout(dropout_keys(seeds, 9, layer), y.numel(), 0.5)[fold].view(y.shape) * 2

    for fold, network in enumerate(networks):
        first, second, *_, hidden, relu, _, last = network
        y = second(masked(first[:-1](x[index[fold]]), 0, fold)).mean((2, 3))
        # The second block has a layer number too, though it drops nothing.
        assert relative_error(logits[fold], last(masked(relu(hidden(y)), 2, fold))) < 1e-10
    several = torch.stack([dropout_keys(seeds, step, layer) for step in range(40) for layer in range(3)])
    assert len(several.unique()) == several.numel()


def test_a_fold_gets_the_same_bits_in_any_company_and_with_any_threads():
    x, labels = clips()
    recipe = Recipe(lr=1e-3, epochs=2, batch_size=16, optimizer="adam")

    def make():
        return models.STSTNet(CLASSES)

    with threads(1):
        together = train_folds(make, x, labels, FOLDS, recipe, seed=1, names=list("abcde"))
    for count, company in ((2, [2]), (3, [2, 0, 4])):
        with threads(count):
            found = train_folds(make, x, labels, [FOLDS[k] for k in company], recipe, seed=1, names=["abcde"[k] for k in company])
        for k, model in zip(company, found, strict=True):
            for name, value in together[k].state_dict().items():
                assert torch.equal(model.state_dict()[name], value), name
    other = train_folds(make, x, labels, FOLDS[:1], recipe, seed=2, names=["a"])[0]
    assert not torch.equal(other.conv.weight, together[0].conv.weight)


def test_held_out_clips_change_no_weight():
    x, labels = clips()
    recipe = Recipe(lr=1e-2, epochs=1, batch_size=16)
    first = train_folds(lambda: models.STSTNet(CLASSES), x, labels, [range(20)], recipe)[0]
    x[20:], labels[20:] = torch.nan, 0
    again = train_folds(lambda: models.STSTNet(CLASSES), x, labels, [range(20)], recipe)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), again.state_dict().values(), strict=True))


def test_held_out_clips_are_asked_in_evaluation_mode():
    x, labels = clips()
    trained = train_folds(lambda: models.STSTNet(CLASSES), x, labels, FOLDS, Recipe(lr=1e-3, epochs=1, batch_size=16))
    for model, fold, (held, logits) in zip(trained, FOLDS, predict_held_out(trained, x, FOLDS), strict=True):
        assert held == [i for i in range(CLIPS) if i not in fold]
        torch.testing.assert_close(logits, model.eval()(x[held]).detach())


def same_bits(a, b):
    return all(torch.equal(value, b.state_dict()[name]) for name, value in a.state_dict().items())


@pytest.mark.parametrize("oversample", [False, True])
@pytest.mark.parametrize("batch_size", [64, 10])
def test_a_fold_alone_is_bit_for_bit_the_fold_beside_larger_ones(batch_size, oversample):
    """Also where the company would fill more slots: 23, 31 and 31 of 40 clips, and one that has clips twice."""
    x, labels = clips()
    recipe = Recipe(lr=1e-2, epochs=4, batch_size=batch_size, optimizer="adam", oversample=oversample)
    folds = [range(23), range(9, 40), range(2, 33), [*range(40), *range(25)]]

    def trained(company):
        named = {"names": [str(k) for k in company]}
        return train_folds(lambda: models.STSTNet(CLASSES), x, labels, [folds[k] for k in company], recipe, seed=1, **named)

    together = trained(range(4))
    for company in ([0], [1], [3], [2, 0]):
        for k, model in zip(company, trained(company), strict=True):
            assert same_bits(model, together[k]), k


def test_a_group_that_is_stopped_goes_on_bit_for_bit(tmp_path):
    """Three of four folds are done; the one that is left has 23 clips, and the others had 31 and 33."""
    data = Subjects(*clips())
    data.subjects = ["a"] * 9 + ["b"] * 7 + ["c"] * 7 + ["d"] * 17
    made = []

    def make():
        made.append(models.STSTNet(CLASSES))
        return made[-1]

    def run(folder, progress):
        made.clear()
        recipe = Recipe(lr=1e-2, epochs=4, batch_size=64, optimizer="adam")
        options = {"train": recipe, "folds": "batched", "seed": 4, "resume": folder, "progress": progress}
        return leave_one_subject_out(make, data, **options), list(made)

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    whole, networks = run(tmp_path / "whole", lambda *stage: None)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "kept", stop)
    report, again = run(tmp_path / "kept", lambda *stage: None)
    assert report == whole
    assert len(networks) == 1 + 4 and len(again) == 1 + 1 and same_bits(again[1], networks[4])


class Subjects:
    def __init__(self, x, labels, subjects=5):
        self.x, self.labels = x, labels.tolist()
        self.subjects = [f"s{i % subjects}" for i in range(len(labels))]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, i):
        return self.x[i], self.labels[i]


def test_the_engine_reports_what_folds_one_by_one_do(tmp_path):
    data = Subjects(*clips(dtype=torch.float64))
    recipe = Recipe(lr=0.02, epochs=4, batch_size=16)

    def make():
        return models.STSTNet(CLASSES, dropout=0.0).double()

    one_by_one = leave_one_subject_out(make, data, train=recipe, seed=4)
    told = []
    options = {"train": recipe, "seed": 4, "resume": tmp_path, "progress": lambda *stage: told.append(stage)}
    batched = leave_one_subject_out(make, data, folds="batched", **options)
    assert batched.predictions.tolist() == one_by_one.predictions.tolist()
    assert ("5 folds: epoch 4 of 4", 0, 5) in told and told[-1][1:] == (5, 5)
    told.clear()
    again = leave_one_subject_out(make, data, folds="batched", **options)
    assert again.predictions.tolist() == batched.predictions.tolist() and not told  # nothing was left to do


def test_many_folds_run_in_groups(monkeypatch):
    monkeypatch.setattr(evaluation.batched, "MOST_FOLDS", 2)
    x, labels = clips()
    told = []
    recipe = Recipe(lr=1e-3, epochs=2, batch_size=16, optimizer="adam")
    train_folds(lambda: models.STSTNet(CLASSES), x, labels, FOLDS, recipe, progress=lambda *stage: told.append(stage))
    assert told == [("epoch", k, 6) for k in range(1, 7)]  # two groups of three steps an epoch, and one of one


def test_a_layer_that_stands_there_twice_is_run_twice():
    relu, dropout = nn.ReLU(), nn.Dropout(0.0)
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, bias=False), relu, nn.BatchNorm2d(4), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 49, 6), relu,
        dropout, nn.Linear(6, 6), relu, dropout, nn.Linear(6, CLASSES),
    ).double()  # fmt: skip
    kinds = [type(stage).__name__ for stage in understood(network)]
    assert kinds == ["Block", "Plain", "Linear", "Plain", "Dropout", "Linear", "Plain", "Dropout", "Linear"]
    x, _ = clips(6, 16, torch.float64)
    logits = FoldNetwork([network])(x, torch.arange(6)[None], None)[0]
    assert relative_error(logits, network.train()(x)) < 1e-10


# --- errors --------------------------------------------------------------------------------------------------------------
def block(**changes):
    made = {"conv": nn.Conv2d(3, 4, 3), "relu": nn.ReLU(), "norm": nn.BatchNorm2d(4), "pool": nn.MaxPool2d(2), **changes}
    layers = nn.Sequential()
    for name, layer in (*made.items(), ("flat", nn.Flatten()), ("head", nn.Linear(4 * 7 * 7, CLASSES))):
        if layer is not None:
            layers.add_module(name, layer)
    return layers


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (models.ATNet(3), "ATNet is neither STSTNet nor an nn.Sequential of blocks"),
        (nn.Sequential(nn.Flatten(), nn.Linear(768, 3)), "Sequential has no convolution"),
        (block(conv=nn.Conv2d(3, 4, 5)), r"layer conv \(Conv2d\(3, 4, kernel_size=\(5, 5\).* must have a 3x3 kernel"),
        (block(conv=nn.Conv2d(3, 4, 3, stride=2)), "layer conv .* must have a 3x3 kernel, stride 1"),
        (block(conv=nn.Conv2d(3, 65, 3)), "layer conv .* must have at most 64 channels"),
        (block(conv=nn.Conv2d(3, 4, 3, padding=3)), "layer conv .* must have a padding of at most 2"),
        (block(conv=nn.Conv2d(3, 4, 3, padding=(0, 1))), "layer conv .* must have the same numbers for height and width"),
        (block(conv=nn.Conv2d(3, 4, 3, padding=1, padding_mode="reflect")), "layer conv .* of zeros"),
        (block(relu=nn.GELU()), r"layer relu \(GELU.* must be ReLU: a block is Conv2d, ReLU, BatchNorm2d, MaxPool2d"),
        (block(norm=None), r"layer pool .* must be BatchNorm2d"),
        (block(norm=nn.GroupNorm(2, 4)), "layer norm .* must be BatchNorm2d"),
        (block(norm=nn.BatchNorm2d(4, track_running_stats=False)), "layer norm .* must have weights, running statistics"),
        (block(norm=nn.BatchNorm2d(4, affine=False)), "layer norm .* must have weights"),
        (block(pool=nn.MaxPool2d(4)), "layer pool .* must have a kernel of 2 or 3"),
        (block(pool=nn.MaxPool2d(2, ceil_mode=True)), "layer pool .* no dilation and no ceil_mode"),
        (block(drop=nn.Dropout2d()), r"layer drop \(Dropout2d.* cannot be batched"),
        (block(mean=nn.AvgPool2d(3, 1)), "layer mean .* must have a stride as large as its kernel"),
        (block()[:-1], "Sequential must end in Linear"),
        (block()[:3], "layer conv .* must be followed by ReLU, BatchNorm2d and MaxPool2d: there is no MaxPool2d"),
        (nn.Sequential(nn.Flatten(), block()), r"layer 1.conv .* must stand before Flatten and Linear"),
    ],
)
def test_names_the_layer_that_cannot_be_batched_and_the_mend(network, message):
    with pytest.raises(mer_fast.MerFastError, match=message + '.*; run it with folds="sequential" or folds="processes"'):
        understood(network)


class Doubled(nn.Sequential):
    def forward(self, x):
        return super().forward(2 * x)


class Other(models.STSTNet):
    def forward(self, maps):
        return super().forward(-maps)


class Shifted(nn.Identity):
    def forward(self, x):
        return x + 1


def changed(network, change):
    change(network)
    return network


def twice():
    linear = nn.Linear(4 * 49, 4 * 49)
    return block()[:-1].append(linear).append(linear).append(nn.Linear(4 * 49, CLASSES))


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (twice(), r"layer 6 \(Linear.* shares weights with layer 5, "),
        (Doubled(*block()), "Doubled has a forward of its own, not that of Sequential"),
        (Other(3), "Other has a forward of its own, not that of STSTNet"),
        (nn.Sequential(Doubled(*block()[:4]), *block()[4:]), r"layer 0 \(Doubled.* has a forward of its own"),
        (block(shift=Shifted()), r"layer shift \(Shifted\(\)\) cannot be batched"),
        (
            changed(block(), lambda one: one.pool.register_forward_hook(lambda *_: None)),
            "layer pool .* has hooks, .*: remove them",
        ),
        (changed(models.STSTNet(3), lambda one: one.register_full_backward_pre_hook(lambda *_: None)), "STSTNet has hooks"),
        (changed(block(), lambda one: nn.utils.parametrizations.weight_norm(one.head)), "layer head .* is parametrized"),
        (changed(block(), lambda one: setattr(one.relu, "forward", torch.tanh)), "layer relu .* has a forward of its own"),
        (changed(models.STSTNet(3), lambda one: setattr(one, "dropout", nn.Dropout2d())), "layer dropout .* must be Dropout"),
    ],
    ids=range(10),
)
def test_refuses_what_would_not_be_run(network, message):
    with pytest.raises(mer_fast.MerFastError, match=message + '.*; run it with folds="sequential" or folds="processes"'):
        understood(network)


def trained(recipe=None, x=None, labels=None, folds=None, make=block, **changes):
    own, classes = clips(8, 16)
    recipe = Recipe(lr=1e-3, epochs=1, batch_size=4, **changes) if recipe is None else recipe
    given = x if x is not None else own, labels if labels is not None else classes
    return lambda: train_folds(make, *given, [range(6)] if folds is None else folds, recipe)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (trained(x=torch.zeros(8, 16, 16)), r"inputs must be floats of shape \(M, C, H, W\), got .*\(8, 16, 16\)"),
        (trained(labels=torch.zeros(7, dtype=torch.int64)), r"labels must be a class for each of 8 clips, got \(7,\)"),
        (trained(labels=torch.full((8,), -1)), "labels must be a class"),
        (trained(labels=torch.full((8,), 3)), "clip 0 is of class 3, and the network has 3"),
        (trained(folds=[range(6), []]), "fold 1 must hold indices from 0 to 7, at least one"),
        (trained(folds=[[8]]), "fold 0 must hold indices from 0 to 7"),
        (trained(augment=lambda inputs, generator: inputs), "the recipe's augment"),
        (trained(amp="bfloat16"), r"the recipe's amp \('bfloat16'\) cannot be batched; leave it out, or run it with folds="),
        (trained(validation=0.2), "the recipe's validation"),
        (trained(loss=F.cross_entropy), "the recipe's loss"),
        (trained(x=torch.full((8, 3, 16, 16), torch.nan)), "the loss of fold 0 is not finite in epoch 1"),
        (trained(x=torch.zeros(8, 3, 20, 20)), r"layer head takes 196 features, and gets \(324,\) of a clip"),
        (trained(make=lambda: block(conv=nn.Conv2d(3, 4, 3, padding=int(torch.randint(0, 2, ())))), folds=[range(6)] * 9),
         "make_model gives unlike networks"),
    ],
)  # fmt: skip
def test_says_what_is_wrong(call, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        call()


def test_the_engine_wants_a_recipe_and_one_input():
    data = Subjects(*clips(10, 16))
    with pytest.raises(mer_fast.MerFastError, match=r"batched folds: train must be a training\.Recipe, got function"):
        leave_one_subject_out(block, data, train=lambda model, own: None, folds="batched")
    data.x = [(one, one) for one in data.x]
    with pytest.raises(mer_fast.MerFastError, match="batched folds: networks of one input, and clips have 2"):
        leave_one_subject_out(block, data, train=Recipe(lr=1e-3, epochs=1), folds="batched")
