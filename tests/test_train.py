"""Training on images from the command line: what it writes, how it resumes, what it refuses."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import dnnlib
import pfODE_int
import train
from torch_utils.snapshots import Part, read_network, read_state, write_state
from training.data.image_dataset import ImageDataset
from training.data.image_writer import image_writer
from training.data.images import ImageBatches, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.model import Model

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
ROOT = Path(__file__).parent.parent
IMAGES, CLASSES, SIDE = 70, 4, 8
TINY = (
    *("--cbase=8", "--cres=1,1", "--batch=16", "--duration=0.000064", "--workers=0"),
    "--no-calibrate",
)
# Twelve steps with all that draws random numbers or asks for data.
TWELVE = (
    *("--cbase=8", "--cres=1", "--batch=16", "--duration=0.000192", "--workers=1", "--seed=5"),
    *("--cond", "--xflip", "--augment=0.5", "--dropout=0.3", "--tick=1", "--ema=0.0001"),
    "--output_gain",
)
# Four reports, a state at every second one.
LONG = (
    *("--cbase=8", "--cres=1", "--batch=50", "--duration=0.004", "--workers=2", "--tick=1"),
    *("--dump=2", "--cond", "--augment=0.5", "--device_name=cpu"),
)


def write_images(path: Path, images: np.ndarray, labels: list[int] | None = None) -> Path:
    """A data set of ``images [N, H, W, C]`` around 127.5."""
    with image_writer(path) as writer:
        for index, pixels in enumerate(np.clip(images.round(), 0, 255).astype(np.uint8)):
            writer.add(pixels, None if labels is None else labels[index])
    return path


@pytest.fixture(scope="session")
def blobs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noisy gray images around one pattern a class, with labels."""
    random = np.random.default_rng(0)
    patterns = random.normal(size=(CLASSES, SIDE, SIDE, 1))
    labels = [index % CLASSES for index in range(IMAGES)]
    noise = random.normal(size=(IMAGES, SIDE, SIDE, 1))
    path = tmp_path_factory.mktemp("data") / "blobs.zip"
    return write_images(path, 127.5 + 40 * patterns[labels] + 15 * noise, labels)


