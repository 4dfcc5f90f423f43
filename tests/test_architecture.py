"""Imports go one way, public names are those that are listed, and importing the package stays light."""

from __future__ import annotations

import ast
import importlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import rsnn

PACKAGE = Path(rsnn.__file__).parent

# What each part may import of the others, wherever in its files the import stands. A back-reference is a type-only one.
MAY_IMPORT = {
    "errors": "",
    "checks": "errors",
    "interrupts": "",
    "lazy": "",
    "data": "checks errors interrupts lazy",
    "kernels": "checks errors",
    "hub": "checks errors",
    "nn": "checks errors kernels",
    "streaming": "checks errors data kernels lazy nn",
    "energy": "checks errors data kernels nn",
    "models": "checks errors data hub kernels nn streaming",
    "zoo": "checks errors data hub kernels models nn",
    "plots": "checks errors data kernels models nn zoo",
    "evaluation": "checks errors data kernels models nn zoo",
    "export": "checks errors data kernels models nn zoo",
    "bench": "checks errors data energy kernels models nn streaming zoo",
    "training": "checks errors data energy evaluation hub kernels models nn plots zoo",
    "__init__": "checks errors data energy hub interrupts kernels lazy models nn streaming zoo",
    "__main__": "cli",
    "cli": (
        "checks errors data energy evaluation export hub interrupts kernels models nn plots bench streaming training "
        "zoo"
    ),
}
# ... and of these not even types.
NEVER = {
    "data": "nn kernels models hub zoo streaming",
    "kernels": "nn models hub zoo data",
    "nn": "models hub zoo data",
    "hub": "models zoo nn data",
}


def top(path: Path) -> str:
    """Return the part of the package that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """Yield (part, line, only for types) of each import of the package's own parts; `rsnn` is the package itself."""
    typed = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            typed |= {id(inner) for statement in node.body for inner in ast.walk(statement)}
    for node in ast.walk(tree):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.level:
            raise AssertionError(f"line {node.lineno}: a relative import; expected `from rsnn.x import y`")
        if isinstance(node, ast.ImportFrom) and node.module == "rsnn":
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("rsnn."):
            names = [str(node.module).split(".")[1]]
        elif isinstance(node, ast.Import):
            dotted = [alias.name.split(".") for alias in node.names if alias.name.split(".")[0] == "rsnn"]
            names = [parts[1] if len(parts) > 1 else "rsnn" for parts in dotted]
        for name in names:
            yield name, node.lineno, id(node) in typed  # type: ignore[attr-defined]


def violations(part: str, tree: ast.AST) -> list[str]:
    """Say which imports of a file of `part` go the wrong way."""
    allowed = {part, *MAY_IMPORT[part].split()}
    wrong = []
    for name, line, only_types in imports(tree):
        # The command line is a user of the library: it alone may go through the front door.
        front_door = name == "rsnn" or (name in rsnn.__all__ and name not in MAY_IMPORT)
        fine = part == "cli" if front_door else name in allowed
        if not fine and not (only_types and name not in NEVER.get(part, "").split()):
            wrong.append(f"line {line}: {part} imports {name}")
    return wrong


