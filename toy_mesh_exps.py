"""Coverage under the flow of a toy, or of a table of 2 or 3 columns: what stays in spheres that are
carried to the data and back.

Test points of the latent Gaussian and points on spheres of given Mahalanobis radii are generated to
data and inflated back; at each stage the test points inside each boundary are counted, and in data
space fresh samples of the toy, or held-out rows of the table, too.

\b
Columns, by radius, and their names in the files where these differ:
chi2    part of the Gaussian in the sphere ("exact")
start   test points inside at the start, in latent space ("latent")
data    the same after generation; equal to start, however wrong the score is
end     the same after inflating the generated points
fresh   new samples of the toy, or held-out rows, in data space: differs from chi2 by
        errors of the score, and where latents are not Gaussian
change  largest difference of data or end from start ("largest_change")
moved   most test points on another side than at the start ("changed_sides")
paired  with --paired: fresh, minus the same samples in the spheres that the exact
        denoiser carries ("paired"); s.e. is its standard error, far below a count's

\b
Files: {data}_{schedule}_coverage.json    numbers and options
       {data}_{schedule}_coverage.npz     points, boundaries and numbers
       {data}_{schedule}_r{radius}_{latent|data|end}.ply    each mesh, in 3-D
"""

from training.options.script import run_script, runs
from training.options.simulations import CoverageSettings

main = runs("toy_mesh_exps.run", CoverageSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
