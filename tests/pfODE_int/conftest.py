"""What tests of ``pfODE_int.py`` share: networks, images, and simulations read back."""

from collections.abc import Callable
from pathlib import Path

import pytest
from image_models import save_image_model, write_image_set
from image_simulations import CLASSES, COUNT, END, NETWORKS, Found, Run

import pfODE_int


@pytest.fixture(scope="session")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Network files; the output of all is zero but for the one with classes."""
    folder = tmp_path_factory.mktemp("networks")
    paths = {name: folder / f"{name}.pkl" for name in NETWORKS}
    for name, options in NETWORKS.items():
        save_image_model(paths[name], **{"t_max": END, **options})
    return paths


@pytest.fixture(scope="session")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random images with classes."""
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    write_image_set(path, 30, classes=CLASSES)
    return path


def arguments_of(network: Path, images: Path, *more: object) -> list[str]:
    """Few images and steps, unless arguments say otherwise."""
    standard: dict[str, object] = {
        "--network": network,
        "--data_root": images,
        "--bs": COUNT,
        "--n_iters": 2,
        "--batch-gpu": COUNT,
    }
    given = {str(argument).partition("=")[0] for argument in more}
    if {"--sim_type=roundtrip", "--sim_type=gen"} & set(more):
        del standard["--data_root"]
    if "--sim_type=roundtrip" in more:
        del standard["--bs"]
    left = [f"{name}={value}" for name, value in standard.items() if name not in given]
    return [*left, *map(str, more)]


@pytest.fixture
def command(networks: dict[str, Path], images: Path, tmp_path: Path) -> Callable[..., list[str]]:
    """``command(network, ...)``: into ``out``, unless arguments say otherwise."""
    place = f"--save_dir={tmp_path / 'out'}"

    def arguments(network: str, *more: object) -> list[str]:
        places = [] if any(str(text).startswith("--save_dir") for text in more) else [place]
        return arguments_of(networks[network], images, *places, *more)

    return arguments


@pytest.fixture(scope="session")
def simulate(
    run_script: Run,
    networks: dict[str, Path],
    images: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Run:
    """Runs a command as ``command`` makes it, and reads what it wrote.

    Without a ``--save_dir``, what was simulated once is not simulated again, and its folder is not
    to be written to.
    """
    made: dict[tuple[str, ...], Found] = {}

    def run(network: str, *given: str) -> Found:
        result = run_script(pfODE_int, *arguments_of(networks[network], images, *given))
        assert (result.code, result.err) == (0, ""), result.err
        (folder,) = (Path(text[11:]) for text in given if text.startswith("--save_dir="))
        return Found(folder)

    def start(network: str, *more: object) -> Found:
        given = tuple(str(argument) for argument in more)
        if any(argument.startswith("--save_dir") for argument in given):
            return run(network, *given)
        if (network, *given) not in made:
            folder = tmp_path_factory.mktemp("simulated")
            made[network, *given] = run(network, *given, f"--save_dir={folder}")
        return made[network, *given]

    return start
