"""Toy training from the command line: what it writes, how it resumes, what it refuses."""

import json
import math
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import toy_pfODE_int
import toy_train
from tests.support.running import refused
from torch_utils.snapshots import read_network, read_state, write_network, write_state
from training.data.batches import ToyBatches
from training.data.toys import TOY_NAMES
from training.model.model import Model

Run = Callable[..., Any]
Contents = Callable[[Path], dict[str, bytes]]
FEW = ("--duration=0.0008", "--batch=200")
TINY = (*FEW, "--no-calibrate")
# Eight reports, a state at every second one.
LONG = (
    "--data_name=circles",
    "--duration=0.008",
    "--batch=500",
    "--tick=1",
    "--dump=2",
    "--keep=9",
    "--seed=5",
)


@pytest.fixture(scope="module", autouse=True)
def few_calibration_points() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.learning.toys.CALIBRATION_POINTS", 200)
        yield


@pytest.fixture
def train(run_script: Run, tmp_path: Path) -> Run:
    """Trains for four steps and gives the run's folder."""

    def start(*arguments: str, size: tuple[str, ...] = TINY) -> Path:
        before = set(tmp_path.glob("out/*"))
        result = run_script(toy_train, f"--outdir={tmp_path / 'out'}", *size, *arguments)
        assert (result.code, result.err) == (0, ""), result.err
        (folder,) = set(tmp_path.glob("out/*")) - before
        return folder

    return start


