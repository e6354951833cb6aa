"""Valid files, data sets and images, as small as they come: from these, mutants are made."""

import gzip
import io
import pickle
import re
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

import toy_train
from tests.fuzz.harness import written
from tests.support.image_files import encoded, tar, write_mnist
from tests.support.image_runs import write_images
from tests.support.original_files import dumps, image_content, randomized, toy_content
from torch_utils.results import load_arrays, save_arrays, save_json
from torch_utils.snapshots import write_state
from torch_utils.stats import RunningMeans
from training.data.batches import Batch
from training.data.tables.raw_tables import open_cells
from training.data.tables.reading import RecordChoices, SurveyedTable
from training.files.posterior import save_part, save_values
from training.files.records import save_records
from training.files.trajectory import TRAJECTORY
from training.flow.coordinates.coordinates import Coordinates
from training.flow.denoisers import Calibration
from training.flow.eigenbasis import EigenBasis
from training.flow.latent import ConditionalMixture
from training.flow.preconditioning import OutputGain
from training.inference.draws import Draws
from training.inference.summary import Summary
from training.learning.building import ModelConfig
from training.learning.trainer import Trainer
from training.measure.posterior.calibration import RunValues
from training.networks import NETWORKS
from training.recipes import Recipe

TINY_NETWORK = {"width": 4, "depth": 1, "time_features": 2, "input_features": 1}
POINTS = torch.tensor([[0.3, -0.1], [1.0, 0.5], [-0.4, 0.2], [0.1, 0.9]], dtype=torch.float64)
TIMES = torch.linspace(0, 4, 3, dtype=torch.float64)


def toy_model(kept=2, precond="ifs", calibrated=False):
    basis = EigenBasis(
        torch.tensor([0.1, -0.2], dtype=torch.float64),
        torch.tensor([1.3, 0.4], dtype=torch.float64),
        torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64),
    )
    inflation = {"dims_to_keep": kept} if precond == "ifs" else {}
    choices = ModelConfig(precond, inflation, "mlp", TINY_NETWORK, "ES", "log", t_max=4.0)
    model, loss = choices.build(basis)
    model.about |= {"kind": "toy", "data_name": "circles", "augment_to": 0, "seen": 1000}
    torch.nn.init.normal_(model.denoiser.network.output.weight, std=0.1)
    if calibrated:
        ones = torch.ones(3, 2).double()
        model.denoiser.calibration = Calibration(TIMES, ones, 0.01 * ones)
        model.denoiser.output_gain = OutputGain(TIMES, torch.ones(3, 2))
    return model, loss


def network(*options):
    return written("network-snapshot-000001.pkl", lambda path: toy_model(*options)[0].save(path))


def toy_trainer(kept=2):
    model, loss = toy_model(kept)
    trainer = Trainer(model, loss, Recipe(duration=1e-4, batch=4))
    trainer.train_step(Batch(POINTS), RunningMeans(torch.device("cpu")))
    return trainer


def state(kept):
    def save(path):
        write_state(path, {**toy_trainer(kept).state(), "seen": 4})

    return written("training-state-000000.pt", save)


def arrays(name, made):
    return written(name, lambda path: save_arrays(path, made()))


def some_arrays():
    return {
        "rows": np.arange(24, dtype=np.float32).reshape(4, 6) / 7,
        "times": TIMES.numpy(),
        "word": np.array("circles"),
        "count": np.array(3),
        "pixels": np.arange(12, dtype=np.uint8).reshape(1, 3, 4),
    }


compressed_arrays = written("a.npz", lambda path: np.savez_compressed(path, **some_arrays()))


def _saved(save):
    with TemporaryDirectory() as folder:
        save(Path(folder) / "a.npz")
        return load_arrays(Path(folder) / "a.npz")


def part_of_a_posterior():
    w = torch.linspace(-1, 1, 48).double().view(2, 2, 6, 2)
    stats = {"fine_k": torch.zeros(2).double()}
    draws = Draws(w, w, w[..., 0], ["hmc", "hmc"], torch.ones(2).double(), stats)
    return _saved(lambda path: save_part(path, draws, Summary.from_draws(draws, 100), "this run"))


