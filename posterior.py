"""Posteriors of what was not seen, given what was, and tests of their calibration.

sample draws from the posterior of each observation; check finds truths again; calibrate learns
from truths what to ask for, so that intervals hold what they say; predict simulates data from
draws; compare weighs models; population infers what members of a population have in common; rounds
simulates where the posterior of one observation may be; mixture infers the weights of a mixture
over latents.
"""

from training.options.declared import takes
from training.options.posterior import (
    CalibrateSettings,
    CheckSettings,
    CompareSettings,
    MixtureSettings,
    PopulationSettings,
    PredictSettings,
    SampleSettings,
)
from training.options.rounds import RoundsSettings
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
@takes(CalibrateSettings)
def calibrate(settings: CalibrateSettings) -> None:
    """Learn from truths that no training saw what intervals and regions to ask for.

    The network file gets a part, by which sample gives intervals that hold what they say for
    finitely many truths, on average and near the observation, and tells observations that no data
    resemble.

    \b
    Files: the network file, or --dest
           {data}_{schedule}_posterior_calibration.json    guarantee, levels, tests as of check
           {data}_{schedule}_posterior_calibration.npz     ranks of each truth, as of check
    """
    from training.commands import calibrating as job  # here, so that --help need not wait

    job.calibrate(settings)


@main.command()
@takes(PredictSettings)
def predict(settings: PredictSettings) -> int | None:
    """Simulate data from draws of posteriors, and see where the observations lie among them.

    An observation that the model does not make of its own posterior says that prior or simulator
    are wrong, which no calibration sees.

    \b
    Files: {draws}_predictive.json    ranks and p-values of each number, verdict
           {draws}_predictive.npz     simulated data
    """
    from training.commands import predicting as job  # here, so that --help need not wait

    return job.predict(settings)


@main.command()
@takes(CompareSettings)
def compare(settings: CompareSettings) -> int:
    """Compare models by their evidence, given the trials of each observation.

    A model is a likelihood that a network has learned, and a prior of its parameters.

    \b
    Files: comparison.json    log evidences with their errors, Bayes factors, probabilities
    """
    from training.commands import comparing as job  # here, so that --help need not wait

    return job.compare(settings)


@main.command()
@takes(PopulationSettings)
def population(settings: PopulationSettings) -> int | None:
    """Infer a population, of which each posterior is of one member.

    Parameters of members are normal, with a mean and a spread that are not known, each parameter
    for itself. The data of each member narrow the posteriors of all the others.

    \b
    Files: {draws}_population.json    mean and spread, a further member, posteriors of the members
           {draws}_population.npz     draws of all of these
           {draws}_population.pkl     a prior for further members, or for these once more
    """
    from training.commands import population as job  # here, so that --help need not wait

    return job.population(settings)


@main.command()
@takes(RoundsSettings)
def rounds(settings: RoundsSettings) -> int | None:
    """Simulate in rounds, where the posterior of one observation may be.

    Each round draws parameters from the prior where the posterior of the round before has all but
    0.01 % of its mass, and trains on all simulations from there. The same command goes on where a
    run was cut short, and repeats no simulations.

    \b
    Files: round1/, round2/, ...               simulations, what is known of them, and networks
           {data}_{schedule}_posterior.nc      draws of the last posterior, as of sample
           {data}_{schedule}_posterior.json    summaries, options, rounds
           check/                              a check within the last region, as of check
    """
    from training.commands import rounds as job  # here, so that --help need not wait

    return job.run(settings)


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
