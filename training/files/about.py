"""Descriptions of the project's files: networks, results, runs and data sets."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from dnnlib.errors import DataError, UsageError
from torch_utils.results import last_line, load_json, open_arrays
from training.data.images.dataset import ImageDataset
from training.data.images.stacks import holds_stack
from training.data.tables.repeated_trials import trials_in_words
from training.files.declared import kind_of_arrays
from training.files.posterior_draws import load_netcdf
from training.files.records import holds_records, load_records
from training.files.stats import STATS
from training.files.table import holds_table, load_whole
from training.names import INFLATION, LIKELIHOOD
from training.trained.network import TrainedNetwork

Fact = tuple[str, str]
"""Name of a property of a file and its value, both as text."""

MOST_KEYS = 40


def facts_of(path: Path) -> list[Fact]:
    """Describe a file or folder of this project as a list of facts.

    Raises:
        DataError: The file is missing or broken.
        UsageError: The file is not one of this project.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist: check the path")
    if path.is_dir():
        is_run = (path / "training_options.json").exists()
        return list((about_run if is_run else about_images)(path))
    readers: dict[str, Callable[[Path], Iterator[Fact]]] = {
        ".pkl": about_network,
        ".npz": about_npz,
        ".json": about_json,
        ".nc": about_draws,
        ".zip": about_images,
    }
    if path.suffix not in readers:
        raise UsageError(
            f"{path} is not a file of this project: give a network (.pkl), results (.npz, "
            ".json, .nc), a run directory, or images (.zip or a folder)"
        )
    return list((about_images if holds_stack(path) else readers[path.suffix])(path))


def about_network(path: Path) -> Iterator[Fact]:
    """Describe a network file: its data, schedule, latents, times, network and calibration."""
    model = TrainedNetwork.load(path)
    denoiser, architecture, about = model.denoiser, model.architecture, model.about
    yield "network file", _size(path)
    name, seen = about.get("data_name"), about.get("seen", 0) / 1e6
    yield "trained on", f"{name}, {seen:g} million samples" if name else "nothing: a closed form"
    if "image_shape" in about:
        channels, height, width = about["image_shape"]
        classes = about.get("label_dim", 0)
        shown = f"{width}x{height} pixels, {channels} channel(s), "
        vectors = f"vectors of {classes} numbers as conditions"
        yield "images", shown + (vectors if about.get("vectors") else f"{classes or 'no'} classes")
    elif about.get("augment_to"):
        yield "embedded in", f"{about['augment_to']} dimensions"
    elif model.coordinates is not None:
        yield from _about_columns(model)
    known = ", ".join(
        f"{name} {architecture.schedule_arguments[name]}"
        for name in INFLATION[1:]
        if name in architecture.schedule_arguments
    )
    kept = f"keeps {about['dims_to_keep']} of {about['data_dim']} dimensions"
    yield "schedule", f"{denoiser.schedule.name}: {kept}" + (f"; {known}" if known else "")
    if model.learned is not None:
        several = model.learned.compressed > 1
        chained = ", each given those before" * (model.learned.chained and several)
        mixtures = f"Gaussian mixtures of {model.learned.components} components"
        yield "compressed latents", f"{mixtures} given the kept latents{chained}"
    yield "times", f"{about['tmin']:g} to {about['tmax']:g}"
    yield "data", denoiser.basis.describe()
    yield (
        "network",
        f"{architecture.network} with {model.parameter_count:,} parameters, in "
        f"{denoiser.space}, noise condition {architecture.denoiser_arguments.get('noise_cond')}",
    )
    calibration = denoiser.calibration
    if calibration is None:
        yield "calibration", "none"
    else:
        gains = calibration.gains[:, : about["dims_to_keep"]]
        slopes = calibration.slopes[:, : about["dims_to_keep"]].abs()
        yield (
            "calibration",
            (
                f"at {len(calibration.times)} times; in kept dimensions gains "
                f"{float(gains.min()):.3f} to {float(gains.max()):.3f}, largest slope "
                f"{float(slopes.max()):.3f}"
            ),
        )
    if model.held_out is not None:
        yield "held-out truths", f"{model.held_out.truths}, by {model.held_out.draws} draws of each"
    yield "digest", model.digest()


def _about_columns(model: TrainedNetwork) -> Iterator[Fact]:
    """Yield the columns and conditions of the flow of a table or of trials."""
    about, coordinates = model.about, model.coordinates
    assert coordinates is not None
    yield "columns", _listed(about.get("columns", []))
    yield "coordinates", ", then ".join(coordinates.names)
    if coordinates.trials:
        names = ", ".join(about["condition_names"])
        yield "given", f"all trials of a dataset, up to {coordinates.trials}, of {names}"
    if isinstance(about.get(LIKELIHOOD), dict):
        given, levels = about["condition_names"], coordinates.beside
        if levels is not None:
            first = len(given) - len(levels.counts)
            given, beside = given[:first], ", ".join(given[first:])
            yield "levels", f"{beside}, by their probabilities, and columns given these"
        yield "likelihood", f"of one trial, given {', '.join(given)}"
    if "ask" in about:
        yield "answers", ", ".join(about.get("ask") or ["any question"])


