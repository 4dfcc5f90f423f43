from __future__ import annotations

import dataclasses
import errno
import json
import resource
import shutil
import signal
import warnings

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from safetensors.torch import load_file
from small_runs import Heard, write_archive

import rsnn
from rsnn import hub
from rsnn.errors import CheckpointError, ConfigError, InputError, RSNNError, TrainingError
from rsnn.training import load_recipe, loop, optimizers, recipe_from, report, run, train
from rsnn.training.display import Display
from rsnn.training.phases import build
from rsnn.training.recipe import Optimizer, Phase, Recipe, Schedule
from rsnn.training.sources import open_part
from rsnn.training.state import load_state

UNCHANGED = [f"augment.{name}=0" for name in ("rotate_degrees", "scale", "shear", "shift", "cut", "drop", "invert")]


class Killed(BaseException):
    """Stands for a process that ends at once: nothing of the library may catch it."""


class KillAt(Display):
    """Kills the training after some updates."""

    def __init__(self, updates):
        self.left = updates

    def update(self, place):
        self.left -= 1
        if self.left == 0:
            raise Killed


def weights(folder):
    return {path.parent.name: load_file(path) for path in sorted(folder.glob("*/*/model.safetensors"))}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[kind][key], b[kind][key]) for kind in a for key in a[kind])


@pytest.fixture
def whole(recipe):
    """A recipe with two phases and everything random in it."""
    return recipe(
        "phases.classifier.epochs=2",
        "loop.save_minutes=1e-9",
        "loop.ema=0.9",
        "loop.accumulate=2",
        "loss.mixup=0.2",
        "augment.drop=0.3",
        "schedule.kind=onecycle",
        name="rsnn-nmnist-cl",
    )


@pytest.fixture(scope="module")
def uninterrupted():
    return {}


@pytest.mark.parametrize("updates", [1, 2, 3, 5, 7])
def test_a_training_killed_anywhere_ends_with_the_same_weights(whole, archive, tmp_path, uninterrupted, updates):
    if not uninterrupted:
        uninterrupted.update(train(whole, archive, tmp_path / "whole"), weights=weights(tmp_path / "whole"))
    with pytest.raises(Killed):
        train(whole, archive, tmp_path / "cut", display=KillAt(updates))
    heard = Heard()
    metrics = train(whole, archive, tmp_path / "cut", display=heard)
    assert same(weights(tmp_path / "cut"), uninterrupted["weights"])
    assert len(heard.places) == 8 - (updates - 1)  # the killed update was not saved, all before it were
    for phase, ours in metrics["phases"].items():
        theirs = uninterrupted["phases"][phase]
        for name in ("loss", "accuracy", "cross_entropy", "lr"):
            assert [e[name] for e in ours["history"]] == [e[name] for e in theirs["history"]], name


def test_the_report_has_everything(recipe, archive, test_archive, tmp_path):
    chosen = recipe("optimizer.lr=0.003", *UNCHANGED, name="convlstm-nmnist-cl-sum", epochs=24)
    metrics = train(chosen, archive, tmp_path, test=test_archive)
    assert metrics == json.loads((tmp_path / "metrics.json").read_text())
    assert {"curves.png", "confusion.png", "model", "metrics.json", "recipe.json"} <= {
        p.name for p in tmp_path.iterdir()
    }
    assert metrics["parts"]["test"] == {"text": "test.npz", "recordings": 9}
    assert metrics["parts"]["training"]["recordings"] + metrics["parts"]["validation"]["recordings"] == 24
    history = metrics["phases"]["encoder"]["history"]
    best = max(history, key=lambda epoch: (epoch["accuracy"], -epoch["cross_entropy"]))
    assert metrics["phases"]["encoder"]["selected_epoch"] == best["epoch"]
    assert metrics["test_selected"]["samples"] == metrics["test_last"]["samples"] == 9
    assert metrics["test_selected"]["accuracy"] > 0.6, "three thirds of a frame can be told apart"
    for folder in (tmp_path / "model", tmp_path / "encoder" / "last"):
        stored = recipe_from(hub.resolve(folder).recipe())
        assert stored == dataclasses.replace(chosen, data=dataclasses.replace(chosen.data, normalize="counts"))
    model = rsnn.load(tmp_path / "model")
    assert model.class_names == ("left", "right", "top")
    assert model.preprocessing.window_ms == pytest.approx(99, abs=2)
    assert same({"selected": dict(model.state_dict())}, {"selected": weights(tmp_path)["selected"]})
    card = (tmp_path / "model" / "README.md").read_text()
    assert f"**{metrics['test_selected']['accuracy']:.1%}** on the test part" in card


