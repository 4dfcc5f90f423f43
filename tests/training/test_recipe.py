from __future__ import annotations

import dataclasses
import json

import pytest

import rsnn
from rsnn.errors import ConfigError, UnknownNameError
from rsnn.training import Recipe, list_recipes, load_recipe, recipe_from
from rsnn.training.recipe_files import field_names

TABLE_1 = [
    f"convlstm-{data}-{encoder}-{head}"
    for data in ("gesture", "cifar10dvs")
    for encoder in ("cl", "cla")
    for head in ("last", "sum", "mean", "concat", "lstm")
]
TABLE_3 = [
    "rsnn-gesture-cl", "rsnn-gesture-cla", "rsnn-cifar10dvs-cl", "rsnn-cifar10dvs-cla", "rsnn-cifar10dvs-cl-nopool",
    "scnn-gesture", "scnn-cifar10dvs", "slayer-gesture", "stbp-gesture", "cnnsnn-gesture", "stbp-cifar10dvs",
]  # fmt: skip


@pytest.mark.parametrize("name", TABLE_1 + TABLE_3)
def test_every_row_of_the_papers_tables_has_its_recipe_with_the_papers_epochs(name):
    recipe = load_recipe(name)
    assert {phase.epochs for _, phase in recipe.phases} == {300 if "gesture" in name else 150}
    assert [phase.model for _, phase in recipe.phases][-1] == name
    assert (recipe.data.num_frames, recipe.data.split_by) == (20, "time")


def test_every_model_of_the_zoo_has_a_recipe_and_every_recipe_trains_models_of_the_zoo():
    zoo = set(rsnn.list_models())
    assert zoo <= set(list_recipes())
    for name in list_recipes():
        recipe = load_recipe(name, ["start=x"] if name == "fine-tune" else [])
        assert recipe.name == name
        assert {phase.model for _, phase in recipe.phases} <= zoo | ({""} if name == "fine-tune" else set())


@pytest.mark.parametrize(("encoder", "head"), [("cl", "sum"), ("cla", "mean")])
def test_the_encoder_is_trained_under_the_head_that_the_paper_found_best(encoder, head):
    recipe = load_recipe(f"rsnn-gesture-{encoder}")
    assert [name for name, _ in recipe.phases] == ["encoder", "classifier"]
    assert recipe.phases.encoder.model == f"convlstm-gesture-{encoder}-{head}"


def test_a_field_is_changed_and_all_others_stay():
    plain = load_recipe("rsnn-gesture-cl")
    changed = load_recipe("rsnn-gesture-cl", ["optimizer.lr=2e-3", "validation.by=id", "phases.joint.epochs=3"])
    assert changed.optimizer.lr == 2e-3
    assert changed.validation.by == "id"
    assert changed.phases.joint.epochs == 3
    back = dataclasses.replace(changed, optimizer=plain.optimizer, validation=plain.validation, phases=plain.phases)
    assert back == plain


