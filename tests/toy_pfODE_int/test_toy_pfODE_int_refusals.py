"""What ``toy_pfODE_int.py`` refuses: one line, and nothing written."""

from pathlib import Path

import pytest
from running import refused
from toy_simulations import Run

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
    refused(result, 2, *parts)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["--data_dim=3"], ["3", "2"]),
        (["--dims_to_keep=3"], ["3", "2"]),
        (["--augment_to=1"], ["1", "2"]),
        (["--augment_to=5", "--data_dim=2"], ["5", "2"]),
        (["--gamma0=10"], ["gamma0", "10"]),
        (["--g_type=orig", "--inflation_gap=2"], ["g_type", "inflation_gap"]),
        *(
            ([f"--eps={eps}"], ["eps", eps, "auto", "empirical"])
            for eps in ("garbage", "nan", "inf", "0", "-1", "=xx", "", "Auto")
        ),
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
    refused(result, 2, *parts)
    assert list(tmp_path.iterdir()) == []


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
