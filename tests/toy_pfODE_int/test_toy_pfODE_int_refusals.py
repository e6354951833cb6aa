"""What ``toy_pfODE_int.py`` refuses: one line, and nothing written."""

from pathlib import Path

import pytest
import torch
from toy_simulations import FEW, ROOT, SIMULATIONS, TORCHRUN, Contents, Run, run_command

import toy_pfODE_int


@pytest.mark.parametrize(
    ("network", "name", "value", "known"),
    [
        ("PRP", "data_name", "moons", "circles"),
        ("PRP", "data_dim", "3", "2"),
        ("PRP", "dims_to_keep", "1", "2"),
        ("PRP", "augment_to", "5", "0"),
        ("embedded", "augment_to", "0", "4"),
        ("embedded", "data_dim", "2", "4"),
        ("PRR", "dims_to_keep", "3", "2"),
        ("PRR", "rho", "1.0", "0.9"),
        ("PRR", "gamma0", "0.1", "0.0005"),
        ("PRR", "g_type", "constant_inflation_gap", "orig"),
        ("gap", "g_type", "orig", "constant_inflation_gap"),
        ("gap", "inflation_gap", "1.02", "0.8"),
        ("edm", "rho", "1.0", "None"),
        ("edm", "dims_to_keep", "1", "2"),
    ],
)
def test_an_option_that_contradicts_the_network_is_an_error_with_both_values(
    run_script: Run,
    networks: dict[str, Path],
    tmp_path: Path,
    network: str,
    name: str,
    value: str,
    known: str,
) -> None:
    result = run_script(
        toy_pfODE_int,
        "net",
        f"--network={networks[network]}",
        f"--save_dir={tmp_path / 'x'}",
        f"--{name}={value}",
    )
    assert (result.code, result.out) == (2, "")
    for part in (f"--{name}", value, known, networks[network].name):
        assert part in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("network", "arguments", "parts"),
    [
        ("PRP", ["--steps=8", "--h=1"], ["8", "7.01"]),
        ("PRP", ["--steps=702", "--h=1e-2"], ["7.02", "7.01"]),
        ("PRP", ["--h=9"], ["9", "7.01"]),
        ("edm", ["--steps=3", "--h=10"], ["30", "20"]),
        ("edm", ["--steps=1", "--h=0.001"], ["0.001", "0.002"]),
    ],
)
def test_times_that_the_network_was_not_trained_for_are_refused_with_both(
    run_script: Run,
    networks: dict[str, Path],
    tmp_path: Path,
    network: str,
    arguments: list[str],
    parts: list[str],
) -> None:
    result = run_script(
        toy_pfODE_int,
        "net",
        f"--network={networks[network]}",
        f"--save_dir={tmp_path / 'x'}",
        *arguments,
    )
    assert (result.code, result.out) == (2, "")
    for part in parts:
        assert part in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kept", [*SIMULATIONS, "parameters", "all"])
