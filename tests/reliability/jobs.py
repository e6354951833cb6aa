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
