"""Integrates the probability-flow ODE of images or tables: melt data, bring it back, generate."""

from training.options.declared import takes
from training.options.pfode_int import Settings
from training.options.script import command, run_script


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    from training.commands.pfODE_int import run  # here, so that --help need not wait for PyTorch

    run(settings)


if __name__ == "__main__":
    run_script(main)
