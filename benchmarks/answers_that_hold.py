"""Do answers hold what they say? Coverage before and after calibration, and refusals.

    python benchmarks/answers_that_hold.py coverage [--task=two_moons,slcp] [--folder=out/holding]
        [--simulations=10000] [--wrong=none|noise|few]
    python benchmarks/answers_that_hold.py refusals [--task=...] [--folder=out/holding]
    python benchmarks/answers_that_hold.py limits

Of the simulations a tenth is kept for ``posterior.py calibrate``; ``train.py --cond`` trains on the
others. ``coverage`` then asks 2,000 new simulations:

error        |share of truths held - stated|, mean over the levels 5, 10, ..., 95 %, in highest-
             density regions: as the flow says, by all held-out truths, by those near
nearby       the same among the 200 simulations nearest to one of ten, the mean of ten such errors,
             of which chance alone makes 0.023
volume       mean log volume of the 90 % region, in the parameters' units, by importance sampling

``--wrong=noise`` trains on data of which the noise that the simulator adds is half as large (of
Gaussian tasks), ``few`` on 300 simulations; truths are calibrated on, and asked, as they are.

``refusals`` trains a flow of the data too, and shows which shares of observations have p < 0.05 if
they are new simulations, and if something is wrong with them:

one, all     one number of the data, or all, moved by 3 of its standard deviations
noise        to each number Gaussian noise of its own standard deviation is added
other        a simulator of the same numbers without what they have in common: each number is of a
             simulation of its own
gap          only of ``clusters``: halfway between two clusters of data

``limits`` shows the same of the best test that there is for each of these alone, that by the ratio
of densities (Neyman and Pearson 1933): of two numbers by counting simulations, and of independent
Gaussian and uniform ones as they are.
"""

import subprocess
import sys
from dataclasses import dataclass, fields, replace
from pathlib import Path

import click
import numpy as np
import torch
from scipy.stats import norm
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.estimators.estimate import Simulations
from benchmarks.estimators.flow import ROOT, newest_network, save_simulations
from benchmarks.simulators import TASKS, Task, Wheel
from benchmarks.simulators.priors import Prior, Uniform
from dnnlib.errors import DataError, UsageError
from torch_utils.results import load_arrays, save_arrays
from training.cli.script import run_script
from training.flow.likelihood import Trace
from training.inference.guarantee import HeldOutTruths
from training.measure.posterior.calibration import fractional_ranks
from training.models.calibration import OutlierScores
from training.models.inference import InferenceTask
from training.settings.inference import HeldOutOptions, PriorOptions, SamplerOptions
from training.settings.posterior import CalibrateSettings

SIX = (
    *("two_moons", "slcp", "bernoulli_glm", "gaussian_linear", "gaussian_linear_uniform"),
    "gaussian_mixture",
)
Draw = np.random.Generator
LEVELS = [percent / 100 for percent in range(5, 100, 5)]
FRESH, DRAWS, GROUP, NEARBY = 2000, 100, 50, 200
FALSE_ALARMS = 0.05


