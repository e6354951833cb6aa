"""What a toy simulation writes, read back, and commands in processes of their own."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import toy_pfODE_int

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
Arrays = dict[str, np.ndarray]

SIMULATIONS = ("melt", "roundtrip", "gen")
CUBES = [
    "tilde_xs",
    "xs",
    "tilde_xs_es",
    "xs_es",
    "net_outs",
    "unscaled_scores",
    "dxs",
    "dxs_es",
]  # [S, N, D]
OTHERS = ["times", "mean", "eigenvectors", "eigenvalues", "scale", "noise_variance"]
ROOT = Path(toy_pfODE_int.__file__).parent

NETWORKS = {
    "PRP": ["--data_name=circles", "--tmax=7.01"],
    "PRR": ["--data_name=swirl", "--dims_to_keep=2", "--tmax=6", "--rho=0.9", "--space=IS"],
    "gap": [
        "--data_name=moons",
        "--dims_to_keep=1",
        "--g_type=constant_inflation_gap",
        "--inflation_gap=0.8",
        "--gamma0=0.001",
    ],
    "embedded": ["--data_name=circles", "--augment_to=4", "--dims_to_keep=2", "--tmax=4"],
    "edm": ["--data_name=circles", "--precond=edm", "--tmax=20"],
}


@dataclass(frozen=True)
class Simulated:
    """The results of one command."""

    melt: Arrays
    roundtrip: Arrays
    gen: Arrays
    parameters: dict[str, Any]

    @property
    def all(self) -> list[Arrays]:
        return [self.melt, self.roundtrip, self.gen]


def read(folder: Path) -> Simulated:
    (parameters,) = folder.glob("*_sim_params.json")
    stem = parameters.name.removesuffix("_sim_params.json")
    arrays = []
    for name in SIMULATIONS:
        with np.load(folder / f"{stem}_{name}_results.npz", allow_pickle=False) as archive:
            arrays.append(dict(archive))
    return Simulated(*arrays, json.loads(parameters.read_text()))
