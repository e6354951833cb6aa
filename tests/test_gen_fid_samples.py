"""Images by seed from the command line: what they depend on, reruns, what is refused."""

import io
import json
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import gen_fid_samples
from dnnlib.errors import DataError, UsageError
from tests.support.draws import normal, seeded
from tests.support.image_files import encoded
from tests.support.image_models import CLASSES, END, SHAPE
from tests.support.running import contents, good, refusal, refused, run_script, unless_given
from torch_utils.seeds import seeded_generator
from torch_utils.streams import Stream
from training.data.images.containers import encode_png
from training.data.images.dataset import to_pixels
from training.files.image_folder import PARAMETERS, ImageFolder
from training.flow.latent import ConditionalMixture
from training.flow.solvers import SOLVERS
from training.models import generation
from training.models.generation import SeedSampler, generate_images, parse_seeds
from training.models.integration_settings import LatentChoice, TimeChoice
from training.subjects import ImageFlow
from training.trained.network import TrainedNetwork

DIM, KEPT = 64, 10
CPU = torch.device("cpu")
EPS = torch.finfo(torch.float32).eps
CLOSED_FORM = LatentChoice()
FAST = {"--solver": "heun", "--n_iters": 2, "--batch-gpu": 4, "--device_name": "cpu"}


@pytest.fixture(scope="session")
def start(networks):
    """``start(folder, *arguments, network=)`` runs the script and gives its result."""

    def run(folder, *arguments, network="random"):
        place = (f"--save_dir={folder}", f"--network={networks[network]}")
        return run_script(gen_fid_samples, *place, *unless_given(FAST, arguments))

    return run


@pytest.fixture(scope="session")
def make(start):
    """As ``start``, but the run must succeed; gives the images by name."""

    def run(folder, *arguments, **options):
        good(start(folder, *arguments, **options))
        return images(folder)

    return run


@pytest.fixture(scope="session")
def twenty(make, tmp_path_factory):
    """The images 0 to 19 of the network ``random``, not to be written to."""
    folder = tmp_path_factory.mktemp("twenty")
    make(folder, "--seeds=0-19")
    return folder


@pytest.fixture
def copy(twenty, tmp_path):
    """The same, for a test to change."""
    return Path(shutil.copytree(twenty, tmp_path / "copy"))


