"""Host reads and uploads of a training step and of a solver's step, counted on a pretended card.

python benchmarks/host_reads.py
"""

import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from tests.support.draws import normal
from tests.support.fake_cuda import FakeCuda, fake_cuda
from tests.support.trainers import model_of, run_steps, trainer_on
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import SOLVERS

CARD = torch.device("cuda", 0)
FEW, MANY = 2, 4


def counts(cuda: FakeCuda, work: Callable[[int], object]) -> tuple[Counter[str], Counter[str], int]:
    """Reads, uploads and operations that a step more costs, between FEW and MANY of them."""
    found = []
    for steps in (FEW, MANY):
        cuda.reads.clear()
        cuda.uploads.clear()
        cuda.launches = 0
        work(steps)
        found.append((cuda.reads.copy(), cuda.uploads.copy(), cuda.launches))
    (reads, uploads, launches), (more_reads, more_uploads, more_launches) = found
    return more_reads - reads, more_uploads - uploads, more_launches - launches


def simulate(flow: ProbabilityFlow, x: Tensor, solver: str, steps: int) -> None:
    flow.simulate(x, flow.times(steps), solver)


def show(name: str, found: tuple[Counter[str], Counter[str], int]) -> None:
    reads, uploads, launches = found
    per_step = [count / (MANY - FEW) for count in (reads.total(), uploads.total(), launches)]
    modules = sorted({f"`{line.split(':')[0]}`" for line in reads})
    cells = [name, *(f"{count:g}" for count in per_step), ", ".join(modules) or "nowhere"]
    print(f"| {' | '.join(cells)} |", flush=True)


def main() -> None:
    print("| step of | host reads | uploads | operations | where it reads |")
    print("| --- | ---: | ---: | ---: | --- |")
    with fake_cuda() as cuda:
        for name in ("MLP", "NCSN++ of augmented images"):
            trainer, source = trainer_on(CARD, name)
            run_steps(trainer, source)
            show(f"training, {name}", counts(cuda, partial(run_steps, trainer, source)))
        model, _ = model_of("MLP")
        model.denoiser.eval().requires_grad_(False).to(CARD)
        flow, x = model.flow, normal(3, 2).to(CARD)
        for name in (name for name, solver in SOLVERS.items() if not solver.adaptive):
            show(name, counts(cuda, partial(simulate, flow, x, name)))


if __name__ == "__main__":
    main()
