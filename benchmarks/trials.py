"""Likelihoods of trials against closed forms, and what claims of models are worth.

    python benchmarks/trials.py conjugate
    python benchmarks/trials.py holes
    python benchmarks/trials.py claims
    python benchmarks/trials.py hierarchy
    python benchmarks/trials.py sets

conjugate: D parameters, uniform between -3 and 3, and trials ``y = theta + e``, e standard normal:
posteriors are normal laws cut at the bounds, and evidences products of their shares. One likelihood
is trained on datasets of 1 to 8 trials, and asked about observations of 1, 4, 16 and 64.

mean       root mean square of what posterior means are off by, in exact standard deviations
std        the same of standard deviations, as a share of the exact ones
evidence   the same of log evidences, in nats; largest
R-hat, s   largest; seconds of the CPU for an observation

holes: the same with 30 % of the numbers missing at random, in simulations and observations: by a
likelihood that takes trials for what is there, by one that has only trials of which nothing is
missing, and, of observations without holes, by one of simulations without. Errors are those against
the exact posterior of all numbers that are there; without these, an observation that has no whole
trial has the prior. Evidences of fewer numbers do not compare.

claims: two models of reaction times, of which each makes half of the observations: logs of times
are normal, or times have a shift and an exponential tail. Probabilities of models are compared with
how often they are right.

hierarchy: 40 subjects of eight reaction times each (docs/tutorials/repeated-trials.md), of one
population:
``posterior.py population`` of posteriors by a learned likelihood, and once more of those under the
prior that it wrote.

sets: a flow of posteriors given sets of trials, and a likelihood of one trial, of the same
simulations: reaction times, or the conjugate model with two parameters. Of fresh datasets the log
density of true parameters, where draws of the flow, weighted by the likelihood, give the evidence;
and what central intervals hold of the parameters.
"""

import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from scipy.stats import norm, truncnorm

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.estimators.flow import children_seconds, newest_network
from benchmarks.estimators.trials import run
from torch_utils.results import load_json
from training.cli.script import run_script
from training.data.tables.repeated_trials import side_by_side
from training.files.rows import save_csv
from training.flow.coordinates.conditions import TrialScale
from training.inference.trial_likelihoods import Trials
from training.subjects import TableFlow
from training.subjects.likelihoods import LearnedLikelihood
from training.trained.network import TrainedNetwork

EDGE, TRIALS, MOST = 3.0, (1, 4, 16, 64), 8
PRIOR = (np.zeros(1), np.full(1, EDGE / 3**0.5), 0.0)
"""Mean, standard deviation and log evidence of nothing."""
SHARE, FEW_TRIALS = 0.3, (4, 16)
"""Of numbers that are missing, and trials of observations of such."""


def trained(
    folder: Path,
    name: str,
    theta: np.ndarray,
    trials: list[np.ndarray],
    bounds: str,
    missing: str = "refuse",
) -> tuple[Path, float]:
    """The network of a likelihood, and its seconds of the CPU.

    Args:
        folder: Where files go.
        name: Of the model.
        theta: Parameters ``[N, D]``.
        trials: Of each ``[n, K]``.
        bounds: Of all parameters, ``low:high``, or of each, ``theta1:low:high,...``.
        missing: What becomes of missing numbers.
    """
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"theta{place + 1}" for place in range(theta.shape[1])]
    data = [f"y{place + 1}" for place in range(trials[0].shape[1])]
    counts = [len(each) for each in trials]
    rows = np.column_stack(
        [np.repeat(np.arange(len(theta)), counts), np.repeat(theta, counts, 0), np.vstack(trials)]
    )
    source, table = folder / f"{name}.csv", folder / f"{name}.npz"
    save_csv(source, ["id", *names, *data], torch.from_numpy(rows))
    before = children_seconds()
    if not (folder / name).exists():
        ranges = bounds if "," in bounds else ",".join(f"{each}:{bounds}" for each in names)
        making = [f"--source={source}", f"--dest={table}", "--overwrite", "--dataset=id"]
        making += [f"--missing={missing}"]
        making += [f"--conditions={','.join(data)}", f"--bounds={ranges}", "--dequantize=none"]
        run(["dataset_tool.py", *making])
        run(["train.py", "--likelihood", f"--data={table}", f"--outdir={folder / name}"])
    return newest_network(folder / name), children_seconds() - before


