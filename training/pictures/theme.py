"""Style that all figures share: colors and wording."""

from typing import Any

import numpy as np
from matplotlib.colors import to_rgb

INK = "#22262e"  # titles and labels
MUTED = "#6b7280"  # secondary text
FAINT = "#d5d9e0"  # axes, grids
BLUE = "#3f5fd0"
ORANGE = "#e8862e"
DIVERGING = ("#1c2766", BLUE, "#f4f5f8", ORANGE, "#7f3606")  # from -1 over 0 to 1

# Hues in degrees at the left and right ends of the plane, at its bottom and at its top, and the
# lightness of bottom and top. All colors are visible on white.
BOTTOM_HUES = (272.0, 385.0)
TOP_HUES = (240.0, 430.0)
LIGHTNESS = (0.46, 0.79)
CHROMA = 0.17

_OKLAB_TO_LMS = np.array(
    [
        [1.0, 0.3963377774, 0.2158037573],
        [1.0, -0.1055613458, -0.0638541728],
        [1.0, -0.0894841775, -1.2914855480],
    ]
)
_LMS_TO_RGB = np.array(
    [
        [4.0767416621, -3.3077115913, 0.2309699292],
        [-1.2684380046, 2.6097574011, -0.3413193965],
        [-0.0041960863, -0.7034186147, 1.7076147010],
    ]
)


def colors_of_places(places: np.ndarray, width: float) -> np.ndarray:
    """Return a color ``[N, 3]``, sRGB from 0 to 1, for each point of the plane ``[N, 2]``.

    Neighboring points have similar colors. At distance ``width`` from the origin, colors have
    nearly reached their extremes.
    """
    across, up = (0.5 + 0.5 * np.tanh(places / width)).T
    left, right = (b + (t - b) * up for b, t in zip(BOTTOM_HUES, TOP_HUES, strict=True))
    hue = np.deg2rad(left + (right - left) * across)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * up
    return _to_srgb(lightness, hue)


def srgb(color: str) -> np.ndarray:
    """Return a CSS color as sRGB ``[3]`` from 0 to 1."""
    return np.array(to_rgb(color))


def diverging_colors(values: np.ndarray) -> np.ndarray:
    """Return an sRGB color ``[..., 3]`` for each value ``[...]`` from -1 over 0 to 1."""
    stops = np.stack([srgb(color) for color in DIVERGING])
    places = np.linspace(-1, 1, len(stops))
    return np.stack([np.interp(values, places, channel) for channel in stops.T], axis=-1)


def sequential_colors(count: int) -> np.ndarray:
    """Return ``count`` sRGB colors from dark blue via magenta to light orange, from 0 to 1."""
    share = np.linspace(0, 1, count)
    hue = BOTTOM_HUES[0] + (TOP_HUES[1] - BOTTOM_HUES[0]) * share
    return _to_srgb(LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * share, np.deg2rad(hue))


def colored(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """Map values ``[N]`` between ``low`` and ``high`` to sequential colors ``[N, 3]``."""
    share = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    return sequential_colors(256)[np.rint(255 * share).astype(int)]


def _to_srgb(lightness: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Return colors with full chroma, or the most that sRGB allows at that lightness and hue."""
    chromas = np.linspace(0, CHROMA, 24)[:, None]
    lab = np.stack(
        np.broadcast_arrays(lightness, chromas * np.cos(hue), chromas * np.sin(hue)), axis=-1
    )
    linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    inside = ((linear >= 0) & (linear <= 1)).all(axis=-1)
    best = np.where(inside, np.arange(len(chromas))[:, None], 0).max(axis=0)
    linear = np.clip(linear[best, np.arange(len(hue))], 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def joined(*words: str, by: str = " · ") -> str:
    """Join words into one line, leaving out empty ones."""
    return by.join(word for word in words if word)


def brief(value: float) -> str:
    """Format a nonnegative number with two digits, or with all digits before the decimal point.

    Example:
        >>> brief(123.4), brief(0.00012), brief(float("nan"))
        ('123', '1.2·10⁻⁴', '–')
    """
    if value != value:
        return "–"
    if value == 0 or value >= 1e-3:
        return f"{value:.0f}" if value >= 10 else f"{value:.2g}"
    first, power = f"{value:.1e}".split("e")
    return f"{first.removesuffix('.0')}·{power_of_ten(int(power))}"


def power_of_ten(power: int) -> str:
    """Format a power of ten with a superscript exponent."""
    return "10" + str(power).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def words_for(value: Any, words: dict[str, str]) -> str:
    """Return the text that ``words`` has for a value, or an empty text if there is none."""
    return words.get(value, "") if isinstance(value, str) else ""


DPI = 150
"""Pixels of a picture per inch."""
ELEVATION, AZIMUTH = 14, -72  # degrees: show the folded side of the toys' sheets
