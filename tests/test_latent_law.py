"""The law of latents through the scripts: learned, refitted, drawn from, and refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

import info
import toy_mesh_exps
import toy_pfODE_int
import toy_train
from tests.support.image_runs import network_file
from tests.support.running import good, refused, run_script
from torch_utils.results import load_arrays, load_json
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.files.trajectory import SavedTrajectory
from training.flow.latent.laws import LearnedLaw
from training.model.model import Model
from training.pictures.trajectories.clouds import latent_law

TINY = ("--duration=0.0008", "--batch=200", "--no-calibrate", "--nosubdir")


@pytest.fixture(scope="module")
def networks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Hardly trained ones of circles: that keep one dimension, with and without a law; and both."""
    folder = tmp_path_factory.mktemp("networks")
    found = {}
    for name, kept, law in (("plain", 1, "gaussian"), ("PRP", 2, "learned")):
        place = (f"--outdir={folder / name}", f"--dims_to_keep={kept}", f"--latent_law={law}")
        assert run_script(toy_train, "--data_name=circles", *TINY, *place).code == 0
        found[name] = network_file(folder / name)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.subjects.toys.MOST", 1000)
        refit = run_script(
            toy_train, f"--network={found['plain']}", "--refit_latent_law", whole=True
        )
    assert refit.code == 0
    found["law"] = found["plain"].with_name(f"{found['plain'].stem}-law.pkl")
    assert f"Wrote {found['law']}" in refit.out
    return found


def test_a_refit_changes_nothing_but_the_law(networks: dict[str, Path]) -> None:
    told = run_script(info, networks["law"]).out
    assert "mixtures of 12 normal laws given the kept ones" in told
    plain, law = (Model.load(networks[name]) for name in ("plain", "law"))
    assert plain.learned is None
    assert law.learned is not None
    weights, same = (model.denoiser.state_dict() for model in (plain, law))
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert (plain.recipe, plain.about) == (law.recipe, law.about)


def test_generation_draws_from_the_learned_law(networks: dict[str, Path], tmp_path: Path) -> None:
    count = 64
    for name, options, told in (
        ("learned", (), "learned law"),
        ("auto", ("--eps=auto",), "closed form"),
    ):
        place = (f"--save_dir={tmp_path / name}", f"--total_samples={count}", "--steps=4")
        network = f"--network={networks['law']}"
        good(run_script(toy_pfODE_int, "net", network, *place, *options))
        parameters = load_json(tmp_path / name / "circles_PRRto1D_net_sim_params.json")
        assert parameters["options"]["eps"] == name
        path = tmp_path / name / "circles_PRRto1D_net_gen_results.npz"
        assert told in latent_law(SavedTrajectory.load(path))
        flow = Model.load(networks["law"]).flow
        law = flow.latent if name == "learned" else flow.with_law(None).latent
        assert isinstance(law, LearnedLaw) == (name == "learned")
        drawn = law.sample(count, seeded_generator("cpu", 0, Stream.LATENT))
        np.testing.assert_allclose(load_arrays(path)["xs_es"][0], drawn.numpy(), rtol=1e-12)


@pytest.mark.slow
def test_coverage_carries_white_spheres(networks: dict[str, Path], tmp_path: Path) -> None:
    options = ("--test_pts=2000", "--boundary_pts=400", "--steps=8", "--no-paired")
    place = (f"--network={networks['law']}", f"--save_dir={tmp_path}")
    good(run_script(toy_mesh_exps, *place, *options))
    found = load_json(tmp_path / "circles_PRRto1D_coverage.json")
    assert found["options"]["eps"] == "learned"
    arrays = load_arrays(tmp_path / "circles_PRRto1D_coverage.npz")
    assert np.abs(arrays["coverage"][:, 0] - arrays["exact"]).max() < 0.05
    # The network has learned nothing, but its law knows where it puts the data.
    assert np.abs(arrays["coverage_fresh"] - arrays["exact"]).max() < 0.06
    assert np.abs(np.square(arrays["test_latent"]).mean(axis=(0, 1)) - 1).max() < 0.15


def test_what_makes_no_sense_is_refused(networks: dict[str, Path], tmp_path: Path) -> None:
    law, plain, preserving = (networks[name] for name in ("law", "plain", "PRP"))
    for arguments, part in (
        ((f"--network={plain}",), "go together"),
        (("--refit_latent_law",), "go together"),
        ((f"--network={plain}", "--refit_latent_law"), "exists: move it"),
        ((f"--network={preserving}", "--refit_latent_law"), "compresses none of its 2"),
        ((f"--network={plain}", "--refit_latent_law", "--data_name=moons"), "moons"),
    ):
        refused(run_script(toy_train, *arguments), 2, part)
    place = (f"--save_dir={tmp_path}", "--total_samples=8")
    for network, options, part in (
        (plain, ("--eps=learned",), "has no learned law"),
        (law, ("--eps=learned", "--steps=4", "--h=1"), "is that of T = 4.899, not 4"),
    ):
        refused(run_script(toy_pfODE_int, "net", f"--network={network}", *place, *options), 2, part)