def test_existing_results_are_not_replaced_unless_asked(
    run_script: Run, tmp_path: Path, contents: Contents, kept: str
) -> None:
    folder = tmp_path / "results"
    arguments = (
        "exact",
        "--data_name=circles",
        f"--save_dir={folder}",
        "--total_samples=4",
        "--steps=2",
    )
    assert run_script(toy_pfODE_int, *arguments).code == 0
    for path in folder.iterdir():
        if kept != "all" and (kept if kept != "parameters" else "sim_params") not in path.name:
            path.unlink()
    before = contents(folder)
    refused = run_script(toy_pfODE_int, *arguments, "--seed=1")
    assert refused.code == 2
    assert str(folder) in refused.error
    assert "--overwrite" in refused.error
    assert contents(folder) == before
    assert run_script(toy_pfODE_int, *arguments, "--seed=1", "--overwrite").code == 0
    after = contents(folder)
    assert len(after) == 4
    assert all(after[name] != content for name, content in before.items())


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_name=spirals"], ["spirals", "circles"]),
        (["--data_dim=3"], ["3", "2"]),
        (["--dims_to_keep=3"], ["3", "2"]),
        (["--dims_to_keep=0"], ["0"]),
        (["--augment_to=1"], ["1", "2"]),
        (["--augment_to=5", "--data_dim=2"], ["5", "2"]),
        (["--total_samples=0"], ["total_samples", "0"]),
        (["--total_samples=-3"], ["total_samples", "-3"]),
        (["--steps=0"], ["steps", "0"]),
        (["--h=0"], ["h", "0"]),
        (["--h=-1"], ["h", "-1"]),
        (["--h=nan"], ["h", "nan"]),
        (["--h=inf"], ["h", "inf"]),
        (["--solver=rk5"], ["rk5", "rk4", "heun", "euler"]),
        (["--end_vars=0"], ["end_vars", "0"]),
        (["--end_vars=nan"], ["end_vars", "nan"]),
        (["--save_freq=0"], ["save_freq", "0"]),
        (["--seed=-1"], ["seed", "-1"]),
        (["--rho=0"], ["rho", "0"]),
        (["--rho=inf"], ["rho", "inf"]),
        (["--gamma0=-1"], ["gamma0", "-1"]),
        (["--gamma0=10"], ["gamma0", "10"]),
        (["--g_type=new"], ["new", "orig"]),
        (["--inflation_gap=0"], ["inflation_gap", "0"]),
        (["--g_type=orig", "--inflation_gap=2"], ["g_type", "inflation_gap"]),
        *(
            ([f"--eps={eps}"], ["eps", eps, "auto", "empirical"])
            for eps in ("garbage", "nan", "inf", "0", "-1", "=xx", "", "Auto")
        ),
        (["--device_name=tpu"], ["tpu", "cpu"]),
        (["--network=x"], ["network"]),
        (["surplus"], ["surplus"]),
    ],
    ids=lambda value: " ".join(value),
)
@pytest.mark.parametrize("mode", ["exact", "discrete"])
def test_bad_options_end_with_one_line_and_nothing_written(
    run_script: Run, tmp_path: Path, mode: str, arguments: list[str], parts: list[str]
) -> None:
    where = f"--save_dir={tmp_path / 'x'}"
    few = ("--data_name=circles", "--total_samples=3", "--steps=2")
    result = run_script(toy_pfODE_int, mode, where, *few, *arguments)
    assert result.code == 2
    for part in parts:
        assert part in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["exact", "--data_name=circles"], "--save_dir"),
        (["exact", "--save_dir=x"], "--data_name"),
        (["discrete", "--save_dir=x"], "--data_name"),
        (["net", "--save_dir=x"], "--network"),
        (["melt"], "melt"),
    ],
)
def test_missing_options_are_named(
    run_script: Run,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    part: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run_script(toy_pfODE_int, *arguments)
    assert result.code == 2
    assert part in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
@pytest.mark.parametrize("mode", ["exact", "net"])
def test_cuda_where_there_is_none_is_a_usage_error(
    run_script: Run, networks: dict[str, Path], tmp_path: Path, mode: str
) -> None:
    source = f"--network={networks['PRP']}" if mode == "net" else "--data_name=circles"
    result = run_script(
        toy_pfODE_int, mode, source, f"--save_dir={tmp_path / 'x'}", "--device_name=cuda"
    )
    assert result.code == 2
    assert "cuda" in result.error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("below", ["", "a/b"])
def test_a_save_dir_that_is_a_file_is_refused(run_script: Run, tmp_path: Path, below: str) -> None:
    (tmp_path / "x").write_text("precious")
    result = run_script(
        toy_pfODE_int, "exact", "--data_name=circles", f"--save_dir={tmp_path / 'x' / below}"
    )
    assert result.code == 1
    assert str(tmp_path / "x") in result.error
    assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--total_samples=10000000000000000"],
        ["--steps=10000000000000000"],
        ["--h=1e-300"],
        ["--steps=2", "--h=1e5"],
        ["--end_vars=1e200"],
    ],
    ids=lambda value: " ".join(value),
)
def test_what_no_machine_can_compute_ends_with_one_line(
    run_script: Run, tmp_path: Path, arguments: list[str]
) -> None:
    few = () if "--total_samples" in arguments[0] else ("--total_samples=3",)
    result = run_script(
        toy_pfODE_int, "exact", "--data_name=circles", f"--save_dir={tmp_path}", *few, *arguments
    )
    assert result.code in (1, 2)
    assert result.error
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_two_ranks_tell_an_error_once(tmp_path: Path) -> None:
    script = ROOT / "toy_pfODE_int.py"
    wrong = (script, "exact", "--save_dir=x", "--data_dim=3", *FEW)
    done = run_command(*TORCHRUN, *wrong, cwd=tmp_path)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "toy_pfODE_int.py: error:" in line]
    assert len(lines) == 1
    assert "data_dim is 3" in lines[0]
    assert f'File "{script}"' not in done.stderr
    assert list(tmp_path.iterdir()) == []
