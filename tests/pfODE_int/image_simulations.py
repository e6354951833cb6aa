"""What an image simulation writes, read back."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import pfODE_int
from torch_utils.results import load_arrays

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
Arrays = dict[str, np.ndarray]

ROOT = Path(pfODE_int.__file__).parent
KINDS = ("melt", "roundtrip", "gen")
CUBES = [
    *("tilde_xs", "xs", "tilde_xs_es", "xs_es"),
    *("net_outs", "unscaled_scores", "dxs", "dxs_es"),
]
COUNT, DIM, KEPT, CLASSES, END = 5, 64, 10, 3, 3.0
ONE_BIT = float(np.finfo(np.float32).eps)
"""What single precision may change of a number; twice the rounding error of one."""

GAP = {"g_type": "constant_inflation_gap", "inflation_gap": 1.3}
NETWORKS: dict[str, dict[str, Any]] = {
    "PRP": {},
    "PRR": {"dims_to_keep": KEPT},
    "gap": {"dims_to_keep": KEPT, "rho": 1.2, "gamma0": 1e-3, **GAP},
    "classes": {"dims_to_keep": KEPT, "label_dim": CLASSES, "output": "random"},
    "late": {"t_min": 0.5, "space": "ES"},
    "VP": {"precond": "vp", "t_max": 1.0},
}


class Found:
    """What one command wrote: arrays by simulation, and its parameters."""

    def __init__(self, folder: Path):
        self.folder = folder
        (parameters,) = folder.glob("*_HD_pfODE_int_sim_params.json")
        self.stem = parameters.name.removesuffix("_HD_pfODE_int_sim_params.json")
        self.parameters = json.loads(parameters.read_text())
        assert self.parameters.pop("format") == "inflationary-flows simulations 1"
        self.arrays = {
            kind: load_arrays(self.path(kind)) for kind in KINDS if self.path(kind).exists()
        }

    def path(self, kind: str) -> Path:
        return self.folder / f"{self.stem}_{kind}.npz"

    def __getitem__(self, kind: str) -> Arrays:
        return self.arrays[kind]


def close_to(found: Arrays, expected: Arrays) -> None:
    """Asserts that results are the same, but for the precision that they are saved in."""
    assert set(found) == set(expected)
    for name, array in expected.items():
        if array.dtype.kind == "U":
            assert found[name] == array
            continue
        tolerance = 3e-6 * max(1, np.abs(array).max())
        np.testing.assert_allclose(found[name], array, rtol=0, atol=tolerance, err_msg=name)
