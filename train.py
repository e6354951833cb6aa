"""Trains a denoiser on images, or on the rows of a table."""

from training.settings.declared import takes
from training.settings.script import command, run_script
from training.settings.train import TrainSettings
from training.settings.training import require_named


@command(help=__doc__)
@takes(TrainSettings)
def main(settings: TrainSettings) -> None:
    require_named(settings, "data")
    from training.jobs.train import run  # here, so that --help need not wait for PyTorch

    run(settings)


if __name__ == "__main__":
    run_script(main)
