"""Trains a denoiser on images, or on the rows of a table."""

from training.options.declared import takes
from training.options.script import command, run_script
from training.options.train import TrainSettings
from training.options.training import require_named


@command(help=__doc__)
@takes(TrainSettings)
def main(settings: TrainSettings) -> None:
    require_named(settings, "data")
    from training.commands.train import run  # here, so that --help need not wait for PyTorch

    run(settings)


if __name__ == "__main__":
    run_script(main)
