"""Measure the coverage of a flow with spheres that it carries to the data and back.

Coverage is the fraction of points inside. Test points of the latent Gaussian, and spheres of given
Mahalanobis radii, are generated to data space and inflated back. The flow is that of a toy, or of a
table with 2 or 3 columns.

\b
Printed columns, and their names in the files where these differ:
chi2    probability of the sphere under the Gaussian ("exact")
start   fraction of test points inside at the start, in latent space ("latent")
data    the same after generation; equals start for any denoiser
end     the same after inflating the generated points
fresh   fraction of new samples (validation rows) inside, in data space; differs from chi2
        if the denoiser is wrong or the latents are not Gaussian
change  largest difference of data or end from start ("largest_change")
moved   largest number of test points that changed sides ("changed_sides")
paired  in 2-D with a network: fresh minus the fraction inside spheres carried by the exact
        denoiser, and its standard error

\b
Files: {data}_{schedule}_coverage.json    numbers and options
       {data}_{schedule}_coverage.npz     points, boundaries and numbers
       {data}_{schedule}_r{radius}_{latent|data|end}.ply    each mesh, in 3-D
"""

from training.cli.script import run_script, runs
from training.settings.simulations import CoverageSettings

main = runs("toy_mesh_exps.run", CoverageSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
