"""Integrates the probability-flow ODE of images: melt, roundtrip from a melt's end, and gen."""

from typing import Any

import click
import torch
from torch import Tensor

from dnnlib.errors import DataError, UsageError
from dnnlib.files import require_folder, require_new
from dnnlib.logs import logger
from torch_utils import distributed
from torch_utils.distributed import process_group
from torch_utils.results import load_json, provenance, save_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.batches import normalize_pixels
from training.files.trajectory import SavedEnd
from training.flow.denoisers import PRECISIONS
from training.flow.likelihood import LARGEST_EXACT, TRACES
from training.flow.pfode import ProbabilityFlow
from training.flow.solvers import DEFAULT, DEFAULT_STEPS, SOLVERS
from training.measure.roundtrip import LEVELS_PER_UNIT, RoundtripErrors
from training.settings.integration import integration_options
from training.settings.likelihood import likelihood_options
from training.settings.options import (
    device_option,
    given_options,
    overwrite_option,
    require_options,
)
from training.settings.script import command, run_script
from training.settings.types import COUNT, FILE, SEED, choice
from training.simulation.images import (
    ImageFlow,
    dequantized,
    draw_classes,
    summarize_variances,
)
from training.simulation.integration import chosen_likelihood
from training.simulation.latents import latent_law, parse_eps
from training.simulation.simulator import Simulation, Simulator

KINDS = ("melt", "roundtrip", "gen")
DTYPE = "float32"
"""Of the saved states: 256 CIFAR images at 27 times are 0.7 GB in it."""


@command(help=__doc__)
@click.option("--save_dir", type=FILE, required=True, help="Folder of the results.")
@click.option("--data_root", type=FILE, help="Data set to melt: a zip or folder.")
@integration_options(SOLVERS, DEFAULT, PRECISIONS, DEFAULT_STEPS)
@click.option("--data_name", help="How the results are called  [default: the network's data set]")
@click.option("--bs", type=COUNT, default=256, help="Images of each simulation.")
@click.option("--sim_type", type=choice((*KINDS, "all")), default="all", help="What to simulate.")
@click.option("--prev_melt", type=FILE, help="A melt to start from, for a lone roundtrip or gen.")
@click.option(
    "--start_noise",
    is_flag=True,
    help="Melt images with the noise of the first time added, for which the latent law is exact.",
)
@click.option(
    "--gen_source",
    type=choice(("diag", "empirical")),
    default="diag",
    help="Latents of gen: Gaussian, with variances by --eps, or with those of the melt.",
)
@click.option(
    "--eps",
    default="auto",
    help="Variances of diag: auto (the closed form), one number for all compressed dimensions, or "
    "as in the paper, where those of kept ones are 1 (paper:NUMBER, or paper without compression).",
)
@click.option(
    "--class",
    "class_",
    type=click.IntRange(min=0),
    help="Class to generate, for networks with classes  [default: random]",
)
@click.option("--save_freq", type=COUNT, default=5, help="Steps between saved states.")
@likelihood_options(TRACES, LARGEST_EXACT)
@click.option("--seed", type=SEED, default=0, help="Of the choice of images and of the latents.")
@device_option
@overwrite_option
def main(**options: Any) -> None:
    image_flow = ImageFlow.open(options)
    plan = Plan(image_flow, options)
    with process_group(options["device_name"]) as device:
        plan.check()
        distributed.barrier()  # no rank writes before all have looked
        plan.run(device)