FILES = sorted(path for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    assert top(path) in MAY_IMPORT, f"a new part of the package: say in {Path(__file__).name} what it may import"
    assert violations(top(path), ast.parse(path.read_text("utf-8"))) == []


def test_the_allowed_imports_have_no_circle():
    seen: list[str] = []
    left = dict(MAY_IMPORT)
    while left:
        ready = [part for part, others in left.items() if set(others.split()) <= set(seen)]
        assert ready, f"a circle among {sorted(left)}"
        seen += ready
        for part in ready:
            del left[part]


@pytest.mark.parametrize(
    ("part", "text", "wrong"),
    [
        ("nn", "from rsnn.models import RSNN", True),
        ("nn", "def f():\n    from rsnn import models", True),
        ("nn", "import rsnn.models.base", True),
        ("nn", "import rsnn", True),
        ("nn", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rsnn.models import RSNN", True),
        ("streaming", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from rsnn.models import RSNN", False),
        ("streaming", "from rsnn.models import RSNN", True),
        ("models", "from rsnn import load", True),
        ("cli", "import rsnn", False),
        ("nn", "from rsnn.kernels import lif\nfrom rsnn.nn.lif import LIF\nimport torch", False),
    ],
)
def test_what_the_check_finds(part, text, wrong):
    assert bool(violations(part, ast.parse(text))) == wrong


# Names


def exported(module: ModuleType) -> set[str]:
    """Return what a module offers besides other modules: names without an underscore."""
    return {name for name, value in vars(module).items() if name[0] != "_" and not isinstance(value, ModuleType)}


def test_parts_are_attributes_and_listed_without_an_import():
    """Every name of the reference, and every part with public names, of a process that imported the package alone."""
    reference = (PACKAGE.parent / "docs" / "reference.md").read_text("utf-8")
    parts = [f"rsnn.{name}" for name in MAY_IMPORT if name not in ("__init__", "__main__", "cli", "checks", "lazy")]
    wanted = [*re.findall(r"^::: (rsnn\S*)", reference, re.M), *parts]
    assert len(wanted) > 30
    code = (
        "import rsnn, sys\n"
        "for path in sys.argv[1:]:\n"
        "    owner = rsnn\n"
        "    for name in path.split('.')[1:]:\n"
        "        assert name in dir(owner), path\n"
        "        owner = getattr(owner, name)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code, *wanted], capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@pytest.mark.parametrize("name", ["rsnn", "rsnn.data", "rsnn.streaming"])
def test_what_is_no_part_is_no_attribute(name):
    with pytest.raises(AttributeError, match=f"module '{name}' has no attribute 'trainig'"):
        importlib.import_module(name).trainig  # noqa: B018


def test_public_names_are_the_real_exports():
    submodules = {name for name in rsnn.__all__ if isinstance(getattr(rsnn, name), ModuleType)}
    assert submodules == {"kernels", "nn"}
    assert set(rsnn.__all__) - submodules == exported(rsnn)


@pytest.mark.parametrize("name", ["rsnn", *(f"rsnn.{path.parent.name}" for path in PACKAGE.glob("*/__init__.py"))])
def test_lists_of_names_are_sorted_complete_and_true(name):
    module = importlib.import_module(name)
    listed = list(module.__all__)
    # Constants, then classes, then the rest, each in order: as ruff sorts them.
    assert listed == sorted(listed, key=lambda n: (not n.isupper(), not n[0].isupper(), n))
    assert len(set(listed)) == len(listed)
    assert all(hasattr(module, entry) for entry in listed)


USERS_RELY_ON = {
    rsnn: (
        *("RSNN", "ConvLSTMClassifier", "SCNN", "create_model", "list_models", "load", "read_events", "to_frames"),
        *("energy_report", "Events", "RSNNError", "Preprocessing", "Prediction", "kernels", "nn"),
    ),
    rsnn.kernels: ("available", "selected", "use"),
    rsnn.nn: (
        *("ConvLSTM", "ConvLSTMAttention", "LIF", "SCNN", "DecisionHead"),
        *("LastFrame", "SumFrames", "MeanFrames", "ConcatFrames", "LSTMHead"),
    ),
    rsnn.RSNN: (
        *("from_pretrained", "save_pretrained", "push_to_hub", "predict", "stream"),
        *("forward_features", "get_classifier", "reset_classifier", "from_rnn"),
    ),
}


@pytest.mark.parametrize("owner", USERS_RELY_ON, ids=lambda owner: owner.__name__)
def test_the_names_that_users_rely_on(owner):
    assert [name for name in USERS_RELY_ON[owner] if not hasattr(owner, name)] == []


# Weight


@pytest.fixture(scope="module")
def loaded():
    """What a fresh process has imported: after torch, and after rsnn as well."""
    code = (
        "import json, sys, torch, numpy; torch_has = list(sys.modules)\n"
        "import rsnn; print(json.dumps([torch_has, list(sys.modules)]))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    before, after = json.loads(ran.stdout)
    return set(before), set(after)


def test_importing_brings_little_beyond_torch(loaded):
    before, after = loaded
    packages = {name.partition(".")[0] for name in after - before} - set(sys.stdlib_module_names)
    assert packages <= {"rsnn", "jaxtyping", "numpy", "packaging", "safetensors", "torch", "wadler_lindig"}


def test_parts_that_few_need_wait_until_they_are_used(loaded):
    before, after = loaded
    for part in ("cli", "evaluation", "plots", "training", "data.simulate", "export", "bench"):
        assert f"rsnn.{part}" not in after
    few = {"accelerate", "cupy", "huggingface_hub", "matplotlib", "rich", "spikingjelly", "torch._dynamo", "typer"}
    assert few & (after - before) == set()
