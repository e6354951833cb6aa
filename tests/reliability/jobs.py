"""The scripts that are killed, in tiny configurations."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tests.reliability.whole import results
from training.data.sources.writer import image_writer

IMAGES, CLASSES, SIDE = 40, 4, 8
EVENTS = r"events\.out\.tfevents\..*"
RUN = (
    rf"({EVENTS}|log\.txt|stats\.jsonl|training_options\.json"
    r"|network-snapshot-\d{6}\.pkl|training-state-\d{6}\.pt)"
)
TOY_TRAINING = (
    *("--data_name=circles", "--duration=0.006", "--batch=500", "--tick=1", "--dump=1"),
    *("--snap=2", "--no-calibrate", "--device_name=cpu"),
)
IMAGE_TRAINING = (
    *("--cbase=8", "--cres=1", "--batch=50", "--duration=0.002", "--workers=0", "--tick=1"),
    *("--dump=1", "--cond", "--dims_to_keep=5", "--device_name=cpu"),
)
# The best weights are those of the fourth report, and the seventh ends it for want of better ones.
TABLE_TRAINING = (
    *("--width=32", "--depth=2", "--batch=50", "--duration=0.02", "--tick=1", "--dump=1"),
    *("--patience=3", "--lr=0.05", "--marginals=none", "--whiten=zca", "--keep=20"),
    "--device_name=cpu",
)
TOY_SIMULATION = ("--total_samples=200", "--steps=10", "--save_freq=1", "--device_name=cpu")
SAMPLING = (
    *("--seeds=0-23", "--bs=4", "--batch-gpu=4", "--n_iters=2", "--solver=euler"),
    "--device_name=cpu",
)
# Three groups of chains: of a toy's own denoiser, so that no network is needed.
OBSERVATIONS = 150
POSTERIORS = (
    *("--data_name=circles", "--noise_std=0.3", "--sampler=pcn", "--chains=2", "--draws=12"),
    *("--warmup=3", "--n_iters=3", "--chain_n_iters=2", "--batch-gpu=512", "--device_name=cpu"),
)
Arguments = Callable[[Path], list[str]]


@dataclass(frozen=True)
class Job:
    """A script to be killed.

    Attributes:
        name: For the table.
        script: Its name.
        names: A pattern of all names that it may give files.
        command: Its arguments in a folder.
        command_after: Those after a kill.
        result: The files of its result, by name.
        prepare: Makes the folder as it is before.
    """

    name: str
    script: str
    names: str
    command: Arguments
    command_after: Arguments
    result: Callable[[Path], dict[str, Path]]
    prepare: Callable[[Path], object] = Path.mkdir


def training(script: str, *options: str) -> Job:
    def command(place: Path) -> list[str]:
        return [f"--outdir={place}", *options]

    def command_after(place: Path) -> list[str]:
        states = list(place.glob("*/training-state-*.pt"))
        return [f"--resume={states[0].parent}"] if states else command(place)

    def result(place: Path) -> dict[str, Path]:
        # A run that was killed before its first state is begun anew in another folder.
        return results(max(place.iterdir()))

    return Job(script, script, rf"\d{{5}}-[^/]*/{RUN}", command, command_after, result)


def found(pattern: str) -> Callable[[Path], dict[str, Path]]:
    return lambda place: {path.name: path for path in place.glob(pattern)}


def simulation(network: Path) -> Job:
    def command(place: Path) -> list[str]:
        return ["net", f"--network={network}", f"--save_dir={place}", *TOY_SIMULATION]

    def command_after(place: Path) -> list[str]:
        written = [path for path in place.glob("*") if not path.name.startswith(".")]
        return [*command(place), *(["--overwrite"] if written else [])]

    names = r"circles_PRP_net_((melt|roundtrip|gen)_results\.npz|sim_params\.json)"
    result = found("*_results.npz")
    return Job("toy_pfODE_int", "toy_pfODE_int", names, command, command_after, result)


def sampling(network: Path) -> Job:
    def command(place: Path) -> list[str]:
        return [f"--network={network}", f"--save_dir={place}", *SAMPLING]

    names, result = r"(\d{6}\.png|[a-z_]*\.json)", found("[!.]*.png")
    return Job("gen_fid_samples", "gen_fid_samples", names, command, command, result)


def posteriors(observations: Path) -> Job:
    """Chains for all observations of a table."""
    own = ["sample", f"--observation={observations}"]
    return _inference("posterior sample", own, "posterior", (".nc", ".json"))


def check_of_posteriors() -> Job:
    """The check of as many posteriors."""
    own = ["check", f"--runs={OBSERVATIONS}"]
    return _inference("posterior check", own, "posterior_check", (".npz", ".json"))


def _inference(name: str, own: list[str], stem: str, suffixes: tuple[str, str]) -> Job:
    whole = f"circles_PRP_{stem}"
    draws, numbers = (f"{whole}{suffix}" for suffix in suffixes)

    def command(place: Path) -> list[str]:
        return [*own, f"--save_dir={place}", *POSTERIORS]

    def command_after(place: Path) -> list[str]:
        written = (place / draws).exists() or (place / numbers).exists()
        return [*command(place), *(["--overwrite"] if written else [])]

    names = rf"{whole}(\.part/group-\d{{5}}\.npz|{suffixes[0]}|{suffixes[1]})"
    return Job(name, "posterior", names, command, command_after, found(draws))


def data_set(source: Path, name: str, replacing: bool) -> Job:
    """A data set made in a place, perhaps where an older one is."""

    def command(place: Path) -> list[str]:
        flags = ["--overwrite"] if replacing else []
        return [f"--source={source}", f"--dest={place / name}", "--resolution=4x4", *flags]

    def command_after(place: Path) -> list[str]:
        there = (place / name).exists() and not replacing
        return [*command(place), *(["--overwrite"] if there else [])]

    def result(place: Path) -> dict[str, Path]:
        paths = (place / name, *place.glob(f"{name}/**/*"))
        return {path.relative_to(place).as_posix(): path for path in paths if path.is_file()}

    def prepare(place: Path) -> None:
        place.mkdir()
        if replacing:
            write_images(place / name, 30)

    names = rf"(set_params\.json|{name}(/(\d{{5}}/img\d{{8}}\.png|dataset\.json))?)"
    title = f"dataset_tool, {'zip' if name.endswith('.zip') else 'folder'}"
    title += " that is there" if replacing else ""
    return Job(title, "dataset_tool", names, command, command_after, result, prepare)


def write_images(path: Path, count: int = IMAGES) -> None:
    """Noisy gray images with labels."""
    noise = np.random.default_rng(0).uniform(0, 255, (count, SIDE, SIDE, 1))
    with image_writer(path) as writer:
        for index, pixels in enumerate(noise.astype(np.uint8)):
            writer.add(pixels, index % CLASSES)


def write_observations(path: Path) -> Path:
    """What is observed of as many points."""
    rows = np.random.default_rng(0).normal(size=(OBSERVATIONS, 2))
    np.savetxt(path, rows, delimiter=",", header="x1,x2", comments="")
    return path


def write_table(path: Path) -> Path:
    """Rows of a data set, with a discrete column; every fourth one is held out."""
    draw, count = np.random.default_rng(0), 80
    size, rooms, rest = (
        draw.gamma(3, 20, count),
        draw.integers(1, 7, count),
        draw.normal(size=count),
    )
    held_out = np.arange(count) % 4 == 0
    np.savez(
        path, points=np.stack([size, rooms, rest], axis=1), steps=[0.0, 1, 0], held_out=held_out
    )
    return path
