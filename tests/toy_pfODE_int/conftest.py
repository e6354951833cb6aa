"""What tests of ``toy_pfODE_int.py`` share: networks, and simulations read back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toy_simulations import NETWORKS, Run, Simulated, read

import toy_pfODE_int


@pytest.fixture(scope="session")
def networks(toy_network: Callable[..., Path]) -> dict[str, Path]:
    return {name: toy_network(*options) for name, options in NETWORKS.items()}


@pytest.fixture(scope="session")
def simulate(
    run_script: Run, networks: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """``simulate("exact", ...)`` or ``simulate("net", network_name, ...)``, read back.

    What was simulated once is not simulated again.
    """
    made: dict[tuple[str, ...], Simulated] = {}

    def start(mode: str, *arguments: str) -> Simulated:
        if (mode, *arguments) not in made:
            made[mode, *arguments] = run(mode, *arguments)
        return made[mode, *arguments]

    def run(mode: str, *arguments: str) -> Simulated:
        if mode == "net":
            arguments = (f"--network={networks[arguments[0]]}", *arguments[1:])
        elif not any(argument.startswith("--data_name") for argument in arguments):
            arguments = ("--data_name=circles", *arguments)
        folder = tmp_path_factory.mktemp("simulated")
        few = ("--total_samples=7", "--steps=5", "--save_freq=2")
        given = {argument.partition("=")[0] for argument in arguments}
        few = tuple(argument for argument in few if argument.partition("=")[0] not in given)
        if "--h" in given:
            few = tuple(argument for argument in few if not argument.startswith("--steps"))
        result = run_script(toy_pfODE_int, mode, f"--save_dir={folder}", *few, *arguments)
        assert (result.code, result.err) == (0, ""), result.err
        return read(folder)

    return start
