"""What a DVS pixel array does, in numbers: the parameters of the pixel model and named sets of them.

Names follow v2e (Hu, Liu and Delbruck, "v2e: From Video Frames to Realistic DVS Events", CVPRW 2021) and, where
v2e has none, ESIM (Rebecq, Gehrig and Scaramuzza, "ESIM: an Open Event Camera Simulator", CoRL 2018).
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from rsnn.checks import as_float, is_number
from rsnn.errors import ConfigError, UnknownNameError, shown, suggest

# Largest values, beyond what any sensor does and within what numbers and memory hold, by the end of a name.
_LARGEST: dict[str | tuple[str, ...], float] = {
    ("_fraction", "_probability", "_crosstalk"): 1.0,
    "_decades": 3.0,
    ("leak_rate_hz", "noise_rate_hz", "pixel_rate_hz"): 1e6,  # one in a microsecond
    ("cutoff_hz", "readout_rate_hz"): 1e12,
    ("_thres", "_eps", "_s"): 1e6,
}


@dataclass(frozen=True)
class DVSParameters:
    """Parameters of the pixel model; the defaults are an ideal pixel.

    Thresholds are steps of the natural logarithm of intensity, rates of noise are events per pixel and second.

    Args:
        pos_thres: ON threshold (v2e `pos_thres`, ESIM `contrast_threshold_pos`).
        neg_thres: OFF threshold (v2e `neg_thres`, ESIM `contrast_threshold_neg`).
        sigma_thres: standard deviation of both thresholds over the pixels, fixed for a recording
            (v2e `sigma_thres`, ESIM `contrast_threshold_sigma_*`; Lichtsteiner et al. 2008 measured 2.1 % of
            contrast on the DVS128).
        log_eps: added to the intensity (0 to 1) before the logarithm (ESIM `log_eps`); it stands for dark current
            and lens glare and bounds the contrast of dark places.
        refractory_period_s: after an event a pixel is held in reset this long and then takes the present brightness
            as its new reference (Lichtsteiner et al. 2008; v2e `refractory_period_s`, ESIM `refractory_period_ns`).
        cutoff_hz: 3 dB frequency of the photoreceptor at full intensity; 0 = no limit. The pole falls with
            intensity as (0.1 + 0.9 I) (v2e `cutoff_hz`).
        leak_rate_hz: ON events from the leak of the reset switch (v2e `leak_rate_hz`; Nozaki and Delbruck 2017), of a
            pixel without others: each event, noise too, resets it.
        shot_noise_rate_hz: noise events of either polarity in the dark; falls to a quarter of that at full intensity
            (v2e `shot_noise_rate_hz`).
        noise_rate_cov_decades: spread of the leak and noise rates over the pixels, log-normal, in decades
            (v2e `noise_rate_cov_decades`).
        hot_pixel_fraction: share of the pixels that are hot.
        hot_pixel_rate_hz: rate of the ON events that a hot pixel adds.
        readout_rate_hz: events a second of all pixels that the bus can carry; later ones queue. 0 = no limit.
        row_jitter_s: a row is granted the bus at most once in this time and then hands over all its events at once,
            with one timestamp (row arbitration of address-event readouts; Boahen 2000). 0 = at once.
        row_crosstalk: share of the events that make another pixel of their row fire as well; on narrow sensors less,
            for places beyond the edge are lost.
        repeat_probability: probability that an ON event is sent again within a microsecond or two, and perhaps
            again, as the DVS128 of the DVS128 Gesture recordings does.
        rebound_probability: probability that an OFF event follows an ON event within a millisecond at the same pixel,
            as in those recordings.

    Raises:
        ConfigError: a value is not a number in its range.

    """

    pos_thres: float = 0.2
    neg_thres: float = 0.2
    sigma_thres: float = 0.0
    log_eps: float = 0.02
    refractory_period_s: float = 0.0
    cutoff_hz: float = 0.0
    leak_rate_hz: float = 0.0
    shot_noise_rate_hz: float = 0.0
    noise_rate_cov_decades: float = 0.0
    hot_pixel_fraction: float = 0.0
    hot_pixel_rate_hz: float = 0.0
    readout_rate_hz: float = 0.0
    row_jitter_s: float = 0.0
    row_crosstalk: float = 0.0
    repeat_probability: float = 0.0
    rebound_probability: float = 0.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0.01 if field.name in ("pos_thres", "neg_thres") else 1e-6 if field.name == "log_eps" else 0.0
            most = next(largest for ends, largest in _LARGEST.items() if field.name.endswith(ends))
            if not is_number(value) or not least <= value <= most:
                raise ConfigError(f"{field.name} is {shown(value)}; expected a number between {least} and {most}")
            object.__setattr__(self, field.name, as_float(value))


PRESETS = {
    # The two sets that v2e offers by name.
    "clean": DVSParameters(sigma_thres=0.02),
    "noisy": DVSParameters(
        sigma_thres=0.05, cutoff_hz=30.0, leak_rate_hz=0.1, shot_noise_rate_hz=5.0, noise_rate_cov_decades=0.1
    ),
    # Fitted to what the four DVS128 Gesture clips show at single pixels (docs/simulate.md).
    "dvs128": DVSParameters(
        pos_thres=0.22,
        neg_thres=0.22,
        sigma_thres=0.035,
        refractory_period_s=0.0004,
        cutoff_hz=150.0,
        leak_rate_hz=0.06,
        shot_noise_rate_hz=0.12,
        noise_rate_cov_decades=0.35,
        hot_pixel_fraction=0.0003,
        hot_pixel_rate_hz=10.0,
        readout_rate_hz=1e6,
        row_crosstalk=0.03,
        repeat_probability=0.2,
        rebound_probability=0.2,
    ),
}


def resolve_parameters(parameters: DVSParameters | str) -> DVSParameters:
    """Return the parameters, looked up in `PRESETS` if they are a name.

    Raises:
        UnknownNameError: no set has this name.
        ConfigError: it is neither parameters nor a name.

    """
    if isinstance(parameters, DVSParameters):
        return parameters
    if not isinstance(parameters, str):
        raise ConfigError(f"parameters is a {type(parameters).__name__}; expected DVSParameters or a preset's name")
    if parameters not in PRESETS:
        raise UnknownNameError(
            f"there is no preset {parameters!r}; expected one of {', '.join(PRESETS)}.{suggest(parameters, PRESETS)}"
        )
    return PRESETS[parameters]
