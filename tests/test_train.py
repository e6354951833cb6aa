"""Training on images from the command line: what it writes and learns, and how it goes on."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from operator import attrgetter

import numpy as np
import pytest
import torch

import toy_train
import train
from dnnlib.errors import UsageError
from tests.support import image_runs
from tests.support.draws import seeded
from tests.support.finished_runs import broken_off
from tests.support.image_runs import SIDE, TINY, equal, load, network_file, same_end, stats, weights
from tests.support.running import contents, good, refused, run_script, slowly, trained
from torch_utils.snapshots import read_state, write_state
from training.data.images.dataset import ImageDataset, basis_batches
from training.flow.eigenbasis import EigenBasis
from training.subjects import ImageFlow
from training.subjects import image_training as job
from training.trained.network import TrainedNetwork


def test_the_network_file_knows_its_data(fit, colors):
    dim = 3 * SIDE**2
    folder = fit(f"--data_dim={dim}", "--dims_to_keep=10", "--tmin=0.5", data=colors)
    assert folder.name == "00000-colors-PRRto10D-ddpmpp-uncond-batch16-fp32"
    data = {"kind": "images", "data_name": "colors"}
    size = {"image_shape": [3, SIDE, SIDE], "label_dim": 0, "data_dim": dim}
    flow = {"dims_to_keep": 10, "tmin": 0.5, "tmax": 15.01, "seen": 64}
    model = load(folder)
    about = model.about
    assert model.denoiser.calibration is None
    assert len(about["rows"]) == 40
    assert about == data | size | flow | {"rows": about["rows"]}


VARIANTS = {
    "--arch=ncsnpp --cres=1,1 --ls=100 --no-bench": {"schedule.name": "PRP"},
    "--arch=adm --cbase=64": {"schedule.name": "PRP"},
    "--precond=edm": {
        "schedule.name": "EDM",
        "preconditioning": "edm",
        "noise_cond": "log",
    },
    "--precond=vp": {"schedule.name": "VP", "preconditioning": "vp", "noise_cond": "ddpm"},
    "--precond=ve": {"schedule.name": "VE", "preconditioning": "ve", "noise_cond": "log"},
    "--space=ES --t_sampling=normal": {"space": "ES"},
    "--space=IS --t-sampling=log_uniform": {"space": "IS", "network.waves": None},
    "--noise_cond=ddpm --precision=bf16": {"noise_cond": "ddpm"},
    "--dims_to_keep=5 --g_type=constant_inflation_gap --inflation_gap=1.25": {
        "schedule.name": "PRRto5D"
    },
    "--dims_to_keep=5 --g_rescaling=0.5 --gamma0=0.001": {"schedule.gamma0": 1e-3},
}


@pytest.mark.parametrize("arguments", VARIANTS)
def test_every_variant_trains_and_its_network_knows_what_it_is(fit, arguments):
    folder, known = fit(*arguments.split()), VARIANTS[arguments]
    (line,) = stats(folder)
    assert 0 < line["Loss/loss"] < 20
    assert line["Progress/skipped_steps"] == 0
    model = load(folder)
    for path, value in known.items():
        assert attrgetter(path)(model.denoiser) == value
    for t in (model.about["tmin"], model.about["tmax"]):
        x = torch.ones(2, SIDE**2, dtype=torch.float64)
        assert model.denoiser(x, torch.tensor(t, dtype=torch.float64)).isfinite().all()


def test_half_precision_trains_or_is_refused_in_one_line(blobs, tmp_path):
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={blobs}")
    result = run_script(train, *place, *TINY, "--precision=fp16")
    if result.code:
        assert "fp16" in result.error
        assert list(tmp_path.iterdir()) == []
    else:
        assert 0 < stats(tmp_path / "out")[0]["Loss/loss"] < 20


def test_labels_reach_the_network_only_if_asked_for(fit, short):
    model, blind = load(short), load(fit("--augment=0"))
    x, t = torch.ones(1, SIDE**2, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    one, other = (model.denoiser(x, t, labels=torch.eye(4)[[index]]) for index in (0, 1))
    assert (one - other).abs().max() > 1e-9
    assert model.about["label_dim"] == model.denoiser.network.embedding.label_dim == 4
    assert blind.about["label_dim"] == 0
    assert blind.denoiser.network.embedding.label is None


def test_labels_that_are_vectors_are_given_and_never_drawn(fit, tmp_path):
    pixels, given = 255 * np.random.default_rng(0).random((40, 8, 8, 1)), tmp_path / "labels.csv"
    image_runs.write_images(tmp_path / "vectors.zip", pixels, [[0.5, 2.0]] * 40)
    path = network_file(fit("--cond", data=tmp_path / "vectors.zip"))
    flow = ImageFlow.of(TrainedNetwork.open(str(path)), {})
    with pytest.raises(UsageError, match="are vectors of 2 numbers, which cannot be drawn:"):
        flow.drawn_labels(3, 0, None)
    given.write_text("a,b\n0.5,2\n")
    assert flow.labels(given).tolist() == [[0.5, 2.0]]


def test_augmentation_labels_are_inputs_only_of_augmented_training(fit):
    with_labels, without = fit("--augment=0.5"), fit("--augment=0")
    difference = set(weights(with_labels)) - set(weights(without))
    assert difference == {"embedding.augment.weight"}
    denoiser = load(with_labels).denoiser
    x, t = torch.ones(1, SIDE**2, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    plain, zeros = denoiser(x, t), denoiser(x, t, augment_labels=torch.zeros(1, 9))
    assert torch.equal(plain, zeros)
    assert not torch.equal(plain, denoiser(x, t, augment_labels=torch.ones(1, 9)))


def test_augmented_variances_are_counted_on_and_mirror_images_are_data(fit):
    plain = load(fit("--augment=0")).denoiser
    torch.testing.assert_close(plain.data_variance, plain.basis.floored_variance())
    augmented = load(fit("--augment=1")).denoiser
    assert (augmented.data_variance >= plain.data_variance).all()
    assert float(augmented.data_variance[-20:].mean() / plain.data_variance[-20:].mean()) > 2
    mirrored, mean = load(fit("--augment=0", "--xflip")).denoiser, plain.basis.mean.view(SIDE, SIDE)
    torch.testing.assert_close(mirrored.basis.mean.view(SIDE, SIDE), (mean + mean.flip(1)) / 2)


def test_transfer_starts_from_the_weights_of_another(fit, blobs, tmp_path):
    source = fit("--lr=0.01")
    outdir = tmp_path / "transferred"
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    still = ("--lr=1e-30", "--cond", "--seed=3", f"--transfer={network_file(source)}")
    result = good(run_script(train, *place, *TINY, *still))
    given, own = weights(source), weights(outdir)
    label = {"embedding.label.weight", "embedding.label.bias"}
    assert set(own) - set(given) == label
    assert f"Copied {len(given)} of {len(own)} tensors from {network_file(source)}" in result.out
    assert equal({name: own[name] for name in given}, given)


# Pixels around gray with variance xi, independent. Then the optimal denoiser is linear,
# D = xi / (xi + gamma) x. It is that of F = 0 for edm, whose sigma_data^2 is xi, and for vp and ve
# of F = E[n | x], up to sign, which has mean square gamma / (xi + gamma), all to be learned.
@pytest.mark.parametrize("precond", slowly(("vp", "edm", "ve"), "edm", "ve"))
def test_white_noise_is_denoised_as_it_should_be(tmp_path, precond):
    std, first, last = 0.3, 0.1, 0.5
    pixels = 127.5 * (1 + std * np.random.default_rng(2).normal(size=(2000, SIDE, SIDE, 1)))
    data = image_runs.write_images(tmp_path / "white.zip", pixels)
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={data}", "--workers=0")
    recipe = ("--cbase=16", "--cres=1", "--batch=64", "--duration=0.003", "--augment=0")
    steady = ("--dropout=0", "--lr=2e-3", "--ema=0.0002", f"--precond={precond}")
    good(run_script(train, *place, *recipe, *steady, f"--tmin={first}", f"--tmax={last}"))
    denoiser = load(tmp_path / "out").denoiser
    random = seeded()
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


def test_images_can_be_held_out_whose_loss_is_told(fit, blobs):
    arguments = (*("--held_out=0.2", "--tick=1", "--duration=0.002", "--lr=1e-4", "--batch=100"),)
    folder = fit(*arguments)
    rest, held_out = ImageDataset(blobs).split(0.2, seed=0)
    assert (len(rest), len(held_out)) == (56, 14)
    model, expected = load(folder), EigenBasis.fit(basis_batches(rest, 56))
    assert equal(dict(model.denoiser.basis.state_dict()), dict(expected.state_dict()))
    first, second = (line["Loss/held_out"] for line in stats(folder))
    assert 0.1 < first < 10
    assert 0.1 < second < 10
    assert first != second
    # Looking on changes nothing.
    other = load(fit(*arguments, "--tick=2"))
    assert equal(dict(model.denoiser.state_dict()), dict(other.denoiser.state_dict()))


def test_the_last_network_is_calibrated_on_the_images(fit):
    how = ("--augment=0.5", "--dims_to_keep=5", "--calibrate")
    own = fit(*how)
    calibration = load(own).denoiser.calibration
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert "Calibrated on 70 points" in (own / "log.txt").read_text()
    assert (calibration.gains != 1).any()


# The script, the fixture of a finished run, its states that are lost, and what is resumed.
KINDS = {
    "a toy": (toy_train, "toy_run", (6, 8), "training-state-000004.pt"),
    "images": (train, "short", (2,), ""),
    "a table with its best weights": (train, "houses_run", (3, 4), ""),
    "a table for any question": (train, "questions_run", (3, 4), ""),
    "a table with conditions": (train, "simulations", (3, 4), ""),
}


@pytest.mark.parametrize(("script", "fixture", "lost", "location"), KINDS.values(), ids=KINDS)
def test_a_resumed_training_equals_an_unbroken_one(
    request, tmp_path, monkeypatch, script, fixture, lost, location
):
    whole = request.getfixturevalue(fixture)
    whole = whole / "run" if fixture == "simulations" else whole
    copy = broken_off(whole, tmp_path / "copy", *lost)
    if fixture == "short":  # of images, whose basis is not fitted again
        monkeypatch.setattr(EigenBasis, "fit", pytest.fail)
    good(run_script(script, f"--resume={copy / location}"))
    for name in (f"training-state-{number:06d}.pt" for number in lost):
        assert equal(read_state(copy / name), read_state(whole / name))
    assert same_end(copy, whole)
    for one, other in zip(stats(copy), stats(whole), strict=True):
        assert all(one[name] == other[name] for name in ("seen", "Loss/loss"))
    options, log = "training_options.json", "log.txt"
    assert (copy / options).read_bytes() == (whole / options).read_bytes()
    assert len((copy / log).read_text()) > len((whole / log).read_text())


# The fixture of a run, an option with another value, and how the refusal names both values.
OTHERS = [
    ("toy_run", "--data_name=moons", ["moons", "circles"]),
    ("toy_run", "--outdir=elsewhere", ["elsewhere", "toy"]),
    ("houses_run", "--xflip", []),
    ("short", "--cres=2,2", ["[1]"]),
    ("short", "--data=.", ["blobs.zip"]),
]


@pytest.mark.parametrize(("fixture", "option", "parts"), OTHERS)
def test_a_resumed_run_refuses_to_become_another(request, fixture, option, parts):
    run = request.getfixturevalue(fixture)
    before = contents(run)
    script = toy_train if fixture == "toy_run" else train
    name = option.removeprefix("--no-").removeprefix("--").partition("=")[0]
    refused(run_script(script, f"--resume={run}", option), 2, f"--{name}", *parts)
    assert contents(run) == before


@pytest.mark.hostile
def test_signals_to_all_save_and_end_in_a_line(blobs, short, tmp_path):
    folder = tmp_path / "out"
    command = [sys.executable, "train.py", f"--outdir={folder}", "--nosubdir", f"--data={blobs}"]
    process = subprocess.Popen(
        [*command, *image_runs.SHORT, *image_runs.DRAWING],
        cwd=image_runs.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until((folder / "stats.jsonl").exists)
        os.killpg(process.pid, signal.SIGTERM)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGTERM
        wait_until(lambda: not is_there(process.pid))  # no worker stays behind
    finally:
        if is_there(process.pid):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    (line,) = err.splitlines()
    state = max(folder.glob("training-state-*.pt"))
    assert "SIGTERM" in line
    assert f"--resume={state}" in line
    good(run_script(train, f"--resume={state}"))
    assert same_end(folder, short)


def is_there(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_until(so):
    deadline = time.monotonic() + 120
    while not so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_an_output_gain_is_trained_averaged_kept_and_missed(short, tmp_path):
    gains = load(short).denoiser.output_gain.gains
    assert gains.shape[1] == SIDE**2
    assert 1e-3 < (gains - 1).abs().max() < 1
    state = read_state(max(short.glob("training-state-*.pt")))
    gains = ("output_gain", "averaged_output_gain")
    assert not torch.equal(*(state[name]["offsets"] for name in gains))
    shutil.copy(short / "training_options.json", tmp_path)
    path = tmp_path / "training-state-000000.pt"
    for lost in gains:
        write_state(path, {name: part for name, part in state.items() if name != lost})
        refused(run_script(train, f"--resume={path}"), 1, lost)


@pytest.mark.slow
def test_a_precision_that_a_trial_has_found_is_kept(blobs, tmp_path, monkeypatch):
    tried = []

    def trial(*given):
        tried.append(given)
        return "bf16"

    monkeypatch.setattr(job, "fastest_precision", trial)
    few = ("--preset=auto", "--batch=16", "--duration=0.000016")
    folder = trained(tmp_path, train, f"--data={blobs}", *image_runs.SHORT, *few)
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["precision"] == "bf16"
    assert run_script(train, f"--resume={folder}").code == 0
    assert len(tried) == 1


def test_a_run_whose_data_has_changed_cannot_be_resumed(tmp_path):
    data, folder = tmp_path / "data.zip", tmp_path / "out"
    random = np.random.default_rng(0)
    image_runs.write_images(data, random.uniform(0, 255, (40, 8, 8, 1)), [0, 1] * 20)
    place = (f"--outdir={folder}", "--nosubdir", f"--data={data}", "--cond")
    # At 8 and at 32 pixels, one level has the same weights.
    assert run_script(train, *place, *TINY).code == 0
    options = folder / "training_options.json"  # more is left to do
    saved = json.loads(options.read_text())
    saved["options"]["duration"] *= 2
    options.write_text(json.dumps(saved))
    # Data that is gone, larger, in color, or of more classes, of which the last number is the last.
    for side, channels, last in (0, 0, 0), (32, 1, 1), (8, 3, 1), (8, 1, 3):
        data.unlink()
        if side:
            pixels = random.uniform(0, 255, (40, side, side, channels))
            image_runs.write_images(data, pixels, [0, last] * 20)
        before = contents(tmp_path)
        result = run_script(train, f"--resume={folder}")
        assert result.code in (1, 2)
        assert str(data) in result.error or str(folder) in result.error
        assert contents(tmp_path) == before
        data.touch()
