"""Plans of training and evaluation from YAML files: what they say, and one line for each way in which one is wrong."""

import pytest

import mer_fast
from mer_fast.evaluation import KFold
from mer_fast.plan import load_plan
from mer_fast.training import Recipe

SYNTHETIC = "data: {synthetic: {subjects: 4}}\n"


@pytest.fixture
def plan(tmp_path):
    def load(text, **options):
        path = tmp_path / "mine.yaml"
        path.write_text(text)
        return load_plan(path, **options)

    return load


def test_a_recipe_by_its_name_with_changes(plan):
    found = plan(
        SYNTHETIC + "recipe: {name: microexpstcnn-small, iterations: 7, lr: 5e-5}\ninput: {face: lbp}\nseeds: [3, 1]\n"
        "protocol: {name: k-fold, k: 4}\nengine: processes\nworkers: 2\nthreads: 2\noutput: out\n"
    )
    experiment = found.experiment
    assert (experiment.network, experiment.options) == ("microexpstcnn", {"frames": 18})
    assert experiment.recipe == Recipe(
        lr=5e-5, iterations=7, batch_size=16, optimizer="adam", schedule="cosine", augment=("mirror",),
        statistics=("gray_change",),
    )  # fmt: skip
    settings = experiment.network_input().settings
    assert (settings.frames, settings.face, settings.size) == (18, "lbp", (64, 64))
    assert experiment.make_protocol() == KFold(4) and (experiment.folds, experiment.workers, experiment.threads) == (
        "processes",
        2,
        2,
    )
    assert found.seeds == (3, 1) and str(found.output) == "out" and found.threads == 2
    plain = plan(SYNTHETIC + "recipe: ststnet")
    assert str(plain.output) == "mine-evaluation" and plain.seeds == (0,) and plain.experiment.recipe.epochs == 500


def test_a_network_and_settings_of_ones_own(plan):
    found = plan(SYNTHETIC + "network: ststnet\noptions: {dropout: 0.1}\nrecipe: {lr: 0.1, epochs: 2}").experiment
    assert found.recipe == Recipe(lr=0.1, epochs=2) and found.make_model().dropout.p == 0.1


