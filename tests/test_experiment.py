"""Experiments from YAML files, and what they write."""

import dataclasses

import pytest
import torch

import mer_fast
from mer_fast import models
from mer_fast.evaluation import KFold, LeaveOneSubjectOut, Report, Split, cross_validate
from mer_fast.experiment import Experiment, evaluate_network, from_yaml, load_experiment, recipe_names, train_network
from mer_fast.training import Changes, Normalised, Recipe, Standardised, load_network, save_network

from .mer_sets import one_thread  # noqa: F401 (the fixture)

SMALL = {"network": "ststnet", "recipe": {"lr": 0.01, "epochs": 2, "optimizer": "adam"}}


class Maps:
    """Inputs of STSTNet."""

    def __init__(self, clips=12):
        self.inputs = torch.randn(clips, 3, 28, 28, generator=torch.Generator().manual_seed(0))
        self.labels = [k % 3 for k in range(clips)]
        self.subjects = [f"s{k % 4}" for k in range(clips)]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.inputs[index], self.labels[index]


def test_there_is_a_recipe_of_every_network():
    assert recipe_names() == sorted(name + small for name in models._NETWORKS for small in ("", "-small"))


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_fit_their_network_and_its_input(name):
    found = load_experiment(name)
    assert found.network == name.removesuffix("-small") and isinstance(found.recipe, Recipe)
    frames = found.options.get("frames")
    assert frames is None or frames == found.network_input().settings.frames
    with torch.device("meta"):
        assert isinstance(found.make_model(), torch.nn.Module)


def test_published_settings():
    """facts of the papers, as far as these tell."""
    strcn, stst, atnet = (load_experiment(name).recipe for name in ("strcn-g", "ststnet", "atnet"))
    assert (strcn.optimizer, strcn.momentum, strcn.weight_decay, strcn.lr, strcn.batch_size) == ("sgd", 0.9, 5e-4, 1e-3, 10)
    assert (stst.lr, stst.epochs) == (5e-5, 500)
    assert (atnet.lr, atnet.step_every, atnet.iterations, atnet.batch_size, atnet.oversample) == (0.01, 500, 2500, 16, True)
    assert [atnet.rate(step, 2500) for step in (0, 500)] == pytest.approx([0.01, 0.001])
    assert load_experiment("strcn-a").recipe.statistics == ("appearance_mask",)
    for name in ("microexpstcnn", "microexpfusenet"):
        found = load_experiment(name)
        assert (found.recipe.batch_size, found.recipe.epochs, found.options["frames"]) == (8, 100, 96)


def test_a_file_of_ones_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "network: STSTNet\noptions: {dropout: 0.2}\nnum_classes: 5\nseed: 3\nfolds: processes\nworkers: 2\n"
        "protocol: {name: k-fold, k: 4, seed: 1}\ninput: {size: [64, 64], face: lbp}\nrecipe: {lr: 5e-5, epochs: 7}\n"
    )
    found = load_experiment(path, seed=4)
    assert found.recipe == Recipe(lr=5e-5, epochs=7) and found.seed == 4 and found.folds == "processes"
    assert found.make_protocol() == KFold(4, 1) and found.make_model().classifier.out_features == 5
    assert found.network_input().settings.size == (64, 64) and found.network_input().settings.face == "lbp"
    assert Experiment(**SMALL).make_protocol() == LeaveOneSubjectOut()
    assert Experiment(**SMALL, protocol={"name": "split", "test": ["s1"]}).make_protocol() == Split(("s1",))


def test_trains_and_writes_the_network(tmp_path):
    experiment, data = Experiment(**SMALL, seed=2), Maps()
    state = torch.get_rng_state()
    path = train_network(experiment, data, tmp_path / "out", classes=["negative", "positive", "surprise"])
    assert torch.equal(torch.get_rng_state(), state)
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["log.csv", "network.safetensors"]
    loaded = load_network(path)
    assert loaded.classes == ("negative", "positive", "surprise") and loaded.network == "ststnet" and not loaded.model.training
    again = load_network(train_network(experiment, data, tmp_path / "again")).model
    assert torch.equal(again(data.inputs), loaded.model(data.inputs))
    with pytest.raises(mer_fast.MerFastError, match="classes must be 3 names, got 2"):
        train_network(experiment, data, tmp_path, classes=["a", "b"])


def test_evaluates_and_writes_the_report(tmp_path):
    experiment, data = Experiment(**SMALL, seed=2, protocol={"name": "k-fold", "k": 2}), Maps()
    report = evaluate_network(experiment, data, tmp_path / "out")
    assert Report.load(tmp_path / "out" / "report.json") == report == evaluate_network(experiment, data, tmp_path / "out")
    by_hand = cross_validate(KFold(2), experiment.make_model, data, train=experiment.recipe, seed=2)
    assert by_hand == report
    with pytest.raises(mer_fast.MerFastError, match="holds an evaluation with another seed"):
        evaluate_network(dataclasses.replace(experiment, seed=3), data, tmp_path / "out")


