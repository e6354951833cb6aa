"""Integrate the probability-flow ODE of a toy.

It inflates data (melt), generates from the end of the melt (roundtrip), and generates new samples
(gen).
"""

from training.cli.script import group, run_script, runs
from training.settings.simulations import ClosedFormSettings, NetSettings

POINTS = "Integrate with the exact denoiser of a finite set of data points."
EXACT = "Integrate with the exact denoiser of the toy, in closed form."
main = group(
    help=__doc__,
    commands={
        "net": runs("simulations.net", NetSettings),
        "discrete": runs("simulations.discrete", ClosedFormSettings, POINTS),
        "exact": runs("simulations.exact", ClosedFormSettings, EXACT),
    },
)

if __name__ == "__main__":
    run_script(main)
