"""Melts images or rows of a data set, generates them back, and measures how well they return."""

from training.options.declared import takes
from training.options.script import command, run_script
from training.options.simulations import RoundtripSettings


@command(help=__doc__)
@takes(RoundtripSettings)
def main(settings: RoundtripSettings) -> None:
    from training.commands.calc_roundtrip_mse import (
        run,  # here, so that --help need not wait for PyTorch
    )

    run(settings)


if __name__ == "__main__":
    run_script(main)