@pytest.fixture(scope="module")
def unbroken(run_script: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that went from start to end, not to be written to."""
    outdir = tmp_path_factory.mktemp("unbroken")
    assert run_script(toy_train, f"--outdir={outdir}", "--nosubdir", *LONG).code == 0
    return outdir


@pytest.fixture
def broken_off(unbroken: Path, tmp_path: Path) -> Path:
    """A copy of that run as it was some time after its state of 4 kimg."""
    folder = tmp_path / "copy"
    shutil.copytree(unbroken, folder)
    for name in ("training-state-000006.pt", "training-state-000008.pt"):
        (folder / name).unlink()
    (folder / "network-snapshot-000008.pkl").unlink()
    lines = (folder / "stats.jsonl").read_text().splitlines(keepends=True)
    (folder / "stats.jsonl").write_text("".join(lines[:5]) + lines[5][:20])
    return folder


def weights(network: Path) -> dict[str, torch.Tensor]:
    return read_network(network)[0]["network"].state


def calibration(network: Path) -> dict[str, torch.Tensor]:
    state = read_network(network)[0]["denoiser"].state
    return {name: state[name] for name in state if name.startswith("calibration_")}


def stats(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "stats.jsonl").read_text().splitlines()]


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def test_a_run_writes_what_is_promised_and_nothing_else(train: Run) -> None:
    folder = train("--data_name=circles")
    assert folder.name == "00000-circles-PRP-mlp"
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


def test_numbers_in_names_are_thousands_of_samples(unbroken: Path) -> None:
    states = sorted(path.name for path in unbroken.glob("training-state-*"))
    assert states == [f"training-state-00000{kimg}.pt" for kimg in (2, 4, 6, 8)]
    assert [path.name for path in unbroken.glob("network-*")] == ["network-snapshot-000008.pkl"]


def test_snapshots_come_every_snap_reports(train: Run) -> None:
    folder = train("--data_name=circles", "--duration=0.005", "--tick=1", "--snap=2", "--dump=3")
    networks = sorted(path.name for path in folder.glob("network-*"))
    states = sorted(path.name for path in folder.glob("training-state-*"))
    assert networks == [f"network-snapshot-00000{kimg}.pkl" for kimg in (2, 4, 5)]
    assert states == [f"training-state-00000{kimg}.pt" for kimg in (3, 5)]


def test_only_the_last_network_is_calibrated(train: Run) -> None:
    how = ("--duration=0.002", "--tick=1", "--snap=1", "--tmin=0.5", "--calibration_fit=path")
    folder = train("--data_name=s_curve", *how, size=FEW)
    first, last = (folder / f"network-snapshot-00000{kimg}.pkl" for kimg in (1, 2))
    assert calibration(first) == {}
    assert calibration(last)["calibration_slopes"].shape[1] == 3
    assert float(calibration(last)["calibration_times"][0]) == 0.5
    line = r"Calibrated on 200 points at 17 times in .* s: gains .* to .*, largest slope 0\.\d+"
    assert re.search(line, (folder / "log.txt").read_text())
    model, plain = Model.load(last), Model.load(last, calibrated=False)
    t, x = torch.tensor(2.0, dtype=torch.float64), torch.ones(1, 3, dtype=torch.float64)
    assert not torch.equal(model.denoiser(x, t), plain.denoiser(x, t))


@pytest.mark.parametrize("arguments", [["--no-calibrate"], ["--precond=edm"]])
def test_a_run_without_calibration_writes_none(train: Run, arguments: list[str]) -> None:
    folder = train("--data_name=circles", *arguments, size=FEW)
    assert calibration(folder / "network-snapshot-000000.pkl") == {}
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["calibrate"] is False


def test_a_simulation_uses_a_calibration_unless_told_not_to(
    run_script: Run, train: Run, tmp_path: Path
) -> None:
    network = train("--data_name=s_curve", "--calibrate") / "network-snapshot-000000.pkl"
    plain = Model.load(network, calibrated=False)
    plain.save(tmp_path / "plain.pkl")
    ends = {}
    for name, given in {
        "used": [f"--network={network}"],
        "refused": [f"--network={network}", "--no-calibration"],
        "absent": [f"--network={tmp_path / 'plain.pkl'}"],
    }.items():
        place = f"--save_dir={tmp_path / name}"
        how = ("--total_samples=20", "--steps=4")
        assert run_script(toy_pfODE_int, "net", place, *how, *given).code == 0
        with np.load(tmp_path / name / "s_curve_PRP_net_melt_results.npz") as results:
            ends[name] = results["xs_es"][-1]
    assert np.array_equal(ends["refused"], ends["absent"])
    assert not np.array_equal(ends["used"], ends["absent"])


def test_a_calibration_changes_nothing_else_in_the_file(train: Run) -> None:
    with_it, without = (
        read_network(train("--data_name=circles", flag) / "network-snapshot-000000.pkl")
        for flag in ("--calibrate", "--no-calibrate")
    )
    assert with_it[1] == without[1]
    for name in ("basis", "network"):
        assert equal(with_it[0][name].state, without[0][name].state)


def test_statistics_lines_and_log_tell_of_the_same_reports(unbroken: Path) -> None:
    lines = stats(unbroken)
    assert [line["seen"] for line in lines] == [1000 * kimg for kimg in range(1, 9)]
    for line in lines:
        assert 0 < line["Loss/loss"] < 10
        assert line["Timing/seconds"] > 0
    log = (unbroken / "log.txt").read_text()
    assert len(re.findall(r"kimg \d+\.\d +loss \d", log)) == len(lines)
    assert re.search(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", log)


def test_tensorboard_has_the_same_numbers(unbroken: Path) -> None:
    events = EventAccumulator(str(unbroken)).Reload()
    lines = stats(unbroken)
    assert set(events.Tags()["scalars"]) == set(lines[0]) - {"seen"}
    scalars = events.Scalars("Loss/loss")
    assert [scalar.step for scalar in scalars] == [line["seen"] for line in lines]
    assert [scalar.value for scalar in scalars] == pytest.approx(
        [line["Loss/loss"] for line in lines]
    )


def test_runs_are_numbered_and_described(train: Run, tmp_path: Path) -> None:
    train("--data_name=circles")
    assert train("--data_name=circles").name == "00001-circles-PRP-mlp"
    (tmp_path / "out" / "00041-other").mkdir()
    (tmp_path / "out" / "notes").mkdir()
    folder = train("--data_name=swirl", "--dims_to_keep=2", "--augment_to=5", "--desc=my run")
    assert folder.name == "00042-swirl-PRRto2D-mlp-in5D-my run"


@pytest.mark.parametrize(
    ("arguments", "about", "schedule"),
    [
        *(
            (
                [f"--data_name={name}"],
                {"data_name": name, "data_dim": 3 if "s_" in name or "swirl" in name else 2},
                "PRP",
            )
            for name in TOY_NAMES
        ),
        (["--dims_to_keep=1"], {"dims_to_keep": 1}, "PRRto1D"),
        (["--data_dim=2", "--dims_to_keep=2", "--tmax=7.01"], {"tmax": 7.01}, "PRP"),
        (["--tmin=0.5", "--tmax=2"], {"tmin": 0.5, "tmax": 2.0}, "PRP"),
        (["--augment_to=4"], {"augment_to": 4, "data_dim": 4, "dims_to_keep": 4}, "PRP"),
        (["--augment_to=4", "--data_dim=4", "--dims_to_keep=2"], {"data_dim": 4}, "PRRto2D"),
        (["--arch=ToyConvUNet"], {}, "PRP"),
        (["--arch=ToySongUNet"], {}, "PRP"),
        (["--space=IS"], {}, "PRP"),
        (["--noise_cond=ddpm"], {}, "PRP"),
        (["--precond=edm"], {"tmin": 0.002, "tmax": 80.0}, "EDM"),
        (["--precond=edm", "--tmin=0.01", "--tmax=50"], {"tmin": 0.01, "tmax": 50.0}, "EDM"),
        (["--precond=edm_es"], {"tmin": 0.002, "tmax": 80.0}, "EDM"),
        (["--batch-gpu=70"], {}, "PRP"),
        (["--ema=0"], {}, "PRP"),
        (["--ls=100"], {}, "PRP"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_variant_trains_and_its_network_knows_what_it_is(
    train: Run, arguments: list[str], about: dict[str, Any], schedule: str
) -> None:
    if not any("data_name" in argument for argument in arguments):
        arguments = ["--data_name=circles", *arguments]
    folder = train(*arguments)
    model = Model.load(folder / "network-snapshot-000000.pkl")
    assert model.denoiser.schedule.name == schedule
    assert model.about["seen"] == 800
    assert {key: model.about[key] for key in about} == about
    assert model.recipe.network in folder.name
    dim = model.about["data_dim"]
    t = torch.tensor(model.about["tmax"], dtype=torch.float64)
    assert model.denoiser(torch.zeros(3, dim, dtype=torch.float64), t).isfinite().all()


def test_edm_in_eigenspace_counts_on_the_variance_of_each_dimension(train: Run) -> None:
    folder = train("--data_name=alt_swirl", "--precond=edm_es")
    denoiser = Model.load(folder / "network-snapshot-000000.pkl").denoiser
    c_skip = denoiser.coefficients(torch.tensor(1.0)).c_skip
    variances = denoiser.basis.eigenvalues
    torch.testing.assert_close(c_skip, variances / (variances + 1))
    assert variances[0] > 3 * variances[-1]
    # As for edm, a quarter of the log of the noise's standard deviation.
    torch.testing.assert_close(
        denoiser.noise_condition(torch.tensor(2.0)), torch.tensor(2.0).log() / 4
    )


# In orig, g = 1 for the two kept dimensions and -2/(3 - 2) for the third; rates are rho (1 + g).
@pytest.mark.parametrize(
    ("arguments", "rates"),
    [
        (["--rho=2"], [4, 4, -2]),
        (["--g_type=constant_inflation_gap", "--inflation_gap=0.5"], [2, 2, 1.5]),
        (["--g_rescaling=0.5"], [1.5, 1.5, 0]),
    ],
    ids=lambda value: " ".join(map(str, value)),
)
def test_the_schedule_is_the_one_asked_for(
    train: Run, arguments: list[str], rates: list[float]
) -> None:
    folder = train("--data_name=swirl", "--dims_to_keep=2", "--gamma0=0.001", *arguments)
    schedule = Model.load(folder / "network-snapshot-000000.pkl").denoiser.schedule
    assert schedule.log_noise_rate(torch.tensor(0.0)).tolist() == pytest.approx(rates)
    assert schedule.noise_variance(torch.tensor(0.0)).tolist() == pytest.approx([0.001] * 3)


@pytest.mark.parametrize("location", ["folder", "state"])
def test_a_resumed_run_equals_an_unbroken_one(
    run_script: Run, unbroken: Path, broken_off: Path, location: str
) -> None:
    place = broken_off if location == "folder" else broken_off / "training-state-000004.pt"
    result = run_script(toy_train, f"--resume={place}")
    assert (result.code, result.err) == (0, "")
    assert "000004.pt" in result.out
    for name in ("training-state-000006.pt", "training-state-000008.pt"):
        assert equal(read_state(broken_off / name), read_state(unbroken / name))
    name = "network-snapshot-000008.pkl"
    assert equal(weights(broken_off / name), weights(unbroken / name))
    parts = {"calibration_times", "calibration_gains", "calibration_slopes"}
    assert set(calibration(unbroken / name)) == parts
    assert equal(calibration(broken_off / name), calibration(unbroken / name))
    timeless = [
        [
            {key: value for key, value in line.items() if key.split("/")[0] in ("seen", "Loss")}
            for line in stats(folder)
        ]
        for folder in (broken_off, unbroken)
    ]
    assert timeless[0] == timeless[1]
    assert (broken_off / "training_options.json").read_bytes() == (
        unbroken / "training_options.json"
    ).read_bytes()
    assert len((broken_off / "log.txt").read_text()) > len((unbroken / "log.txt").read_text())


def test_a_finished_run_resumed_changes_no_result(
    run_script: Run, unbroken: Path, tmp_path: Path, contents: Contents
) -> None:
    shutil.copytree(unbroken, tmp_path / "copy")
    assert run_script(toy_train, f"--resume={tmp_path / 'copy'}").code == 0
    after = contents(tmp_path / "copy")
    for name, content in contents(unbroken).items():
        if name != "log.txt":
            assert after[name] == content


def test_a_stopped_run_saves_where_it_was_and_says_how_to_go_on(
    run_script: Run, unbroken: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = ToyBatches.batches

    def stopping(self: ToyBatches, first_step: int) -> Iterator[Any]:
        for step, batch in enumerate(original(self, first_step)):
            if step == 7:
                signal.raise_signal(signal.SIGTERM)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(ToyBatches, "batches", stopping)
        result = run_script(toy_train, f"--outdir={tmp_path / 'out'}", "--nosubdir", *LONG)
    assert result.code == 128 + signal.SIGTERM
    state = tmp_path / "out" / "training-state-000004.pt"
    assert f"--resume={state}" in result.error
    assert run_script(toy_train, f"--resume={state}").code == 0
    name = "network-snapshot-000008.pkl"
    assert equal(weights(tmp_path / "out" / name), weights(unbroken / name))


@pytest.mark.parametrize(
    "free", [["--snap=1"], ["--dump=1"], ["--batch-gpu=100"], ["--device_name=cpu"], ["--seed=5"]]
)
def test_a_resumed_run_may_change_how_it_is_run(
    run_script: Run, broken_off: Path, free: list[str]
) -> None:
    assert run_script(toy_train, f"--resume={broken_off}", *free).code == 0
    assert (broken_off / "network-snapshot-000008.pkl").exists()


def test_a_finished_run_can_be_extended_and_not_made_shorter(
    run_script: Run, train: Run, contents: Contents
) -> None:
    folder = train("--data_name=circles", "--no-calibrate")
    before = contents(folder)
    result = run_script(toy_train, f"--resume={folder}", "--duration=0.0005")
    assert (result.code, "0.0008" in result.error) == (2, True)
    assert contents(folder) == before
    result = run_script(toy_train, f"--resume={folder}", "--duration=0.0016", "--tick=1")
    assert (result.code, result.err) == (0, "")
    assert "0.0008 million samples is now one of 0.0016" in result.out
    assert [line["seen"] for line in stats(folder)] == [800, 1000, 1600]
    # The rate goes on along the cosine of the new length.
    rate = 4e-3 * 1200 / 200_000 * math.cos(math.pi / 2 * 1000 / 1600) ** 2
    assert stats(folder)[1]["Progress/learning_rate"] == pytest.approx(rate)
    saved = json.loads((folder / "training_options.json").read_text())
    assert saved["options"]["duration"] == 0.0016
    assert run_script(toy_train, f"--resume={folder}").code == 0


@pytest.mark.parametrize(
    ("name", "value", "saved"),
    [
        ("lr", "0.1", "0.004"),
        ("data_name", "moons", "circles"),
        ("seed", "7", "5"),
        ("batch", "100", "500"),
        ("tmax", "3.0", "9.798"),
        ("outdir", "elsewhere", "unbroken"),
        ("arch", "ToyConvUNet", "mlp"),
        ("no-calibrate", None, "True"),
    ],
)
def test_a_resumed_run_refuses_to_become_another(
    run_script: Run, broken_off: Path, contents: Contents, name: str, value: str | None, saved: str
) -> None:
    before = contents(broken_off)
    given = f"--{name}" if value is None else f"--{name}={value}"
    result = run_script(toy_train, f"--resume={broken_off}", given)
    assert (result.code, result.out) == (2, "")
    for part in (f"--{name.removeprefix('no-')}", value or "False", saved):
        assert part in result.error
    assert contents(broken_off) == before


def change_state(state: Path, change: Callable[[dict[str, Any]], None]) -> None:
    saved = read_state(state)
    change(saved)
    write_state(state, {key: saved[key] for key in saved if key not in ("format", "version")})


def change_options(options: Path, **changes: Any) -> None:
    saved = json.loads(options.read_text())
    saved["options"].update(changes)
    options.write_text(json.dumps(saved))


SPOILED_STATES: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "a folder without a run": lambda state: (state.unlink(), state.mkdir()),  # type: ignore[func-returns-value]
    "garbage": lambda state: state.write_bytes(b"garbage"),
    "empty": lambda state: state.write_bytes(b""),
    "cut short": lambda state: state.write_bytes(state.read_bytes()[:5000]),
    "a network": lambda state: write_network(state, {}, {}),
    "lacks everything": lambda state: write_state(state, {}),
    "lacks a part": lambda state: change_state(state, lambda saved: saved.pop("averaged")),
    "of another network": lambda state: change_state(
        state, lambda saved: saved.update(network={"other": torch.zeros(2)})
    ),
    "of another optimizer": lambda state: change_state(
        state, lambda saved: saved.update(optimizer={"state": {}, "param_groups": []})
    ),
    "counts words": lambda state: change_state(state, lambda saved: saved.update(step="eight")),
}
SPOILED_OPTIONS: dict[str, Callable[[Path], Any]] = {
    "missing": Path.unlink,
    "cut short": lambda options: options.write_text(options.read_text()[:100]),
    "of something else": lambda options: options.write_text('{"a": 1}'),
    "with a word for a number": lambda options: change_options(options, batch="many"),
    "with another toy": lambda options: change_options(options, data_name="spirals"),
}


@pytest.mark.parametrize("how", SPOILED_STATES)
def test_a_state_that_cannot_be_resumed_is_told_in_one_line_and_left_alone(
    run_script: Run, broken_off: Path, contents: Contents, how: str
) -> None:
    state = broken_off / "training-state-000004.pt"
    SPOILED_STATES[how](state)
    before = contents(broken_off)
    result = run_script(toy_train, f"--resume={state}")
    refused(result, 1, state)
    assert contents(broken_off) == before


@pytest.mark.parametrize("how", SPOILED_OPTIONS)
def test_options_that_cannot_be_resumed_are_told_in_one_line_and_left_alone(
    run_script: Run, broken_off: Path, contents: Contents, how: str
) -> None:
    SPOILED_OPTIONS[how](broken_off / "training_options.json")
    before = contents(broken_off)
    result = run_script(toy_train, f"--resume={broken_off}")
    assert result.code in (1, 2)
    assert result.error
    assert contents(broken_off) == before


@pytest.mark.parametrize("place", ["", "none", "none/training-state-000004.pt"])
def test_a_folder_without_states_cannot_be_resumed(
    run_script: Run, broken_off: Path, contents: Contents, place: str
) -> None:
    for state in broken_off.glob("training-state-*"):
        state.unlink()
    before = contents(broken_off)
    result = run_script(toy_train, f"--resume={broken_off / place}")
    refused(result, 1, broken_off / place, "training-state-*.pt")
    assert contents(broken_off) == before


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_dim=3"], ["3", "2", "circles"]),
        (["--dims_to_keep=3"], ["dims_to_keep", "3", "2"]),
        (["--augment_to=1"], ["augment_to", "1", "2"]),
        (["--augment_to=4", "--data_dim=2"], ["data_dim", "2", "4"]),
        (["--augment_to=4", "--dims_to_keep=5"], ["dims_to_keep", "5", "4"]),
        (["--tmin=5", "--tmax=5"], ["tmin", "5"]),
        (["--tmin=6", "--tmax=5"], ["tmin", "6", "5"]),
        (["--tmin=100"], ["tmin", "100"]),
        (["--gamma0=10"], ["tmax"]),
        (["--batch=10000000000000000"], ["--batch", "GiB"]),
        (["--tmax=1e6"], ["tmax", "1e+06", "1e+30"]),
        (["--g_type=orig", "--inflation_gap=2"], ["g_type", "inflation_gap"]),
        (["--precond=edm", "--rho=2"], ["rho", "2", "edm"]),
        (["--precond=edm", "--gamma0=0.1"], ["gamma0", "0.1", "edm"]),
        (["--precond=edm", "--g_type=orig"], ["g_type", "orig", "edm"]),
        (["--precond=edm", "--inflation_gap=1"], ["inflation_gap", "1", "edm"]),
        (["--precond=edm", "--g_rescaling=0.5"], ["g_rescaling", "0.5", "edm"]),
        (["--precond=edm", "--dims_to_keep=1"], ["dims_to_keep", "1", "2", "edm"]),
        (["--precond=edm", "--calibrate"], ["calibrate", "ifs", "edm"]),
        (["--precond=edm", "--tmin=0"], ["tmin", "0"]),
        (["--precond=edm", "--tmin=90"], ["tmin", "90"]),
        (["--precond=edm", "--tmax=0.001"], ["tmin", "0.002", "0.001"]),
        (["--desc=a/b"], ["a/b"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run, tmp_path: Path, arguments: list[str], parts: list[str]
) -> None:
    outdir = f"--outdir={tmp_path / 'out'}"
    result = run_script(toy_train, outdir, "--data_name=circles", *TINY, *arguments)
    refused(result, 2, *parts)
    assert list(tmp_path.iterdir()) == []


def test_a_diverging_run_ends_with_one_line_and_advice(run_script: Run, tmp_path: Path) -> None:
    result = run_script(
        toy_train,
        f"--outdir={tmp_path}",
        "--data_name=circles",
        "--duration=0.01",
        "--batch=100",
        "--lr=1e30",
    )
    refused(result, 1, "--lr")
    assert not list(tmp_path.glob("*/network-*"))
