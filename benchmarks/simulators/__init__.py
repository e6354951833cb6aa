"""The ten tasks of the benchmark of simulation-based inference, written from their definitions.

Lueckmann, Boelts, Greenberg, Gonçalves and Macke, "Benchmarking simulation-based inference",
AISTATS 2021, appendix T. Each module names the section that it implements. Observations, reference
posteriors and the constants of two tasks are data of the package ``sbibm`` (``wheel``).
"""

from collections.abc import Callable

from benchmarks.simulators.dynamics import LotkaVolterra, Sir
from benchmarks.simulators.gaussians import GaussianLinear, GaussianLinearUniform, GaussianMixture
from benchmarks.simulators.glm import BernoulliGlm, BernoulliGlmRaw
from benchmarks.simulators.moons import TwoMoons
from benchmarks.simulators.slcp import Slcp, SlcpDistractors
from benchmarks.simulators.task import Task
from benchmarks.simulators.wheel import Wheel

TASKS: dict[str, Callable[[Wheel], Task]] = {
    "two_moons": lambda wheel: TwoMoons(),
    "slcp": lambda wheel: Slcp(),
    "slcp_distractors": SlcpDistractors.of_wheel,
    "gaussian_mixture": lambda wheel: GaussianMixture(),
    "gaussian_linear": lambda wheel: GaussianLinear(),
    "gaussian_linear_uniform": lambda wheel: GaussianLinearUniform(),
    "bernoulli_glm": BernoulliGlm.of_wheel,
    "bernoulli_glm_raw": BernoulliGlmRaw.of_wheel,
    "sir": lambda wheel: Sir(),
    "lotka_volterra": lambda wheel: LotkaVolterra(),
}
"""How each is made; two of them need constants of the wheel."""

__all__ = ["TASKS", "Task", "Wheel"]