class Plan:
    """What the options ask for, checked as far as can be before any work is done."""

    def __init__(self, image_flow: ImageFlow, options: dict[str, Any]):
        self.image_flow, self.options = image_flow, options
        kind, prev_melt = options["sim_type"], options["prev_melt"]
        self.kinds = KINDS if kind == "all" else (kind,)
        empirical = options["gen_source"] == "empirical"
        self.needs_melt = kind == "roundtrip" or (kind == "gen" and empirical)
        if self.needs_melt and prev_melt is None:
            raise UsageError(
                f"--sim_type={kind} here starts from a melt: give its file with --prev_melt"
            )
        if prev_melt is not None and not self.needs_melt:
            raise UsageError(
                "--prev_melt goes with --sim_type=roundtrip, or gen with --gen_source=empirical"
            )
        for name in given_options() & {"bs", "data_root"}:
            if name == "data_root" and "melt" not in self.kinds:
                raise UsageError("--data_root goes with a melt: leave it out")
            if name == "bs" and kind == "roundtrip":
                raise UsageError("--bs goes with melt and gen: a roundtrip has its melt's images")
        self.eps = parse_eps(options["eps"])
        if self.eps == "empirical":
            raise UsageError("--eps is 'empirical': say --gen_source=empirical instead")
        if empirical and "eps" in given_options():
            raise UsageError("--eps goes with --gen_source=diag only")
        if empirical:
            self.eps = "empirical"
        image_flow.check_class(options["class_"])
        self.likelihood = chosen_likelihood(options, LEVELS_PER_UNIT)
        if "melt" in self.kinds:
            require_options(options, "data_root")
        stem = f"{options['data_name']}_{image_flow.schedule_name}"
        folder = options["save_dir"]
        self.paths = {name: folder / f"{stem}_{name}.npz" for name in self.kinds}
        self.parameters_path = folder / f"{stem}_HD_pfODE_int_sim_params.json"

    def check(self) -> None:
        """Looks at what is there already. A folder that is made counts as no result."""
        require_new(list(self.paths.values()), self.options["overwrite"])
        require_folder(self.options["save_dir"])
        self.recorded: dict[str, Any] = {}
        if self.parameters_path.exists():
            self.recorded = load_json(self.parameters_path)

    def run(self, device: torch.device) -> None:
        """Runs the simulations one after the other; each is written while it runs."""
        self.flow = self.image_flow.on(device, self.options["batch_gpu"])
        self.times = self.image_flow.times(self.flow)
        self.options |= {"device_name": str(device), "n_iters": len(self.times) - 1}
        melted: Tensor | None = None
        labels: Tensor | None = None
        if self.needs_melt:
            digest = self.image_flow.model.digest()
            saved = SavedEnd.load(self.options["prev_melt"], self.flow, self.times, digest)
            self._check_labels(saved)
            melted, labels, start = saved.x, saved.labels, saved.start
        if "melt" in self.kinds:
            data, labels = self._images()
            likelihood = self._image_likelihood(data, labels)
            melt = self._simulate("melt", self._start(data), labels, likelihood)
            melted, start = melt.trajectory.end, melt.trajectory.states[0]
            kept = self.options["dims_to_keep"]
            exact = self.flow.latent_law(melt.trajectory.times[-1]).variance
            ratios = summarize_variances(melted.square().mean(dim=0), exact, kept)
            facts = {"likelihood": likelihood.likelihood_facts()} if likelihood else {}
            self._record("melt", melt, kept_variance_ratio=ratios, **facts)
            logger.info(
                f"Variances of {kept} kept dimensions over their closed form: mean "
                f"{ratios['mean']:.3f}, farthest from 1 {ratios['worst']:.3f}"
            )
            if likelihood:
                bits = likelihood.likelihood_facts()["bits_per_dim"]
                logger.info(f"Bits per dimension of the dequantized images: {bits['mean']:.3f}")
        if "roundtrip" in self.kinds:
            assert melted is not None
            roundtrip = self._simulate("roundtrip", melted, labels)
            errors = self._roundtrip_errors(roundtrip, start)
            self._record("roundtrip", roundtrip, **errors)
            logger.info(
                f"Roundtrip: {errors['exact_pixels']:.4%} of the pixels exact, largest error "
                f"{errors['max_abs_error']:.2g} gray levels"
            )
        if "gen" in self.kinds:
            latent = self._latents(melted)
            self._record("gen", self._simulate("gen", latent, self._drawn_labels()))

    def _images(self) -> tuple[Tensor, Tensor | None]:
        """Points ``[N, D]`` and labels of the images to melt."""
        options = self.options
        dataset = self.image_flow.dataset(options["data_root"], options["bs"], options["seed"])
        pixels, labels = dataset.read(range(len(dataset)))
        data = normalize_pixels(pixels).flatten(1).double()
        return data, labels if self.image_flow.label_dim else None

    def _start(self, data: Tensor) -> Tensor:
        """What the melt of images starts from: themselves, or with noise."""
        if not self.options["start_noise"]:
            return data
        generator = seeded_generator("cpu", self.options["seed"], Stream.MELT_NOISE)
        first = self.times[0].to(self.flow.device)
        noise = self.flow.schedule.sample_noise(len(data), first, generator)
        return data + self.flow.basis.rotate_back(noise).cpu()

    def _flow_given(self, labels: Tensor | None) -> ProbabilityFlow:
        """The flow for this rank's share of images with these labels."""
        if labels is None:
            return self.flow
        share = labels[distributed.shard(len(labels))]
        return self.flow.given(labels=share.to(self.flow.device))

    def _image_likelihood(self, data: Tensor, labels: Tensor | None) -> Simulation | None:
        """That of dequantized images, by an integration of its own; None if it is not asked for."""
        if not self.likelihood:
            return None
        flow, solver = self._flow_given(labels), self.image_flow.solver
        simulator = Simulator(flow, self.times, solver, len(self.times), self.likelihood)
        return simulator.melt(dequantized(data, self.options["seed"]), "log_prob")

    def _simulate(
        self,
        kind: str,
        start: Tensor,
        labels: Tensor | None,
        likelihood: Simulation | None = None,
    ) -> Simulation:
        """Runs a simulation into its file. That of a melt takes the likelihood as it is given."""
        digest = self.image_flow.model.digest()
        extra = {"image_shape": torch.tensor(self.image_flow.image_shape)}
        extra |= {} if labels is None else {"labels": labels}
        extra |= likelihood.densities if likelihood else {}
        simulator = Simulator(
            self._flow_given(labels),
            self.times,
            self.image_flow.solver,
            self.options["save_freq"],
            None if kind == "melt" else self.likelihood,
        )
        simulate = simulator.melt if kind == "melt" else simulator.generate
        return simulate(start, kind, self.paths[kind], dtype=DTYPE, network_sha256=digest, **extra)

    def _latents(self, melted: Tensor | None) -> Tensor:
        options = self.options
        end, kept = float(self.times[-1]), options["dims_to_keep"]
        melted = None if melted is None else melted.to(self.flow.device)
        law = latent_law(self.flow, end, self.eps, kept, melted)
        generator = seeded_generator("cpu", options["seed"], Stream.LATENT)
        return law.sample(options["bs"], generator)

    def _drawn_labels(self) -> Tensor | None:
        options, classes = self.options, self.image_flow.label_dim
        drawn = draw_classes(options["bs"], classes, options["seed"], options["class_"])
        return self.image_flow.labels(drawn)

    def _roundtrip_errors(self, roundtrip: Simulation, start: Tensor) -> dict[str, Any]:
        """Against the images that the melt started from, noise included if there was some."""
        first = roundtrip.trajectory.times[-1]
        before = self.flow.to_data(start.to(self.flow.device), first)
        after = self.flow.to_data(roundtrip.trajectory.end, first)
        return RoundtripErrors.of((before + 1) * LEVELS_PER_UNIT, after).summary()

    def _check_labels(self, saved: SavedEnd) -> None:
        length = 0 if saved.labels is None else saved.labels.shape[1]
        if length != self.image_flow.label_dim:
            raise DataError(
                f"{saved.path} has labels of length {length}, but the network "
                f"{self.image_flow.path.name} takes {self.image_flow.label_dim}"
            )

    def _record(self, kind: str, simulation: Simulation, **facts: Any) -> None:
        """Adds a simulation to the parameters file, where those of other runs stay."""
        if not distributed.is_main():
            return
        self.recorded[kind] = {
            "options": {name.rstrip("_"): value for name, value in self.options.items()},
            **simulation.facts(self.flow),
            **facts,
            **provenance(),
        }
        save_json(self.parameters_path, self.recorded)
        logger.info(f"Wrote {self.paths[kind]}")


if __name__ == "__main__":
    run_script(main)
