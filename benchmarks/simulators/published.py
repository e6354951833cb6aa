"""C2ST as published with the benchmark, mean over 10 observations, from its result files.

Of neural posterior estimation, amortized (NPE) and in rounds for one observation (SNPE).
"""

COUNTS = (1000, 10_000, 100_000)
_FIGURES = {
    "two_moons": ((0.725, 0.606, 0.542), (0.643, 0.554, 0.530)),
    "gaussian_mixture": ((0.731, 0.661, 0.555), (0.697, 0.583, 0.533)),
    "gaussian_linear": ((0.694, 0.552, 0.506), (0.652, 0.544, 0.507)),
    "gaussian_linear_uniform": ((0.696, 0.553, 0.509), (0.631, 0.527, 0.507)),
    "bernoulli_glm": ((0.863, 0.678, 0.559), (0.855, 0.614, 0.525)),
    "slcp": ((0.975, 0.901, 0.831), (0.965, 0.845, 0.666)),
    "sir": ((0.815, 0.680, 0.585), (0.638, 0.561, 0.575)),
    "lotka_volterra": ((0.999, 0.997, 0.981), (0.990, 0.953, 0.928)),
}
NPE: dict[str, dict[int, float]] = {
    task: dict(zip(COUNTS, figures[0], strict=True)) for task, figures in _FIGURES.items()
}
SNPE: dict[str, dict[int, float]] = {
    task: dict(zip(COUNTS, figures[1], strict=True)) for task, figures in _FIGURES.items()
}
"""By task and number of simulations."""
