"""Valid results files of which pictures are drawn, and files of the original code."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from tests.fuzz.cases import Write
from tests.fuzz.samples import TIMES, without_addresses
from tests.support.original_files import dumps, image_content, randomized, toy_content
from torch_utils.results import save_arrays
from training.measure.boundaries import unit_sphere
from training.networks import NETWORKS

QUANTITIES = ("net_outputs", "net_residuals")


def coverage() -> dict[str, Any]:
    """Of circles in a latent that is twice as wide as it is high."""
    generator = np.random.default_rng(0)
    radii, std = np.array([0.5, 1.5]), np.array([1.0, 0.5])
    sphere = unit_sphere(2, 8)
    points = generator.normal(size=(1, 12, 2))
    circles = radii[:, None, None] * sphere.vertices
    stages = {"latent": std, "data": np.ones(2), "end": std}
    return {
        "radii": radii,
        "faces": sphere.faces,
        "coverage": np.full((1, 3, 2), [0.1, 0.6]),
        "coverage_fresh": np.full((1, 2), [0.15, 0.55]),
        "fresh_data": points,
        **{f"test_{name}": points * unit for name, unit in stages.items()},
        **{f"boundary_{name}": circles * unit for name, unit in stages.items()},
    }


def lags() -> dict[str, Any]:
    mean = np.array([1.0, 0.5, 0.1])
    times = TIMES.numpy()
    summary: dict[str, Any] = {"times": times, "lags": times - times[0], "n_samples": 100}
    for name in QUANTITIES:
        summary[f"{name}_mean"] = mean
        summary[f"{name}_diagonal"] = summary[f"{name}_std"] = np.stack([mean, mean], axis=1)
    return summary


def matrices() -> dict[str, Any]:
    """Correlations at all times."""
    values = np.array([1.0, 0.5, 0.1])[:, None, None] * np.array([[1.0, 0.2], [0.2, 1.0]])
    return {"times": TIMES.numpy(), **{f"{name}_acs": values for name in QUANTITIES}}


def matrices_of_images(folder: Path) -> Path:
    """Correlations at three times, a file each, and what is drawn of the first."""
    whole = matrices()
    for index, time in enumerate(whole.pop("times")):
        made = {name: values[index] for name, values in whole.items()}
        path = folder / f"digits_PRP_autocorrelations_times0_{index}.npz"
        save_arrays(path, {"time": np.asarray(time), **made})
    return folder


def roundtrips() -> dict[str, Any]:
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 256, (2, 1, 4, 4), dtype=np.uint8)
    errors = {"mse": [2.0, 1.0], "mse_float": [2.1, 1.1], "max_abs_error": [3.0, 2.0]}
    every = {f"all_{name}": [*values, 0.5] for name, values in errors.items()}
    return {
        "originals": originals,
        "returned": originals + generator.normal(size=originals.shape),
        "indices": [0, 1],
        **errors,
        **every,
        "all_exact": [0.9, 0.8, 1.0],
    }


def original(kind: str, protocol: int) -> Write:
    """A file of the original code: a toy's network or one of images."""

    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        if kind == "toy":
            content = toy_content()
        else:
            sizes = {"model_channels": 4, "channel_mult": [1], "num_blocks": 1}
            network = NETWORKS["ddpmpp"](
                image_shape=(1, 8, 8), dropout=0.1, attention_resolutions=[], **sizes
            )
            content = image_content(
                "SongUNet", randomized(network), [0.0] * 64, **sizes, attn_resolutions=[]
            )
        (folder / "network-snapshot-000000.pkl").write_bytes(
            without_addresses(dumps(content, protocol))
        )
        return folder / "network-snapshot-000000.pkl"

    return write
