"""Colors of the pictures: a small palette, and a color for every place of the plane.

Both hold for red-green color blindness, which leaves lightness and the blue-yellow axis: places
differ in hue from blue over magenta to orange along one axis, and in lightness along the other.
Colors are mixed in OKLab (Ottosson 2020), where equal distances look equal.
"""

import numpy as np

INK = "#22262e"  # titles and labels
MUTED = "#6b7280"  # secondary text
FAINT = "#d5d9e0"  # axes, grids
BLUE = "#3f5fd0"
ORANGE = "#e8862e"
DIVERGING = ("#1c2766", BLUE, "#f4f5f8", ORANGE, "#7f3606")  # from -1 over 0 to 1

# The plane's colors from left to right, as hues in degrees, at its bottom and at its top; and the
# lightness of bottom and top. All can be seen on white.
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
    """A color for each place of the plane, so that neighbors look alike.

    Args:
        places: ``[N, 2]``.
        width: Distance from the origin at which colors have nearly reached their ends.

    Returns:
        sRGB in 0..1 ``[N, 3]``.
    """
    across, up = (0.5 + 0.5 * np.tanh(places / width)).T
    left, right = (b + (t - b) * up for b, t in zip(BOTTOM_HUES, TOP_HUES, strict=True))
    hue = np.deg2rad(left + (right - left) * across)
    lightness = LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * up
    return _to_srgb(lightness, hue)


def sequential_colors(count: int) -> np.ndarray:
    """So many colors from dark blue over magenta to light orange, sRGB in 0..1 ``[count, 3]``."""
    share = np.linspace(0, 1, count)
    hue = BOTTOM_HUES[0] + (TOP_HUES[1] - BOTTOM_HUES[0]) * share
    return _to_srgb(LIGHTNESS[0] + (LIGHTNESS[1] - LIGHTNESS[0]) * share, np.deg2rad(hue))


def _to_srgb(lightness: np.ndarray, hue: np.ndarray) -> np.ndarray:
    """Colors of full chroma, or of as much as sRGB has at that lightness and hue."""
    chromas = np.linspace(0, CHROMA, 24)[:, None]
    lab = np.stack(
        np.broadcast_arrays(lightness, chromas * np.cos(hue), chromas * np.sin(hue)), axis=-1
    )
    linear = (lab @ _OKLAB_TO_LMS.T) ** 3 @ _LMS_TO_RGB.T
    inside = ((linear >= 0) & (linear <= 1)).all(axis=-1)
    best = np.where(inside, np.arange(len(chromas))[:, None], 0).max(axis=0)
    linear = np.clip(linear[best, np.arange(len(hue))], 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