@pytest.mark.parametrize("name", list_recipes())
def test_a_stored_recipe_is_the_recipe(name):
    recipe = load_recipe(name, ["start=x"] if name == "fine-tune" else [])
    assert recipe_from(recipe.to_dict()) == recipe


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("optimiser.lr=1", "'optimizer.lr'"),
        ("optimizer.lrr=1", "'optimizer.lr'"),
        ("lr=1", "Did you mean 'optimizer.lr' or 'phases.encoder.lr' or 'phases.classifier.lr'?"),
        ("epochs=3", "Did you mean 'phases.encoder.epochs' or 'phases.classifier.epochs' or 'phases.joint.epochs'?"),
        ("model=x", "Did you mean 'phases.encoder.model' or"),
        ("loop.epochs=3", "Did you mean 'phases.encoder.epochs' or"),
        ("batchsize=3", "Did you mean 'loop.batch_size'?"),
        ("augmnt.drop=0.1", "no field 'augmnt.drop'. Did you mean 'augment.drop'?"),
        ("optimzer=adam", "Did you mean 'optimizer.lr'"),
        ("loop.batchsize=1", "'loop.batch_size'"),
        ("phases.encoder.epoch=1", "'phases.encoder.epochs'"),
        ("seed.x=1", "a whole number"),
        ("optimizer.lr=fast", "expected a number"),
        ("optimizer.lr=inf", "expected a number"),
        ("optimizer.lr=-1", "above 0"),
        ("optimizer.kind=adan", "'adam'"),
        ("loop.batch_size=1.5", "a whole number"),
        ("loop.batch_size=0", "at least 1"),
        ("loop.compile=1", "true or false"),
        (["loop.graphs=true", "loop.checkpoint_steps=5"], "false where loop.checkpoint_steps is set"),
        (["loop.graphs=true", "loop.compile=true"], "false where loop.compile is true"),
        ("data.size=[1]", "[height, width]"),
        ("data.size=128", "a list"),
        ("data.size=[0, 0]", "data.size = [0, 0]: expected [height, width], each at least 1"),
        ("data.samples=0", "at least 1"),
        ("optimizer.momentum=-1", "optimizer.momentum = -1.0: expected from 0 to below 1"),
        ("schedule.factor=-1", "schedule.factor = -1.0: expected above 0"),
        ("validation.seed=-1", "at least 0"),
        ("data.normalize=clip", "data.clip_at"),
        ("data.clip_at=3", "with data.normalize = 'clip'"),
        ("validation.fraction=1", "between 0 and 1"),
        ("augment.drop=2", "augment.drop"),
        ("phases.encoder.loss=tot", "'tet'"),
        ("optimizer=3", "a table"),
        ("optimizer.lr", "optimizer.lr=1e-3"),
    ],
)
def test_a_wrong_change_says_what_came_and_what_was_expected(change, said):
    with pytest.raises(ConfigError) as caught:
        load_recipe("rsnn-gesture-cl", change if isinstance(change, list) else [change])
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("optimizer.lr=.001", 0.001),
        ("optimizer.lr=1.", 1.0),
        ("optimizer.lr=+.5e-2", 0.005),
        ("loop.cpu=True", True),
        ("loop.cpu=FALSE", False),
        ("name=v1.2.3", "v1.2.3"),
    ],
)
def test_usual_spellings_of_numbers_and_truth(change, expected):
    recipe = load_recipe("rsnn-gesture-cl", ["loop.cpu=true", change])
    table, _, field = change.partition("=")[0].rpartition(".")
    assert getattr(getattr(recipe, table) if table else recipe, field) == expected


def test_an_unknown_recipe_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="'rsnn-gesture-cl'"):
        load_recipe("rsnn-gestures-cl")


def test_a_recipe_of_ones_own_builds_on_another(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('base = "rsnn-sign-cl"\nloop.batch_size = 7\n')
    recipe = load_recipe(path)
    path.write_text(path.read_text(), "utf-8-sig")  # as some editors write it
    assert load_recipe(path) == recipe
    assert recipe.name == "mine"
    assert recipe.loop.batch_size == 7
    assert recipe.loop.precision == load_recipe("rsnn-sign-cl").loop.precision


def test_the_files_of_a_run_are_recipes_too(tmp_path):
    recipe = load_recipe("rsnn-sign-cl", ["seed=3"])
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps({"recipe": recipe.to_dict(), "processes": 1}))
    assert load_recipe(path) == recipe
    (tmp_path / "mine.toml").write_text('base = "recipe.json"\nseed = 4\n')
    assert load_recipe(tmp_path / "mine.toml") == dataclasses.replace(recipe, name="mine", seed=4)
    for text, said in (("{", "not valid JSON"), ("[]", "holds no recipe"), ('{"model": {}}', "holds no recipe")):
        path.write_text(text)
        with pytest.raises(ConfigError, match=said):
            load_recipe(path)


def test_recipes_that_build_on_each_other_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text('base = "b.toml"')
    (tmp_path / "b.toml").write_text('base = "a.toml"')
    with pytest.raises(ConfigError, match="its own base"):
        load_recipe(tmp_path / "a.toml")


@pytest.mark.parametrize(
    ("text", "said"),
    [("a = ", "not valid TOML"), ("", "no phase"), ("phases.encoder.epochs = 1", "phases.encoder.model is empty")],
)
def test_a_broken_file_says_what_is_wrong(tmp_path, text, said):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said):
        load_recipe(path)


def test_a_missing_file_says_so(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(tmp_path / "none.toml")


def test_all_fields_can_be_named():
    names = field_names()
    assert len(names) == len(set(names))
    assert {"optimizer.lr", "phases.classifier.freeze_encoder", "augment.flip", "seed"} <= set(names)


def test_others_learn_the_name_of_the_folder_that_a_run_went_on_from_alone(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path / "mine")
    monkeypatch.setenv("HOME", str(tmp_path))
    for start, expected in (
        (str(tmp_path / "a b"), "./a b"),
        ("../runs/.one/", "./.one"),
        (".", "./mine"),
        ("..", f"./{tmp_path.name}"),
        ("~", f"./{tmp_path.name}"),
        ("~/x", "./x"),
        ("rsnn-nmnist-cl", "rsnn-nmnist-cl"),
        ("org/name@main", "org/name@main"),
        ("", ""),
    ):
        recipe = Recipe(start=start)
        assert recipe.for_others() == dataclasses.replace(recipe, start=expected)
