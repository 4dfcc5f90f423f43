"""Processes that use the library as a user's would, each with an environment of its own.

huggingface_hub reads its environment when it is imported, so every client is a fresh process, forked from one that has
imported rsnn, which is the slow part, and not huggingface_hub.
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import multiprocessing
import os
import resource
import signal
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from hub_models import small_model

import rsnn

_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["rsnn"])


class Loaded(NamedTuple):
    """What a client tells of a model it loaded."""

    kind: str
    class_names: tuple[str, ...] | None
    digest: str


def digest(model: rsnn.RSNN) -> str:
    """Return one hash of all weights, names and shapes included."""
    result = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        result.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        result.update(tensor.detach().numpy().tobytes())
    return result.hexdigest()


def describe(model: Any) -> Loaded:
    """Return what is compared of a model."""
    return Loaded(type(model).__name__, model.class_names, digest(model))


class Client:
    """A process with its own environment; call it with a function of this module and its arguments."""

    def __init__(self, environment: dict[str, str]) -> None:
        self.pool = ProcessPoolExecutor(1, mp_context=_CONTEXT, initializer=_enter, initargs=(environment,))

    def __call__(self, function: Any, *args: Any, **kwargs: Any) -> Any:
        return self.pool.submit(function, *args, **kwargs).result(timeout=60)

    def close(self) -> None:
        """End the process."""
        self.pool.shutdown()


def _enter(environment: dict[str, str]) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("HF_")]:
        del os.environ[name]
    os.environ.update(environment)


def load(source: str, **options: Any) -> Loaded:
    """Load whatever `source` names."""
    return describe(rsnn.load(source, **options))


def load_in(folder: str, source: str) -> Loaded:
    """Load whatever `source` names from the working directory `folder`."""
    os.chdir(folder)
    return load(source)


def load_as(kind: str, source: str, **options: Any) -> Loaded:
    """Load `source` through the class of that name."""
    return describe(getattr(rsnn, kind).from_pretrained(source, **options))


def load_entry(entry: Any, **options: Any) -> Loaded:
    """Load a zoo name whose only weights are `entry`."""
    from rsnn import hub

    hub.register([entry], [entry.name])
    return describe(rsnn.load(entry.name, **options))


def save(folder: str, class_names: tuple[str, ...], seed: int) -> None:
    """Save a small model of these class names and weights."""
    small_model(seed, class_names).save_pretrained(folder)


def save_interrupted(folder: str, class_names: tuple[str, ...], seed: int, step: int, how: str) -> bool:
    """Save as `save` does, and interrupt it before its nth change of `folder`; tell whether it came to an end.

    `how`: "kill" ends the process there and then, "fail" is a disk that is full at that moment.
    """
    steps = itertools.count()

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("open", "os.rename", "os.remove") and str(arguments[0]).startswith(folder) and next(steps) == step:
            if how == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(errno.ENOSPC, "No space left on device")

    model = small_model(seed, class_names)
    sys.addaudithook(watch)
    model.save_pretrained(folder)
    return True


def save_with_little_room(folder: str, class_names: tuple[str, ...], seed: int, most_bytes: int) -> None:
    """Save as `save` does where no file may grow beyond `most_bytes`."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    save(folder, class_names, seed)


def limit_memory(more_bytes: int) -> None:
    """Let the process have this much more memory than it has now."""
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + more_bytes, now + more_bytes))


def memory_of_refusal(folder: str) -> int:
    """Return by how many bytes the process grew at most while it refused to load `folder`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        rsnn.load(folder)
    except rsnn.RSNNError:
        return 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    raise AssertionError(f"{folder} was loaded")


def push(folder: str, repo: str, **options: Any) -> str:
    """Publish the checkpoint in `folder`."""
    return rsnn.load(folder).push_to_hub(repo, **options)


def push_folder(folder: str, repo: str, **options: Any) -> str:
    """Publish a checkpoint's folder as it stands."""
    from rsnn import hub

    return hub.push(folder, repo, **options)
