"""Valid files, as small as they come: from these, mutants are made."""

import io
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import trimesh

import toy_train
from tests.fuzz.cases import Write
from torch_utils.results import save_arrays, save_json
from torch_utils.snapshots import write_state
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.flow.calibration import Calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.output_gain import OutputGain
from training.learning.building import Choices
from training.learning.run_folder import OPTIONS_NAME
from training.learning.trainer import Trainer, TrainingConfig
from training.measure.boundaries import unit_sphere
from training.model.model import Model

TINY_NETWORK = {"width": 4, "depth": 1, "time_features": 2, "input_features": 1}
POINTS = torch.tensor([[0.3, -0.1], [1.0, 0.5], [-0.4, 0.2], [0.1, 0.9]], dtype=torch.float64)
TIMES = torch.linspace(0, 4, 3, dtype=torch.float64)


def toy_model(kept: int = 2, precond: str = "ifs", calibrated: bool = False) -> tuple[Model, Any]:
    """A model of points in 2-D with a network of random weights, and its loss."""
    basis = EigenBasis(
        torch.tensor([0.1, -0.2], dtype=torch.float64),
        torch.tensor([1.3, 0.4], dtype=torch.float64),
        torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64),
    )
    inflation = {"dims_to_keep": kept} if precond == "ifs" else {}
    choices = Choices(
        precond=precond,
        inflation=inflation,
        network="mlp",
        network_arguments=TINY_NETWORK,
        space="ES",
        noise_cond="log",
        t_max=4.0,
    )
    model, loss = choices.build(basis)
    model.about |= {"data_name": "circles", "augment_to": 0, "seen": 1000}
    torch.nn.init.normal_(model.denoiser.network.output.weight, std=0.1)
    if calibrated:
        ones = torch.ones(3, 2).double()
        model.denoiser.calibration = Calibration(TIMES, ones, 0.01 * ones)
        model.denoiser.output_gain = OutputGain(TIMES, torch.ones(3, 2))
    return model, loss


def network(**options: Any) -> Write:
    def write(folder: Path) -> Path:
        model, _ = toy_model(**options)
        model.save(folder / "network-snapshot-000001.pkl")
        return folder / "network-snapshot-000001.pkl"

    return write


def toy_trainer(kept: int = 2) -> Trainer:
    """A trainer after a step."""
    model, loss = toy_model(kept)
    trainer = Trainer(model, loss, TrainingConfig(total=100, batch=4))
    trainer.train_step(Batch(POINTS), RunningMeans(torch.device("cpu")))
    return trainer


def state(kept: int) -> Write:
    def write(folder: Path) -> Path:
        path = folder / "training-state-000000.pt"
        write_state(path, {**toy_trainer(kept).state(), "seen": 4})
        return path

    return write


def arrays(name: str, made: Callable[[], dict[str, Any]]) -> Write:
    """An ``.npz`` of this name."""

    def write(folder: Path) -> Path:
        save_arrays(folder / name, {key: np.asarray(value) for key, value in made().items()})
        return folder / name

    return write


def compressed(name: str, made: Callable[[], dict[str, Any]]) -> Write:
    """The same as other programs write it."""

    def write(folder: Path) -> Path:
        np.savez_compressed(folder / name, **made())
        return folder / name

    return write


def some_arrays() -> dict[str, Any]:
    return {
        "rows": np.arange(24, dtype=np.float32).reshape(4, 6) / 7,
        "times": TIMES.numpy(),
        "word": np.array("circles"),
        "count": np.array(3),
        "pixels": np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
    }


def melt(kept: int = 2, labels: bool = False) -> dict[str, Any]:
    """What the end of a melt is read from."""
    flow = toy_model(kept)[0].flow
    scale, noise = flow.schedule.scale(TIMES), flow.schedule.noise_variance(TIMES)
    spread = (flow.basis.eigenvalues + noise).sqrt() * scale[:, None]
    states = spread[:, None] * POINTS
    extra = {"labels": np.eye(4, 3, dtype=np.float32)} if labels else {}
    return {
        "times": TIMES.numpy(),
        "xs_es": states.numpy(),
        "tilde_xs": (states / scale[:, None, None]).numpy(),
        "scale": scale.numpy(),
        "mean": flow.basis.mean.numpy(),
        "eigenvectors": flow.basis.eigenvectors.numpy(),
        "eigenvalues": flow.basis.eigenvalues.numpy(),
        "noise_variance": noise.numpy(),
        **extra,
    }


