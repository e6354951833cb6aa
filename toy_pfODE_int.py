"""Integrates the probability-flow ODE of a toy: melt, roundtrip from the melt's end, and gen."""

from training.options.declared import takes
from training.options.script import group, run_script
from training.options.simulations import ClosedFormSettings, NetSettings


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@takes(NetSettings)
def net(settings: NetSettings) -> None:
    """Integrate with a trained network."""
    from training.commands import (
        toy_pfODE_int as job,  # here, so that --help need not wait for PyTorch
    )

    job.net(settings)


@main.command()
@takes(ClosedFormSettings)
def discrete(settings: ClosedFormSettings) -> None:
    """Integrate with a finite set of points that stands for the data."""
    from training.commands import (
        toy_pfODE_int as job,  # here, so that --help need not wait for PyTorch
    )

    job.discrete(settings)


@main.command()
@takes(ClosedFormSettings)
def exact(settings: ClosedFormSettings) -> None:
    """Integrate with the toy's own denoiser, known in closed form."""
    from training.commands import (
        toy_pfODE_int as job,  # here, so that --help need not wait for PyTorch
    )

    job.exact(settings)


if __name__ == "__main__":
    run_script(main)