def test_a_finished_run_is_not_done_again_and_its_test_part_not_read_again(recipe, archive, test_archive, tmp_path):
    metrics = train(recipe(epochs=1), archive, tmp_path, test=test_archive)
    heard = Heard()
    assert train(recipe(epochs=1), archive, tmp_path, test=test_archive, display=heard) == metrics
    assert heard.places == []
    assert "finished run" in heard.said[0]


def test_another_recipe_or_other_data_do_not_go_on_with_a_run(recipe, archive, test_archive, tmp_path):
    train(recipe(epochs=1), archive, tmp_path)
    with pytest.raises(TrainingError, match=r"its optimizer.lr is 0.01 and now it is 0.02"):
        train(recipe("optimizer.lr=0.02", epochs=1), archive, tmp_path)
    with pytest.raises(TrainingError, match=r"another run: its training recordings .* than now test.npz"):
        train(recipe(epochs=1), test_archive, tmp_path)
    train(recipe("loop.workers=1", "loop.save_minutes=3", epochs=1), archive, tmp_path)


def as_files(archive, folder):
    """Write an archive's recordings as files, in a folder for each class."""
    part = rsnn.data.EventArchive(archive)
    for i, events in enumerate(part):
        path = folder / part.class_names[int(part.labels[i])] / f"{i}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        rsnn.data.write_events(path, events)
    return folder


@pytest.mark.parametrize("kind", ["archive", "folder"])
def test_other_recordings_of_the_same_names_and_labels_are_other_data(recipe, archive, tmp_path, kind):
    chosen = recipe("data.kind=auto", epochs=1)
    other = write_archive(tmp_path / "other.npz", seed=5)
    if kind == "folder":
        archive, other = (as_files(each, tmp_path / name / "mine") for name, each in (("a", archive), ("b", other)))
    with pytest.raises(Killed):
        train(
            recipe("data.kind=auto", "loop.save_minutes=1e-9", epochs=1), archive, tmp_path / "run", display=KillAt(2)
        )
    with pytest.raises(TrainingError, match=r"another run: its training recordings have other names, labels or con"):
        train(chosen, other, tmp_path / "run")
    moved = tmp_path / "elsewhere"
    (shutil.copytree if kind == "folder" else shutil.copy)(archive, moved)
    heard = Heard()
    train(chosen, moved, tmp_path / "run", display=heard)
    assert "going on after epoch 0, update 1" in heard.said


def test_another_test_part_is_another_run(recipe, archive, test_archive, tmp_path):
    train(recipe(epochs=1), archive, tmp_path / "untested")
    with pytest.raises(
        TrainingError, match=r"tests on no recordings, and now there are some; .* rsnn evaluate .*model"
    ):
        train(recipe(epochs=1), archive, tmp_path / "untested", test=test_archive)
    train(recipe(epochs=1), archive, tmp_path / "tested", test=test_archive)
    with pytest.raises(TrainingError, match=r"tests on recordings, and now there are none"):
        train(recipe(epochs=1), archive, tmp_path / "tested")
    other = write_archive(tmp_path / "other.npz", recordings=9, seed=5)
    with pytest.raises(TrainingError, match=r"its test recordings have other .* than now other\.npz"):
        train(recipe(epochs=1), archive, tmp_path / "tested", test=other)


def test_recordings_to_test_on_are_not_those_that_train(recipe, archive, test_archive, tmp_path):
    for samples in ({}, {"samples": "0:12"}, {"samples": "0:12", "test_samples": "11:"}):
        with pytest.raises(
            InputError, match=r"recordings to test on \(train\.npz.* also train or validate; expected none"
        ):
            train(recipe(epochs=1), archive, tmp_path / "run", test=archive, **samples)
    metrics = train(recipe(epochs=1), archive, tmp_path / "run", test=archive, samples="0:12", test_samples="12:")
    assert metrics["test_selected"]["samples"] == 12
    folder, tested = as_files(archive, tmp_path / "mine"), as_files(test_archive, tmp_path / "tested")
    shutil.copy(folder / "left" / "0.npz", tested / "left" / "100.npz")
    with pytest.raises(
        InputError, match=r"^1 of the 10 recordings to test on \(tested; the first is 'left/100\.npz'\)"
    ):
        train(recipe("data.kind=auto", epochs=1), folder, tmp_path / "folder", test=tested)


