"""How a stream is cut: how long a step lasts, how long evidence is gathered, how often there is a prediction."""

from __future__ import annotations

from dataclasses import dataclass

from rsnn.checks import check_whole, is_number
from rsnn.errors import InputError

DEFAULT_WINDOW_US = 1_000_000


@dataclass(frozen=True)
class Timing:
    """Steps, windows and hops of a stream.

    A window is what a recording was in training: T steps of equal duration. Step k of a stream that began at time t_0
    holds the events with t_0 + k W / T <= t < t_0 + (k + 1) W / T, exactly (no rounding to whole microseconds).

    Attributes:
        window_us: W, the duration of a window.
        num_frames: T, the steps of a window.
        hop_steps: steps from one prediction to the next.
        stride_steps: steps from the start of one window to the start of the next.

    """

    window_us: int
    num_frames: int
    hop_steps: int
    stride_steps: int

    @classmethod
    def of(cls, num_frames: int, window_us: int, hop_us: int | None, overlap: int) -> Timing:
        """Check a user's numbers.

        Args:
            num_frames: T.
            window_us: W, at least one microsecond a step.
            hop_us: time between predictions, a whole number of steps that divides the window; one step where None.
            overlap: windows that run at once; a divisor of T.

        Raises:
            InputError: a number is out of its range.

        """
        window_us = check_whole("window_us", window_us, num_frames)
        overlap = check_whole("overlap", overlap, 1)
        divisors = [n for n in range(1, num_frames + 1) if num_frames % n == 0]
        if overlap not in divisors:
            raise InputError(
                f"overlap={overlap}: expected a divisor of the window's {num_frames} steps, one of {divisors}"
            )
        hop_steps = 1
        if hop_us is not None:
            hop_us = check_whole("hop_us", hop_us, 1)
            # A step need not be a whole number of microseconds: a hop within one of `n` steps is `n` steps.
            near = [n for n in divisors if abs(hop_us * num_frames - n * window_us) < num_frames]
            if not near:
                fitting = ", ".join(str(round(n * window_us / num_frames)) for n in divisors)
                raise InputError(
                    f"hop_us={hop_us}: expected whole steps that divide the window of {window_us} us, one of {fitting}"
                )
            hop_steps = near[0]
        return cls(window_us, num_frames, hop_steps, num_frames // overlap)

    def start_us(self, step: int) -> int:
        """Return the first whole microsecond of a step, counted from the stream's beginning."""
        return -(-step * self.window_us // self.num_frames)

    def step_at(self, elapsed_us: int) -> int:
        """Return the step that a time, counted from the stream's beginning, lies in."""
        return elapsed_us * self.num_frames // self.window_us


def microseconds(name: str, seconds: float | None, exact_us: int | None) -> int | None:
    """Return a duration given in seconds or in microseconds; None for neither.

    Raises:
        InputError: both were given, or the seconds are no positive number below a day.

    """
    if seconds is None:
        return exact_us
    if exact_us is not None:
        raise InputError(f"got {name}={seconds!r} seconds and {name}_us={exact_us!r}; expected one of them")
    if not is_number(seconds) or not 0 < seconds < 86_400:
        raise InputError(
            f"{name}={seconds!r}: expected seconds, above 0 and less than a day; {name}_us takes microseconds"
        )
    return round(seconds * 1e6)
