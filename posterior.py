"""Posteriors of what was not seen, given what was, and tests of their calibration.

sample draws from the posterior of each observation; check finds truths again; mixture infers the
weights of a mixture over latents.
"""

from training.options.declared import takes
from training.options.posterior import CheckSettings, MixtureSettings, SampleSettings
from training.options.script import group, run_script


@group(help=__doc__)
def main() -> None:
    pass


@main.command()
@takes(SampleSettings)
def sample(settings: SampleSettings) -> int:
    """Draw from the posterior of each observation.

    \b
    Files: {data}_{schedule}_posterior.nc      draws, for ArviZ
           {data}_{schedule}_posterior.json    summaries, options, whether they converged
    """
    from training.commands import posterior as job  # here, so that --help need not wait for PyTorch

    return job.sample(settings)


@main.command()
@takes(CheckSettings)
def check(settings: CheckSettings) -> int:
    """Test whether sampler (--truth=flow) or model (--truth=data) are calibrated.

    Truths are found again; the verdict says how large an error so many runs would have seen.

    For a conditional network of a table, without a likelihood, truths are rows of --data_root, and
    observations are their conditions.

    \b
    Files: {data}_{schedule}_posterior_check.json    p-values, coverage, verdict
           {data}_{schedule}_posterior_check.npz     ranks and scores of each run
    """
    from training.commands import posterior as job  # here, so that --help need not wait for PyTorch

    return job.check(settings)


@main.command()
@takes(MixtureSettings)
def mixture(settings: MixtureSettings) -> None:
    """Infer the weights of a Gaussian mixture over latents from noisy data.

    \b
    Files: {data}_{schedule}_mixture.json    posteriors of the weights, calibration, verdict
           {data}_{schedule}_mixture.npz     draws, true weights, what was observed
    """
    from training.commands import posterior as job  # here, so that --help need not wait for PyTorch

    job.mixture(settings)


if __name__ == "__main__":
    run_script(main)
