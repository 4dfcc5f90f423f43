"""What a person sees of a training: nothing, a bar and a line for each epoch, or TensorBoard's logs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from rsnn.errors import MissingDependencyError
from rsnn.training.state import Place, cannot_write


class Display:
    """Shows nothing; the base of those that do."""

    def begin(self, phase: str, epochs: int, updates: int, place: Place) -> None:
        """Take note that a phase begins, or goes on, at `place`."""

    def update(self, place: Place) -> None:
        """Take note of an update."""

    def epoch(self, place: Place, warnings: list[str]) -> None:
        """Take note of an epoch, the last of the place's history, and of what gave reason to warn."""

    def end(self, place: Place) -> None:
        """Take note that the phase ends."""

    def say(self, text: str) -> None:
        """Show a line."""

    def close(self) -> None:
        """Take off the screen what is not to stay there."""


class ConsoleDisplay(Display):
    """A bar with loss, speed and the time left, and a line for each epoch."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._total = 0
        self._updates = 0

    def begin(self, phase: str, epochs: int, updates: int, place: Place) -> None:
        self._updates, self._total = updates, epochs
        columns = (
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[now]}"),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=self.console, transient=True, disable=not self.console.is_terminal)
        done = place.epoch * updates + place.update
        self._task = self._progress.add_task(phase, total=epochs * updates, completed=done, now="")
        self._progress.start()

    def update(self, place: Place) -> None:
        assert self._progress is not None
        sums = place.sums
        now = (
            f"epoch {place.epoch + 1}, loss {sums['loss'] / sums['recordings']:.3f}, "
            f"accuracy {sums['right'] / sums['recordings']:.1%}, "
            f"{sums['recordings'] / max(sums['seconds'], 1e-9):.1f} samples/s"
        )
        self._progress.update(self._task, completed=place.epoch * self._updates + place.update, now=now)

    def epoch(self, place: Place, warnings: list[str]) -> None:
        course = place.history[-1]
        rates = [f"{100 * rate:.1f}" for rate in course["rates"].values()]
        fired = f", firing % by layer {' '.join(rates)}" if rates else ""
        mark = " [green]best[/]" if place.selected_epoch == place.epoch else ""
        self.console.print(
            f"{place.phase} {course['epoch']}/{self._total}: loss {course['loss']:.3f}, train "
            f"{course['train_accuracy']:.1%}, validation [bold]{course['accuracy']:.1%}[/]{mark} "
            f"(cross-entropy {course['cross_entropy']:.3f}), {course['samples_per_second']:.1f} samples/s{fired}",
            highlight=False,
            soft_wrap=True,
        )
        for warning in warnings:
            self.console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)

    def end(self, place: Place) -> None:
        self.close()
        if place.history:
            best = place.history[place.selected_epoch - 1]
            self.say(
                f"{place.phase}: epoch {place.selected_epoch} selected, validation {best['accuracy']:.1%}; last epoch "
                f"{place.history[-1]['accuracy']:.1%}"
            )

    def say(self, text: str) -> None:
        self.console.print(escape(text), highlight=False, soft_wrap=True)

    def close(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class TensorBoardDisplay(Display):
    """Writes the course of every phase for TensorBoard, and hands everything on to another display.

    Raises:
        MissingDependencyError: the package is not installed.
        TrainingError: the folder cannot be written, once a phase begins.

    """

    def __init__(self, inner: Display, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise MissingDependencyError(
                "--tensorboard needs the package tensorboard: pip install 'rsnn[tensorboard]'"
            ) from error
        self.inner, self.folder = inner, folder
        self._make: Callable[[str], Any] = SummaryWriter
        self._writer: Any = None

    def begin(self, phase: str, epochs: int, updates: int, place: Place) -> None:
        if self._writer is None:
            with self._written():
                self._writer = self._make(str(self.folder))
        self.inner.begin(phase, epochs, updates, place)

    def update(self, place: Place) -> None:
        self.inner.update(place)

    def epoch(self, place: Place, warnings: list[str]) -> None:
        course = dict(place.history[-1])
        with self._written():
            for name, rate in course.pop("rates").items():
                self._writer.add_scalar(f"{place.phase}/rate/{name}", rate, course["epoch"])
            for name, value in course.items():
                if name != "epoch":
                    self._writer.add_scalar(f"{place.phase}/{name}", float(value), course["epoch"])
            self._writer.flush()
        self.inner.epoch(place, warnings)

    def end(self, place: Place) -> None:
        self.inner.end(place)

    def say(self, text: str) -> None:
        self.inner.say(text)

    def close(self) -> None:
        self.inner.close()
        if self._writer is not None:
            with contextlib.suppress(OSError):  # of an error that has been said
                self._writer.close()
            self._writer = None

    @contextlib.contextmanager
    def _written(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise cannot_write(self.folder, error, "without --tensorboard nothing is written there") from error
