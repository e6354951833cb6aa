"""Residuals of a denoiser at many times, and how those at later times correlate with the first.

extracttoys and extract write the residuals of a network; calctoys and calc correlate them.
"""

from training.options.declared import takes
from training.options.residuals import (
    CalcSettings,
    CalcToysSettings,
    ExtractSettings,
    ExtractToysSettings,
)
from training.options.script import group, run_script


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@takes(ExtractToysSettings)
def extracttoys(settings: ExtractToysSettings) -> None:
    """Write outputs and residuals of a toy's network.

    \b
    Files: {toy}_{schedule}_toy_net_outputs_residuals.npz and .json
    """
    from training.commands import residuals as job  # here, so that --help need not wait for PyTorch

    job.extracttoys(settings)


@main.command()
@takes(ExtractSettings)
def extract(settings: ExtractSettings) -> None:
    """Write outputs and residuals of a network of images or of a table, one file a time.

    \b
    Files: {data}_{schedule}_net_outputs_residuals_time{t}.npz of each time
           {data}_{schedule}_net_outputs_residuals.json
    """
    from training.commands import residuals as job  # here, so that --help need not wait for PyTorch

    job.extract(settings)


@main.command()
@takes(CalcToysSettings)
def calctoys(settings: CalcToysSettings) -> None:
    """Correlate the residuals of a toy's network with those of the first time.

    \b
    Files: {toy}_{schedule}_toy_autocorrelations.npz
           {toy}_{schedule}_toy_autocorrelations_summary.npz and .json
    """
    from training.commands import residuals as job  # here, so that --help need not wait for PyTorch

    job.calctoys(settings)


@main.command()
@takes(CalcSettings)
def calc(settings: CalcSettings) -> None:
    """Correlate the residuals of a network of images or a table with those of the first time.

    \b
    Files: {data}_{schedule}_autocorrelations_times0_{t}.npz of each time
           {data}_{schedule}_autocorrelations_summary.npz and .json
    """
    from training.commands import residuals as job  # here, so that --help need not wait for PyTorch

    job.calc(settings)


if __name__ == "__main__":
    run_script(main)
