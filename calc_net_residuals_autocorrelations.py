"""Compute the residuals of a denoiser along time, and their correlations.

Run extracttoys or extract to write the residuals of a network, then calctoys or calc.
"""

from training.cli.script import group, run_script, runs
from training.settings import residuals

main = group(
    help=__doc__,
    commands={
        "extracttoys": runs("residuals.extracttoys", residuals.ExtractToysSettings),
        "extract": runs("residuals.extract", residuals.ExtractSettings),
        "calctoys": runs("residuals.calctoys", residuals.CalcToysSettings),
        "calc": runs("residuals.calc", residuals.CalcSettings),
    },
)

if __name__ == "__main__":
    run_script(main)
