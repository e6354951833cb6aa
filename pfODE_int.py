"""Integrates the probability-flow ODE of images or tables: melt data, bring it back, generate."""

from training.settings.declared import takes
from training.settings.pfode_int import Settings
from training.settings.script import command, run_script


@command(help=__doc__)
@takes(Settings)
def main(settings: Settings) -> None:
    from training.jobs.pfODE_int import run  # here, so that --help need not wait for PyTorch

    run(settings)


if __name__ == "__main__":
    run_script(main)