def test_a_command_that_fails_before_it_trains_does_not_claim_the_folder(recipe, archive, tmp_path):
    with pytest.raises(ConfigError, match="expected at least one each"):
        train(recipe("loop.accumulate=30", epochs=1), archive, tmp_path)
    train(recipe("loop.accumulate=2", epochs=1), archive, tmp_path)
    assert json.loads((tmp_path / "recipe.json").read_text())["recipe"]["loop"]["accumulate"] == 2
    (tmp_path / "recipe.json").unlink()
    with pytest.raises(TrainingError, match=r"recipe.json cannot be read .* choose another --output"):
        train(recipe("loop.accumulate=2", epochs=1), archive, tmp_path)


def test_a_run_that_did_not_write_down_what_its_recordings_hold_is_not_gone_on_with(recipe, archive, tmp_path):
    train(recipe(epochs=1), archive, tmp_path)
    path = tmp_path / "recipe.json"
    stored = json.loads(path.read_text())
    for data in ({"training": "0" * 16, "validation": "0" * 16}, None):
        path.write_text(json.dumps({**stored, "data": data}))
        with pytest.raises(TrainingError, match=r"a run of an earlier version, .* choose another --output"):
            train(recipe(epochs=1), archive, tmp_path)


@pytest.mark.parametrize("decay", [0, 0.5])
def test_processes_measure_with_the_statistics_of_the_first_which_are_kept(
    recipe, archive, tmp_path, monkeypatch, decay
):
    """Each has its own; here it is the second of two, which gets 3 for every number of the first."""
    seen, measure = [], loop.measure

    def measured(model, *others):
        seen.extend(model.buffers())
        return measure(model, *others)

    chosen = recipe(f"loop.ema={decay}", name="scnn-nmnist", epochs=1)
    with monkeypatch.context() as patch:
        patch.setattr(Accelerator, "num_processes", 2)
        patch.setattr(loop, "broadcast", lambda buffer: torch.full_like(buffer, 3))
        patch.setattr(loop, "measure", measured)
        train(chosen, archive, tmp_path)
    assert seen
    selected = weights(tmp_path)["selected"]
    statistics = [name for name in selected if name.endswith("running_mean")]
    assert statistics
    assert all(bool((selected[name] == 3).all()) for name in statistics)


def test_a_run_of_a_version_whose_recipes_had_fewer_fields_goes_on(recipe, archive, tmp_path):
    with pytest.raises(Killed):
        train(recipe(), archive, tmp_path, display=KillAt(6))
    path = tmp_path / "recipe.json"
    stored = json.loads(path.read_text())
    del stored["recipe"]["data"]["clip_at"]
    path.write_text(json.dumps(stored))
    train(recipe(), archive, tmp_path)
    path.write_text("{")
    with pytest.raises(TrainingError, match=r"recipe.json cannot be read .* choose another --output"):
        train(recipe(), archive, tmp_path)


def test_a_loss_that_is_no_number_ends_with_the_last_good_checkpoint_intact(recipe, archive, tmp_path, monkeypatch):
    chosen = recipe(epochs=3)
    with pytest.raises(Killed):
        train(chosen, archive, tmp_path, display=KillAt(6))  # one epoch is saved
    before = (tmp_path / "state.safetensors").read_bytes()
    monkeypatch.setattr(loop.losses, "targets", lambda *_: torch.full((4, 3), torch.nan))
    with pytest.raises(TrainingError, match=r"the loss became nan in phase encoder, epoch 2, update 1; the last good"):
        train(chosen, archive, tmp_path)
    assert (tmp_path / "state.safetensors").read_bytes() == before
    monkeypatch.undo()
    assert train(chosen, archive, tmp_path)["phases"]["encoder"]["history"][-1]["epoch"] == 3


def test_a_loss_that_is_no_number_says_what_is_saved(recipe, archive, tmp_path, monkeypatch):
    def spoil():
        monkeypatch.setattr(loop.losses, "targets", lambda labels, *_: torch.full((len(labels), 3), torch.nan))

    class Spoils(Display):
        def begin(self, phase, *_):
            if phase == "classifier":
                spoil()

    chosen = recipe("phases.classifier.epochs=1", name="rsnn-nmnist-cl", epochs=1)
    with pytest.raises(
        TrainingError, match=r"nan in phase classifier, epoch 1, update 1; what was saved before in .* is"
    ):
        train(chosen, archive, tmp_path / "second", display=Spoils())
    with pytest.raises(TrainingError, match=r"nan in phase encoder, epoch 1, update 1; nothing has been saved yet\."):
        train(chosen, archive, tmp_path / "first")