def part_of_a_check():
    ranks = torch.linspace(0, 1, 12).double().view(4, 3)
    names, balls = ("x1", "x2", "radius"), {"TARP": ranks[:, 0]}
    values = RunValues(names, ranks, balls, ranks[:, :2], leaked=ranks[:, 1])
    return _saved(lambda path: save_values(path, values, "this run"))


def melt(kept=2, labels=False):
    flow = toy_model(kept)[0].flow
    scale, noise = flow.schedule.scale(TIMES), flow.schedule.noise_variance(TIMES)
    spread = (flow.basis.eigenvalues + noise).sqrt() * scale[:, None]
    states = spread[:, None] * POINTS
    extra = {"format": np.array(TRAJECTORY.format)}
    extra |= {"labels": np.eye(4, 3, dtype=np.float32)} if labels else {}
    tensors = {
        "times": TIMES,
        "xs_es": states,
        "tilde_xs": states / scale[:, None, None],
        "scale": scale,
        **{name: getattr(flow.basis, name) for name in ("mean", "eigenvectors", "eigenvalues")},
        "noise_variance": noise,
    }
    return {**{name: values.numpy() for name, values in tensors.items()}, **extra}


def table():
    points = np.random.default_rng(0).normal(size=(12, 2))
    return {
        "format": np.array("inflationary-flows table 1"),
        "points": points,
        "names": np.array(["a", "b c"]),
        "steps": np.array([0.0, 0.5]),
        "offsets": np.zeros(2),
        "bounds": np.array([[-9.0, np.nan], [np.nan, np.nan]]),
        "held_out": np.arange(12) % 3 == 0,
        "dropped_names": np.array(["c"]),
        "dropped_offsets": np.ones(1),
        "dropped_slopes": np.ones((1, 2)),
        "column_order": np.array(["a", "c", "b c"]),
        "conditions": points[:, :1],
        "condition_names": np.array(["y"]),
    }


def save_texts(path):
    rows = (f"{row},2020-0{row % 9 + 1}-11,${row}.5,{'xy'[row % 2]},u{row}" for row in range(12))
    path.write_text("\n".join(["id,when,b c,d,e", *rows, ""]))


def records():
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.csv"
        save_texts(path)
        made, _ = SurveyedTable.from_cells(open_cells(path), RecordChoices()).records()
    return _saved(lambda path: save_records(path, made))


def save_rows(path, holes=""):
    values = np.random.default_rng(0).normal(size=(12, 2)).round(3)
    path.write_text("a,b c\n" + "".join(f"{x},{y}\n" for x, y in values.tolist()) + holes)


def save_rows_with_holes(path):
    save_rows(path, ',\n"1","2"\n\nNA,3\n')


def save_network_of_table(path):
    """A network with coordinates of all kinds, and a law of its latents."""
    model, _ = toy_model(1)
    maps = ["bounded", "yeo-johnson", "normal scores", "zca"]
    about = {**model.about, "columns": ["a", "b"]}
    distribution = ConditionalMixture(1, 1, components=2, width=4)
    replace(model, about=about, coordinates=Coordinates(2, maps, 4), learned=distribution).save(
        path
    )


def extraction(times):
    words = {"data_name": "circles", "schedule": "PRP", "noise": "path"}
    return {**words, "origin": "0123456789abcdef", "dims_to_keep": 2, "times": times}


def toy_residuals():
    values = np.random.default_rng(0).normal(size=(2, 3, 5, 2)).astype(np.float32)
    return {"net_outputs": values[0], "net_residuals": values[1], **extraction(np.arange(3.0))}


def image_residuals(folder):
    times = np.arange(3.0)
    generator = np.random.default_rng(0)
    for index, time in enumerate(times):
        values = generator.normal(size=(2, 5, 4)).astype(np.float32)
        made = {"net_outputs": values[0], "net_residuals": values[1], "time": time}
        path = folder / f"circles_PRP_net_outputs_residuals_time{index}.npz"
        save_arrays(path, {**made, **extraction(times)})
    return folder


