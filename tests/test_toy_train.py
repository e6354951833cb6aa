"""Toy training from the command line: what it writes, how it resumes, what it refuses."""

import json
import math
import re
from contextlib import nullcontext
from unittest import mock

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import toy_train
from tests.support.finished_runs import broken_off
from tests.support.image_runs import load, network_file, stats
from tests.support.running import contents, good, run_script
from torch_utils import distributed
from torch_utils.snapshots import read_network, write_state
from training.learning.trainer import Trainer
from training.names import OTHERS

FEW = ("--duration=0.0008", "--batch=200")
TINY = (*FEW, "--no-calibrate")


@pytest.fixture
def train(tmp_path):
    def start(*arguments, size=TINY):
        before = set(tmp_path.glob("out/*"))
        good(run_script(toy_train, f"--outdir={tmp_path / 'out'}", *size, *arguments))
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return start


@pytest.fixture
def stopped(toy_run, tmp_path):
    return broken_off(toy_run, tmp_path / "copy", 6, 8)


def calibration(network):
    state = read_network(network)[0]["denoiser"].state
    return {name: state[name] for name in state if name.startswith("calibration_")}


def test_only_the_last_network_is_calibrated(train):
    how = ("--duration=0.002", "--tick=1", "--snap=1", "--tmin=0.5")
    folder = train("--data_name=s_curve", *how, size=FEW)
    first, last = (calibration(folder / f"network-snapshot-00000{kimg}.pkl") for kimg in (1, 2))
    assert first == {}
    assert last["calibration_slopes"].shape[1] == 3
    assert float(last["calibration_times"][0]) == 0.5
    line = r"Calibrated on 200 points at 5 times in .* s: gains .* to .*, largest slope 0\.\d+ in k"
    assert re.search(line, (folder / "log.txt").read_text())


@pytest.mark.parametrize("argument", ["--no-calibrate", "--precond=edm"])
def test_a_run_without_calibration_writes_none(train, argument):
    folder = train("--data_name=circles", argument, size=FEW)
    assert calibration(network_file(folder)) == {}
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["calibrate"] is False


def test_weights_start_from_the_seed(train):
    def weights(seed):  # by steps so small that they stay where they began
        folder = train("--data_name=circles", "--lr=1e-12", f"--seed={seed}")
        return torch.cat([each.flatten() for each in load(folder).denoiser.network.parameters()])

    one, other = weights(5), weights(6)
    assert (one - other).abs().mean() > 0.01


def test_tensorboard_has_the_numbers_of_the_reports(toy_run):
    events, lines = EventAccumulator(str(toy_run)).Reload(), stats(toy_run)
    assert [line["seen"] for line in lines] == [1000 * kimg for kimg in range(1, 9)]
    assert set(events.Tags()["scalars"]) == set(lines[0]) - {"seen"}
    scalars = [(scalar.step, scalar.value) for scalar in events.Scalars("Loss/loss")]
    assert scalars == [(line["seen"], pytest.approx(line["Loss/loss"])) for line in lines]


def test_runs_are_numbered_and_described(train, tmp_path):
    train("--data_name=circles")
    assert train("--data_name=circles").name == "00001-circles-PRP-mlp"
    (tmp_path / "out" / "00041-other").mkdir()
    (tmp_path / "out" / "notes").mkdir()
    folder = train("--data_name=swirl", "--dims_to_keep=2", "--augment_to=5", "--desc=my run")
    assert folder.name == "00042-swirl-PRRto2D-mlp-in5D-my run"


VARIANTS = [
    (["--data_name=s_curve"], {"data_name": "s_curve", "data_dim": 3}, "PRP"),
    (["--dims_to_keep=1"], {"dims_to_keep": 1}, "PRRto1D"),
    (["--data_dim=2", "--dims_to_keep=2", "--tmax=7.01"], {"tmax": 7.01}, "PRP"),
    (["--tmin=0.5", "--tmax=2"], {"tmin": 0.5, "tmax": 2.0}, "PRP"),
    (["--augment_to=4"], {"augment_to": 4, "data_dim": 4, "dims_to_keep": 4}, "PRP"),
    (["--augment_to=4", "--data_dim=4", "--dims_to_keep=2"], {"data_dim": 4}, "PRRto2D"),
    # One step, of networks that take long.
    (["--arch=ToyConvUNet", "--duration=0.0002"], {"seen": 200}, "PRP"),
    (["--arch=ToySongUNet", "--duration=0.0002"], {"seen": 200}, "PRP"),
    (["--space=IS", "--noise_cond=ddpm"], {}, "PRP"),
    (["--precond=edm", "--tmin=0.01", "--tmax=50"], {"tmin": 0.01, "tmax": 50.0}, "EDM"),
    (["--precond=edm_es"], {"tmin": 0.002, "tmax": 80.0}, "EDM"),
    (["--batch-gpu=70", "--ema=0", "--ls=100"], {}, "PRP"),
]


