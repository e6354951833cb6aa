"""Integrates the probability-flow ODE of a toy: melt, roundtrip from the melt's end, and gen."""

from training.options.script import group, run_script, runs
from training.options.simulations import ClosedFormSettings, NetSettings

POINTS = "Integrate with a finite set of points that stands for the data."
EXACT = "Integrate with the toy's own denoiser, known in closed form."
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
