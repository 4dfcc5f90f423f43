"""What the documentation shows is run as it stands; its commands, which would take long, are read as `rsnn` does."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import torch
import typer

import rsnn
from rsnn.cli import app
from rsnn.data import samples as shipped
from rsnn.data import write_events
from rsnn.training import load_recipe

ROOT = Path(__file__).parents[1]
PAGES = {page.name: page.read_text("utf-8") for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
ELSEWHERE = ("README.md", "fine-tuning.md")  # whose Python has tests of its own
COMMANDS = typer.main.get_command(app)
VARIABLES = {"$model": "rsnn-nmnist-cl", "$seed": "0", "$short": "", "$epochs": ""}


def fenced(page, languages):
    return re.findall(rf"^```(?:{languages})\n(.*?)^```$", PAGES[page], flags=re.M | re.S)


def digit():
    """The recording that ships, as the chunks of a camera."""
    events = rsnn.read_events(shipped.path())
    return [events.between(t, t + 50_000) for t in range(int(events.t[0]), int(events.t[-1]), 50_000)]


def for_checkpoints(monkeypatch):
    """The Hub is a folder here."""
    load = rsnn.load
    monkeypatch.setattr(rsnn.RSNN, "push_to_hub", lambda model, name: model.save_pretrained(f"./{name}"))
    monkeypatch.setattr(rsnn, "load", lambda name: load(f"./{name}"))
    model = rsnn.zoo.load("rsnn-gesture-cl")
    rsnn.export.to_onnx(model, "gesture.onnx")
    return {"frames": np.random.default_rng(0).poisson(0.1, (3, 1, 2, 128, 128)).astype(np.float32)}


def for_energy(_monkeypatch):
    return {"recordings": torch.poisson(torch.full((4, 1, 2, 34, 34), 0.3))}


def for_kernels(_monkeypatch):
    model = rsnn.create_model("rsnn-nmnist-cl", num_frames=4)
    return {
        "rsnn": rsnn,
        "torch": torch,
        "F": torch.nn.functional,
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
        **({"frames": torch.ones(4, 2, 2, 34, 34).cuda(), "labels": torch.ones(2).long().cuda()} if GPU else {}),
    }


def for_recordings(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "tests" / "data")
    import miniatures

    monkeypatch.setenv("HOME", str(Path.cwd()))
    miniatures.expect_gestures(monkeypatch)
    miniatures.gesture_folder(Path("data/gesture/DvsGesture"))
    for name in ("clip.aedat", "long.raw"):
        write_events(name, miniatures.recording(name))
    return {}


def for_simulate(_monkeypatch):
    pytest.importorskip("av")
    from PIL import Image

    moving = np.zeros((6, 2, 24, 24))
    moving[range(6), 1, 8:16, range(6, 12)] = 1
    for name in ("clip.mp4", "long.mp4"):
        rsnn.plots.save_video(moving, name)
    Image.fromarray((255 * moving[0, 1]).astype(np.uint8)).save("photo.jpg")
    return {"images": list(moving[:, 1]), "times_us": range(0, 6000, 1000)}


def for_streaming(_monkeypatch):
    chunks = digit()
    return {"camera": chunks, "chunk_a": chunks[0], "chunk_c": chunks[0], "chunk_d": chunks[1]}


GPU = torch.cuda.is_available()
PREPARED = {
    "checkpoints.md": for_checkpoints,
    "energy.md": for_energy,
    "kernels.md": for_kernels,
    "recordings.md": for_recordings,
    "simulate.md": for_simulate,
    "streaming.md": for_streaming,
}
SLOW = ("checkpoints.md",)


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=pytest.mark.slow if page in SLOW else ())
        for page in PAGES
        if page not in ELSEWHERE and fenced(page, "python")
    ],
)
def test_the_python_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSNN_CACHE", str(tmp_path / "cache"))
    names = PREPARED.get(page, lambda _: {})(monkeypatch)
    try:
        for block in fenced(page, "python"):
            if GPU or ".cuda()" not in block:
                lines = [line for line in block.splitlines() if GPU or "on a GPU" not in line]
                exec(compile("\n".join(lines), f"docs/{page}", "exec"), names)
    finally:
        rsnn.kernels.use("auto")


def test_the_names_in_comments_are_what_comes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    exec(fenced("gestures.md", "python")[0], names)
    assert "clip 7 of the eleven classes in turn: an arm_roll" in PAGES["gestures.md"]
    assert names["clips"].class_names[names["label"]] == "arm_roll"


def shell_lines():
    """Every line of every block of shell commands, without its comment: (page, line)."""
    for page, text in PAGES.items():
        blocks = "\n".join([*fenced(page, "sh|bash"), *re.findall(r"(?:^|\n\n)((?:    .*\n)+)", text)])
        for variable, value in VARIABLES.items():
            blocks = blocks.replace(variable, value)
        for line in blocks.replace("\\\n", " ").splitlines():
            yield page, line.split(" #")[0].strip()


RSNN_LINES = [
    (page, found) for page, line in shell_lines() for found in re.findall(r"(?:^|\| |-m )rsnn ([a-z]+ ?[^|;]*)", line)
]


@pytest.mark.parametrize(("page", "line"), RSNN_LINES, ids=[f"{page}: {line}" for page, line in RSNN_LINES])
def test_a_command_of_a_page_is_one(page, line):
    name, *words = shlex.split(line)
    context = COMMANDS.commands[name].make_context(name, words.copy())
    models = {*rsnn.list_models(), *rsnn.list_models(pretrained=True)}
    given = context.params.get("model")
    if given not in (None, "NAME") and not given.startswith("./"):
        assert given in models
    if name == "train":
        changes = [*context.params["changes"]]
        start = context.params["start"]
        load_recipe(context.params["recipe"] or "fine-tune", [*changes, *([f"start={start}"] if start else [])])


def test_options_in_the_text_are_those_of_the_commands():
    found = [(page, code) for page, text in PAGES.items() for code in re.findall(r"`rsnn ([a-z]+ [^`]*)`", text)]
    assert len(found) > 10
    for page, code in found:
        name, *words = code.split("|")[0].split()
        known = {option for parameter in COMMANDS.commands[name].params for option in parameter.opts} | {"--help"}
        assert {word.partition("=")[0] for word in words if word.startswith("--")} <= known, (page, code)


def test_scripts_and_their_options_are_there():
    found = [(page, line) for page, line in shell_lines() if re.match(r"(python )?(scripts|examples)/", line)]
    assert len(found) > 10
    for page, line in found:
        words = [word for word in shlex.split(line) if word != "python"]
        script = ROOT / words[0]
        assert script.is_file(), (page, line)
        for word in words:
            if word.startswith("--"):
                assert f'"{word}"' in script.read_text("utf-8"), (page, line)