@pytest.mark.parametrize(
    ("arguments", "about", "schedule"), VARIANTS, ids=[" ".join(given) for given, *_ in VARIANTS]
)
def test_every_variant_trains_and_its_network_knows_what_it_is(train, arguments, about, schedule):
    folder = train("--data_name=circles", *arguments)
    model = load(folder)
    assert model.denoiser.schedule.name == schedule
    known = {"seen": 800, **about}
    assert {key: model.about[key] for key in known} == known
    assert model.architecture.network in folder.name
    x = torch.zeros(3, model.about["data_dim"], dtype=torch.float64)
    assert model.denoiser(x, torch.tensor(model.about["tmax"]).double()).isfinite().all()


def test_edm_in_eigenspace_counts_on_the_variance_of_each_dimension(train):
    denoiser = load(train("--data_name=alt_swirl", "--precond=edm_es")).denoiser
    c_skip = denoiser.coefficients(torch.tensor(1.0)).c_skip
    variances = denoiser.basis.eigenvalues
    torch.testing.assert_close(c_skip, variances / (variances + 1))
    assert variances[0] > 3 * variances[-1]
    assert denoiser.noise_cond == "log"


def test_a_resumed_run_may_change_how_it_is_run(stopped):
    free = ("--snap=1", "--dump=1", "--batch-gpu=100", "--device_name=cpu", "--seed=5")
    result = run_script(toy_train, f"--resume={stopped}", *free)
    assert (result.code, "The duration is now" in result.out) == (0, False)
    assert (stopped / "network-snapshot-000008.pkl").exists()


def test_a_finished_run_can_be_extended_and_not_made_shorter(train):
    folder = train("--data_name=circles", "--no-calibrate")
    before = contents(folder)
    result = run_script(toy_train, f"--resume={folder}", "--duration=0.0005")
    assert (result.code, "0.0008" in result.error) == (2, True)
    assert contents(folder) == before
    result = good(run_script(toy_train, f"--resume={folder}", "--duration=0.0016", "--tick=1"))
    assert "The duration is now 0.0016 million samples" in result.out
    assert [line["seen"] for line in stats(folder)] == [800, 1000, 1600]
    # The rate goes on along the cosine of the new length.
    rate = 8e-3 * 1200 / 200_000 * math.cos(math.pi / 2 * 1000 / 1600) ** 2
    assert stats(folder)[1]["Progress/learning_rate"] == pytest.approx(rate)
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["duration"] == 0.0016
    assert run_script(toy_train, f"--resume={folder}").code == 0


def test_each_point_is_used_twice_with_opposite_noise_beside_further_points(train):
    step = Trainer.accumulate
    for given, pairs, count in ((), True, OTHERS), (("--others=0",), False, 0):
        with mock.patch.object(Trainer, "accumulate", autospec=True, side_effect=step) as steps:
            train("--data_name=circles", *given)
        _, batch, draws, _ = steps.call_args_list[0].args
        noise = draws.noise * torch.tensor([[1.0], [-1.0]]).repeat(100, 1)
        for rows in (batch.points, draws.t, noise):
            assert torch.equal(rows[::2], rows[1::2]) == pairs
        assert (0 if batch.others is None else len(batch.others)) == count


def test_a_resumed_run_has_the_threads_that_it_began_with(stopped):
    options = stopped / "training_options.json"
    saved = json.loads(options.read_text())
    assert saved["chosen"]["threads"] == torch.get_num_threads()
    saved["chosen"]["threads"] = 3
    options.write_text(json.dumps(saved))
    with mock.patch.object(distributed, "cpu_threads", return_value=nullcontext()) as chosen:
        assert run_script(toy_train, f"--resume={stopped}").code == 0
    chosen.assert_called_once_with(3, None)


def test_what_cannot_be_resumed_is_told_and_left_alone(stopped):
    options, state = stopped / "training_options.json", stopped / "training-state-000004.pt"
    whole = options.read_text()
    for text in (
        *('{"a": 1}', "{", whole.replace('"circles"', '"spirals"')),
        *(whole.replace('"batch": 500', '"batch": [500]'), None),
    ):
        options.write_text(text or whole)
        if text is None:
            write_state(state, {})
        before = contents(stopped)
        result = run_script(toy_train, f"--resume={state}")
        assert result.code in (1, 2)
        assert str(stopped) in result.error or "spirals" in result.error
        assert contents(stopped) == before
