"""What students of trained networks reach (``distill.py``), and their cost beside their teachers'.

    OMP_NUM_THREADS=1 python benchmarks/students.py --folder=out/cost [--rows=2000] [--turns=5]

Teachers are the networks of ``benchmarks/cost.py``. They are made in the folder unless they are
there, and so are their students, as ``NAME-student.pkl``, by the defaults of ``distill.py``.

calls           of the student one way
generated,      root mean square errors beside paths of the teacher, of points, of latents, and of
melted, back    points there and back, in standard deviations, as its file has them
half, most      what half of the coordinates of fresh points are off by at most, and 99 of 100
fitted          root mean square error of points by the multistep method that is fitted to the
                teacher, in as many calls
nats            root mean square errors of log densities of rows of the data: as the student says
                them, and by the Jacobian of its own map
share           effective share of its samples, weighted by the teacher's density over their own
ms of points    milliseconds of CPU a row of samples: student, and course of the teacher
ms of densities the same of rows: as the student says them, by its Jacobian, by the teacher's course
seconds         of CPU that it took to teach
"""

import subprocess
import sys
from pathlib import Path

import click
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.cost import CASES, FINE, ROOT, in_turns, make, opened, simulated
from torch_utils.results import load_json
from training.flow.courses import USES, Course
from training.flow.grids import fit_equal_error_grid
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import as_solver
from training.flow.trials import Trajectories, try_fitted
from training.model.model import Model

HEAD = (
    "| network | calls | generated | melted | back | half, most | fitted | nats | share "
    "| ms of points | ms of densities | seconds |\n| --- |" + " ---: |" * 11
)
QUANTILES = torch.tensor([0.5, 0.99], dtype=torch.float64)
SAMPLES, ROWS = "points_and_densities", "densities"


def student_of(name: str, folder: Path) -> Path:
    """The file of a student, which is taught unless it is there."""
    make(name, folder)
    path = folder / f"{name}-student.pkl"
    if not path.exists():
        network = max((folder / name).glob("network-snapshot-*.pkl"))
        given = [f"--data={folder / 'moons.npz'}"] if name == "moons" else []
        command = ["distill.py", f"--network={network}", f"--dest={path}", *given]
        subprocess.run([sys.executable, *command], cwd=ROOT, check=True, capture_output=True)
    return path


def rms(off: Tensor) -> float:
    return float(off.square().mean().sqrt())


def by_fitted(teacher: ProbabilityFlow, latents: Tensor, right: Tensor, calls: int) -> float:
    """The error of points by the method that is fitted to the teacher, in so many calls."""
    first, rk5 = teacher.times()[0], as_solver("exp_rk5")
    noisy = right * teacher.noisy_std(first)
    ways = Trajectories.follow(lambda _: teacher, noisy, latents, 32, densities=False)
    course = Course("fitted", calls, teacher.basis.dim, melts=False)
    course.place(fit_equal_error_grid(teacher, latents[:256], teacher.times(), rk5))
    try_fitted(course, ways, USES["points"])
    end = teacher.simulate(latents, course.way, course.solver).end
    return rms(end / teacher.latent_std(first) - right)


def line(name: str, folder: Path, count: int, turns: int) -> str:
    path = student_of(name, folder)
    seconds = load_json(path.with_name(f"{path.stem}_distill_params.json"))["seconds"]
    _, teacher, points = opened(name, folder, count)
    model = Model.load(path)
    student, known = model.flow, model.about["student"]
    if name == "moons":
        student = student.given(labels=torch.zeros(1, 2, dtype=torch.float64))
    first = student.times()[0]
    latents = student.latent.sample(len(points), torch.Generator().manual_seed(2))
    start = student.schedule.scale(first) * student.to_eigen(points.double())

    def exactly(start: Tensor) -> Tensor:
        """Log densities by the teacher."""
        density = simulated(teacher, start, teacher.times(FINE), as_solver("exp_rk5"), ROWS)[1]
        assert density is not None
        return density

    def along(flow: ProbabilityFlow, use: str, trace: str = "exact") -> tuple[Tensor, Tensor]:
        """Ends and log densities by the course for a use."""
        begin = start if use == ROWS else latents
        ends, density = simulated(flow, begin, *flow.course(use), use, trace)
        return ends, begin[:, 0] if density is None else density

    made, own = along(student, SAMPLES)
    weights = (exactly(made * student.latent_std(first)) - own).softmax(dim=0)
    share = 1 / float(weights.square().sum()) / len(weights)
    right, known_points = exactly(start), teacher.generate(latents, teacher.times(FINE)).end
    known_points = known_points / teacher.latent_std(first)
    plain = by_fitted(teacher, latents, known_points, known["calls"])
    half, most = (made - known_points).abs().flatten().quantile(QUANTILES).tolist()
    nats = [rms(along(student, ROWS, trace)[1] - right) for trace in ("auto", "exact")]
    ms = [
        f"{each * 1e3 / len(start):.3f}"
        for each in in_turns(
            turns,
            lambda: along(student, "points"),
            lambda: along(teacher, "points"),
            lambda: along(student, ROWS, "auto"),
            lambda: along(student, ROWS),
            lambda: along(teacher, ROWS),
        )
    ]
    errors = " | ".join(f"{known[way]:.1e}" for way in ("generated", "melted", "round_trip"))
    return (
        f"| {name} | {known['calls']} | {errors} | {half:.0e}, {most:.0e} | {plain:.1e} | "
        f"{nats[0]:.3f}, {nats[1]:.3f} | {share:.1%} | {', '.join(ms[:2])} | "
        f"{', '.join(ms[2:])} | {seconds:.0f} |"
    )


@click.command(help=__doc__)
@click.option("--folder", type=click.Path(path_type=Path), default="out/cost", show_default=True)
@click.option("--rows", default=2000, show_default=True)
@click.option("--turns", default=5, show_default=True)
@click.option("--cases", default=",".join(CASES), show_default=True)
def main(folder: Path, rows: int, turns: int, cases: str) -> None:
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    print(HEAD)
    for name in cases.split(","):
        with torch.no_grad():
            print(line(name, folder, rows, turns), flush=True)


if __name__ == "__main__":
    main()