def test_changes_from_the_command_line(plan):
    text = SYNTHETIC + "recipe: atnet\nprotocol: k-fold\nseeds: 5"
    changes = ["recipe.lr=1e-4", "recipe.schedule=cosine", "protocol.k=3", "input.size=[64, 64]", "data.synthetic.seed=2"]
    found = plan(text, changes=changes, seeds=[1, 2], engine="ray", output="there")
    recipe, experiment = found.experiment.recipe, found.experiment
    assert (recipe.lr, recipe.schedule, recipe.step_every, recipe.iterations) == (1e-4, "cosine", None, 2500)
    assert experiment.make_protocol() == KFold(3) and experiment.network_input().settings.size == (64, 64)
    assert found.data == ({"synthetic": {"subjects": 4, "seed": 2}},)
    assert (found.seeds, experiment.folds, str(found.output)) == ((1, 2), "ray", "there")
    assert found.described()["recipe.lr"] == 1e-4 and found.described()["protocol.k"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("recipe: ststnet", r"data must be given: \{dataset: "),
        ("data: 3\nrecipe: ststnet", "data must hold settings by name, one of them synthetic, composite, folder, got 3"),
        ("data: {dataset: smic}\nrecipe: ststnet", "data must have one of synthetic, composite, folder, got dataset"),
        ("data: {folder: a, synthetic: {}}\nrecipe: ststnet", "data must have one of .*, got synthetic and folder"),
        ("data: {composite: a, labels: 3-class}\nrecipe: ststnet", "data.labels is no setting beside data.composite"),
        ("data: {folder: 3}\nrecipe: ststnet", "data.folder has a value of a wrong kind: 3"),
        ("data: []\nrecipe: ststnet", "data names no source"),
        (SYNTHETIC, "recipe must name a recipe, or network a network; there are the recipes atnet, "),
        (SYNTHETIC + "recipe: resnet", "recipe must name one of atnet, .*, got 'resnet'"),
        (SYNTHETIC + "recipe: 3", "recipe must hold settings by name, got 3"),
        (SYNTHETIC + "recipe: {name: ststnet, rate: 1}", "Recipe: rate is no setting; there are lr, "),
        (SYNTHETIC + "recipe: {name: ststnet, lr: fast}", "Recipe: lr must be "),
        (SYNTHETIC + "recipe: ststnet\nnetwork: atnet", "network: the recipe ststnet is of ststnet, got 'atnet': leave one"),
        (SYNTHETIC + "recipe: ststnet\noptions: {width: 3}", "options do not fit ststnet: .*unexpected keyword argument 'width'"),
        (SYNTHETIC + "recipe: ststnet\ninput: {size: 64}", "options, input, recipe or protocol has a value of a wrong kind"),
        (
            SYNTHETIC + "recipe: strcn-a\noptions: {frames: 20}",
            r"options.frames \(20\) and input.frames \(30\) must be one number",
        ),
        (SYNTHETIC + "recipe: ststnet\nprotocol: loso", "protocol must be one of leave-one-subject-out, .* got 'loso'"),
        (SYNTHETIC + "recipe: ststnet\nprotocol: {name: k-fold, k: four}", "protocol: k must be a whole number, got"),
        (SYNTHETIC + "recipe: ststnet\nprotocol: {name: split, test: 3}", "protocol: test must be a share or names of subjects"),
        (SYNTHETIC + "recipe: ststnet\nprotocol: {name: cross-database, train: 1, test: b}", "train and test must be names of"),
        (SYNTHETIC + "recipe: ststnet\nengine: fast", "folds must be one of 'sequential', .*got 'fast'"),
        (SYNTHETIC + "recipe: ststnet\nseeds: [1, 1]", r"seeds must be numbers that differ, at least one, got \[1, 1\]"),
        (SYNTHETIC + "recipe: ststnet\nseeds: one", "seeds must be "),
        (SYNTHETIC + "recipe: ststnet\nworkers: 0", "workers must be "),
        (SYNTHETIC + "recipe: ststnet\ndevice: tpu9", "device must be cpu or cuda, got 'tpu9'"),
        (SYNTHETIC + "recipe: ststnet\noutput: 3", "output must be a folder, got 3"),
        (SYNTHETIC + "recipe: ststnet\ntensorboard: 3", "tensorboard must be true or false, got 3"),
        (SYNTHETIC + "recipe: ststnet\ncolour: red", "colour is no setting; there are data, recipe, network"),
        *(
            (SYNTHETIC + text, message)
            for text, message in [
                ("recipe: ststnet\ninput: {options: {lamda: 0.1}}", "options.lamda is no setting of tvl1; there are tau, lam, "),
                ("recipe: ststnet\ninput: {options: 3}", "options must be settings of the flow by name, got 3"),
                ("recipe: ststnet\ninput: {face: [1, 2, 3]}", r"face must be nothing, a box of .*, got \(1, 2, 3\)"),
                ("recipe: ststnet\ninput: {face: [1, 2, 0, 3]}", r"face must be .*, got \(1, 2, 0, 3\)"),
                ("recipe: ststnet\ninput: {face: nosuch}", "face must be .*, got 'nosuch'"),
                ("recipe: ststnet\ninput: {face: nosuch.onnx}", "input.face: there is no file nosuch.onnx"),
                ("recipe: ststnet\ninput: {derivative: left}", "derivative must be one of central, .*, got 'left'"),
                ("recipe: ststnet\ninput: {margin: wide}", "margin must be a number, got wide"),
                ("recipe: ststnet\ninput: {shear: -1}", "shear must lie between"),
                ("recipe: {name: ststnet, class_weights: balanced}", "class_weights must be 'inverse', .*, got 'balanced'"),
                ("recipe: {name: ststnet, class_weights: [1, -1, 1]}", r"class_weights must be .* got \(1, -1, 1\)"),
                ("recipe: {name: ststnet, class_weights: [1, 2]}", r"recipe.class_weights must be 3 numbers, .*, got \[1, 2\]"),
                ("recipe: {name: ststnet, gamma: -1}", "gamma must lie between"),
                ("recipe: {name: ststnet, gamma: big}", "gamma must be a number, got big"),
                ("recipe: {name: ststnet, oversample: 3}", "oversample must be true or false, got 3"),
                (
                    "recipe: {name: ststnet, statistics: [appearance_mask]}",
                    "recipe.statistics: appearance_mask is for strcn-a, and",
                ),
                ("recipe: {name: strcn-a, statistics: []}", "recipe.statistics must name appearance_mask"),
                ("recipe: {name: ststnet, augment: [mirror]}", "recipe.augment: mirror is for .*, and the network is ststnet"),
                ("recipe: {name: atnet, augment: [dropped_frames]}", "recipe.augment: dropped_frames is for strcn-a"),
                ("recipe: strcn-g\nengine: batched", "batched folds: STRCNG is neither STSTNet nor"),
                ("recipe: {name: ststnet, amp: bfloat16}\nengine: batched", "the recipe's amp .* cannot be batched"),
            ]
        ),
        ("- 1", "must hold settings by name"),
        ("data: [", "is no YAML: while parsing"),
    ],
)
def test_plans_that_will_not_do(plan, text, message):
    with pytest.raises(mer_fast.MerFastError, match=message) as caught:
        plan(text)
    assert "mine.yaml" in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("recipe.lr", "--set recipe.lr: must be a name, = and a value"),
        ("recipe..lr=1", "--set recipe..lr=1: must be a name"),
        ("seeds.a=1", "--set seeds.a=1: seeds does not hold settings by name"),
        ("recipe.lr=[", r"--set recipe.lr=\[ is no YAML"),
        ("recipe.speed=1", "Recipe: speed is no setting"),
    ],
)
def test_changes_that_will_not_do(plan, change, message):
    with pytest.raises(mer_fast.MerFastError, match=message):
        plan(SYNTHETIC + "recipe: ststnet\nseeds: [1]", changes=[change])


def test_there_is_no_such_file(tmp_path):
    with pytest.raises(mer_fast.MerFastError, match=r"none\.yaml cannot be read: No such file"):
        load_plan(tmp_path / "none.yaml")