def about_npz(path: Path) -> Iterator[Fact]:
    """Describe an ``.npz``: a numeric data set, a data set of records, or results."""
    if holds_table(path):
        return about_table(path)
    return about_records(path) if holds_records(path) else about_arrays(path)


def about_table(path: Path) -> Iterator[Fact]:
    """Describe a numeric data set: rows, columns and conditions."""
    table = load_whole(path)
    held_out = int(table.held_out.sum())
    kept = "" if table.kept is None else f" and {int(table.kept.sum())} kept"
    yield "table", f"{len(table)} rows, {held_out} of them held out{kept}, {_size(path)}"
    yield "columns", _listed(table.names)
    yield "discrete columns", str(int((table.steps > 0).sum()))
    if table.dropped.names:
        yield "left out", ", ".join(table.dropped.names)
    if table.condition_names:
        yield "conditions", ", ".join(table.condition_names)
    if table.covariates:
        yield "including covariates", ", ".join(table.covariates)
    if table.datasets is not None:
        yield "trials", trials_in_words(table.datasets)


def about_records(path: Path) -> Iterator[Fact]:
    """Describe a data set of records (rows with typed columns): rows, columns, missing cells."""
    records = load_records(path)
    held_out = int(records.held_out.sum())
    yield "records", f"{len(records)} rows, {held_out} of them held out, {_size(path)}"
    yield "columns", _listed([f"{column.name} ({column.type})" for column in records.columns])
    missing = np.isnan(records.values).mean(axis=0)
    holes = [
        f"{column.name} {share:.1%}"
        for column, share in zip(records.columns, missing, strict=True)
        if share
    ]
    yield "missing cells", ", ".join(holes[:MOST_KEYS]) or "none"
    for label, others in (("constants", records.constants), ("kept beside", records.beside)):
        if others:
            yield label, ", ".join(name or "(no name)" for name in others)


def about_arrays(path: Path) -> Iterator[Fact]:
    """Describe a results file: its kind, its times, and the shape of each array."""
    with open_arrays(path) as saved:
        yield "results", f"{kind_of_arrays(saved) or 'of an unknown kind'}, {_size(path)}"
        if "times" in saved.names:
            times = saved.numbers("times")
            if times.ndim == 1 and len(times):
                yield "times", f"{len(times)}, from {times[0]:g} to {times[-1]:g}"
        for name in saved.names:
            with saved.open(name) as (header, _):
                plain = not header.shape and header.dtype.kind in "fiuU"
                yield (
                    name,
                    str(saved.read(name)) if plain else f"{list(header.shape)} {header.dtype}",
                )


def about_draws(path: Path) -> Iterator[Fact]:
    """Describe a netCDF file of posterior draws: chains, observations and coordinates."""
    draws = load_netcdf(path, 1, every_draw=True)
    chains, size = draws.points.shape[:2]
    yield "posterior draws", f"{chains} chains of {size} for each observation, {_size(path)}"
    yield "observations", f"{draws.count}, the first one drawn by {draws.sampler[0]}"
    yield "coordinates", _listed(draws.names)


def about_json(path: Path) -> Iterator[Fact]:
    """Describe a JSON file of results: its kind and its first entries."""
    content = load_json(path)
    yield "parameters", f"{content.get('format') or 'of an unknown kind'}, {_size(path)}"
    for name, value in list(content.items())[:MOST_KEYS]:
        yield name, f"{len(value)} entries" if isinstance(value, dict | list) else str(value)


def about_run(path: Path) -> Iterator[Fact]:
    """Describe a run directory: command, version, progress, networks and states."""
    content = load_json(path / "training_options.json")
    command = content.get("command")
    words = command if isinstance(command, list) else []
    yield "run of", " ".join(map(str, words)) or "an unknown script"
    yield "code version", str(content.get("code_version"))
    last = last_line(path / STATS)
    if last:
        numbers = {name: value for name, value in last.items() if isinstance(value, int | float)}
        yield "samples", f"{numbers.get('seen', 0) / 1e6:g} million"
        if "Loss/loss" in numbers:
            yield "last loss", f"{numbers['Loss/loss']:.5g}"
        if "Timing/seconds" in numbers:
            yield "seconds", f"{numbers['Timing/seconds']:.5g}"
    for label, pattern in (("networks", "network-snapshot-*.pkl"), ("states", "*-state-*.pt")):
        files = sorted(path.glob(pattern))
        yield label, f"{len(files)}" + (f", the last {files[-1].name}" if files else "")


def about_images(path: Path) -> Iterator[Fact]:
    """Describe a data set of images: number, size, range and labels."""
    dataset = ImageDataset(path)
    channels, height, width = dataset.image_shape
    yield "images", f"{len(dataset)}, of {width}x{height} pixels, {channels} channel(s)"
    if holds_stack(path):
        low, high = dataset.value_range
        yield "range", f"{low:g} to {high:g}"
    yield "labels", dataset.labels_in_words()


def _listed(names: Sequence[str]) -> str:
    more = ", ..." * (len(names) > MOST_KEYS)
    return f"{len(names)}: {', '.join(names[:MOST_KEYS])}{more}"


def _size(path: Path) -> str:
    return f"{path.stat().st_size / 2**20:,.2f} MiB"