def extraction(times: np.ndarray) -> dict[str, Any]:
    words = {
        "data_name": "circles",
        "schedule": "PRP",
        "noise": "path",
        "origin": "0123456789abcdef",
    }
    return {**words, "dims_to_keep": 2, "times": times}


def toy_residuals() -> dict[str, Any]:
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
    return {"net_outputs": values[0], "net_residuals": values[1], **extraction(np.arange(3.0))}


def image_residuals(folder: Path) -> Path:
    times = np.arange(3.0)
    generator = np.random.default_rng(0)
    for index, time in enumerate(times):
        values = generator.normal(size=(2, 5, 4)).astype(np.float32)
        made = {"net_outputs": values[0], "net_residuals": values[1], "time": time}
        path = folder / f"circles_PRP_net_outputs_residuals_time{index}.npz"
        save_arrays(path, {k: np.asarray(v) for k, v in {**made, **extraction(times)}.items()})
    return folder


def reference() -> dict[str, Any]:
    features = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    covariance = np.cov(features.T.astype(np.float64))
    known = {"count": 6, "image_shape": [1, 8, 8], "detector": "0" * 64}
    return {"mu": features.mean(axis=0), "sigma": covariance, "features": features, **known}


def parameters(folder: Path) -> Path:
    content = {
        "options": {"seed": 0, "eps": 1e-3, "names": ["a", "b"]},
        "seconds": 1.5,
        "none": None,
    }
    save_json(folder / "circles_PRP_sim_params.json", {**content, "deep": [[{"a": [True]}]]})
    return folder / "circles_PRP_sim_params.json"


def statistics(folder: Path) -> Path:
    names = ("Loss/loss", "Progress/learning_rate", "Gradient/norm")
    lines = [json.dumps({"seen": 1000 * n, **dict.fromkeys(names, 0.5 / n)}) for n in range(1, 6)]
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "stats.jsonl"


def mesh(binary: bool) -> Write:
    def write(folder: Path) -> Path:
        sphere = unit_sphere(3, 12)
        made = trimesh.Trimesh(*sphere, process=False)
        content = made.export(file_type="ply", encoding="binary" if binary else "ascii")
        (folder / "boundary.ply").write_bytes(content)
        return folder / "boundary.ply"

    return write


def detector(zipped: bool) -> Write:
    """Weights of ``probes.TinyInception``, in the form of torch now or before 1.6."""
    shapes = {"conv.weight": (2, 3, 3, 3), "conv.bias": (2,)}
    shapes |= {f"norm.{name}": (2,) for name in ("weight", "bias", "running_mean", "running_var")}

    def write(folder: Path) -> Path:
        # In one storage: the old form has storages in the order of their addresses.
        sizes = [math.prod(shape) for shape in shapes.values()]
        parts = torch.linspace(0.1, 1, sum(sizes)).split(sizes)
        made = {
            name: part.view(shape)
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }
        file = io.BytesIO()
        torch.save(made, file, _use_new_zipfile_serialization=zipped)
        path = folder / ("weights.pth" if zipped else "weights.old")
        path.write_bytes(file.getvalue() if zipped else without_addresses(file.getvalue()))
        return path

    return write


def without_addresses(data: bytes) -> bytes:
    """Pickles of torch in which storages are called by numbers in the place of their addresses."""
    found: dict[bytes, bytes] = {}

    def number(match: re.Match[bytes]) -> bytes:
        address = match[0]
        return found.setdefault(address, str(len(found) + 1).encode().zfill(len(address)))

    return re.sub(rb"(?<=X.\0\0\0)\d{9,20}", number, data, flags=re.DOTALL)


def training_options(folder: Path) -> Path:
    """What ``toy_train.py`` writes at the start of a run."""
    context = toy_train.main.make_context("toy_train.py", ["--outdir=out", "--data_name=circles"])
    options = {name: value for name, value in context.params.items() if name != "resume"}
    save_json(folder / OPTIONS_NAME, {"options": options, "code_version": "1.0"})
    return folder / OPTIONS_NAME