def test_a_full_disk_says_what_is_saved(recipe, archive, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*; nothing was saved before: free some space and"):
            train(recipe(epochs=1), archive, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    def full(*_, **__):
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise CheckpointError("cannot be written") from error

    for module, intact in ((run, "the trained weights are intact"), (report, "the trained models are intact")):
        with monkeypatch.context() as patch:
            patch.setattr(module, "save_model", full)
            with pytest.raises(
                TrainingError, match=rf"\(No space left on device\); {intact}: free some space and give"
            ):
                train(recipe(epochs=1), archive, tmp_path)
    train(recipe(epochs=1), archive, tmp_path)


def test_a_full_disk_is_named_and_the_last_good_checkpoint_intact(recipe, archive, tmp_path):
    chosen = recipe(epochs=2)
    with pytest.raises(Killed):
        train(chosen, archive, tmp_path, display=KillAt(6))
    before = (tmp_path / "state.safetensors").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(TrainingError, match=r"cannot be written .*is intact: free some space and give the same"):
            train(chosen, archive, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "state.safetensors").read_bytes() == before
    assert not list(tmp_path.glob(".*.tmp"))
    train(chosen, archive, tmp_path)


def test_a_damaged_state_is_named(recipe, archive, tmp_path):
    with pytest.raises(Killed):
        train(recipe(), archive, tmp_path, display=KillAt(6))
    path = tmp_path / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(TrainingError, match=r"state.safetensors is damaged .*delete it"):
        train(recipe(), archive, tmp_path)


def test_two_trainings_in_one_folder_are_refused(recipe, archive, tmp_path):
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(TrainingError, match="another training is running"):
        train(recipe(), archive, tmp_path)


def test_the_encoder_goes_on_under_the_spiking_network_frozen_or_not(recipe, archive, tmp_path):
    for freeze in ("true", "false"):
        folder = tmp_path / freeze
        train(
            recipe(
                "phases.classifier.epochs=1",
                f"phases.classifier.freeze_encoder={freeze}",
                name="rsnn-nmnist-cl",
                epochs=1,
            ),
            archive,
            folder,
        )
        first, second = (rsnn.load(folder / phase / "selected") for phase in ("encoder", "classifier"))
        assert type(second).__name__ == "RSNN"
        pairs = zip(first.encoder.parameters(), second.encoder.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (freeze == "true")


def test_fine_tuning_replaces_the_last_layer_and_keeps_what_is_under_it(recipe, archive, tmp_path):
    torch.manual_seed(0)
    start = rsnn.create_model("rsnn-nmnist-cl", frame_size=(16, 16), num_frames=4, num_classes=5, max_step_ms=5)
    start.save_pretrained(tmp_path / "start")
    from rsnn.training import load_recipe

    chosen = load_recipe(
        "fine-tune",
        [f"start={tmp_path / 'start'}", "phases.joint.epochs=1", "optimizer.lr=1e-9", "phases.joint.encoder_lr=0"],
    )
    train(chosen, archive, tmp_path / "run")
    tuned = rsnn.load(tmp_path / "run" / "model")
    assert tuned.class_names == ("left", "right", "top")
    assert tuned.preprocessing.max_step_ms is None  # all batches, and the figures of the run, are of num_frames steps
    torch.testing.assert_close(tuned.encoder.state_dict(), start.encoder.state_dict(), rtol=0, atol=1e-6)


def test_what_a_recipe_says_of_frames_is_done_and_what_it_leaves_open_is_filled_in(archive, tmp_path):
    from rsnn.training import load_recipe

    torch.manual_seed(0)
    frames = {"frame_size": (16, 16), "num_frames": 5, "normalize": "clip", "clip_at": 3, "split_by": "number"}
    rsnn.create_model("scnn-nmnist", **frames, num_classes=5).save_pretrained(tmp_path / "start")
    ones = [f"start={tmp_path / 'start'}", "phases.joint.epochs=1"]
    own = {"size": [16, 16], "num_frames": 5, "normalize": "clip", "clip_at": 3, "split_by": "number"}
    other = {"size": [16, 16], "num_frames": 4, "normalize": "log1p", "clip_at": 0, "split_by": "time"}
    changes = ["data.num_frames=4", "data.normalize=log1p", "data.split_by=time"]
    for name, more, wanted in (("own", [], own), ("other", changes, other)):
        metrics = train(load_recipe("fine-tune", [*ones, *more]), archive, tmp_path / name)
        assert wanted.items() <= metrics["recipe"]["data"].items()
        assert metrics["recipe"] == json.loads((tmp_path / name / "recipe.json").read_text())["recipe"]
        used = rsnn.load(tmp_path / name / "model").preprocessing
        assert [used.num_frames, used.normalize, used.clip_at or 0, used.split_by] == list(wanted.values())[1:]
    with pytest.raises(ConfigError, match=r"data\.size = \[12, 12\] .* do not fit .*start"):
        train(load_recipe("fine-tune", [*ones, "data.size=[12, 12]"]), archive, tmp_path / "none")
    assert not (tmp_path / "none").exists()  # so that the same command with another size is no other run


def test_an_interrupt_while_the_last_epoch_validates_stops_the_run(recipe, archive, tmp_path, monkeypatch):
    measure = loop.measure

    def interrupted(*arguments):
        signal.raise_signal(signal.SIGINT)
        return measure(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "measure", interrupted)
        with pytest.raises(loop.Stopped, match="in phase encoder, after epoch 1"):
            train(recipe("phases.classifier.epochs=1", name="rsnn-nmnist-cl", epochs=1), archive, tmp_path)
    heard = Heard()
    train(recipe("phases.classifier.epochs=1", name="rsnn-nmnist-cl", epochs=1), archive, tmp_path, display=heard)
    assert {phase for phase, _, _ in heard.places} == {"classifier"}


def test_labels_without_names_beyond_the_models_classes_are_refused(recipe, archive, tmp_path):
    arrays = dict(np.load(archive))
    del arrays["class_names"]
    arrays["label"] = arrays["label"] + 9
    np.savez(tmp_path / "odd.npz", **arrays)
    with pytest.raises(ConfigError, match="label 11 and no class_names, and convlstm-nmnist-cl-mean has 10 classes"):
        train(recipe(), tmp_path / "odd.npz", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("phases.classifier.model=convlstm-nmnist-cl-sum", "expected an RSNN"),
        ("phases.classifier.model=rsnn-nmnist-cla", "expected the classifier with in_channels=6"),
    ],
)
def test_a_later_phase_that_does_not_fit_is_known_before_the_first(recipe, archive, tmp_path, change, said):
    heard = Heard()
    two_phases = recipe("phases.classifier.epochs=1", change, name="rsnn-nmnist-cl")
    with pytest.raises(RSNNError, match=said):
        train(two_phases, archive, tmp_path / "run", display=heard)
    assert not heard.places


def test_a_later_loss_that_does_not_fit_is_known_before_the_first_phase(recipe, archive, tmp_path):
    heard = Heard()
    tet_of_a_head = recipe("phases.joint.epochs=1", "phases.joint.loss=tet")
    with pytest.raises(ConfigError, match="spiking classifiers"):
        train(tet_of_a_head, archive, tmp_path / "run", display=heard)
    assert not heard.places


def test_the_rate_of_an_epoch_is_the_one_it_was_trained_with(recipe, archive, tmp_path):
    changes = ("schedule.kind=step", "schedule.step_epochs=1", "schedule.factor=0.5")
    metrics = train(recipe(*changes, epochs=3), archive, tmp_path)
    rates = [epoch["lr"] for epoch in metrics["phases"]["encoder"]["history"]]
    assert rates == pytest.approx([0.01, 0.005, 0.0025])


def test_an_epoch_that_is_shown_is_saved(recipe, archive, tmp_path):
    class KilledThere(Display):
        def epoch(self, *_):
            raise Killed

    with pytest.raises(Killed):
        train(recipe(epochs=1), archive, tmp_path, display=KilledThere())
    place, _ = load_state(tmp_path / "state.safetensors")
    assert (place.epoch, place.update, len(place.history)) == (1, 0, 1)


def test_smaller_batches_than_asked_for_are_said(recipe, archive, tmp_path):
    heard = Heard()
    train(recipe("loop.batch_size=16", "loop.accumulate=2", epochs=1), archive, tmp_path, display=heard)
    said = [line for line in heard.said if line.startswith("batches of")]
    assert said == ["batches of 9: 18 recordings are fewer than an update of loop.batch_size = 16 takes"]


def test_a_process_that_prepares_recordings_and_ends(recipe, archive, tmp_path, monkeypatch):
    def killed(*_, **__):
        raise RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed.")

    monkeypatch.setattr(loop, "loader", killed)
    with pytest.raises(TrainingError, match=r"ended \(.*Killed.*same command goes on, with --set loop.workers=0"):
        train(recipe(epochs=1), archive, tmp_path)
    monkeypatch.undo()
    train(recipe("loop.workers=0", epochs=1), archive, tmp_path)


@pytest.mark.parametrize("change", ["data.cache=false", "augment.drop=0.1"])
def test_batches_that_take_much_memory_are_said(recipe, archive, tmp_path, monkeypatch, change):
    """4 frames of 16 x 16 pixels are 8,192 bytes a recording, and four of them in a batch 32,768."""
    heard = Heard()
    monkeypatch.setattr("rsnn.data.frames.memory_bytes", lambda: 4 * 32_767)
    train(recipe(change, epochs=1), archive, tmp_path, display=heard)
    assert [line for line in heard.said if "4 frames of 16 x 16 pixels take" in line and "a batch of 4 rec" in line]
    monkeypatch.setattr("rsnn.data.frames.memory_bytes", lambda: 4 * 32_768)
    heard.said.clear()
    train(recipe(change, epochs=1), archive, tmp_path / "other", display=heard)
    assert not [line for line in heard.said if "4 frames of 16 x 16 pixels take" in line]


def test_patience_ends_a_phase(recipe, archive, tmp_path):
    metrics = train(recipe("validation.patience=1", "optimizer.lr=1e-12", epochs=9), archive, tmp_path)
    history, selected = metrics["phases"]["encoder"]["history"], metrics["phases"]["encoder"]["selected_epoch"]
    assert len(history) == min(selected + 1, 9)


def rates_of(kind, epochs=3, updates=4, **settings):
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16))
    optimizer = optimizers.make_optimizer(model, Optimizer(kind="sgd", lr=1.0), Phase())
    schedule = optimizers.make_schedule(optimizer, Schedule(kind=kind, **settings), epochs, updates)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(epochs * updates):
            rates.append(optimizer.param_groups[0]["lr"])
            schedule.step()
    return rates