def reference():
    features = np.random.default_rng(0).normal(size=(6, 3)).astype(np.float32)
    covariance = np.cov(features.T.astype(np.float64))
    known = {"count": 6, "image_shape": [1, 8, 8], "detector": "0" * 64}
    return {"mu": features.mean(axis=0), "sigma": covariance, "features": features, **known}


def parameters(path):
    options = {"seed": 0, "eps": 1e-3, "names": ["a", "b"]}
    content = {"options": options, "seconds": 1.5, "none": None, "deep": [[{"a": [True]}]]}
    save_json(path, content)


def detector(zipped):
    """Tensors, in the form of torch now or before 1.6."""

    def save(path):
        # In one storage: the old form has storages in the order of their addresses.
        weight, bias = torch.linspace(0.1, 1, 56).split([54, 2])
        file = io.BytesIO()
        torch.save(
            {"weight": weight.view(2, 3, 3, 3), "bias": bias},
            file,
            _use_new_zipfile_serialization=zipped,
        )
        path.write_bytes(file.getvalue() if zipped else without_addresses(file.getvalue()))

    return written("weights.pth" if zipped else "weights.old", save)


def without_addresses(data):
    """Pickles of torch, each of one storage, which is called 1 and not by its address."""
    address = re.compile(rb"(?<=X.\0\0\0)\d{9,20}", re.DOTALL)
    return address.sub(lambda match: b"1".zfill(len(match[0])), data)


def training_options(path):
    context = toy_train.main.make_context("toy_train.py", ["--outdir=out", "--data_name=circles"])
    options = {name: value for name, value in context.params.items() if name != "resume"}
    save_json(path, {"options": options, "chosen": {}, "code_version": "1.0"})


def original(kind, protocol):
    def save(path):
        torch.manual_seed(0)
        if kind == "toy":
            content = toy_content()
        else:
            sizes = {"model_channels": 4, "channel_mult": [1], "num_blocks": 1}
            others = {"image_shape": (1, 8, 8), "dropout": 0.1, "attention_resolutions": []}
            network = randomized(NETWORKS["ddpmpp"](**sizes, **others))
            content = image_content("SongUNet", network, [0.0] * 64, **sizes, attn_resolutions=[])
        path.write_bytes(without_addresses(dumps(content, protocol)))

    return written("network-snapshot-000000.pkl", save)


def pixels(count, channels=1, size=8):
    generator = np.random.default_rng(channels)
    return generator.integers(0, 256, (count, size, size, channels), dtype=np.uint8)


def png(size):
    return encoded(pixels(1, 3, size)[0])


def image_set(name, channels, vectors=False):
    labels = [[0.5, float(index)] if vectors else index % 3 for index in range(4)]
    return written(name, lambda path: write_images(path, pixels(4, channels), labels))


def image_file(name, mode="RGB", **options):
    image = Image.fromarray(pixels(1, 3)[0]).convert(mode)
    return written(name, lambda path: image.save(path, **options))


def mnist(side):
    return lambda folder: write_mnist(folder, pixels(4, 1, side)[..., 0], np.arange(4))


def cifar_batch(protocol, keys=(b"data", b"labels")):
    rows = np.random.default_rng(0).integers(0, 256, (2, 3072), dtype=np.uint8)
    content = {keys[0]: rows, keys[1]: [3, 7], "batch_label": "training batch 1 of 5"}
    return pickle.dumps(content, protocol=protocol)


def cifar(protocol):
    members = {f"cifar-10-batches-py/data_batch_{n}": cifar_batch(protocol) for n in (1, 2)}
    content = gzip.compress(tar({**members, "cifar-10-batches-py/readme.html": b"<p>"}), 1, mtime=0)
    return written("cifar-10-python.tar.gz", lambda path: path.write_bytes(content))


def pickle_of_a_batch(protocol):
    return written("batch.pickle", lambda path: path.write_bytes(cifar_batch(protocol)))
