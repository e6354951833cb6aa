"""Every command of every script, with arguments that make it do a little of its work."""

from contextlib import nullcontext
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any
from unittest import mock

import click
import numpy as np
import pytest

from tests.support.finished_runs import write_houses
from tests.support.image_models import save_image_model, write_image_set
from tests.support.image_runs import SIZE, LinearDetector, write_images
from tests.support.original_files import dumps, toy_content
from tests.support.running import ALONE, good, in_coordinates, quick_endings, run_script
from training import Simulations


@dataclass(frozen=True)
class Command:
    """A command of a script.

    Attributes:
        name: What a user types, without the ``.py``.
        words: Its arguments, without the place of its results.
        place: The option for that place; empty if it only prints.
        file: Name of the result, if the place is a file.
        needed: Options that it cannot do without, beside those that click knows as required.
        tolerance: How far two ranks may be from one, relative to the largest number.
        added_to: End of the names of files that are not in the way of new results.
        foreign: Options that are for other data than its arguments are.
        script: The script.
    """

    name: str
    words: str
    place: str = "--save_dir"
    file: str = ""
    needed: tuple[str, ...] = ()
    tolerance: float = 1e-5
    added_to: str = "(none)"
    foreign: tuple[str, ...] = ()
    script: ModuleType = field(init=False)

    def __post_init__(self):
        object.__setattr__(self, "script", import_module(self.name.split()[0]))

    @property
    def declared(self):
        main = self.script.main
        words = self.name.split()[1:]
        return main.commands[words[0]] if words else main

    @property
    def options(self):
        of_help = {"help", "help_all"}
        params = [param for param in self.declared.params if param.name not in of_help]
        return [param for param in params if isinstance(param, click.Option)]

    def has(self, option):
        return any(option in param.opts for param in self.options)

    def keeps(self, path):
        return path.is_file() and not path.name.endswith(self.added_to)

    def given(self, shelf):
        return [word.format(shelf) for word in self.words.split()]

    def at(self, folder):
        path = folder / self.file if self.file else folder
        return [f"{self.place}={path}"] if self.place else []

    def run(self, *arguments, ranks=ALONE):
        """Runs it in this process, with a linear detector in the place of the Inception, pictures
        of few pixels."""
        words = self.name.split()[1:]
        quicker = {
            "fid": mock.patch("training.cli.fid.InceptionDetector", LinearDetector),
            "visualize": mock.patch("training.pictures.theme.DPI", 30),
        }
        with quicker.get(self.name.split()[0], nullcontext()):
            return run_script(self.script, *words, *arguments, ranks=ranks)


def run_named(name, *arguments):
    return COMMANDS[name].run(*arguments, ranks={})


def write_likelihood(path):
    parameters = np.repeat(np.linspace(-0.9, 0.9, 40), 3)
    data = parameters + np.random.default_rng(0).normal(0, 0.3, 120)
    table = Simulations(parameters, data, {"theta1": (-1, 1)}, np.arange(120) // 3)
    with quick_endings(), in_coordinates(linear_start="on"):
        table.train(likelihood=True, duration=0.0004, width=8).save(path)


def write_simulator(path):
    """A simulator of one number, which fails below -0.9 and writes down each call."""
    program = f"""
        import numpy as np

        def simulate(theta, draw):
            with open({str(path.parent / "calls.txt")!r}, "a") as file:
                print(len(theta), file=file)
            theta = np.asarray(theta)
            data = theta * [1, 3] + draw.normal(0, 0.2, (len(theta), 2))
            return np.where(theta < -0.9, np.nan, data)
    """
    (path.parent / "one.csv").write_text("y1,y2\n0.2,0.5\n")
    path.write_text(dedent(program))


def write_colors(path, seed):
    shape = (13, SIZE, SIZE, 3)
    write_images(path, np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8))