@pytest.fixture(scope="session")
def colors(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RGB images without labels."""
    images = 127.5 + 30 * np.random.default_rng(1).normal(size=(40, SIDE, SIDE, 3))
    return write_images(tmp_path_factory.mktemp("data") / "colors.zip", images)


@pytest.fixture
def fit(run_script: Run, blobs: Path, tmp_path: Path) -> Run:
    """Trains for four steps and gives the run's folder."""

    def start(*arguments: object, data: Path = blobs) -> Path:
        before = set(tmp_path.glob("out/*"))
        place = (f"--outdir={tmp_path / 'out'}", f"--data={data}")
        result = run_script(train, *place, *TINY, *arguments)
        assert (result.code, result.err) == (0, ""), result.err
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return start


@pytest.fixture(scope="session")
def twelve(run_script: Run, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unbroken run, not to be written to."""
    folder = tmp_path_factory.mktemp("twelve")
    result = run_script(train, f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *TWELVE)
    assert (result.code, result.err) == (0, "")
    return folder


@pytest.fixture(scope="session")
def unbroken(run_script: Run, blobs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A longer unbroken run, not to be written to."""
    folder = tmp_path_factory.mktemp("unbroken")
    result = run_script(train, f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG)
    assert (result.code, result.err) == (0, "")
    return folder


def network_file(folder: Path) -> Path:
    return max(folder.glob("network-snapshot-*.pkl"))


def load(folder: Path) -> Model:
    return Model.load(network_file(folder))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return read_network(network_file(folder))[0]["network"].state


def vector(state: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([state[name].double().flatten() for name in sorted(state)])


def distance(one: Path, other: Path) -> float:
    """Between the weights of two runs, relative to their norm."""
    first, second = vector(weights(one)), vector(weights(other))
    return float((first - second).norm() / second.norm())


def stats(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, Part):
        return isinstance(other, Part) and equal(vars(one), vars(other))
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def same_end(one: Path, other: Path) -> bool:
    """Whether two runs ended in the same network file and state, bit for bit."""
    states = [read_state(max(folder.glob("training-state-*.pt"))) for folder in (one, other)]
    networks = [read_network(network_file(folder)) for folder in (one, other)]
    return equal(*states) and equal(*networks)


def test_a_run_writes_what_is_promised_and_nothing_else(fit: Run) -> None:
    folder = fit()
    assert folder.name == "00000-blobs-PRP-ddpmpp-uncond-batch16-fp32"
    names = sorted(path.name for path in folder.iterdir())
    events = [name for name in names if name.startswith("events.out.tfevents.")]
    assert len(events) == 1
    assert sorted(set(names) - set(events)) == [
        "log.txt",
        "network-snapshot-000000.pkl",
        "stats.jsonl",
        "training-state-000000.pt",
        "training_options.json",
    ]


def test_the_network_file_knows_its_data(fit: Run, colors: Path) -> None:
    dim = 3 * SIDE**2
    folder = fit(f"--data_dim={dim}", "--dims_to_keep=10", "--tmin=0.5", data=colors)
    assert folder.name == "00000-colors-PRRto10D-ddpmpp-uncond-batch16-fp32"
    assert load(folder).about == {
        "data_name": "colors",
        "image_shape": [3, SIDE, SIDE],
        "label_dim": 0,
        "data_dim": dim,
        "dims_to_keep": 10,
        "tmin": 0.5,
        "tmax": 15.01,
        "seen": 64,
    }


def test_the_options_file_has_every_option_and_the_versions(fit: Run, blobs: Path) -> None:
    folder = fit("--seed=7", "--desc=mine", "--cres=1")
    saved = json.loads((folder / "training_options.json").read_text())
    assert set(saved["options"]) == {param.name for param in train.main.params}
    chosen = {"seed": 7, "desc": "mine", "cres": [1], "cbase": 8, "data": str(blobs)}
    assert {name: saved["options"][name] for name in chosen} == chosen
    assert saved["code_version"] == dnnlib.__version__
    assert saved["libraries"]["torch"] == torch.__version__
    assert folder.name.endswith("-mine")


def test_a_dry_run_tells_the_options_and_writes_nothing(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    for flag in ("-n", "--dry-run", "--dry_run"):
        result = run_script(train, *place, "--cbase=16", "--cres=1", "--cache", flag)
        assert (result.code, result.err) == (0, "")
        options = json.loads(result.out[result.out.index("\n{") :])["options"]
        assert (options["cbase"], options["batch"], options["augment"]) == (16, 512, 0.12)
    assert list(tmp_path.iterdir()) == []


VARIANTS: list[tuple[list[str], dict[str, object]]] = [
    (["--arch=ncsnpp"], {"schedule.name": "PRP"}),
    (["--arch=adm", "--cbase=64", "--cres=1"], {"schedule.name": "PRP"}),
    (["--precond=edm"], {"schedule.name": "EDM", "preconditioning": "edm", "noise_cond": "log"}),
    (["--precond=vp"], {"schedule.name": "VP", "preconditioning": "vp", "noise_cond": "ddpm"}),
    (["--precond=ve"], {"schedule.name": "VE", "preconditioning": "ve", "noise_cond": "log"}),
    (["--space=ES"], {"space": "ES"}),
    (["--space=IS"], {"space": "IS"}),
    (["--noise_cond=ddpm"], {"noise_cond": "ddpm"}),
    (["--t_sampling=normal"], {}),
    (["--t-sampling=log_uniform"], {}),
    (["--precision=bf16"], {}),
    (["--dims_to_keep=64", "--rho=2"], {"schedule.name": "PRP", "schedule.rho": 2.0}),
    (["--dims_to_keep=5"], {"schedule.name": "PRRto5D"}),
    (
        ["--dims_to_keep=5", "--g_type=constant_inflation_gap", "--inflation_gap=1.25"],
        {"schedule.name": "PRRto5D"},
    ),
    (["--dims_to_keep=5", "--g_rescaling=0.5", "--gamma0=0.001"], {"schedule.gamma0": 1e-3}),
    (["--augment=0", "--dropout=0"], {}),
    (["--augment=1"], {}),
    (["--output_gain", "--dims_to_keep=5"], {}),
    (["--output_gain", "--precond=edm"], {}),
    (["--ls=100", "--lr_decay", "--lr_ramp=0", "--no-bench"], {}),
]


@pytest.mark.parametrize(
    ("arguments", "known"), VARIANTS, ids=[" ".join(variant[0]) for variant in VARIANTS]
)
def test_every_variant_trains_and_its_network_knows_what_it_is(
    fit: Run, arguments: list[str], known: dict[str, object]
) -> None:
    folder = fit(*arguments)
    (line,) = stats(folder)
    assert 0 < line["Loss/loss"] < 20
    assert line["Progress/skipped_steps"] == 0
    model = load(folder)
    for path, value in known.items():
        found: Any = model.denoiser
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value
    for t in (model.about["tmin"], model.about["tmax"]):
        x = torch.ones(2, SIDE**2, dtype=torch.float64)
        assert model.denoiser(x, torch.tensor(t, dtype=torch.float64)).isfinite().all()


def test_half_precision_trains_or_is_refused_in_one_line(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={blobs}")
    result = run_script(train, *place, *TINY, "--precision=fp16")
    if result.code:
        assert "fp16" in result.error
        assert list(tmp_path.iterdir()) == []
    else:
        assert 0 < stats(tmp_path / "out")[0]["Loss/loss"] < 20


def test_the_loss_falls(unbroken: Path) -> None:
    losses = [line["Loss/loss"] for line in stats(unbroken)]
    assert [line["seen"] for line in stats(unbroken)] == [1000, 2000, 3000, 4000]
    assert losses[0] < 1.2
    assert losses[-1] < 0.97 * losses[0]


def test_labels_reach_the_network_only_if_asked_for(fit: Run, twelve: Path) -> None:
    denoiser = load(twelve).denoiser
    x, t = torch.ones(1, SIDE**2, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    one, other = (denoiser(x, t, labels=torch.eye(CLASSES)[[index]]) for index in (0, 1))
    assert (one - other).abs().max() > 1e-9
    assert load(twelve).about["label_dim"] == CLASSES
    assert load(twelve).denoiser.network.embedding.label_dim == CLASSES
    blind = load(fit())
    assert blind.about["label_dim"] == 0
    assert blind.denoiser.network.embedding.label is None


def test_augmentation_labels_are_inputs_only_of_augmented_training(fit: Run) -> None:
    with_labels, without = fit("--augment=0.5"), fit("--augment=0")
    difference = set(weights(with_labels)) - set(weights(without))
    assert difference == {"embedding.augment.weight"}
    denoiser = load(with_labels).denoiser
    x, t = torch.ones(1, SIDE**2, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    plain, zeros = denoiser(x, t), denoiser(x, t, augment_labels=torch.zeros(1, 9))
    assert torch.equal(plain, zeros)
    assert not torch.equal(plain, denoiser(x, t, augment_labels=torch.ones(1, 9)))


def test_augmented_variance_is_what_the_preconditioning_counts_on(fit: Run) -> None:
    plain = load(fit("--augment=0")).denoiser
    torch.testing.assert_close(plain.data_variance, plain.basis.floored_variance())
    augmented = load(fit("--augment=1")).denoiser
    assert (augmented.data_variance >= plain.data_variance).all()
    assert float(augmented.data_variance[-20:].mean() / plain.data_variance[-20:].mean()) > 2


def test_the_basis_can_be_fitted_to_a_few_images(fit: Run, blobs: Path) -> None:
    basis = load(fit("--batch_pca=20")).denoiser.basis
    expected = EigenBasis.fit(basis_batches(ImageDataset(blobs), 20))
    assert equal(dict(basis.state_dict()), dict(expected.state_dict()))
    assert (basis.eigenvalues[19:] < 1e-12 * basis.top_variance).all()
    whole = load(fit()).denoiser.basis
    assert (whole.eigenvalues[:60] > 1e-6 * whole.top_variance).all()


def test_mirror_images_count_as_data(fit: Run) -> None:
    plain, mirrored = (load(fit(*flag)).denoiser.basis.mean for flag in ([], ["--xflip"]))
    mean = plain.reshape(SIDE, SIDE)
    torch.testing.assert_close(mirrored.reshape(SIDE, SIDE), (mean + mean.flip(1)) / 2)


def test_how_data_is_read_does_not_change_the_network(fit: Run) -> None:
    first = fit("--workers=0")
    for arguments in (["--workers=1"], ["--workers=2"], ["--cache"], ["--cache", "--workers=1"]):
        assert equal(weights(fit(*arguments)), weights(first)), arguments


def test_a_seed_repeats_a_run_and_another_does_not(fit: Run) -> None:
    one, same, other = (weights(fit(f"--seed={seed}")) for seed in (1, 1, 2))
    assert equal(one, same)
    assert not equal(one, other)


def test_microbatches_give_the_network_of_whole_batches(fit: Run) -> None:
    whole, parts = fit("--dropout=0"), fit("--dropout=0", "--batch-gpu=5")
    untrained = fit("--dropout=0", "--lr=1e-30")
    assert distance(parts, whole) < 1e-5
    assert distance(untrained, whole) > 1e-4


def test_a_resumed_run_equals_an_unbroken_one_and_refits_nothing(
    run_script: Run, blobs: Path, twelve: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ImageBatches.batches

    def stopping(self: ImageBatches, first_step: int) -> Iterator[Any]:
        for step, batch in enumerate(original(self, first_step), start=first_step):
            if step == 5:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    folder = tmp_path / "out"
    place = (f"--outdir={folder}", "--nosubdir", f"--data={blobs}")
    with monkeypatch.context() as patch:
        patch.setattr(ImageBatches, "batches", stopping)
        result = run_script(train, *place, *TWELVE)
    assert result.code == 128 + signal.SIGTERM
    assert f"--resume={folder / 'training-state-000000.pt'}" in result.error
    assert [line["seen"] for line in stats(folder)] == [96]

    def refuse(*arguments: object) -> None:
        pytest.fail("the basis was fitted again")

    monkeypatch.setattr(EigenBasis, "fit", refuse)
    result = run_script(train, f"--resume={folder}", "--workers=2", "--cache")
    assert (result.code, result.err) == (0, "")
    assert same_end(folder, twelve)
    assert [line["seen"] for line in stats(folder)] == [96, 192]


@contextlib.contextmanager
def started(*arguments: object) -> Iterator[subprocess.Popen[str]]:
    """The script in a process group of its own, of which nothing is left afterwards."""
    process = subprocess.Popen(
        [sys.executable, "train.py", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def ended(group: int) -> bool:
    """Whether a process group has nobody left, after some time to go."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def wait_for_reports(folder: Path, count: int, process: subprocess.Popen[str]) -> None:
    """Until the run has made so many."""
    deadline = time.monotonic() + 120
    path = folder / "stats.jsonl"
    while not path.exists() or path.read_text().count("\n") < count:
        assert process.poll() is None, "the run ended too early"
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_killed_run_can_go_on_as_if_nothing_had_happened(
    run_script: Run, blobs: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with started(f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG) as process:
        wait_for_reports(folder, 3, process)  # the last state is of the second
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(timeout=60)
    assert not (folder / "training-state-000004.pt").exists()
    with (folder / "stats.jsonl").open("a") as file:
        file.write('{"seen": 3050, "Lo')  # as if killed while writing
    result = run_script(train, f"--resume={folder}")
    assert (result.code, result.err) == (0, "")
    assert "training-state-000002.pt" in result.out
    assert same_end(folder, unbroken)
    reports = [[(x["seen"], x["Loss/loss"]) for x in stats(run)] for run in (folder, unbroken)]
    assert reports[0] == reports[1]


def test_a_signal_to_the_whole_group_saves_and_ends_with_one_line(
    run_script: Run, blobs: Path, unbroken: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "out"
    with started(f"--outdir={folder}", "--nosubdir", f"--data={blobs}", *LONG) as process:
        wait_for_reports(folder, 1, process)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        assert ended(process.pid), "a worker stays behind"
    (line,) = err.splitlines()
    state = max(folder.glob("training-state-*.pt"))
    assert "SIGTERM" in line
    assert f"--resume={state}" in line
    result = run_script(train, f"--resume={state}")
    assert (result.code, result.err) == (0, "")
    assert same_end(folder, unbroken)


@pytest.mark.parametrize("how", ["--cond", "--augment=0.5"])
def test_the_last_network_is_calibrated_on_the_images_as_they_are(fit: Run, how: str) -> None:
    folder = fit(how, "--dims_to_keep=5", "--calibrate")
    calibration = load(folder).denoiser.calibration
    assert calibration is not None
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert f"Calibrated on {IMAGES} points" in (folder / "log.txt").read_text()
    assert load(fit(how, "--dims_to_keep=5")).denoiser.calibration is None


def test_the_calibration_can_be_fitted_to_images_held_out_of_training(
    fit: Run, tmp_path: Path
) -> None:
    images = 127.5 + 60 * np.random.default_rng(2).normal(size=(30, SIDE, SIDE, 1))
    other = write_images(tmp_path / "other.zip", images)
    own = fit("--dims_to_keep=5", "--calibrate")
    held_out = fit("--dims_to_keep=5", "--calibrate", f"--calibration_data={other}")
    assert same_end(own, held_out) is False
    assert torch.equal(vector(weights(own)), vector(weights(held_out)))
    assert "Calibrated on 30 points" in (held_out / "log.txt").read_text()
    gains = [load(folder).denoiser.calibration.gains for folder in (own, held_out)]
    assert not torch.equal(*gains)


def test_what_a_calibration_fits_can_be_chosen(fit: Run) -> None:
    fitted = {
        method: load(fit("--dims_to_keep=5", "--calibrate", *given)).denoiser.calibration
        for method, given in {
            "default": (),
            "gain": ("--calibration_fit=gain",),
            "marginal": ("--calibration_fit=marginal",),
            "path": ("--calibration_fit=path",),
        }.items()
    }
    for calibration in fitted.values():
        assert torch.equal(calibration.gains, fitted["default"].gains)
    assert not fitted["default"].slopes.any()
    assert not fitted["gain"].slopes.any()
    assert fitted["marginal"].slopes.any()
    assert (fitted["path"].slopes - fitted["marginal"].slopes).abs().max() > 1e-6


STATES_OF_GAINS = ("output_gain", "averaged_output_gain")


def test_an_output_gain_is_trained_averaged_and_kept(twelve: Path) -> None:
    gains = load(twelve).denoiser.output_gain.gains
    assert gains.shape[1] == SIDE**2
    assert 1e-3 < (gains - 1).abs().max() < 1
    state = read_state(max(twelve.glob("training-state-*.pt")))
    assert not torch.equal(*(state[key]["offsets"] for key in STATES_OF_GAINS))


@pytest.mark.parametrize("lost", STATES_OF_GAINS)
def test_a_state_without_the_output_gain_of_its_run_is_refused(
    lost: str, run_script: Run, twelve: Path, tmp_path: Path
) -> None:
    path = tmp_path / "training-state-000000.pt"
    state = read_state(max(twelve.glob("training-state-*.pt")))
    del state[lost]
    write_state(path, state)
    shutil.copy(twelve / "training_options.json", tmp_path)
    result = run_script(train, f"--resume={path}")
    assert result.code == 1
    assert lost in result.error


def test_calibration_data_must_fit_the_data_and_be_of_use(
    run_script: Run, blobs: Path, colors: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}", *TINY)
    other = f"--calibration_data={colors}"
    unlike = run_script(train, *place, "--calibrate", other)
    assert unlike.code == 1
    assert str(colors) in unlike.error
    useless = run_script(train, *place, "--no-calibrate", other)
    assert useless.code == 2
    assert "--calibration_data" in useless.error
    useless = run_script(train, *place, "--no-calibrate", "--calibration_fit=path")
    assert useless.code == 2
    assert "--calibration_fit" in useless.error
    assert not (tmp_path / "out").exists()


def test_a_simulation_uses_a_calibration_unless_told_not_to(
    run_script: Run, fit: Run, blobs: Path, tmp_path: Path
) -> None:
    network = network_file(fit("--calibrate"))
    Model.load(network, calibrated=False).save(tmp_path / "plain.pkl")
    ends = {}
    for name, given in {
        "used": [f"--network={network}"],
        "refused": [f"--network={network}", "--no-calibration"],
        "absent": [f"--network={tmp_path / 'plain.pkl'}"],
    }.items():
        place = (f"--save_dir={tmp_path / name}", f"--data_root={blobs}", "--sim_type=melt")
        assert run_script(pfODE_int, *place, "--bs=3", "--n_iters=3", *given).code == 0
        (path,) = (tmp_path / name).glob("*_melt.npz")
        with np.load(path) as results:
            ends[name] = results["xs_es"][-1]
    assert np.array_equal(ends["refused"], ends["absent"])
    assert not np.array_equal(ends["used"], ends["absent"])


@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_isotropic_models_cannot_be_calibrated(
    run_script: Run, blobs: Path, tmp_path: Path, precond: str
) -> None:
    place = (f"--outdir={tmp_path / 'other'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, f"--precond={precond}", "--calibrate")
    assert result.code == 2
    assert "--calibrate" in result.error
    assert precond in result.error
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("augment", [0, 0.5])
def test_two_ranks_give_the_network_of_one(
    run_script: Run, blobs: Path, tmp_path: Path, augment: float
) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    # Odd sizes throughout, and no dropout, which each rank draws for itself.
    options = (
        *("--nosubdir", f"--data={blobs}", "--cond", "--cbase=8", "--cres=1", "--batch=17"),
        *("--batch-gpu=5", "--duration=0.000102", "--workers=0", "--dropout=0"),
        *(f"--augment={augment}", "--batch_pca=69", "--device_name=cpu"),
        *("--output_gain", "--calibration_fit=path"),
    )
    assert run_script(train, f"--outdir={one}", *options).code == 0
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    done = subprocess.run(
        [sys.executable, *torchrun, "train.py", f"--outdir={two}", *options],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    names = [
        {path.name for path in folder.iterdir() if "tfevents" not in path.name}
        for folder in (one, two)
    ]
    assert names[0] == names[1]
    bases = [read_network(network_file(folder))[0]["basis"].state for folder in (one, two)]
    for name, tensor in bases[0].items():
        torch.testing.assert_close(bases[1][name], tensor, rtol=0, atol=1e-10)
    variances = [load(folder).denoiser.data_variance for folder in (one, two)]
    torch.testing.assert_close(variances[1], variances[0], rtol=1e-6, atol=0)
    assert distance(two, one) < 1e-5
    mine, theirs = (load(folder).denoiser for folder in (one, two))
    torch.testing.assert_close(theirs.output_gain.gains, mine.output_gain.gains, rtol=1e-5, atol=0)
    for name in ("gains", "slopes"):
        values = [getattr(denoiser.calibration, name) for denoiser in (mine, theirs)]
        torch.testing.assert_close(values[1], values[0], rtol=0, atol=1e-4)
    assert [line["seen"] for line in stats(two)] == [line["seen"] for line in stats(one)]
    assert stats(two)[-1]["Loss/loss"] == pytest.approx(stats(one)[-1]["Loss/loss"], rel=1e-5)


def test_a_transferred_network_starts_from_the_weights_of_another(
    run_script: Run, fit: Run, blobs: Path, tmp_path: Path
) -> None:
    source = fit("--lr=0.01")
    outdir = tmp_path / "transferred"
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    still = ("--lr=1e-30", "--cond", "--seed=3", f"--transfer={network_file(source)}")
    result = run_script(train, *place, *TINY, *still)
    assert (result.code, result.err) == (0, "")
    given, own = weights(source), weights(outdir)
    label = {"embedding.label.weight", "embedding.label.bias"}
    assert set(own) - set(given) == label
    assert f"Took {len(given)} of {len(own)} tensors from {network_file(source)}" in result.out
    assert equal({name: own[name] for name in given}, given)


def test_a_network_without_fitting_weights_cannot_be_transferred(
    run_script: Run, blobs: Path, tmp_path: Path, toy_network: Callable[..., Path]
) -> None:
    toy = toy_network("--data_name=circles", "--tmax=7.01")
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, f"--transfer={toy}")
    assert result.code == 2
    assert str(toy) in result.error
    assert list(tmp_path.iterdir()) == []


# Pixels around gray with variance xi, independent. Then the optimal denoiser is linear,
# D = xi / (xi + gamma) x. It is that of F = 0 for edm, whose sigma_data^2 is xi, and for vp and ve
# of F = E[n | x], up to sign, which has mean square gamma / (xi + gamma), all to be learned.
@pytest.mark.parametrize("precond", ["edm", "vp", "ve"])
def test_white_noise_is_denoised_as_it_should_be(
    run_script: Run, tmp_path: Path, precond: str
) -> None:
    std, first, last = 0.3, 0.1, 0.5
    pixels = 127.5 * (1 + std * np.random.default_rng(2).normal(size=(2000, SIDE, SIDE, 1)))
    data = write_images(tmp_path / "white.zip", pixels)
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={data}", "--workers=0")
    recipe = ("--cbase=16", "--cres=1", "--batch=64", "--duration=0.003", "--augment=0")
    steady = ("--dropout=0", "--lr=2e-3", "--lr_decay", "--ema=0.0002", f"--precond={precond}")
    result = run_script(train, *place, *recipe, *steady, f"--tmin={first}", f"--tmax={last}")
    assert (result.code, result.err) == (0, "")
    denoiser = load(tmp_path / "out").denoiser
    random = torch.Generator().manual_seed(0)
    for t in torch.linspace(first, last, 4, dtype=torch.float64):
        gamma, c = denoiser.schedule.noise_variance(t)[0], denoiser.coefficients(t)
        variance = std**2 + gamma
        x = variance.sqrt() * torch.randn(200, SIDE**2, generator=random, dtype=torch.float64)
        best = std**2 / variance * x
        wanted = ((best - c.c_skip * x) / c.c_out).square().mean()
        expected = 0.0 if precond == "edm" else float(gamma / variance)
        assert float(wanted) == pytest.approx(expected, rel=0.05, abs=1e-3)
        error = ((denoiser(x, t) - best) / c.c_out).square().mean()
        assert error < (0.002 if precond == "edm" else 0.05)


@pytest.mark.parametrize(
    ("name", "value", "saved"),
    [
        ("lr", "0.1", "0.001"),
        ("seed", "7", "5"),
        ("batch", "100", "16"),
        ("arch", "adm", "ddpmpp"),
        ("augment", "0.1", "0.5"),
        ("dropout", "0.1", "0.3"),
        ("precision", "bf16", "fp32"),
        ("precond", "edm", "ifs"),
        ("dims_to_keep", "5", "None"),
        ("cbase", "16", "8"),
        ("cres", "2,2", "[1]"),
        ("data", "elsewhere.zip", "blobs.zip"),
        ("transfer", "other.pkl", "None"),
        ("outdir", "elsewhere", "twelve"),
    ],
)
def test_a_resumed_run_refuses_to_become_another(
    run_script: Run, twelve: Path, contents: Contents, name: str, value: str, saved: str
) -> None:
    before = contents(twelve)
    result = run_script(train, f"--resume={twelve}", f"--{name}={value}")
    assert (result.code, result.out) == (2, "")
    for part in (f"--{name}", saved):
        assert part in result.error
    assert contents(twelve) == before


@pytest.mark.parametrize("how", ["gone", "larger images", "more channels", "more classes"])
def test_a_run_whose_data_has_changed_cannot_be_resumed(
    run_script: Run, tmp_path: Path, contents: Contents, how: str
) -> None:
    data, folder = tmp_path / "data.zip", tmp_path / "out"
    random = np.random.default_rng(0)
    write_images(data, random.uniform(0, 255, (40, 8, 8, 1)), [0, 1] * 20)
    place = (f"--outdir={folder}", "--nosubdir", f"--data={data}", "--cond")
    # At 8 and at 32 pixels, one level has the same weights.
    assert run_script(train, *place, *TINY, "--cres=1").code == 0
    options = folder / "training_options.json"  # more is left to do
    saved = json.loads(options.read_text())
    saved["options"]["duration"] *= 2
    options.write_text(json.dumps(saved))
    if how == "gone":
        data.unlink()
    else:
        side, channels = (32 if how == "larger images" else 8), (3 if how == "more channels" else 1)
        labels = [0, 3] * 20 if how == "more classes" else [0, 1] * 20
        write_images(data, random.uniform(0, 255, (40, side, side, channels)), labels)
    before = contents(tmp_path)
    result = run_script(train, f"--resume={folder}")
    assert result.code in (1, 2)
    assert str(data) in result.error or str(folder) in result.error
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_dim=3072"], ["data_dim", "3072", "64", "blobs"]),
        (["--dims_to_keep=65"], ["dims_to_keep", "65", "64"]),
        (["--dims_to_keep=0"], ["dims_to_keep", "0"]),
        (["--cres=2,x"], ["cres", "2,x", "2,2,2"]),
        (["--cres=2,0"], ["cres", "2,0"]),
        (["--cres="], ["cres"]),
        (["--cres=1,1,1,1,1"], ["channel_mult", "8"]),
        (["--cbase=0"], ["cbase", "0"]),
        (["--cbase=7"], ["7"]),
        (["--arch=resnet"], ["resnet", "ddpmpp"]),
        (["--arch=adm"], ["64", "8"]),
        (["--precision=fp64"], ["fp64", "bf16"]),
        (["--precond=ddim"], ["ddim", "ifs"]),
        (["--precond=edm", "--rho=2"], ["rho", "2", "edm"]),
        (["--precond=vp", "--gamma0=1"], ["gamma0", "1", "vp"]),
        (["--precond=ve", "--g_type=orig"], ["g_type", "orig", "ve"]),
        (["--precond=edm", "--dims_to_keep=5"], ["dims_to_keep", "5", "64", "edm"]),
        (["--precond=vp", "--tmin=0"], ["tmin", "0"]),
        (["--precond=vp", "--tmin=0.5", "--tmax=0.5"], ["tmin", "0.5"]),
        (["--tmin=20"], ["tmin", "20", "15.01"]),
        (["--g_type=orig", "--inflation_gap=2"], ["g_type", "inflation_gap"]),
        (["--t_sampling=gamma"], ["gamma", "uniform"]),
        (["--space=XS"], ["XS", "ES"]),
        (["--noise_cond=edm"], ["edm", "ddpm"]),
        (["--dropout=1"], ["dropout", "1"]),
        (["--augment=1.5"], ["augment", "1.5"]),
        (["--augment=nan"], ["augment", "nan"]),
        (["--dropout=nan"], ["dropout", "nan"]),
        (["--workers=-1"], ["workers", "-1"]),
        (["--batch_pca=0"], ["batch_pca", "0"]),
        (["--lr=0"], ["lr", "0"]),
        (["--lr_ramp=-1"], ["lr_ramp", "-1"]),
        (["--duration=0"], ["duration", "0"]),
        (["--desc=a/b"], ["a/b"]),
        (["--transfer=http://example.org/network.pkl"], ["http://example.org", "https"]),
        (["--lrate=1"], ["lrate"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run, blobs: Path, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, *arguments)
    assert result.code == 2
    for part in parts:
        assert part in result.error
    assert list(tmp_path.iterdir()) == []


def plain_file(folder: Path) -> Path:
    path = folder / "data.zip"
    path.write_bytes(b"no zip at all")
    return path


def empty_folder(folder: Path) -> Path:
    (folder / "data").mkdir()
    return folder / "data"


def gray(folder: Path, count: int = 20, side: int = 8) -> Path:
    images = np.random.default_rng(0).uniform(0, 255, (count, side, side, 1))
    return write_images(folder / "data.zip", images)


def mixed(folder: Path) -> Path:
    with image_writer(folder / "data.zip") as writer:
        for side in (8, 8, 16):
            writer.add(np.arange(side * side, dtype=np.uint8).reshape(side, side, 1), None)
    return folder / "data.zip"


# What makes the data, further options, exit code, words of the message.
BAD_DATA: dict[str, tuple[Callable[[Path], Path], list[str], int, list[str]]] = {
    "missing": (lambda folder: folder / "none.zip", [], 1, ["none.zip"]),
    "no zip": (plain_file, [], 1, ["data.zip"]),
    "no images": (empty_folder, [], 1, ["data", "dataset_tool.py"]),
    "no labels": (gray, ["--cond"], 1, ["data.zip", "labels"]),
    "odd side": (lambda folder: gray(folder, side=12), [], 2, ["12 x 12", "power of two"]),
    "one image": (lambda folder: gray(folder, count=1), ["--augment=0"], 1, ["one point"]),
    "constant": (
        lambda folder: write_images(folder / "data.zip", np.full((9, 8, 8, 1), 3)),
        [],
        1,
        ["does not vary"],
    ),
    "images that differ in shape": (
        mixed,
        [],
        1,
        ["data.zip", "16x16", "8x8"],
    ),
    "transfer of a missing file": (gray, ["--transfer=none.pkl"], 1, ["none.pkl"]),
    "transfer of no network": (gray, [f"--transfer={__file__}"], 1, ["test_train.py"]),
}


@pytest.mark.parametrize("what", BAD_DATA)
def test_bad_data_ends_with_one_line_and_nothing_written(
    run_script: Run, tmp_path: Path, contents: Contents, what: str
) -> None:
    make, arguments, code, parts = BAD_DATA[what]
    data = make(tmp_path)
    before = contents(tmp_path)
    place = (f"--outdir={tmp_path / 'out'}", f"--data={data}")
    result = run_script(train, *place, *TINY, *arguments)
    assert result.code == code
    for part in parts:
        assert part in result.error
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    ("arguments", "part"),
    [([], "--outdir"), (["--outdir=x"], "--data"), (["--data=x.zip"], "--outdir")],
)
def test_missing_options_are_named(
    run_script: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_script(train, *arguments)
    assert result.code == 2
    assert part in result.error
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_ends_with_one_line_and_advice(
    run_script: Run, blobs: Path, tmp_path: Path
) -> None:
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, "--duration=0.0006", "--lr=1e30", "--cres=1")
    assert result.code == 1
    assert "--lr" in result.error
    assert not list(tmp_path.glob("*/*/network-*"))


@pytest.mark.parametrize("flags", [[], ["--nosubdir"]])
def test_an_outdir_that_is_a_file_is_refused(
    run_script: Run, blobs: Path, tmp_path: Path, flags: list[str]
) -> None:
    (tmp_path / "out").write_text("precious")
    place = (f"--outdir={tmp_path / 'out'}", f"--data={blobs}")
    result = run_script(train, *place, *TINY, *flags)
    assert result.code == 1
    assert str(tmp_path / "out") in result.error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


def test_a_run_is_never_overwritten(
    run_script: Run, twelve: Path, blobs: Path, contents: Contents
) -> None:
    before = contents(twelve)
    place = (f"--outdir={twelve}", "--nosubdir", f"--data={blobs}")
    result = run_script(train, *place, *TINY)
    assert result.code == 2
    assert "holds a run already" in result.error
    assert contents(twelve) == before


def test_log_and_progress_are_silent_in_a_pipe(twelve: Path) -> None:
    log = (twelve / "log.txt").read_text()
    assert "\r" not in log
    assert len(re.findall(r"kimg \d+\.\d +loss \d", log)) == len(stats(twelve)) == 1