def test_schedules():
    cosine = rates_of("cosine")
    assert cosine == pytest.approx([(1 + np.cos(np.pi * k / 12)) / 2 for k in range(12)])
    warm = rates_of("cosine", warmup=0.25)
    assert warm[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert warm[-1] < 0.1
    assert rates_of("constant") == [1.0] * 12
    assert rates_of("constant", warmup=0.25) == pytest.approx([0.25, 0.5, 0.75] + [1.0] * 9)
    stepped = rates_of("step", step_epochs=1, factor=0.5, warmup=0.5)
    assert stepped == pytest.approx([1 / 7, 2 / 7, 3 / 7, 4 / 7, 2.5 / 7, 3 / 7] + [0.5] * 2 + [0.25] * 4)
    assert rates_of("step", step_epochs=1, factor=0.5) == [1.0] * 4 + [0.5] * 4 + [0.25] * 4
    cycle = rates_of("onecycle", warmup=0.25)
    assert max(cycle) == pytest.approx(1.0, abs=0.05)
    assert np.argmax(cycle) in (2, 3)
    assert rates_of("onecycle")[-1] < 0.1


@pytest.mark.parametrize(
    ("kind", "momentum"),
    [("sgd", [0.9] * 4), ("adamw", [0.95, 0.85, 0.875, 0.925]), ("adam", [0.95, 0.85, 0.875, 0.925])],
)
def test_one_cycle_by_hand(kind, momentum):
    """Four updates, the first below the rate: then (1 + cos(k pi / 3)) / 2 of the way from 0.04 / 10^4 to 1."""
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16))
    optimizer = optimizers.make_optimizer(model, Optimizer(kind=kind, lr=1.0, momentum=0.9), Phase())
    schedule = optimizers.make_schedule(optimizer, Schedule(kind="onecycle", warmup=0.4), 2, 2)
    rates, momenta = [], []
    for _ in range(4):
        group = optimizer.param_groups[0]
        rates.append(group["lr"])
        momenta.append(group["momentum"] if kind == "sgd" else group["betas"][0])
        optimizer.step()
        schedule.step()
    assert rates == pytest.approx([0.04, 1.0, 0.75 + 1e-6, 0.25 + 3e-6], abs=1e-9)
    assert momenta == pytest.approx(momentum)


