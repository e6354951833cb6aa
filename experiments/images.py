"""The images of experiments, and the networks that are trained on them once for all.

At scale ``cpu`` these are digits and patches of photographs, which need no download, with small
networks and short trainings; at ``gpu`` CIFAR-10, by the recipe of the paper.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.lab import Lab
from experiments.trainings import Training, trained
from training.data.images.dataset import ImageDataset, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.flow.schedules import InflationSchedule

GAP = 1.02
"""Inflation gap of the paper's main experiments."""


@dataclass(frozen=True)
class ImagePlan:
    """A data set, and how much is done with it.

    Attributes:
        name: Of the data set.
        dim: Numbers of an image.
        kept: Dimensions kept, of which the last are all.
        made_by: Options of ``dataset_tool.py`` for images to train on and others; None where they
            are in ``datasets/`` already, and none are held out.
        options: Of ``train.py``.
        all_kept: Further ones where all dimensions are kept.
        fitted_time: Whether T follows from the variance of the data, and not from the recipe.
        seeds: Trainings of each flow.
        generated: Images that are generated of each.
        generation: Options of ``gen_fid_samples.py``.
        returned: Images that are melted and brought back.
        roundtrip: Options of ``calc_roundtrip_mse.py``.
        classifier_steps: Of the network whose features images are compared by.
        with_fid: Whether there is an FID without being asked for.
        reversible: Options of a second round trip, whose steps have an exact inverse; empty for
            none.
    """

    name: str
    dim: int
    kept: tuple[int, ...]
    made_by: tuple[tuple[str, ...], tuple[str, ...]] | None
    options: tuple[str, ...]
    all_kept: tuple[str, ...]
    fitted_time: bool
    seeds: int
    generated: int
    generation: tuple[str, ...]
    returned: int
    roundtrip: tuple[str, ...]
    classifier_steps: int
    with_fid: bool = False
    reversible: tuple[str, ...] = ()

    def data(self, lab: Lab) -> tuple[Path, Path]:
        """The images to train on, and others that play no part in it."""
        if self.made_by is None:
            path = Path("datasets").resolve() / f"{self.name}.zip"
            return path, path
        train, held_out = (
            lab.made(lab.out / "data" / f"{self.name}-{which}.zip", "dataset_tool.py", *options)
            for which, options in zip(("train", "held-out"), self.made_by, strict=True)
        )
        return train, held_out

    def network(self, lab: Lab, kept: int, gap: float, seed: int) -> Path:
        """A network of a flow that keeps so many dimensions, whose others have so large a gap."""
        train, _ = self.data(lab)
        options = [f"--data={train}", *self.options, f"--dims_to_keep={kept}", f"--seed={seed}"]
        if kept < self.dim:
            options += ["--g_type=constant_inflation_gap", f"--inflation_gap={gap:g}"]
        else:
            options += self.all_kept
        if self.fitted_time:
            options += [f"--tmax={last_time(train):.2f}"]
        return trained(lab, Training(self.key(kept, gap, seed), "train.py", tuple(options)))

    def key(self, kept: int, gap: float, seed: int) -> str:
        """Of a network, and of what is made with it."""
        return f"{self.name}-{kept}-gap-{gap:g}-seed-{seed}"


@cache
def last_time(data: Path) -> float:
    """When a tenth of the variance of the top dimension would be data, if it were compressed at the
    gap of the paper, with rho = 1."""
    basis = EigenBasis.fit(basis_batches(ImageDataset(data)))
    whole = InflationSchedule.to_dimension(basis.dim, basis.dim, top_variance=basis.top_variance)
    return whole.default_t_max() / (2 - GAP)


SMALL = (
    *("--cbase=16", "--augment=0", "--batch=64", "--no-calibrate", "--latent_law=gaussian"),
    "--precision=fp32",
)
QUICK = ("--cache", "--workers=0")
EXACT = ("--solver=rev_rk5",)
DIGITS = ImagePlan(
    name="digits",
    dim=64,
    kept=(1, 2, 5, 10, 20, 32, 64),
    made_by=(
        ("--source=digits", "--max-images=1500"),
        ("--source=digits", "--first-image=1500"),
    ),
    options=("--cres=1,2", *SMALL, *QUICK, "--duration=0.012"),
    all_kept=(),
    fitted_time=True,
    seeds=3,
    generated=400,
    generation=("--solver=exp_ab2", "--n_iters=24"),
    returned=48,
    roundtrip=("--n_iters=20",),
    reversible=EXACT,
    classifier_steps=1500,
)
PATCHES = ImagePlan(
    name="patches",
    dim=768,
    kept=(1, 2, 8, 24, 77, 384, 768),
    made_by=(
        ("--source=patches", "--max-images=6000"),
        ("--source=patches:held-out", "--max-images=2000"),
    ),
    options=("--cres=1,2,2", *SMALL, *QUICK, "--duration=0.002"),
    all_kept=(),
    fitted_time=True,
    seeds=3,
    generated=144,
    generation=("--solver=exp_ab2", "--n_iters=24"),
    returned=16,
    # Networks of so short a training make stiff ODEs: of 20 steps pixels are off.
    roundtrip=("--n_iters=80",),
    reversible=EXACT,
    classifier_steps=1500,
)
CIFAR = ImagePlan(
    name="cifar10-32x32",
    dim=3072,
    kept=(1, 2, 30, 62, 307, 615, 1536, 3041, 3072),
    made_by=None,
    options=("--preset=published", "--precision=bf16"),
    all_kept=("--rho=2",),
    fitted_time=False,
    seeds=3,
    generated=50_000,
    generation=("--bs=500",),
    returned=10_000,
    roundtrip=("--solver=heun", "--n_iters=255", "--disc=vp_ode"),
    classifier_steps=20_000,
    with_fid=True,
)
PLANS = {"cpu": (DIGITS, PATCHES), "gpu": (CIFAR,)}
