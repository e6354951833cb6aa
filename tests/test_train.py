"""Training on images from the command line: what it writes and learns."""

from operator import attrgetter
from pathlib import Path

import numpy as np
import pytest
import torch

import train
from tests.support.draws import seeded
from tests.support.image_runs import (
    CLASSES,
    IMAGES,
    SIDE,
    TINY,
    assert_written,
    equal,
    load,
    network_file,
    same_end,
    stats,
    weights,
    write_images,
)
from tests.support.running import Run, good, run_script
from training.data.images.batches import basis_batches
from training.data.images.dataset import ImageDataset
from training.flow.eigenbasis import EigenBasis


def test_a_run_writes_what_is_promised_and_nothing_else(fit: Run) -> None:
    folder = fit("--augment=0")
    assert folder.name == "00000-blobs-PRP-ddpmpp-uncond-batch16-fp32"
    assert_written(folder)
    assert load(folder).denoiser.calibration is None


def test_the_network_file_knows_its_data(fit: Run, colors: Path) -> None:
    dim = 3 * SIDE**2
    folder = fit(f"--data_dim={dim}", "--dims_to_keep=10", "--tmin=0.5", data=colors)
    assert folder.name == "00000-colors-PRRto10D-ddpmpp-uncond-batch16-fp32"
    data = {"kind": "images", "data_name": "colors"}
    size = {"image_shape": [3, SIDE, SIDE], "label_dim": 0, "data_dim": dim}
    flow = {"dims_to_keep": 10, "tmin": 0.5, "tmax": 15.01, "seen": 64}
    about = load(folder).about
    assert len(about["rows"]) == 40
    assert about == data | size | flow | {"rows": about["rows"]}


VARIANTS: list[tuple[list[str], dict[str, object]]] = [
    (
        ["--arch=ncsnpp", "--cres=1,1", "--ls=100", "--lr_decay", "--lr_ramp=0", "--no-bench"],
        {"schedule.name": "PRP"},
    ),
    (["--arch=adm", "--cbase=64"], {"schedule.name": "PRP"}),
    (
        ["--precond=edm", "--output_gain"],
        {"schedule.name": "EDM", "preconditioning": "edm", "noise_cond": "log"},
    ),
    (["--precond=vp"], {"schedule.name": "VP", "preconditioning": "vp", "noise_cond": "ddpm"}),
    (["--precond=ve"], {"schedule.name": "VE", "preconditioning": "ve", "noise_cond": "log"}),
    (
        ["--space=ES", "--t_sampling=normal", "--pixel_waves=2", "--blocks=2"],
        {"space": "ES", "network.waves.per_channel": 5},
    ),
    (
        ["--space=IS", "--t-sampling=log_uniform", "--pixel_waves=0", "--blocks=0"],
        {"space": "IS", "network.waves": None},
    ),
    (["--noise_cond=ddpm", "--precision=bf16"], {"noise_cond": "ddpm"}),
    (
        ["--dims_to_keep=5", "--g_type=constant_inflation_gap", "--inflation_gap=1.25"],
        {"schedule.name": "PRRto5D"},
    ),
    (["--dims_to_keep=5", "--g_rescaling=0.5", "--gamma0=0.001"], {"schedule.gamma0": 1e-3}),
]


@pytest.mark.parametrize(("arguments", "known"), VARIANTS, ids=[" ".join(v[0]) for v in VARIANTS])
def test_every_variant_trains_and_its_network_knows_what_it_is(
    fit: Run, arguments: list[str], known: dict[str, object]
) -> None:
    folder = fit(*arguments)
    (line,) = stats(folder)
    assert 0 < line["Loss/loss"] < 20
    assert line["Progress/skipped_steps"] == 0
    model = load(folder)
    for path, value in known.items():
        assert attrgetter(path)(model.denoiser) == value
    for t in (model.about["tmin"], model.about["tmax"]):
        x = torch.ones(2, SIDE**2, dtype=torch.float64)
        assert model.denoiser(x, torch.tensor(t, dtype=torch.float64)).isfinite().all()


