"""Sample posteriors, and test and calibrate them.

Either a flow of the data is the prior and the likelihood is known, or a conditional network
represents the posterior.
"""

from training.cli.script import group, run_script, runs
from training.settings import posterior

main = group(
    help=__doc__,
    commands={
        "sample": runs("posterior.sample", posterior.SampleSettings),
        "check": runs("posterior.check", posterior.CheckSettings),
        "calibrate": runs("posterior.calibrate", posterior.CalibrateSettings),
        "predict": runs("posterior.predict", posterior.PredictSettings),
        "compare": runs("posterior.compare", posterior.CompareSettings),
        "population": runs("posterior.population", posterior.PopulationSettings),
        "rounds": runs("rounds.run", posterior.RoundsSettings),
        "mixture": runs("posterior.mixture", posterior.MixtureSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
