"""Tiny results files of every kind that is drawn, for tests of the pictures."""

import json
import math

import numpy as np
import torch

from tests.support.draws import seeded
from training.data.tables.schema import CATEGORY, NUMBER, Column
from training.data.tables.table import DataTable
from training.data.tables.values import save_texts
from training.files import correlations as of_lags
from training.files import coverage, roundtrip, trajectory
from training.files.answers import SCORES
from training.files.posterior import save_values
from training.files.posterior_draws import AboutDraws, save_netcdf
from training.files.records import columns_json
from training.inference.draws import Draws
from training.inference.likelihoods import Gaussian
from training.measure.posterior.calibration import BALLS, DENSEST, RunValues
from training.names import TOY_NAMES
from training.paper import coverage as counting
from training.paper.containment import unit_sphere
from training.paper.coverage import CoverageResult, Points, Spheres, measure_coverage
from training.paper.residuals import Autocorrelations, Correlation

SAVED = 5
"""Times of a simulation."""
RADII = np.array([0.5, 1.5, 3.0])
LATENT_STD = {2: [1.0, 0.02], 3: [1.0, 0.9, 0.02]}
SIZES = {2: 32, 3: 60}
"""Vertices of a boundary in so many dimensions."""
LAGS = np.arange(9) / 2
TIMES = 0.5 + LAGS
QUANTITIES, SAMPLES = ("net_outputs", "net_residuals"), 10_000
TOY_STEM, IMAGE_STEM = "circles_PRP_toy_autocorrelations", "digits_PRRto2D_autocorrelations"


def save(path, arrays, **changes):
    """Writes an ``.npz``; ``changes`` replace arrays, or drop them where they are None."""
    arrays = {**arrays, **changes}
    np.savez(path, **{name: array for name, array in arrays.items() if array is not None})
    return path


def simulation(kind, dim=2, count=30, kept=1):
    """Arrays of a simulation by a linear flow, to or from points of the closed form."""
    generator = np.random.default_rng(0)
    order = slice(None) if kind == "melt" else slice(None, None, -1)
    times = np.linspace(0, 4, SAVED)
    rotation = np.linalg.qr(generator.normal(size=(dim, dim)))[0]
    eigenvalues, mean = np.linspace(1, 0.5, dim), np.linspace(0, 1, dim) if dim < 4 else 0
    rates = np.where(np.arange(dim) < kept, 2.0, -0.5)
    noise = 0.01 * np.exp(rates * times[:, None])
    scale = 1 / np.sqrt(1 + noise[:, 0])
    start = generator.normal(size=(count, dim)) * np.sqrt(eigenvalues)
    grown = start * np.sqrt((eigenvalues + noise) / eigenvalues)[:, None]
    return {
        "format": np.array(trajectory.TRAJECTORY.format),
        "times": times[order],
        "tilde_xs": (grown @ rotation.T + mean)[order].astype(np.float32),
        "xs_es": (scale[:, None, None] * grown)[order].astype(np.float32),
        "mean": np.broadcast_to(mean, dim),
        "eigenvectors": rotation,
        "eigenvalues": eigenvalues,
        "scale": scale[order],
        "noise_variance": noise[order],
    }


def save_simulation(folder, kind, dim=2, **changes):
    path = folder / f"circles_PRRto1D_exact_{kind}_results.npz"
    return save(path, simulation(kind, dim), **changes)