RANDOM = {"label_dim": 3, "output": "random", "t_max": 3.0}
SEEN = "".join(f"{0.02 * row - 0.6},0.4\n" for row in range(67))
THINGS = {
    "images": ("blobs.zip", lambda path: write_image_set(path, 21, classes=3)),
    # As many that they have variance in all dimensions.
    "more_images": ("more.zip", lambda path: write_image_set(path, 71, classes=3)),
    "network": ("images.pkl", lambda path: save_image_model(path, 10, **RANDOM)),
    # Noisy points of the toy: two groups of them, for two ranks.
    "observations": ("seen.csv", lambda path: path.write_text(f"x1,x2\n{SEEN}")),
    "likelihood": ("likelihood.pkl", write_likelihood),
    "trials": ("trials.csv", lambda path: path.write_text("dataset,y1\n0,0.2\n0,0.4\n1,-0.3\n")),
    "simulator": ("shelf.py", write_simulator),
    "few_houses": ("houses.csv", lambda path: write_houses(path, 30)),
    "colors": ("colors.zip", lambda path: write_colors(path, 0)),
    "other_colors": ("other_colors.zip", lambda path: write_colors(path, 1)),
    "original": ("original.pkl", lambda path: path.write_bytes(dumps(toy_content()))),
    "detector": ("weights.pth", lambda path: path.write_bytes(b"a detector")),
}
"""What is on the shelf: the names of files, and what writes them."""


@dataclass
class Shelf:
    """What commands start from, made once in a folder, and not to be written to."""

    folder: Path
    toy: Path
    questions: Path
    houses: Path
    _made: dict[str, Any] = field(default_factory=dict)

    def _once(self, name, make):
        path = self.folder / name
        if name not in self._made:
            self._made[name] = make(path)
        return path

    def __getattr__(self, name):
        if name not in THINGS:
            raise AttributeError(name)
        return self._once(*THINGS[name])

    def done(self, name):
        command = COMMANDS[name]

        def make(folder):
            folder.mkdir()
            result = good(command.run(*command.given(self), *command.at(folder)))
            self._made[f"result of {name}"] = result

        return self._once(name.replace(" ", "-"), make)

    def __getitem__(self, place):
        """The results of a command, or the first of some: its name with dashes, files."""
        command, _, files = place.partition("/")
        folder = self.done(next(name for name in COMMANDS if name.replace(" ", "-") == command))
        return next(folder.glob(files)) if files else folder

    def result(self, name):
        self.done(name)
        return self._made[f"result of {name}"]