def test_networks_come_back_with_their_statistics(tmp_path):
    torch.manual_seed(0)
    plain = models.create("strcn-a", 3, frames=8, width=2).eval()
    clips = torch.rand(2, 6, 24, 24)
    clips[:, :, 10:] = 0.5
    plain.fit_mask(clips)
    for model in (plain, Normalised(plain, [0.4], [0.6]).eval(), Changes(plain, [0.02]).eval()):
        save_network(tmp_path / "net.safetensors", model, "strcn-a", "abc", {"frames": 8, "width": 2}, {"size": [24, 24]})
        loaded = load_network(tmp_path / "net.safetensors")
        assert torch.equal(loaded.model(clips), model(clips)) and loaded.input == {"size": [24, 24]}
    both = models.create("microexpfusenet", 3, frames=18)
    wrapped = Normalised(both, [0.4, 0.5], [0.6, 0.7]).eval()
    save_network(tmp_path / "net.safetensors", wrapped, "microexpfusenet", "abc", {"frames": 18})
    atnet = models.create("atnet", 3, width=2, hidden=4).eval()
    wrapped_atnet = Standardised(atnet, torch.rand(128), torch.rand(128) + 0.5).eval()
    save_network(tmp_path / "at.safetensors", wrapped_atnet, "atnet", "abc", {"width": 2, "hidden": 4})
    read = torch.rand(1, 1, 224, 224), torch.rand(1, 64, 128)
    assert torch.equal(load_network(tmp_path / "at.safetensors").model(*read), wrapped_atnet(*read))
    volumes = torch.rand(1, 1, 18, 32, 32), torch.rand(1, 1, 18, 32, 32)
    assert torch.equal(load_network(tmp_path / "net.safetensors").model(*volumes), wrapped(*volumes))


def test_files_that_hold_no_network(tmp_path):
    path = tmp_path / "net.safetensors"
    with pytest.raises(mer_fast.MerFastError, match="there is no such file"):
        load_network(path)
    save_network(path, models.create("ststnet", 3), "ststnet", "abcd")
    with pytest.raises(mer_fast.MerFastError, match="its weights do not fit ststnet"):
        load_network(path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-8])
    with pytest.raises(mer_fast.MerFastError, match="damaged"):
        load_network(path)
    mer_fast.tensor_file.save(path, "training", {}, {})
    with pytest.raises(mer_fast.MerFastError, match="is a training of format 1, where a network of format 1 is needed"):
        load_network(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: {lr: 1, epochs: 1}", "experiment: network must be given"),
        ("network: ststnet", "experiment: recipe must be given"),
        ("network: ststnet\nrecipe: fast", "recipe must be the settings of a training, got 'fast'"),
        ("network: resnet\nrecipe: {lr: 1, epochs: 1}", "network must be one of ststnet, .* got 'resnet'"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1, rate: 2}", "Recipe: rate is no setting"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1}\ncolour: red", "colour is no setting; there are network, recipe"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1}\noptions: 3", "options must be settings by name, got 3"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1}\ninput: {colour: red}", "colour is no setting; there are size"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1}\nprotocol: loso", "protocol must be one of leave-one-.* got 'loso'"),
        ("network: ststnet\nrecipe: {lr: 1, epochs: 1}\nprotocol: {name: k-fold}", "protocol .*missing 1 required"),
        ("- 1", "must hold settings by name"),
        ("network: [", "is no YAML: while parsing"),
    ],
)
def test_files_that_will_not_do(tmp_path, text, message):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(mer_fast.MerFastError, match=message) as caught:
        load_experiment(path)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


def test_settings_that_will_not_do(tmp_path):
    with pytest.raises(mer_fast.MerFastError, match=r"none\.yaml is neither a file nor one of the recipes atnet, atnet-small"):
        load_experiment(tmp_path / "none.yaml")
    with pytest.raises(mer_fast.MerFastError, match=r"options do not fit ststnet: .*unexpected keyword argument 'width'"):
        Experiment(**SMALL, options={"width": 3}).make_model()


def test_numbers_are_plain_and_words_quoted():
    text = """{a: 5e-5, b: 1E3, c: -2.5e4, d: .5e1, e: 0.25, f: 7, g: "2026", h: ['006', "007"], i: "1e5", j: 1e5x, k: 3D}"""
    assert repr(from_yaml(text, "text")) == repr({
        "a": 5e-5, "b": 1000.0, "c": -25000.0, "d": 5.0, "e": 0.25, "f": 7, "g": "2026", "h": ["006", "007"], "i": "1e5",
        "j": "1e5x", "k": "3D",
    })  # fmt: skip