class Clusters(Task):
    """Two clusters of data, which tell the sign of the first of three parameters alone."""

    name = "clusters"
    data_dim = 3

    def __init__(self) -> None:
        self.prior: Prior = Uniform(-1, 1, 3)

    def simulate(self, theta: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        return 4 * np.sign(theta[:, :1]) + theta + 0.3 * draw.normal(size=theta.shape)

    def log_likelihood(self, theta: np.ndarray, data: np.ndarray) -> np.ndarray:
        mean = 4 * np.sign(theta[:, :1]) + theta
        return -(((data - mean) / 0.3) ** 2).sum(axis=1) / 2


def task_of(name: str, folder: Path) -> Task:
    if name == Clusters.name:
        return Clusters()
    if name not in TASKS:
        raise UsageError(f"there is no task '{name}', only {', '.join((*TASKS, Clusters.name))}")
    return TASKS[name](Wheel.downloaded(folder / "wheel"))


@dataclass(frozen=True)
class Plan:
    """Simulations of a task, what is trained on them, and where it is.

    Attributes:
        task: The task.
        simulations: How many, of which a tenth is kept.
        wrong: What is wrong on purpose with those that are trained on.
        seed: Of all.
        folder: Where files go.
    """

    task: Task
    simulations: int
    wrong: str
    seed: int
    folder: Path

    @property
    def place(self) -> Path:
        wrong = "" if self.wrong == "none" else f"-{self.wrong}"
        return self.folder / f"{self.task.name}-{self.simulations}{wrong}-seed{self.seed}"

    def simulated(self, count: int, stream: int) -> Simulations:
        """So many simulations; those of another stream are others."""
        draw = np.random.default_rng([self.seed, stream, len(self.task.name), count])
        theta = self.task.prior.sample(count, draw)
        data = self.task.simulate(theta, draw)
        return Simulations(self.task, theta, data, data[:0], DRAWS, self.seed, self.place)

    def trained(self) -> Path:
        """A calibrated network."""
        done = self.place / "calibrated.pkl"
        if done.exists():
            return done
        table = self.place / "simulations.npz"
        given, kept, truths = self.simulated(self.simulations, 0), 0.1, table
        if self.wrong != "none":
            truths, kept = self.place / "truths.npz", 0.0
            save_simulations(truths, self.simulated(self.simulations // 10, 2), held_out=0)
        if self.wrong == "few":
            given = replace(given, theta=given.theta[:300], data=given.data[:300])
        if self.wrong == "noise":
            draw = np.random.default_rng(self.seed)
            # The mean of four is of the same parameters, with half of what the simulator adds.
            four = [self.task.simulate(given.theta, draw) for _ in range(4)]
            given = replace(given, data=np.mean(four, axis=0))
        save_simulations(table, given, kept=kept)
        if not list(self.place.glob("*/network-snapshot-*.pkl")):
            cpu = "--device_name=cpu"
            run("train.py", "--cond", f"--data={table}", f"--outdir={self.place}", cpu)
        network = newest_network(self.place)
        options = [f"--network={network}", f"--data_root={truths}", f"--dest={done}"]
        options += [f"--draws={DRAWS // 4}", f"--save_dir={self.place}", "--device_name=cpu"]
        run("posterior.py", "calibrate", *options, "--overwrite")
        return done

    def asked(self, network: Path, conditions_network: Path | None = None) -> InferenceTask:
        """A question to the network, on the CPU."""
        settings = CalibrateSettings(
            save_dir=self.place,
            prior=PriorOptions(network=str(network)),
            sampler=SamplerOptions(draws=DRAWS // 4, seed=self.seed + 1),
            beside=HeldOutOptions(
                conditions_network=None if conditions_network is None else str(conditions_network)
            ),
        )
        return InferenceTask.open(settings)

    def flow_of_data(self) -> Path:
        """A flow of the data alone."""
        folder = self.place / "data"
        if not list(folder.glob("*/network-snapshot-*.pkl")):
            given = self.simulated(self.simulations, 0)
            names = ",".join(f"y{index + 1}" for index in range(given.data.shape[1]))
            folder.mkdir(parents=True, exist_ok=True)
            np.savetxt(folder / "y.csv", given.data, delimiter=",", header=names, comments="")
            table = folder / "y.npz"
            made = [f"--source={folder / 'y.csv'}", f"--dest={table}", "--overwrite"]
            run("dataset_tool.py", *made, "--kept=0.1", f"--seed={self.seed}")
            run("train.py", f"--data={table}", f"--outdir={folder}", "--device_name=cpu")
        return newest_network(folder)


def run(*command: str) -> None:
    """Runs a script. Raises DataError if it fails."""
    code = subprocess.run([sys.executable, *command], cwd=ROOT, stdout=sys.stderr).returncode
    if code:
        raise DataError(f"{' '.join(command[:2])} ended with code {code}")


@dataclass(frozen=True, eq=False)
class Fresh:
    """What is known of new simulations.

    Attributes:
        contents: ``[n]``, of the smallest region that holds the truth.
        whitened: Conditions ``[n, C]``.
        densities: Log densities of draws ``[n, S]``.
    """

    contents: Tensor
    whitened: Tensor
    densities: Tensor


def asked_of(plan: Plan, network: Path) -> Fresh:
    """What a network says of 2,000 new simulations, which is kept beside it."""
    path = plan.place / "fresh.npz"
    names = [item.name for item in fields(Fresh)]
    if path.exists():
        arrays = load_arrays(path, names)
        return Fresh(*(torch.from_numpy(arrays[name]) for name in names))
    fresh = plan.simulated(FRESH, 1)
    theta, data = (torch.from_numpy(each).double() for each in (fresh.theta, fresh.data))
    asked = plan.asked(network)
    amortized = replace(asked.amortized(asked.fine, data), trace=Trace("exact"), fewer=True)
    contents, densities = [], []
    generator = torch.Generator().manual_seed(plan.seed)
    for places in torch.split(torch.arange(FRESH), GROUP):
        draws = amortized.sample(places)
        own = amortized.log_density(theta[places][:, None], places, Trace("exact"))[:, 0]
        if "leaked" in draws.stats:
            own = own - (1 - draws.stats["leaked"]).log()
        assert draws.log_density is not None
        density = draws.log_density.flatten(1)
        contents.append(1 - fractional_ranks(density, own, generator))
        densities.append(density)
    odd = OutlierScores.of(asked, HeldOutOptions(), data)
    assert odd.whitened is not None
    made = Fresh(torch.cat(contents), odd.whitened, torch.cat(densities))
    save_arrays(path, {name: getattr(made, name).numpy() for name in names})
    return made


def error_of(contents: Tensor, levels: Tensor) -> float:
    """The mean absolute error of coverage of contents ``[n]``, by levels asked for ``[L]`` or
    ``[n, L]``."""
    held = (contents[:, None] <= levels).double().mean(dim=0)
    return float((held - torch.tensor(LEVELS).double()).abs().mean())


def log_volume(densities: Tensor, asked: Tensor) -> float:
    """Mean log volume of the regions of a content ``[]`` or ``[n]`` each, by draws ``[n, S]``."""
    count = densities.shape[1]
    ordered = densities.sort(dim=1, descending=True).values
    inside = torch.arange(count) < (asked.expand(len(densities)) * count).round()[:, None]
    weights = torch.where(inside, -ordered, -torch.inf)
    return float((weights.logsumexp(dim=1) - np.log(count)).mean())


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--task", "tasks", default=",".join(SIX))
@click.option("--simulations", default=10_000)
@click.option("--wrong", type=click.Choice(["none", "noise", "few"]), default="none")
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/holding"))
def coverage(tasks: str, simulations: int, wrong: str, seed: int, folder: Path) -> None:
    """Errors of coverage before and after."""
    torch.set_num_threads(1)
    print("| task | error: flow | held out | near | nearby: flow | held out | near |", end="")
    print(" volume: flow | held out | near |")
    print("| --- | " + " | ".join(["---:"] * 9) + " |")
    for name in tasks.split(","):
        folder = folder.resolve()
        plan = Plan(task_of(name, folder), simulations, wrong, seed, folder)
        cells = [f"{value:.3f}" for value in coverage_of(plan)]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def coverage_of(plan: Plan) -> list[float]:
    """Errors, those near ten simulations, and log volumes: of the flow, held out, and near."""
    network = plan.trained()
    fresh = asked_of(plan, network)
    truths = plan.asked(network).subject
    assert truths.network is not None
    assert truths.network.held_out is not None
    guarantee = HeldOutTruths(truths.network.held_out)
    near, _ = guarantee.levels_near(fresh.whitened, LEVELS)
    ways = [torch.tensor(LEVELS).double(), guarantee.levels(LEVELS).regions, near.regions]
    middles = torch.cdist(fresh.whitened[:10], fresh.whitened)
    groups = middles.topk(NEARBY, largest=False).indices
    errors = [error_of(fresh.contents, way) for way in ways]
    locally = [
        [error_of(fresh.contents[g], way[g] if way.ndim == 2 else way) for g in groups]
        for way in ways
    ]
    nearby = [float(np.mean(each)) for each in locally]
    at = LEVELS.index(0.9)
    return [*errors, *nearby, *(log_volume(fresh.densities, way[..., at]) for way in ways)]


def disturbed(kind: str, data: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Data ``[n, C]`` with something wrong."""
    std, (count, width) = data.std(axis=0), data.shape
    signs = draw.choice([-1, 1], (count, width))
    if kind == "one":
        signs[np.arange(width) != draw.integers(width, size=(count, 1))] = 0
        return data + 3 * std * signs
    if kind == "all":
        return data + 3 * std * signs
    if kind == "noise":
        return data + std * draw.normal(size=data.shape)
    return draw.permuted(data, axis=0)


KINDS = ("one", "all", "noise", "other")


@main.command()
@click.option("--task", "tasks", default=",".join((*SIX, Clusters.name)))
@click.option("--simulations", default=10_000)
@click.option("--seed", default=0)
@click.option("--folder", type=Path, default=Path("out/holding"))
def refusals(tasks: str, simulations: int, seed: int, folder: Path) -> None:
    """Shares of observations that are refused."""
    torch.set_num_threads(1)
    print(f"| task | new simulations | {' | '.join(KINDS)} | gap |")
    print("| --- | " + " | ".join(["---:"] * (len(KINDS) + 2)) + " |")
    for name in tasks.split(","):
        folder = folder.resolve()
        plan = Plan(task_of(name, folder), simulations, "none", seed, folder)
        cells = [f"{100 * share:.1f}" for share in refused(plan)]
        print(f"| {name} | {' | '.join([*cells, ''][: len(KINDS) + 2])} |", flush=True)


def refused(plan: Plan) -> list[float]:
    """Shares that are refused at 5 %: of new simulations, of those that are disturbed, of a gap."""
    network, of_data = plan.trained(), plan.flow_of_data()
    kept = plan.place / "calibrated-odd.pkl"
    if not kept.exists():
        options = [f"--network={network}", f"--data_root={plan.place / 'simulations.npz'}"]
        options += [f"--draws={DRAWS // 4}", f"--save_dir={plan.place / 'odd'}", f"--dest={kept}"]
        options += [f"--conditions_network={of_data}", "--device_name=cpu", "--overwrite"]
        run("posterior.py", "calibrate", *options)
    asked, beside = plan.asked(kept, of_data), HeldOutOptions(conditions_network=str(of_data))
    assert asked.subject.network is not None
    assert asked.subject.network.held_out is not None
    guarantee = HeldOutTruths(asked.subject.network.held_out)
    data, draw = plan.simulated(FRESH // 4, 1).data, np.random.default_rng(plan.seed)
    sets = [data, *(disturbed(kind, data, draw) for kind in KINDS)]
    if isinstance(plan.task, Clusters):
        sets.append(data - 4 * np.sign(data))
    return [refused_share(guarantee, asked, each, beside) for each in sets]


def refused_share(
    guarantee: HeldOutTruths,
    asked: InferenceTask,
    data: np.ndarray,
    beside: HeldOutOptions = HeldOutOptions(),  # noqa: B008 a frozen one
) -> float:
    """The share of data ``[n, C]`` that is refused."""
    odd = OutlierScores.of(asked, beside, torch.from_numpy(data).double())
    assert odd.whitened is not None
    p, _ = guarantee.p_values(odd.whitened, odd.values)
    return float((p <= FALSE_ALARMS).double().mean())


PLANE = ("two_moons", "gaussian_mixture")
"""Tasks with two numbers of data, whose densities are counted."""
LAWS = {"gaussian_linear": (0.0, 0.2**0.5), "gaussian_linear_uniform": (1.0, 0.1**0.5)}
"""Tasks whose numbers are uniform between -b and b, with Gaussian noise: b, and its standard
deviation."""
COUNTED, BINS = 2_000_000, 150


@main.command()
@click.option("--seed", default=0)
def limits(seed: int) -> None:
    """Shares of observations that the best test for each disturbance refuses."""
    print(f"| task | {' | '.join(KINDS)} |\n| --- | " + " | ".join(["---:"] * len(KINDS)) + " |")
    for name in (*PLANE, *LAWS):
        draw, task = np.random.default_rng(seed), TASKS[name](Wheel(Path()))

        def simulated(count: int, task: Task = task, draw: Draw = draw) -> np.ndarray:
            return task.simulate(task.prior.sample(count, draw), draw)

        many, cells = simulated(COUNTED), []
        for kind in KINDS:
            rows = simulated(COUNTED // 10)
            sets = rows, disturbed(kind, rows, draw)
            if name in PLANE:
                known, new = counted(many, disturbed(kind, many, draw), *sets)
            else:
                known, new = (ratio(kind, each, many.std(axis=0), *LAWS[name]) for each in sets)
            share = (new > np.quantile(known, 1 - FALSE_ALARMS)).mean()
            cells.append(f"{100 * max(share, FALSE_ALARMS):.1f}")  # or refuses at random
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


def counted(many: np.ndarray, wrong: np.ndarray, *sets: np.ndarray) -> list[np.ndarray]:
    """How many times more of wrong rows ``[N, 2]`` than of others ``[N, 2]`` lie where rows
    ``[n, 2]`` of some sets do."""
    inner = [np.linspace(column.min(), column.max(), BINS) for column in many.T]
    edges = [np.array([-np.inf, *each, np.inf]) for each in inner]
    times = np.histogramdd(wrong, edges)[0] / (np.histogramdd(many, edges)[0] + 1e-3)
    places = [
        tuple(np.searchsorted(edge, y) - 1 for edge, y in zip(edges, rows.T, strict=True))
        for rows in sets
    ]
    return [times[place] for place in places]


def ratio(kind: str, rows: np.ndarray, std: np.ndarray, half: float, noise: float) -> np.ndarray:
    """By how many nats rows ``[n, C]`` are likelier if something is wrong with them ``[n]``, up to
    a constant."""

    def density(y: np.ndarray, scale: np.ndarray | float = noise) -> np.ndarray:
        """Of each number ``[n, C]``."""
        if not half:
            return np.asarray(norm.pdf(y, scale=scale))
        return np.asarray(norm.cdf((y + half) / scale) - norm.cdf((y - half) / scale))

    def times(wrong: np.ndarray) -> np.ndarray:
        return np.asarray(np.log(wrong + 1e-300) - np.log(density(rows) + 1e-300))

    if kind == "noise":
        return np.asarray(times(density(rows, np.hypot(noise, std))).sum(axis=1))
    if kind == "other":
        return np.zeros(len(rows))
    moved = times(density(rows - 3 * std) + density(rows + 3 * std))
    return np.asarray(np.logaddexp.reduce(moved, axis=1) if kind == "one" else moved.sum(axis=1))


if __name__ == "__main__":
    run_script(main)