def save_images(folder, kind, shape=(1, 4, 4), count=10, **changes):
    dim = math.prod(shape)
    arrays = {**simulation(kind, dim, count, dim // 2), "image_shape": np.array(shape)}
    return save(folder / f"digits_PRRto{dim // 2}D_{kind}.npz", arrays, **changes)


def save_table(folder, kind="melt", dim=4, count=60, **changes):
    generator = np.random.default_rng(int(kind == "gen"))
    arrays = simulation(kind, dim, count, kept=dim)
    if dim == 1:
        arrays["eigenvectors"] = np.ones((1, 1))
    arrays |= {
        "names": np.array([f"column_{index}" for index in range(dim)]),
        "points": generator.normal(size=(count, dim)) * 10.0 ** (np.arange(dim) % 9) + 3,
        "log_prob": generator.normal(size=count) - 5,
    }
    if kind != "gen":
        arrays["row_index"] = np.arange(count) + 100
    return save(folder / f"wine_PRP_{kind}.npz", arrays, **changes)


def save_roundtrips(folder, kept=3, shape=(1, 4, 4), **changes):
    generator = np.random.default_rng(0)
    originals = generator.integers(0, 256, (kept, *shape), dtype=np.uint8)
    arrays = {
        "format": np.array(roundtrip.WORST.format),
        "originals": originals,
        "returned": (originals + generator.normal(size=originals.shape)).astype(np.float32),
        "indices": np.arange(kept) + 7,
    }
    for name in ("mse", "mse_float", "max_abs_error", "exact"):
        column = generator.uniform(0, 1, size=50)
        arrays |= {name: column[:kept], f"all_{name}": column}
    return save(folder / "digits_PRP_roundtrip_mse_seed42_worst.npz", arrays, **changes)


def bent(points):
    """A shear that bends the first axis: smooth, and easy to invert."""
    return torch.cat([points[..., :1], points[..., 1:] + 0.5 * points[..., :1] ** 2], dim=-1)


def save_coverage(folder, dim=2, alpha=None, count=200, **changes):
    """Coverage under a flow that scales the latent and bends it; with an alpha, refitted."""
    std = torch.tensor(LATENT_STD[dim], dtype=torch.float64)
    spheres = Spheres(RADII, unit_sphere(dim, SIZES[dim]))
    test, fresh = torch.randn(2, count, dim, generator=seeded(), dtype=torch.float64)
    units = Points(test, spheres.vertices)
    points = {"latent": units, "data": units.mapped(bent), "end": units}
    boundaries = {
        name: counting.transported(item.boundary, spheres.unit)
        if alpha is None
        else counting.refitted(item.boundary, alpha)
        for name, item in points.items()
    }
    got = measure_coverage(points, boundaries, bent(fresh))
    latent = units.mapped(lambda values: values * std)
    carried = {"latent": latent, "data": points["data"], "end": latent}
    result = CoverageResult(spheres, got, carried, boundaries, bent(fresh), calls=0)
    arrays = {"format": np.array(coverage.COVERAGE.format), **coverage.result_arrays(result)}
    return save(folder / "circles_PRP_coverage.npz", arrays, **changes)


def correlations(dim, names, constant=()):
    """A summary and matrices of quantities: the first falls to 0 by lag 5, the next by 2."""
    table = Autocorrelations(names, len(TIMES), dim)
    varies = torch.ones(dim, dtype=torch.bool)
    varies[list(constant)] = False
    matrices = {}
    for number, name in enumerate(names):
        for index, lag in enumerate(LAGS):
            spread = torch.linspace(0.8, 1.2, dim, dtype=torch.float64)
            falling = (1 - spread * lag / (5 - 3 * min(number, 1))).clamp(min=0)
            matrix = (falling * varies).diag() + 0.1 * torch.ones(dim, dim).tril(-1)
            table.put(name, index, Correlation(matrix, varies.double()))
            matrices.setdefault(f"{name}_acs", []).append(matrix.float().numpy())
    summary, _ = table.summary(torch.from_numpy(TIMES), SAMPLES)
    formats = np.array(of_lags.SUMMARY.format), np.array(of_lags.AT_ONE_TIME.format)
    return (
        {"format": formats[0], **{name: values.numpy() for name, values in summary.items()}},
        {"format": formats[1], **{name: np.stack(values) for name, values in matrices.items()}},
    )


def save_summary(folder, dim=2, stem=TOY_STEM, **changes):
    summary, _ = correlations(dim, QUANTITIES)
    return save(folder / f"{stem}_summary.npz", summary, **changes)


def save_toy_matrices(folder, dim=2, **changes):
    save_summary(folder, dim)
    _, matrices = correlations(dim, QUANTITIES)
    return save(folder / f"{TOY_STEM}.npz", {"times": TIMES, **matrices}, **changes)


def save_image_matrices(folder, dim=7, **changes):
    save_summary(folder, dim, IMAGE_STEM)
    _, matrices = correlations(dim, QUANTITIES)
    for index, time in enumerate(TIMES):
        arrays = {name: values[index] for name, values in matrices.items() if values.ndim}
        path = folder / f"{IMAGE_STEM}_times0_{index}.npz"
        at_time = {**arrays, "time": time, "format": matrices["format"]}
        save(path, at_time, **(changes if index == len(TIMES) - 1 else {}))
    return path


def save_posterior(
    folder,
    name="circles",
    dim=2,
    *,
    count=3,
    draws=40,
    sampler="hmc",
    likelihood=None,
    image_shape=None,
    prior=True,
):
    """Draws of posteriors as ``posterior.py sample`` writes them, with normal ones as prior."""
    generator, chains = seeded(), 2
    middle, width = (0.0, 1.0) if image_shape is None else (127.5, 40.0)
    likelihood = likelihood or Gaussian(torch.tensor(0.3))
    points = middle + width * torch.randn(count, chains, draws, dim, generator=generator).double()
    truth = points[:, 0, 0]
    observed = likelihood.simulate(truth, generator)
    got = likelihood.log_prob(points.flatten(0, 2), observed.repeat_interleave(2 * draws, 0))
    made = Draws(points, points, got.view(points.shape[:3]), [sampler] * count, torch.ones(count))
    toy = name if name in TOY_NAMES else None
    about = {"samplers": made.sampler, "toy": toy, "image_shape": image_shape}
    path = folder / f"{name}_PRP_posterior.nc"
    rows = torch.randn(100, dim, generator=generator) if prior else None
    names = [f"x{index + 1}" for index in range(dim)]
    whole = AboutDraws(
        names=names, run=about, observed=observed, likelihood=likelihood, prior=rows, truth=truth
    )
    save_netcdf(path, iter([(made, points)]), (chains, draws, count), whole)
    return path


def save_check(folder, dims=2, runs=60, shift=0.0, **changes):
    generator = seeded()
    ranks = torch.rand(runs, dims + 2, generator=generator).double()
    ranks[:, 0] = (ranks[:, 0] + shift).clamp(0, 1)
    names = (*(f"x{index + 1}" for index in range(dims)), "log likelihood", "radius")
    regions = dict(zip((BALLS, DENSEST), torch.rand(2, runs, generator=generator), strict=True))
    path = folder / "circles_PRP_posterior_check.npz"
    save_values(path, RunValues(names, ranks, regions, torch.ones(runs, dims)), "")
    if changes:
        with np.load(path) as file:
            save(path, dict(file), **changes)
    return path


def save_stats(folder, reports=5):
    lines = [
        json.dumps({"seen": 1000 * k, "Loss/loss": 1 / k, "Progress/learning_rate": 1e-3})
        for k in range(1, reports + 1)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stats.jsonl").write_text("\n".join(lines) + "\n")
    return folder / "stats.jsonl"


ANSWERS = 40
ASKED = (Column("a$", NUMBER, decimals=1), Column("b", CATEGORY, ("x", "y_z")))
NO_ROWS = {"values": np.empty((0, 2)), "held_out": np.empty(0, bool)}
TABLE_ASKED = DataTable(ASKED, ["a$", "b"], separator=";", decimal=",", **NO_ROWS)
PREDICTED = "a$ b a$_low a$_predicted a$_low_ a$_high b_predicted b_is_x b_is_y_z"
HEADS = {
    "sample": (("a$", "b"), 0),
    "score": ((*SCORES, "a$", "b", "a$_probability", "b_probability"), 4),
    # The source has a column of the name that the lower end would have.
    "predict": (PREDICTED.split(), 6),
}


def save_answers(folder, question, **changes):
    draw, (head, beside) = np.random.default_rng(0), HEADS[question]
    rows = []
    for number in range(ANSWERS):
        a, level = f"{draw.normal(5):.1f}".replace(".", ","), str(draw.choice(["x", "y_z"]))
        cells = {"a$": a * (number > 0), "b": level, "a$_low": "7,0", "a$_predicted": "5,0"}
        cells |= {"a$_low_": "4,0", "a$_high": "6,0", "b_predicted": "y_z"}
        cells |= {"b_is_x": "0.25", "b_is_y_z": "0.75", "log_prob": "-3.5"}
        cells |= {"a$_probability": "0.001" * (number > 0), "b_probability": "0.5"}
        rows.append([cells.get(name, "") for name in head])
    save_texts(folder / "answers.csv", head, rows, ";")
    save_texts(folder / "answers_real.csv", head[:2], [row[:2] for row in rows], ";")
    about = {"format": "inflationary-flows answers 1", "question": question, "beside": beside}
    about |= {"sheet": "answers.csv", "data_name": "$x$", "held_out": True, "command": ["ask.py"]}
    about |= {"table": json.loads(columns_json(TABLE_ASKED))}
    about |= {"options": {"interval": 0.9, "odd": 0.01}}
    path = folder / "answers_params.json"
    path.write_text(json.dumps(about | changes))
    return path
