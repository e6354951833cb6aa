"""Posteriors of what was not seen, given what was, and tests of their calibration.

sample draws from the posterior of each observation; check finds truths again; calibrate learns
from truths what to ask for, so that intervals hold what they say; predict simulates data from
draws; compare weighs models; population infers what members of a population have in common; rounds
simulates where the posterior of one observation may be; mixture infers the weights of a mixture
over latents.
"""

from training.options import posterior
from training.options.script import group, run_script, runs

main = group(
    help=__doc__,
    commands={
        "sample": runs("posterior.sample", posterior.SampleSettings),
        "check": runs("posterior.check", posterior.CheckSettings),
        "calibrate": runs("calibrating.calibrate", posterior.CalibrateSettings),
        "predict": runs("comparing.predict", posterior.PredictSettings),
        "compare": runs("comparing.compare", posterior.CompareSettings),
        "population": runs("population.population", posterior.PopulationSettings),
        "rounds": runs("rounds.run", posterior.RoundsSettings),
        "mixture": runs("posterior.mixture", posterior.MixtureSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