def test_half_precision_trains_or_is_refused_in_one_line(blobs: Path, tmp_path: Path) -> None:
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={blobs}")
    result = run_script(train, *place, *TINY, "--precision=fp16")
    if result.code:
        assert "fp16" in result.error
        assert list(tmp_path.iterdir()) == []
    else:
        assert 0 < stats(tmp_path / "out")[0]["Loss/loss"] < 20


def test_labels_reach_the_network_only_if_asked_for(fit: Run, twelve: Path) -> None:
    model, blind = load(twelve), load(fit("--augment=0"))
    x, t = torch.ones(1, SIDE**2, dtype=torch.float64), torch.tensor(3.0, dtype=torch.float64)
    one, other = (model.denoiser(x, t, labels=torch.eye(CLASSES)[[index]]) for index in (0, 1))
    assert (one - other).abs().max() > 1e-9
    assert model.about["label_dim"] == model.denoiser.network.embedding.label_dim == CLASSES
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


def test_mirror_images_count_as_data(fit: Run) -> None:
    plain, mirrored = (
        load(fit("--augment=0", *flag)).denoiser.basis.mean for flag in ([], ["--xflip"])
    )
    mean = plain.reshape(SIDE, SIDE)
    torch.testing.assert_close(mirrored.reshape(SIDE, SIDE), (mean + mean.flip(1)) / 2)


def test_transfer_starts_from_the_weights_of_another(fit: Run, blobs: Path, tmp_path: Path) -> None:
    source = fit("--lr=0.01")
    outdir = tmp_path / "transferred"
    place = (f"--outdir={outdir}", "--nosubdir", f"--data={blobs}")
    still = ("--lr=1e-30", "--cond", "--seed=3", f"--transfer={network_file(source)}")
    result = good(run_script(train, *place, *TINY, *still))
    given, own = weights(source), weights(outdir)
    label = {"embedding.label.weight", "embedding.label.bias"}
    assert set(own) - set(given) == label
    assert f"Took {len(given)} of {len(own)} tensors from {network_file(source)}" in result.out
    assert equal({name: own[name] for name in given}, given)


# Pixels around gray with variance xi, independent. Then the optimal denoiser is linear,
# D = xi / (xi + gamma) x. It is that of F = 0 for edm, whose sigma_data^2 is xi, and for vp and ve
# of F = E[n | x], up to sign, which has mean square gamma / (xi + gamma), all to be learned.
@pytest.mark.parametrize(
    "precond", ["vp", *(pytest.param(name, marks=pytest.mark.slow) for name in ("edm", "ve"))]
)
def test_white_noise_is_denoised_as_it_should_be(tmp_path: Path, precond: str) -> None:
    std, first, last = 0.3, 0.1, 0.5
    pixels = 127.5 * (1 + std * np.random.default_rng(2).normal(size=(2000, SIDE, SIDE, 1)))
    data = write_images(tmp_path / "white.zip", pixels)
    place = (f"--outdir={tmp_path / 'out'}", "--nosubdir", f"--data={data}", "--workers=0")
    recipe = ("--cbase=16", "--cres=1", "--batch=64", "--duration=0.003", "--augment=0")
    steady = ("--dropout=0", "--lr=2e-3", "--lr_decay", "--ema=0.0002", f"--precond={precond}")
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


def test_images_can_be_held_out_whose_loss_is_told(fit: Run, blobs: Path) -> None:
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


def test_the_last_network_is_calibrated_on_the_images_or_on_others(fit: Run, few: Path) -> None:
    how = ("--augment=0.5", "--dims_to_keep=5", "--calibrate")
    own, held_out = fit(*how), fit(*how, f"--calibration_data={few}")
    calibration, other = (load(folder).denoiser.calibration for folder in (own, held_out))
    assert calibration.gains.shape[1] == SIDE**2
    assert calibration.times[[0, -1]].tolist() == [0, 15.01]
    assert f"Calibrated on {IMAGES} points" in (own / "log.txt").read_text()
    assert same_end(own, held_out) is False
    assert equal(weights(own), weights(held_out))
    assert "Calibrated on 12 points" in (held_out / "log.txt").read_text()
    assert not torch.equal(calibration.gains, other.gains)