def saved(path: Path, observations: list[np.ndarray]) -> Path:
    """A file of trials ``[n, K]`` of observations."""
    numbers = np.repeat(np.arange(len(observations)), [len(each) for each in observations])
    names = [f"y{place + 1}" for place in range(observations[0].shape[1])]
    rows = torch.from_numpy(np.column_stack([numbers, np.vstack(observations)]))
    save_csv(path, ["dataset", *names], rows)
    return path


def exact(trials: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Means ``[D]``, standard deviations ``[D]`` and the log evidence given trials ``[n, D]``, NaN
    where numbers are missing."""
    if np.isnan(trials).any():
        columns = (column[~np.isnan(column), None] for column in trials.T)
        parts = [exact(column) if len(column) else PRIOR for column in columns]
        means, stds, evidences = zip(*parts, strict=True)
        return np.concatenate(means), np.concatenate(stds), sum(evidences)
    count, mean = len(trials), trials.mean(axis=0)
    std = count**-0.5
    distribution = truncnorm((-EDGE - mean) / std, (EDGE - mean) / std, mean, std)
    # p(y | theta) = p(y | its mean) N(mean; theta, 1 / n) up to what no theta enters.
    rest = norm.logpdf(trials - mean).sum() + trials.shape[1] * np.log(2 * np.pi / count) / 2
    inside = norm.cdf((EDGE - mean) / std) - norm.cdf((-EDGE - mean) / std)
    return distribution.mean(), distribution.std(), float(rest + np.log(inside / (2 * EDGE)).sum())


@click.group(help=__doc__)
def main() -> None:
    pass


@main.command()
@click.option("--dims", default="2,5,10", help="Numbers of parameters.")
@click.option("--simulations", default=5000, help="Datasets, of 1 to 8 trials.")
@click.option("--observations", default=10, help="Of each number of trials.")
@click.option("--folder", type=Path, default=Path("out/trials"))
def conjugate(dims: str, simulations: int, observations: int, folder: Path) -> None:
    """Compare posteriors and evidences with the exact ones."""
    print("| D | trials | mean | std | evidence | largest | converged | R-hat | s |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for dim in map(int, dims.split(",")):
        draw, place = np.random.default_rng(dim), (folder / f"normal{dim}").resolve()
        theta = draw.uniform(-EDGE, EDGE, (simulations, dim))
        counts = draw.integers(1, MOST + 1, simulations)
        pairs = zip(theta, counts, strict=True)
        trials = [row + draw.normal(size=(count, dim)) for row, count in pairs]
        network, seconds = trained(place, "normal", theta, trials, f"{-EDGE}:{EDGE}")
        print(f"trained in {seconds:.0f} s", file=sys.stderr)
        for count in TRIALS:
            truths = draw.uniform(-EDGE, EDGE, (observations, dim))
            seen = [row + draw.normal(size=(count, dim)) for row in truths]
            before = children_seconds()
            posteriors = sampled(network, saved(place / f"seen{count}.csv", seen), place)
            seconds = (children_seconds() - before) / observations
            print(f"| {dim} | {count} | {row_of(posteriors, seen)} | {seconds:.1f} |", flush=True)


def with_holes(
    draw: np.random.Generator, theta: np.ndarray, count: int, share: float
) -> np.ndarray:
    """Trials ``[n, D]`` of which something is there, NaN where numbers are missing."""
    trials = theta + draw.normal(size=(count, len(theta)))
    gone = draw.uniform(size=trials.shape) < share
    return np.where(gone, np.nan, trials)[~gone.all(axis=1)]


def prior_numbers(dim: int) -> dict[str, Any]:
    """What ``posterior.py sample`` would say of an observation without trials."""
    mean, std, evidence = PRIOR
    means, stds = ({f"theta{k}": float(part[0]) for k in range(dim)} for part in (mean, std))
    return {"mean": means, "std": stds, "statistics": {"evidence": evidence}, "r_hat": {}}


@main.command()
@click.option("--dims", default="3", help="Numbers of parameters, and of data of a trial.")
@click.option("--simulations", default=5000, help="Datasets, of 1 to 8 trials.")
@click.option("--observations", default=10, help="Of each number of trials.")
@click.option("--folder", type=Path, default=Path("out/trials"))
def holes(dims: str, simulations: int, observations: int, folder: Path) -> None:
    """Compare posteriors of trials with missing numbers with the exact ones."""
    print("| D | missing | trials | mean | std | evidence | largest | converged | R-hat | s |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for dim in map(int, dims.split(",")):
        draw, place = np.random.default_rng(dim), (folder / f"holes{dim}").resolve()
        theta = draw.uniform(-EDGE, EDGE, (simulations, dim))
        counts = draw.integers(1, MOST + 1, simulations)
        truths = draw.uniform(-EDGE, EDGE, (observations, dim))
        for missing, share in (("keep", SHARE), ("drop", SHARE), ("none", 0.0)):
            draw = np.random.default_rng(dim)
            made = [with_holes(draw, row, n, share) for row, n in zip(theta, counts, strict=True)]
            kind = "refuse" if missing == "none" else missing
            network, seconds = trained(place, missing, theta, made, f"{-EDGE}:{EDGE}", kind)
            print(f"trained in {seconds:.0f} s", file=sys.stderr)
            for count in FEW_TRIALS:
                seen = [with_holes(draw, row, count, share) for row in truths]
                whole = [each[~np.isnan(each).any(axis=1)] for each in seen]
                asked = whole if missing == "drop" else seen
                there = [bool(len(each)) for each in asked]
                left = [each for each, some in zip(asked, there, strict=True) if some]
                before = children_seconds()
                posteriors = sampled(network, saved(place / f"{missing}{count}.csv", left), place)
                seconds = (children_seconds() - before) / len(left)
                known = iter(posteriors["posteriors"])
                posteriors["posteriors"] = [
                    next(known) if some else prior_numbers(dim) for some in there
                ]
                row = row_of(posteriors, seen)
                print(f"| {dim} | {missing} | {count} | {row} | {seconds:.1f} |", flush=True)


def sampled(network: Path, seen: Path, folder: Path) -> dict[str, Any]:
    """What ``posterior.py sample`` says of observations."""
    place = folder / seen.stem
    command = ["posterior.py", "sample", f"--network={network}", "--prior=uniform"]
    run([*command, f"--observation={seen}", f"--save_dir={place}", "--overwrite"])
    [path] = place.glob("*_posterior.json")
    return load_json(path)


def row_of(numbers: dict[str, Any], seen: list[np.ndarray]) -> str:
    """Cells of the table."""
    means, stds, evidences, r_hat = [], [], [], []
    for one, trials in zip(numbers["posteriors"], seen, strict=True):
        mean, std, evidence = exact(trials)
        means.append((np.array(list(one["mean"].values())) - mean) / std)
        stds.append(np.array(list(one["std"].values())) / std - 1)
        evidences.append(one["statistics"]["evidence"] - evidence)
        r_hat += [value for value in one["r_hat"].values() if value is not None]
    parts = (means, stds, evidences)
    mean_off, std_off, off = (float(np.sqrt(np.mean(np.square(part)))) for part in parts)
    largest = float(np.abs(evidences).max())
    rest = f"{numbers['converged']} of {len(seen)} | {max(r_hat, default=float('nan')):.3f}"
    return f"{mean_off:.3f} | {std_off:.3f} | {off:.3f} | {largest:.3f} | {rest}"


RANGES = {"speed": (0.5, 4.0), "caution": (0.5, 2.0), "rest": (0.1, 0.5)}
COORDINATES = "--bounds=theta1:0:,theta2:0:,theta3:0.1:0.5"
CENTER, SPREAD = np.array([np.log(1.8), 0.0, 0.0]), np.array([0.25, 0.15, 0.5])
"""Of the population: logs of speed and caution, the logit of rest."""


def reaction_times(draw: np.random.Generator, theta: np.ndarray, count: int) -> np.ndarray:
    """Times ``[count, 1]`` of a subject ``[3]``."""
    speed, caution, rest = theta
    return rest + draw.wald(caution / speed, caution**2, (count, 1))


@main.command()
@click.option("--subjects", default=40)
@click.option("--trials", default=8, help="Of a subject.")
@click.option("--folder", type=Path, default=Path("out/trials"))
def hierarchy(subjects: int, trials: int, folder: Path) -> None:
    """A population by posteriors of its members."""
    folder, draw = (folder / "hierarchy").resolve(), np.random.default_rng(0)
    low, high = np.array(list(RANGES.values())).T
    theta = draw.uniform(low, high, (2000, 3))
    counts = draw.integers(5, 21, 2000)
    made = [reaction_times(draw, row, n) for row, n in zip(theta, counts, strict=True)]
    bounds = dict(zip(("theta1", "theta2", "theta3"), RANGES.values(), strict=True))
    ranges = ",".join(f"{name}:{ends[0]}:{ends[1]}" for name, ends in bounds.items())
    network, seconds = trained(folder, "race", theta, made, ranges)
    print(f"trained in {seconds:.0f} s")
    members = CENTER + SPREAD * draw.normal(size=(subjects, 3))
    theta = np.column_stack([np.exp(members[:, :2]), 0.1 + 0.4 / (1 + np.exp(-members[:, 2]))])
    seen = [reaction_times(draw, row, trials) for row in theta]
    times = np.stack([each[:, 0] for each in seen])
    np.savez(folder / "times.npz", times=times, theta=theta)
    source, prior, known = saved(folder / "seen.csv", seen), "uniform", [COORDINATES]
    for place in ("first", "second"):
        before, where = children_seconds(), f"--save_dir={folder / place}"
        asked = [f"--network={network}", f"--prior={prior}", f"--observation={source}", where]
        run(["posterior.py", "sample", *asked, "--overwrite"])
        between = children_seconds()
        [draws] = (folder / place).glob("*_posterior.nc")
        own = [f"--draws={draws}", f"--prior={prior}", *known, where, "--overwrite"]
        run(["posterior.py", "population", *own])
        [path] = (folder / place).glob("*_population.json")
        content = load_json(path)
        print(
            f"{place}: posteriors {between - before:.0f} s, population "
            f"{children_seconds() - between:.0f} s, to {content['noise']:.2f} nats, converged: "
            f"{content['converged']}"
        )
        prior, known = str(path.with_suffix(".pkl")), []


def log_normal(draw: np.random.Generator, theta: np.ndarray, count: int) -> np.ndarray:
    """Times ``[count, 1]`` whose logs are normal: location and log of the scale."""
    return np.exp(-1 + theta[0] / 2 + np.exp(-1 + theta[1] / 2) * draw.normal(size=(count, 1)))


def shifted(draw: np.random.Generator, theta: np.ndarray, count: int) -> np.ndarray:
    """Times ``[count, 1]`` with a normal part and an exponential one."""
    normal = 0.3 + 0.05 * theta[0] + 0.05 * draw.normal(size=(count, 1))
    return np.abs(normal) + 0.15 * np.exp(theta[1] / 2) * draw.exponential(size=(count, 1))


MODELS = {"log-normal": log_normal, "shifted": shifted}
BINS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.97, 1.0)


@main.command()
@click.option("--simulations", default=3000, help="Datasets, of 1 to 8 trials.")
@click.option("--observations", default=200, help="Half of each model.")
@click.option("--trials", default=6, help="Of an observation.")
@click.option("--folder", type=Path, default=Path("out/trials"))
def claims(simulations: int, observations: int, trials: int, folder: Path) -> None:
    """Are claims of 70 % right in 70 % of cases?"""
    folder, draw, networks = (folder / "claims").resolve(), np.random.default_rng(0), []
    for name, simulate in MODELS.items():
        theta = draw.uniform(-1, 1, (simulations, 2))
        counts = draw.integers(1, MOST + 1, simulations)
        made = [simulate(draw, row, n) for row, n in zip(theta, counts, strict=True)]
        networks.append(trained(folder, name, theta, made, "-1:1")[0])
    true = np.arange(observations) % 2
    distributions = list(MODELS.values())
    seen = [distributions[which](draw, draw.uniform(-1, 1, 2), trials) for which in true]
    before = children_seconds()
    command = [f"--observation={saved(folder / 'seen.csv', seen)}", "--prior=uniform"]
    command += [f"--network={network}" for network in networks]
    run(["posterior.py", "compare", *command, f"--save_dir={folder / 'compared'}", "--overwrite"])
    compared = load_json(folder / "compared" / "comparison.json")["observations"]
    chance = np.array([list(one["probability"].values()) for one in compared])
    claimed, right = chance.max(axis=1), chance.argmax(axis=1) == true
    print("| claims of | number | in the mean | right | standard error |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for low, high in pairwise(BINS):
        at = (claimed >= low) & (claimed <= high)
        if at.any():
            mean = claimed[at].mean()
            error = np.sqrt(mean * (1 - mean) / at.sum())
            print(
                f"| {low:.0%} to {high:.0%} | {at.sum()} | {mean:.1%} | {right[at].mean():.1%} | "
                f"{error:.1%} |"
            )
    score = -np.log(chance[np.arange(len(true)), true]).mean()
    converged = sum(all(one["converged"].values()) for one in compared)
    seconds = (children_seconds() - before) / observations
    print(
        f"\nLog score {score:.3f} nats ({np.log(2):.3f} says nothing); {converged} of "
        f"{observations} converged; {seconds:.1f} s an observation"
    )


LEVELS = (0.5, 0.8, 0.9, 0.95)


@main.command()
@click.option("--model", type=click.Choice(["race", "normal"]), default="race")
@click.option("--observations", default=200, help="Fresh datasets.")
@click.option("--draws", default=500, help="Of each.")
@click.option("--trials", type=int, help="Of each fresh dataset; by default as simulated.")
@click.option("--folder", type=Path, default=Path("out/trials"))
def sets(model: str, observations: int, draws: int, trials: int | None, folder: Path) -> None:
    """A posterior given sets of trials, a likelihood, and both."""
    folder, draw = (folder / f"sets-{model}").resolve(), np.random.default_rng(0)
    ends = list(RANGES.values()) if model == "race" else [(-EDGE, EDGE)] * 2
    low, high = np.array(ends).T
    least, most = (5, 20) if model == "race" else (1, MOST)

    def simulated(count: int, least: int, most: int) -> tuple[np.ndarray, list[np.ndarray]]:
        theta = draw.uniform(low, high, (count, len(ends)))
        numbers = draw.integers(least, most + 1, count)
        if model == "race":
            trials = [reaction_times(draw, row, n) for row, n in zip(theta, numbers, strict=True)]
        else:
            trials = [row + draw.normal(size=(n, 2)) for row, n in zip(theta, numbers, strict=True)]
        return theta, trials

    ranges = ",".join(f"theta{k + 1}:{a}:{b}" for k, (a, b) in enumerate(ends))
    theta, made = simulated(2000, least, most)
    likelihood, seconds = trained(folder, model, theta, made, ranges)
    print(f"likelihood trained in {seconds:.0f} s of the CPU")
    before, shape = children_seconds(), f"--cond_shape=set:{made[0].shape[1]}"
    if not (folder / "set").exists():
        data = f"--data={folder / f'{model}.npz'}"
        run(["train.py", "--cond", shape, data, f"--outdir={folder / 'set'}"])
        print(f"flow of sets trained in {children_seconds() - before:.0f} s")
    truth, seen = simulated(observations, trials or least, trials or most)
    posterior = TableFlow.of(TrainedNetwork.open(str(newest_network(folder / "set"))), {})
    learned = LearnedLikelihood.of(TrainedNetwork.open(str(likelihood)))
    assert learned is not None
    scale = posterior.coordinates.scale
    assert isinstance(scale, TrialScale)
    scale.most = max(scale.most, trials or 0)  # to see what is refused
    report_sets(posterior, learned, torch.from_numpy(truth), seen, draws)
    if model == "normal":
        exactly = [exact_density(*pair) for pair in zip(truth, seen, strict=True)]
        print(f"| exact | {np.mean(exactly):.3f} | | | | |")


def report_sets(
    posterior: TableFlow,
    learned: LearnedLikelihood,
    truth: torch.Tensor,
    seen: list[np.ndarray],
    draws: int,
) -> None:
    """Rows of a table: the flow alone, and weighted."""
    count = len(truth)
    numbers = torch.arange(count).repeat_interleave(torch.tensor([len(each) for each in seen]))
    data = torch.from_numpy(np.vstack(seen))
    rows = side_by_side(data, numbers)
    began, generator = time.process_time(), torch.Generator().manual_seed(0)
    given = posterior.flow.given(labels=rows.repeat_interleave(draws, dim=0))
    points = given.sample(count * draws, generator)
    inside = posterior.coordinates.inside(points)
    density = torch.where(inside, given.log_prob(points), torch.inf).view(count, draws)
    share = inside.view(count, draws).double().mean(dim=1).log()
    of_truth = posterior.flow.given(labels=rows).log_prob(truth) - share
    middle = time.process_time()
    distribution, trials = learned.prior("uniform"), Trials.sorted(data, data[:, :0], numbers)
    likelihood = learned.likelihood(trials, posterior.names)
    which = torch.arange(count, dtype=torch.float64)
    each = likelihood.log_prob(points, which.repeat_interleave(draws)[:, None])
    # The prior is uniform, of one density everywhere.
    prior = distribution.flow.log_prob(truth[:1])
    weights = each.view(count, draws) + prior - density
    evidence = weights.logsumexp(dim=1) - np.log(draws)
    weighted = likelihood.log_prob(truth, which[:, None]) + prior - evidence
    end = time.process_time()
    even = inside.view(count, draws).double()
    effective = weights.softmax(dim=1).square().sum(dim=1).reciprocal()
    print("| | log density | 50 % | 80 % | 90 % | 95 % | s an observation |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    for name, values, weight, spent in (
        ("flow", of_truth, even, middle - began),
        ("weighted by the likelihood", weighted, weights.softmax(dim=1), end - began),
    ):
        below = (points.view(count, draws, -1) < truth[:, None]).double()
        weight = weight / weight.sum(dim=1, keepdim=True)
        rank = (below * weight[..., None]).sum(dim=1)
        held = [float(((2 * rank - 1).abs() < level).double().mean()) for level in LEVELS]
        cells = " | ".join(f"{100 * each:.1f}" for each in held)
        error = float(values.std()) / count**0.5
        print(f"| {name} | {values.mean():.3f} ± {error:.3f} | {cells} | {spent / count:.2f} |")
    better = weighted - of_truth
    print(
        f"\nweighted minus flow {better.mean():.3f} ± {better.std() / count**0.5:.3f}; of {draws} "
        f"draws {effective.median():.0f} are worth something, {effective.min():.0f} at least"
    )


def exact_density(theta: np.ndarray, trials: np.ndarray) -> float:
    """The log density of parameters ``[D]`` of the conjugate model, given trials ``[n, D]``."""
    mean, std = trials.mean(axis=0), len(trials) ** -0.5
    ends = (-EDGE - mean) / std, (EDGE - mean) / std
    return float(truncnorm(*ends, mean, std).logpdf(theta).sum())


if __name__ == "__main__":
    run_script(main)
