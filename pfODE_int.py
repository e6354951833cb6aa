"""Integrates the probability-flow ODE of images or tables: melt data, bring it back, generate."""

from training.options.declared import takes
from training.options.script import command, run_script
from training.options.simulations import SimulationSettings


@command(help=__doc__)
@takes(SimulationSettings)
def main(settings: SimulationSettings) -> None:
    from training.commands.pfODE_int import run  # here, so that --help need not wait for PyTorch

    run(settings)


if __name__ == "__main__":
    run_script(main)
