"""C2ST of neural posterior estimation (NPE) as published with the benchmark, from its result files.

Means over ten observations, by task and number of simulations.
"""

COUNTS = (1000, 10_000, 100_000)
_FIGURES = {
    "two_moons": (0.725, 0.606, 0.542),
    "gaussian_mixture": (0.731, 0.661, 0.555),
    "gaussian_linear": (0.694, 0.552, 0.506),
    "gaussian_linear_uniform": (0.696, 0.553, 0.509),
    "bernoulli_glm": (0.863, 0.678, 0.559),
    "slcp": (0.975, 0.901, 0.831),
    "sir": (0.815, 0.680, 0.585),
    "lotka_volterra": (0.999, 0.997, 0.981),
}
NPE: dict[str, dict[int, float]] = {
    task: dict(zip(COUNTS, figures, strict=True)) for task, figures in _FIGURES.items()
}
