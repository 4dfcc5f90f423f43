"""Work on all cores: processes that end with the one that started them, and errors that say what a script lacks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

from rsnn.errors import InputError, RSNNError
from rsnn.interrupts import EXIT_CODE

CLEARING_UP_S = 5.0  # that an interrupted process has at most to take away what it has half-written
_ADVICE = (
    'expected this call below `if __name__ == "__main__":` of a script, since each process runs the rest of it; '
    "jobs=1, or loop.workers=0 of a training, start no processes"
)


def check_not_started_again() -> None:
    """Raise InputError in a process that was started to do a part of the work and runs the whole script again.

    To be called before a lock is taken, which the parent holds: multiprocessing finds out itself, but later.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InputError(f"a process that was started to do a part of the work ran the script again; {_ADVICE}")


@contextlib.contextmanager
def pool(jobs: int) -> Iterator[ProcessPoolExecutor]:
    """Yield an executor of so many processes, of one thread each.

    Raises:
        RSNNError: one of them ended before its work was done.

    """
    one_thread = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    spawn = multiprocessing.get_context("spawn")
    with _environment(one_thread), _Executor(jobs, spawn, initializer=_end_with_parent) as executor:
        try:
            yield executor
        except BrokenProcessPool as error:
            raise RSNNError(
                "a process that simulated recordings ended before its work was done. Where memory ran out, fewer jobs "
                f"need less; in a script, {_ADVICE}"
            ) from error
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise


def _end_with_parent() -> None:
    """Let this process end when the one that started it does, however that ends, and without a word at Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _stop)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _stop(*_: object) -> None:
    """End the work at hand, and then this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # once: what is half-written is being taken away
    end = threading.Timer(CLEARING_UP_S, os._exit, (EXIT_CODE,))
    end.daemon = True
    end.start()
    sys.exit(EXIT_CODE)


class _Executor(ProcessPoolExecutor):
    """An executor whose processes end where their work does, in place of taking up what is waiting."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_unless_stopped, fn, *args, **kwargs)


def _unless_stopped(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except SystemExit:
        os._exit(EXIT_CODE)


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