# What a user types: ``{0.name}`` is a thing of the shelf, ``{0[command/file]}`` one of the results
# of a command, whose name has dashes for spaces. Odd numbers: two ranks share them unequally.
IMAGE_FLOW = "--network={0.network} --n_iters=2 --solver=heun --batch-gpu=4 --device_name=cpu"
MEASURED = (
    "--detector={0.detector} --device_name=cpu --num_images=11 --kid_features=5 --workers=0"
    " --batch=3"
)
POSTERIOR = "--noise_std=0.3 --draws=5 --n_iters=3 --device_name=cpu"
FEW_POINTS = "--total_samples=7 --steps=3 --save_freq=2 --device_name=cpu"
MELT = "{0[toy_pfODE_int-exact/*_melt_results.npz]}"
RESIDUALS = "calc_net_residuals_autocorrelations"
ALL = (
    Command(
        "toy_train",
        "--nosubdir --data_name=circles --dims_to_keep=1 --lr=0.01 --duration=0.002 --batch=501"
        " --batch-gpu=150 --device_name=cpu",
        place="--outdir",
        needed=("--data_name", "--outdir"),
    ),
    Command(
        "train",
        # No dropout, which each rank draws for itself.
        "--nosubdir --data={0.more_images} --cond --cbase=8 --cres=1 --batch=17 --batch-gpu=5"
        " --duration=0.000051 --workers=0 --dropout=0 --augment=0.5 --device_name=cpu",
        place="--outdir",
        needed=("--data", "--outdir"),
        tolerance=1e-3,
    ),
    Command("toy_pfODE_int net", f"{FEW_POINTS} --network={{0.toy}} --log_prob", tolerance=1e-6),
    *(
        Command(
            f"toy_pfODE_int {mode}",
            f"{FEW_POINTS} --data_name=circles{density}",
            needed=("--data_name",),
            tolerance=1e-6,
        )
        for mode, density in (("discrete", ""), ("exact", " --log_prob"))
    ),
    Command(
        "pfODE_int",
        f"{IMAGE_FLOW} --data_root={{0.images}} --bs=5 --log_prob --probes=2",
        needed=("--data_root",),
        added_to=".json",
    ),
    Command("gen_fid_samples", f"{IMAGE_FLOW} --seeds=0-6 --bs=3", tolerance=0, added_to=""),
    Command("fid ref", f"--data={{0.colors}} {MEASURED}", "--dest", "ref.npz"),
    Command(
        "fid calc",
        f"--images={{0.other_colors}} --ref={{0[fid-ref/ref.npz]}} {MEASURED}",
        "--dest",
        "result.json",
    ),
    Command(
        "calc_roundtrip_mse",
        # The last batch is one image, of which one rank has nothing to do.
        f"{IMAGE_FLOW} --data_root={{0.images}} --total_samples=10 --bs=3",
    ),
    Command(
        f"{RESIDUALS} extracttoys",
        "--network={0.toy} --n_time_pts=3 --n_samples=7 --noise=path --device_name=cpu",
    ),
    Command(
        f"{RESIDUALS} extract",
        "--network={0.network} --data_root={0.images} --n_time_pts=3 --n_samples=10 --bs=7"
        " --batch-gpu=4 --noise=path --device_name=cpu",
    ),
    Command(
        f"{RESIDUALS} calctoys",
        f"--res_root={{0[{RESIDUALS}-extracttoys/*.npz]}} --device_name=cpu",
    ),
    Command(f"{RESIDUALS} calc", f"--res_root={{0[{RESIDUALS}-extract]}} --device_name=cpu"),
    Command(
        "toy_mesh_exps",
        "--network={0.toy} --test_pts=31 --boundary_pts=21 --steps=3 --r_num=3 --device_name=cpu",
        needed=("--network",),
        tolerance=1e-8,
        foreign=("--data_root",),
    ),
    Command(
        "posterior sample",
        f"--network={{0.toy}} --observation={{0.observations}} {POSTERIOR} --sampler=pool",
        tolerance=0,
    ),
    Command(
        "posterior check",
        f"--network={{0.toy}} --runs=67 --sampler=pool {POSTERIOR}",
        tolerance=0,
        foreign=("--data_root",),
    ),
    Command(
        "posterior calibrate",
        f"--network={{0.toy}} --runs=67 --sampler=pool {POSTERIOR}",
        "--dest",
        "network.pkl",
        tolerance=0,
        foreign=("--data_root",),
    ),
    Command(
        "posterior compare",
        "--network={0.likelihood} --network={0.likelihood} --prior=uniform"
        " --observation={0.trials} --draws=20 --device_name=cpu",
        tolerance=0,
    ),
    Command(
        "posterior population",
        "--draws={0[posterior-sample/*.nc]} --prior=uniform --bounds=x1:-9:9 --n_draws=400",
        tolerance=0,
    ),
    Command(
        "posterior rounds",
        "--simulator={0.simulator}:simulate --bounds=theta:-1:1 --rounds=2"
        " --observation={0.folder}/one.csv --simulations=160 --draws=20"
        " --duration=0.001 --device_name=cpu",
    ),
    Command("posterior predict", "--draws={0[posterior-sample/*.nc]} --simulations=9", tolerance=0),
    Command(
        "posterior mixture",
        "--network={0.toy} --noise_std=0.3 --points=7 --runs=5 --draws=16"
        " --n_iters=3 --device_name=cpu",
        # On some processors BLAS rounds a row of a product by its place among the others.
        tolerance=1e-12,
        foreign=("--observation",),
    ),
    Command(
        "dataset_tool",
        "--source={0.images} --max-images=5",
        "--dest",
        "set.zip",
        tolerance=0,
        added_to=".json",
    ),
    Command("import_network", "--source={0.original}", "--dest", "network.pkl", tolerance=0),
    *(
        Command(
            f"ask {word}",
            f"--network={{0.questions}} {asked}",
            "--dest",
            f"answers.{ending}",
            tolerance=0,
        )
        for word, ending, asked in (
            ("fill", "csv", "--data={0.few_houses}"),
            ("predict", "csv", "--data={0.few_houses} --columns=price"),
            ("score", "csv", "--data={0.few_houses}"),
            ("sample", "csv", "--count=20"),
            ("check", "json", "--data={0.houses}"),
        )
    ),
    Command("info", "{0.toy} {0.images}", place=""),
    Command("visualize", f"{MELT} --no-animation", tolerance=0),
    Command("report", MELT, "--dest", "report.html", tolerance=0),
)
COMMANDS = {command.name: command for command in ALL}


@pytest.fixture(scope="session")
def shelf(toy_network, questions_run, houses, tmp_path_factory):
    toy = toy_network("--data_name=circles", "--dims_to_keep=1", "--tmax=5")
    questions = questions_run / "network-snapshot-000004.pkl"
    return Shelf(tmp_path_factory.mktemp("shelf"), toy, questions, houses)
