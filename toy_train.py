"""Trains a denoiser on a toy data set.

Data are drawn fresh for every step from the toy's own distribution, on its exact eigenbasis.
"""

from training.options.declared import takes
from training.options.script import command, run_script
from training.options.training import ToyTrainSettings, require_named


@command(help=__doc__)
@takes(ToyTrainSettings)
def main(settings: ToyTrainSettings) -> None:
    require_named(settings, "data_name")
    from training.commands.train import run_on_toy  # here, so that --help need not wait for PyTorch

    run_on_toy(settings)


if __name__ == "__main__":
    run_script(main)