def images(folder):
    """All that is in a folder, but for its parameters, by name."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.name != PARAMETERS]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def counts(folder):
    run = json.loads((folder / PARAMETERS).read_text())["runs"][-1]
    return run["made"], run["remade"], run["skipped"]


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)))


def test_images_are_named_by_their_seeds_in_folders_of_a_thousand_if_asked(twenty, make, tmp_path):
    assert list(images(twenty)) == [f"{seed:06d}.png" for seed in range(20)]
    assert len(set(images(twenty).values())) == 20
    assert len(list(twenty.iterdir())) == 21
    made = make(tmp_path, "--seeds=3,999-1000,12345,1234567", "--subdirs")
    names = ["000000/000003", "000000/000999", "001000/001000", "012000/012345", "1234000/1234567"]
    assert list(made) == [f"{name}.png" for name in names]
    assert made["000000/000003.png"] == images(twenty)["000003.png"]


@pytest.mark.parametrize("network", ["random", "classes"])
def test_an_image_is_the_same_up_to_rounding_in_any_company(networks, monkeypatch, network):
    # Pixels would hide most differences: what they are rounded from is compared.
    seen = []
    monkeypatch.setattr(
        generation, "to_pixels", lambda points: seen.append(points) or to_pixels(points)
    )
    sampler = sampler_of(networks[network], 16)
    basis = sampler.image_flow.network.denoiser.basis
    # In this layout, a product of up to three rows takes another kernel than one of more.
    basis.eigenvectors = basis.eigenvectors.contiguous()
    seeds = torch.arange(36)
    for part in (seeds, seeds.flip(0), *seeds.split(3), *seeds[:5].split(1)):
        sampler(part)
    whole, backwards = seen[:2]
    # The network computes in single precision.
    near = partial(torch.testing.assert_close, rtol=0, atol=32 * EPS * float(whole.abs().max()))
    near(backwards.flip(0), whole)
    near(torch.cat(seen[2:14]), whole)
    near(torch.cat(seen[14:]), whole[:5])


def sampler_of(network, rows, latent=CLOSED_FORM):
    image_flow = ImageFlow.of(TrainedNetwork.open(str(network)), {})
    times = TimeChoice(3, image_flow.network.t_max)
    return SeedSampler(image_flow, SOLVERS["heun"], times, CPU, rows, latent, None)


@pytest.mark.parametrize(
    ("network", "eps"),
    [("PRP", "auto"), ("late PRR", "auto"), ("late PRR", "0.3"), ("colors", "auto")],
)
def test_a_linear_flow_gives_the_images_of_the_closed_form(make, networks, tmp_path, network, eps):
    made = make(tmp_path, "--seeds=0-5", f"--eps={eps}", "--solver=exp_rk5", network=network)
    model = TrainedNetwork.load(networks[network])
    basis, schedule = model.denoiser.basis, model.denoiser.schedule
    first, last = (torch.tensor(model.about[name]).double() for name in ("tmin", "tmax"))
    # With D = c_skip x, x / (s sqrt(xi + gamma)) stays as it is.
    generators = (seeded_generator("cpu", seed, Stream.LATENT) for seed in range(6))
    latent = torch.stack([normal(basis.dim, generator=each) for each in generators])
    if eps != "auto":
        compressed = model.flow.latent_law(last).variance[KEPT:]
        latent[:, KEPT:] *= (float(eps) / compressed).sqrt()
    ends = latent * (basis.eigenvalues + schedule.noise_variance(first)).sqrt()
    points = ends @ basis.eigenvectors.T + basis.mean
    levels = ((points + 1) * 127.5).clamp(0, 255).reshape(6, *model.about["image_shape"]).numpy()
    expected = levels.transpose(0, 2, 3, 1)
    got = np.stack([pixels(data) for data in made.values()]).reshape(expected.shape)
    near_half = np.abs(expected % 1 - 0.5) < 1e-3
    assert near_half.mean() < 0.01
    np.testing.assert_array_equal(got[~near_half], expected.round()[~near_half])


def test_a_seed_draws_its_class(make, tmp_path):
    drawn, *given = (
        make(tmp_path / str(len(asked)) / "".join(asked), "--seeds=0-11", *asked, network="classes")
        for asked in ([], *([f"--class={number}"] for number in range(CLASSES)))
    )
    classes = []
    for seed, name in enumerate(drawn):
        generator = seeded_generator("cpu", seed, Stream.LABEL)
        classes.append(int(torch.randint(CLASSES, (1,), generator=generator)))
        assert len({made[name] for made in given}) == CLASSES
        assert drawn[name] == given[classes[-1]][name]
    assert set(classes) == set(range(CLASSES))


def test_a_rerun_makes_only_what_is_missing_whatever_else_is_there(make, twenty, copy):
    kept = {path: path.stat().st_mtime_ns for path in copy.glob("*.png")}
    for seed in (0, 7, 8, 19):
        kept.pop(copy / f"{seed:06d}.png")
        (copy / f"{seed:06d}.png").unlink()
    (copy / "notes.txt").write_text("mine")
    (copy / ".000007.png.part").write_bytes(b"what a killed run has left")
    made = make(copy, "--seeds=0-19")
    assert made.pop("notes.txt") == b"mine"
    assert made == images(twenty)
    assert counts(copy) == (4, 0, 16)
    # These make no other images.
    make(copy, "--seeds=3-8", "--bs=7", f"--end_time={END}")
    assert counts(copy) == (0, 0, 6)
    runs = json.loads((copy / PARAMETERS).read_text())["runs"]
    assert (len(runs), runs[-1]["network_calls"]) == (3, 0)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


BROKEN = {
    "empty": lambda data: b"",
    "one byte short": lambda data: data[:-1],
    "one bit": lambda data: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "larger": lambda data: encode_png(np.zeros((16, 16, 1), np.uint8)),
    "in color": lambda data: encode_png(np.zeros((8, 8, 3), np.uint8)),
    "a palette": lambda data: encoded(Image.fromarray(pixels(data)).convert("P")),
    "16 bits": lambda data: encoded(pixels(data).astype(np.uint16)),
    "JPEG": lambda data: encoded(pixels(data), "jpeg"),
}


def test_broken_images_are_made_again(make, twenty, copy):
    for seed, spoil in enumerate(BROKEN.values()):
        path = copy / f"{seed:06d}.png"
        path.write_bytes(spoil(path.read_bytes()))
        assert path.read_bytes() != images(twenty)[path.name]
    assert make(copy, "--seeds=0-19") == images(twenty)
    assert counts(copy) == (0, len(BROKEN), 20 - len(BROKEN))


def test_images_of_other_settings_do_not_mix(start, copy):
    before = contents(copy)
    for option, here, there in (
        ("--no-calibration", "calibration is False", "True"),
        ("--solver=euler", "solver is euler", "heun"),
        ("--batch-gpu=3", "batch_gpu is 3", "4"),
        ("--subdirs", "subdirs is True", "False"),
    ):
        parts = (here, there, copy / PARAMETERS, "--overwrite")
        refused(start(copy, "--seeds=0-30", option), 2, *parts)
    refused(start(copy, "--seeds=0-30", network="other"), 2, "network_sha256 is ", "--overwrite")
    # One that is not asked for would remain.
    refused(start(copy, "--seeds=0-18", "--overwrite", network="other"), 2, copy / "000019.png")
    assert contents(copy) == before


def test_overwriting_makes_all_that_is_asked_for(make, twenty, copy, tmp_path):
    (copy / "000004.png").write_bytes(images(twenty)["000005.png"])
    assert make(copy, "--seeds=4-5", "--overwrite") == images(twenty)
    assert counts(copy) == (0, 2, 0)
    asked = ("--seeds=0-20", "--subdirs")
    fresh = make(tmp_path / "fresh", *asked, network="other")
    assert make(copy, *asked, "--overwrite", network="other") == fresh
    assert counts(copy) == (21, 0, 0)
    assert make(copy, *asked, network="other") == fresh


def test_an_overwriting_that_breaks_off_leaves_no_mixture(start, make, copy, tmp_path, monkeypatch):
    sample = SeedSampler.__call__

    def fail(self, seeds, *rest):
        if seeds[0] >= 8:
            raise DataError("broken off")
        return sample(self, seeds, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(SeedSampler, "__call__", fail)
        asked = ("--seeds=0-19", "--bs=4", "--overwrite")
        assert start(copy, *asked, network="other").code == 1
    fresh = make(tmp_path / "fresh", "--seeds=0-19", network="other")
    # What was sampled before the error is written.
    assert images(copy) == dict(list(fresh.items())[:8])
    assert make(copy, "--seeds=0-19", network="other") == fresh


def test_unknown_images_are_not_added_to(start, make, twenty, copy):
    (copy / PARAMETERS).unlink()
    before = contents(copy)
    refused(start(copy, "--seeds=0-30"), 2, PARAMETERS)
    assert contents(copy) == before
    assert make(copy, "--seeds=0-19", "--overwrite") == images(twenty)
    (copy / "cat.png").write_bytes(b"cat")
    (copy / PARAMETERS).unlink()
    refused(start(copy, "--seeds=0-19", "--overwrite"), 2, "cat.png")
    assert (copy / "cat.png").read_bytes() == b"cat"


def test_folders_in_place_of_images_and_parameters_that_say_nothing_are_told(start, copy):
    (copy / "000030.png").mkdir()
    refused(start(copy, "--seeds=0-30"), 1, copy / "000030.png")
    assert not list(copy.glob(".*"))
    for content in ("", "[]", "{}", '{"settings": 3}'):
        (copy / PARAMETERS).write_text(content)
        refused(start(copy, "--seeds=0-19"), 2, copy / PARAMETERS)
        assert (copy / PARAMETERS).read_text() == content


def test_seeds_are_numbers_and_ranges_in_any_order_and_others_are_told():
    assert parse_seeds("5").tolist() == [5]
    assert parse_seeds("9,1, 2,5-7,6-8").tolist() == [1, 2, 5, 6, 7, 8, 9]
    assert parse_seeds("0-49999").tolist() == list(range(50000))
    assert parse_seeds("999999999").tolist() == [999999999]
    for text in (
        *("", ",", "1,", "a", "1.5", "-3", "3-", "1-2-3", "1e3", "٣", "1;2", "7-3"),
        *("1000000000", "5-99999999999999999999", "0-10000000", "0-9999999,5"),
    ):
        assert "--seeds" in refusal(parse_seeds, text, kind=UsageError)


def test_learned_latents_depend_on_no_batch(networks, tmp_path):
    model = TrainedNetwork.load(networks["PRR"])
    distribution = ConditionalMixture(KEPT, DIM - KEPT, width=96, chained=False).requires_grad_(
        False
    )
    torch.nn.init.normal_(distribution.output.weight, std=0.1, generator=seeded(0))
    path = tmp_path / "network.pkl"
    replace(model, learned=distribution).save(path)
    sampler = sampler_of(path, 4, LatentChoice(learned=True))
    together = sampler._latents(list(range(9)))
    apart = torch.cat([sampler._latents([seed]) for seed in range(9)])
    torch.testing.assert_close(together, apart, rtol=0, atol=8 * EPS * float(together.abs().max()))
    assert not torch.allclose(together, sampler_of(path, 4)._latents(list(range(9))))


def test_only_one_batch_waits_to_be_written(networks, tmp_path, monkeypatch):
    written, waiting = [], []
    write, sample = generation.write_image, SeedSampler.__call__

    def write_late(*job):
        time.sleep(0.02)
        write(*job)
        written.append(job)

    def watch(self, seeds, *rest):
        waiting.append(int(seeds[-1]) + 1 - len(written))
        return sample(self, seeds, *rest)

    monkeypatch.setattr(generation, "WRITERS", 1)
    monkeypatch.setattr(generation, "write_image", write_late)
    monkeypatch.setattr(SeedSampler, "__call__", watch)
    sampler = sampler_of(networks["random"], 4)
    generate_images(sampler, ImageFolder(tmp_path, SHAPE, False, {}), torch.arange(32), 4)
    assert len(images(tmp_path)) == 32
    assert 4 < max(waiting) <= 8