def test_the_rates_of_encoder_and_classifier():
    model = rsnn.create_model("rsnn-nmnist-cl")
    groups = optimizers.make_optimizer(model, Optimizer(lr=3.0), Phase(encoder_lr=0.5)).param_groups
    assert {(g["name"].split()[0], g["lr"]) for g in groups} == {("encoder", 0.5), ("classifier", 3.0)}


def test_the_average_by_hand():
    model = rsnn.create_model("scnn-nmnist", frame_size=(16, 16))
    average = optimizers.Average(model, 0.75)
    name, weight = next(iter(model.named_parameters()))
    start = weight.detach().clone()
    for updates, step in ((0, 4.0), (2, 8.0), (40, 2.8)):
        with torch.no_grad():
            weight.copy_(start + step)
        average.update(model, updates)
    # Decays 1/10, 3/12 and 0.75: 0.9 * 4 = 3.6; 0.25 * 3.6 + 0.75 * 8 = 6.9; 0.75 * 6.9 + 0.25 * 2.8 = 5.875
    torch.testing.assert_close(average.tensors[name], start + 5.875)
    with optimizers.swapped(model, average):
        torch.testing.assert_close(weight, start + 5.875)
    torch.testing.assert_close(weight, start + 2.8)


def test_doubled_accumulation_is_the_doubled_batch(recipe, archive, tmp_path):
    train(recipe("loop.batch_size=4", "loop.accumulate=2"), archive, tmp_path / "two")
    train(recipe("loop.batch_size=8"), archive, tmp_path / "one")
    two, one = (weights(tmp_path / name)["last"] for name in ("two", "one"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_a_launchers_environment_does_not_change_the_recipe(recipe, archive, tmp_path, monkeypatch):
    accumulated = recipe("loop.accumulate=2", "loop.batch_size=2", "phases.encoder.epochs=1")
    train(accumulated, archive, tmp_path / "alone")
    monkeypatch.setenv("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    train(accumulated, archive, tmp_path / "launched")
    assert same(weights(tmp_path / "alone"), weights(tmp_path / "launched"))


def test_clipping_bounds_the_step(recipe, archive, tmp_path):
    settings = ("optimizer.kind=sgd", "optimizer.momentum=0", "optimizer.lr=1", "optimizer.weight_decay=0")
    chosen = recipe(*settings, "schedule.kind=constant", "loop.clip_norm=1e-3", "loop.batch_size=18", epochs=1)
    train(chosen, archive, tmp_path)
    from rsnn.training.phases import build
    from rsnn.training.sources import open_part

    start = build(chosen, "encoder", chosen.phases.encoder, open_part(archive)).state_dict()
    moved = torch.cat([(weights(tmp_path)["last"][name] - start[name]).flatten() for name in start])
    assert moved.norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.slow
def test_a_compiled_model_trains_the_same(recipe, archive, tmp_path):
    courses = [
        train(recipe(f"loop.compile={compiled}", name="scnn-nmnist"), archive, tmp_path / compiled)["phases"]
        for compiled in ("false", "true")
    ]
    plain, compiled = (course["classifier"]["history"] for course in courses)
    for ours, theirs in zip(compiled, plain, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-3)


def test_graphs_are_asked_for_by_one_process(recipe, archive, tmp_path, monkeypatch):
    called = []

    def graphed(objective):
        called.append(objective)
        return objective

    with monkeypatch.context() as patch:
        patch.setattr(loop.kernels, "graphed", graphed)
        train(recipe("loop.graphs=true", epochs=1), archive, tmp_path / "graphs")
    train(recipe(epochs=1), archive, tmp_path / "plain")
    assert len(called) == 1
    assert same(weights(tmp_path / "graphs"), weights(tmp_path / "plain"))
    monkeypatch.setattr(Accelerator, "num_processes", 2)
    with pytest.raises(ConfigError, match=r"2 train here; expected loop\.graphs=false"):
        train(recipe("loop.graphs=true", epochs=1), archive, tmp_path / "two")


def test_a_training_that_learns_nothing_is_warned_about(recipe, archive, tmp_path):
    heard = Heard()
    train(recipe("optimizer.lr=1e-12", name="scnn-nmnist", epochs=5), archive, tmp_path, display=heard)
    said = "\n".join(heard.warnings)
    assert "the loss has not moved in 5 epochs" in said
    assert "guessing gives 1.099" in said  # log 3
    assert "layer classifier.convs.0.lif is silent" in said


def test_what_guessing_gives_is_said_of_the_cross_entropy_alone(recipe, archive, tmp_path, monkeypatch):
    given = []
    monkeypatch.setattr(loop.watch, "history_warnings", lambda _, guess: given.append(guess) or [])
    for loss in ("cross_entropy", "rate_mse", "tet"):
        train(recipe(f"phases.classifier.loss={loss}", name="scnn-nmnist", epochs=1), archive, tmp_path / loss)
    assert given == [pytest.approx(np.log(3)), None, None]


def test_what_is_no_recipe_and_no_path(recipe, archive, tmp_path):
    with pytest.raises(ConfigError, match=r"recipe='rsnn-gesture-cl': expected a Recipe, as load_recipe"):
        train("rsnn-gesture-cl", archive, tmp_path)
    for arguments in ({"data": rsnn.data.EventArchive(archive)}, {"test": rsnn.data.EventArchive(archive)}):
        with pytest.raises(InputError, match=rf"{next(iter(arguments))} is a EventArchive; expected a path"):
            train(recipe(), **{"data": archive, "output": tmp_path, **arguments})
    with pytest.raises(ConfigError, match=r"overrides='seed=1': expected a list of such changes, as in \['seed=1'\]"):
        load_recipe("rsnn-gesture-cl", "seed=1")


@pytest.mark.parametrize("changes", [("data.normalize=clip", "data.clip_at=2"), ("data.normalize=per-sample",)])
def test_every_normalisation_can_be_trained_under(recipe, archive, tmp_path, changes):
    train(recipe(*changes, epochs=1), archive, tmp_path)
    preprocessing = rsnn.load(tmp_path / "model").preprocessing
    assert (preprocessing.normalize, preprocessing.clip_at) in (("clip", 2), ("per-sample", None))


def test_frames_from_the_cache_train_to_the_same_weights(recipe, archive, tmp_path, monkeypatch):
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "cache"))
    for cache in ("true", "false"):
        train(recipe(f"data.cache={cache}", *UNCHANGED, epochs=1), archive, tmp_path / cache)
    assert len(list((tmp_path / "cache" / "frames").glob("*/frames.bin"))) == 1
    assert same(weights(tmp_path / "true"), weights(tmp_path / "false"))


@pytest.mark.parametrize("name", ["model/thesis.py", "recipe.json", "curves.png", "encoder/notes.txt"])
def test_what_no_training_wrote_is_not_written_over(recipe, archive, tmp_path, name):
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text('{"pasta": 1}')
    (tmp_path / ".notes.tmp").write_text("mine")
    with pytest.raises(TrainingError, match=f"holds '{name.partition('/')[0]}', which no training wrote"):
        train(recipe(epochs=1), archive, tmp_path)
    assert own.read_text() == '{"pasta": 1}'
    assert (tmp_path / ".notes.tmp").read_text() == "mine"


def test_the_card_of_a_run_loads_the_run(recipe, archive, tmp_path):
    train(recipe(epochs=1), archive, tmp_path)
    card = (tmp_path / "model" / "README.md").read_text()
    assert '.from_pretrained("./this-folder")' in card
    assert 'from_pretrained("convlstm' not in card


def test_fine_tuning_learns_how_long_recordings_last(archive, tmp_path):
    made, part = load_recipe("fine-tune", ["start=rsnn-nmnist-cl"]), open_part(archive)
    name, phase = next(iter(made.phases))
    model = build(made, name, phase, part)
    median = np.median([part.read(i).duration_us for i in np.unique(np.linspace(0, 23, 100).astype(int))])
    assert model.preprocessing.window_ms == round(median / 1000)


def test_a_recipe_that_nobody_checked(archive, tmp_path):
    with pytest.raises(ConfigError):
        train(Recipe(), archive, tmp_path)


@pytest.mark.parametrize(
    ("sensor", "place", "message"), [((40, 16), 0, "has no events in the centred"), ((8, 8), 1, "8 x 8")]
)
def test_recordings_that_cannot_be_tested_on_are_known_before_the_training(
    recipe, archive, tmp_path, sensor, place, message
):
    arrays = {
        "t": [1, 2],
        "x": [20 % sensor[0], place],
        "y": [1, 1],
        "p": [1, 0],
        "offsets": [0, 1, 2],
        "label": [0, 1],
    }
    names = {"id": ["good", "bad"], "class_names": ["left", "right", "top"], "sensor_size": sensor}
    np.savez(tmp_path / "test.npz", **arrays, **names)
    with pytest.raises(InputError, match=f"(good|bad) of .*{message}"):
        train(recipe(epochs=1), archive, tmp_path / "run", test=tmp_path / "test.npz")
    assert not (tmp_path / "run" / "encoder").exists()
