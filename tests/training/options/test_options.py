"""Options by either spelling, scripts that end with one line and the right code."""

import errno
import math
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import pytest

import toy_pfODE_int
import toy_train
from dnnlib.errors import DataError, InflationError, TrainingError, UsageError, agree
from dnnlib.files import atomic_path
from tests.support.refusals import refusal
from tests.support.running import run_script
from training.commands.training import resumed_options
from training.options.declared import Declared, option, takes
from training.options.inference import LikelihoodOptions
from training.options.script import command, group
from training.options.types import (
    DATA_SET,
    FILE,
    NETWORK,
    POSITIVE,
    ColumnTypes,
    FiniteFloat,
    Names,
    Ranges,
)


@dataclass(frozen=True, kw_only=True)
class Flags(Declared):
    some_flag: bool = option(is_flag=True)
    both: bool = option("--both/--no-both", default=True)
    text: str | None = option()


COMMANDS: dict[str, click.Command] = {
    "toy_train": toy_train.main,
    **{f"toy_pfODE_int {name}": sub for name, sub in toy_pfODE_int.main.commands.items()},
}
SIMULATE = (
    "save_dir data_name data_dim dims_to_keep total_samples steps h solver end_vars eps save_freq "
    "augment_to rho gamma0 g_type inflation_gap device_name seed"
)
CONTRACT = {
    "toy_train": "outdir data_name data_dim dims_to_keep tmax tmin rho gamma0 g_type inflation_gap "
    "g_rescaling augment_to arch space precond noise_cond duration batch batch-gpu lr ema ls seed "
    "resume desc nosubdir tick snap dump dry-run device_name",
    "toy_pfODE_int net": f"{SIMULATE} network",
    "toy_pfODE_int discrete": SIMULATE,
    "toy_pfODE_int exact": SIMULATE,
}
CHOICES = {
    "data_name": "circles sine1 sine2 moons s_curve swirl alt_s_curve alt_swirl "
    "unscaled_alt_s_curve unscaled_alt_swirl",
    "g_type": "orig constant_inflation_gap",
    "arch": "mlp ToyConvUNet ToySongUNet",
    "space": "ES IS",
    "precond": "ifs edm edm_es",
    "noise_cond": "log ddpm",
}


def parse(script: click.Command, name: str, value: str) -> click.Context:
    group = toy_pfODE_int.main
    above = group.make_context("group", ["net"]) if script in group.commands.values() else None
    return script.make_context("script", [name, value], parent=above, resilient_parsing=True)


def test_every_promised_option_is_there_with_its_choices() -> None:
    for script, names in CONTRACT.items():
        params = {param.name: param for param in COMMANDS[script].params}
        for name in names.split():
            param = params[name.replace("-", "_")]
            for choice in CHOICES.get(name, "").split():
                parsed = parse(COMMANDS[script], f"--{name}", choice)
                assert parsed.params[param.name] == choice


def test_flags_take_truth_values() -> None:
    seen: list[Flags] = []

    @group()
    def main() -> None:
        pass

    @main.command()
    @takes(Flags)
    def script(settings: Flags) -> None:
        seen.append(settings)

    for arguments, given, flag, both in (
        ([], set(), False, True),
        (["--some-flag"], {"some_flag"}, True, True),
        (["--some-flag=True", "--both=1"], {"some_flag", "both"}, True, True),
        (["--some_flag=no", "--both=False"], {"some_flag", "both"}, False, False),
        (["--no-both"], {"both"}, False, False),
    ):
        main.main(["script", *arguments], standalone_mode=False)
        assert seen.pop() == Flags(given=frozenset(given), some_flag=flag, both=both)
    with pytest.raises(click.BadParameter, match="not a valid boolean"):
        main.main(["script", "--some_flag=maybe"], standalone_mode=False)


def test_only_finite_numbers_are_numbers_and_positive_ones_above_zero() -> None:
    bad = [(POSITIVE, text) for text in ("0", "-1", "-0.0")]
    for text in ("nan", "inf", "-inf", "NaN", "1e999", "abc", ""):
        bad += [(kind, text) for kind in (FiniteFloat(), POSITIVE, FiniteFloat(max=1))]
    for kind, text in bad:
        with pytest.raises(click.BadParameter):
            kind.convert(text, None, None)
    for text, number in (("0.5", 0.5), ("1e-3", 1e-3), ("2", 2.0)):
        value = POSITIVE.convert(text, None, None)
        assert value == number
        assert isinstance(value, float)


def test_agreeing_values_give_the_known_one_and_others_are_a_contradiction() -> None:
    assert agree("rho", None, 2.0, "the network") == 2.0
    assert agree("rho", 2, 2.0, "the network") == 2.0
    assert agree("rho", None, None, "the network") is None
    for given, known in ((3, 2), ("moons", "circles"), (0, 2), (0.5, None)):
        error = refusal(agree, "some_option", given, known, "the file x.pkl", kind=UsageError)
        for part in ("--some_option", str(given), str(known), "the file x.pkl", "leave it out"):
            assert part in error


def resume(given: set[str], **parsed: Any) -> dict[str, Any]:
    saved = {"lr": 0.1, "outdir": "out", "tick": 5, "seed": None}
    return resumed_options(parsed, given, saved, {"tick", "resume"}, "the run")


def test_a_resumed_run_has_its_own_options_which_others_must_not_contradict() -> None:
    defaults = {"lr": 0.004, "outdir": None, "tick": 500, "new": 7}
    own = {"lr": 0.1, "outdir": "out", "tick": 5, "seed": None, "new": 7}
    assert resume(set(), **defaults) == own
    given = {"lr": 0.1, "outdir": Path("out"), "tick": 9, "resume": Path("x")}
    merged = resume(set(given), **given)
    assert (merged["lr"], merged["tick"], merged["resume"]) == (0.1, 9, Path("x"))
    assert str(merged["outdir"]) == "out"
    for name, value, saved in (
        ("lr", 0.2, "0.1"),
        ("outdir", Path("else"), "out"),
        ("seed", 3, "None"),
        ("odd", 1, "None"),
    ):
        with pytest.raises(UsageError) as caught:
            resume({name}, **{name: value})
        for part in (f"--{name}", str(value), saved, "the run"):
            assert part in str(caught.value)


def ending(outcome: Any) -> click.Command:
    @command()
    @click.option("--count", type=int)
    def main(**options: Any) -> Any:
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return main


class OwnCode(InflationError):
    exit_code = 77


def test_an_expected_error_is_one_line_and_a_code() -> None:
    for outcome, code, message in (
        (UsageError("no such toy"), 2, "no such toy"),
        (DataError("broken file"), 1, "broken file"),
        (TrainingError("not finite"), 1, "not finite"),
        (OwnCode("other"), 77, "other"),
        (DataError("over\n  two\n\nlines"), 1, "over two lines"),
        (click.UsageError("bad option"), 2, "bad option"),
        (click.BadParameter("bad value"), 2, "bad value"),
        (OSError(errno.ENOSPC, "No space left", "a/b.npz"), 1, "a/b.npz: No space left"),
        (OSError("no number"), 1, "no number"),
        (PermissionError(errno.EACCES, "denied", "c"), 1, "c: denied"),
        (MemoryError(), 1, "out of memory"),
        (click.Abort(), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):
        result = run_script(ending(outcome))
        assert (result.code, result.out) == (code, "")
        assert result.error.startswith("test_options.py: error: ")
        assert message in result.error
    for argument, part in (
        ("--nothing", "--nothing"),
        ("--count", "--count"),
        ("--count=x", "'x'"),
    ):
        result = run_script(ending(None), argument)
        assert (result.code, result.out) == (2, "")
        assert part in result.error
    for outcome in (None, 0, "text"):
        result = run_script(ending(outcome))
        assert (result.code, result.out, result.err) == (0, "", "")


@pytest.mark.parametrize("error", [RuntimeError, KeyError, AssertionError])
def test_unexpected_exceptions_keep_their_traceback(error: type[Exception]) -> None:
    with pytest.raises(error, match="a bug"):
        run_script(ending(error("a bug")))


def test_sigterm_leaves_nothing_half_done_and_is_one_line(tmp_path: Path) -> None:
    @click.command()
    def script() -> None:
        with atomic_path(tmp_path / "a.npz") as temporary:
            temporary.write_text("half")
            assert len(os.listdir(tmp_path)) == 1
            signal.raise_signal(signal.SIGTERM)
            signal.pause()

    before = signal.getsignal(signal.SIGTERM)
    result = run_script(script)
    assert result.code == 128 + signal.SIGTERM
    assert result.error.endswith("error: stopped by SIGTERM")
    assert os.listdir(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) is before


def test_who_handles_sigterm_keeps_it() -> None:
    came: list[int] = []

    @click.command()
    def script() -> None:
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        result = run_script(script)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.code, came) == (0, [signal.SIGTERM])


def test_commands_of_a_group_take_either_spelling() -> None:
    @group()
    def main() -> None:
        pass

    @main.command("do_it")
    def do_it() -> None:
        click.echo("done")

    for spelling in ("do_it", "do-it"):
        assert run_script(main, spelling).out == "done\n"


def test_lists_of_names_and_ranges_are_taken_or_told() -> None:
    assert Names().convert("a, b c", None, None) == ("a", "b c")
    assert Names().convert('a, "price, EUR"', None, None) == ("a", "price, EUR")
    assert Names().convert(("a",), None, None) == ("a",)
    assert Ranges().convert("a:0:1,b:c:2:,d::-1", None, None) == (
        ("a", 0.0, 1.0),
        ("b:c", 2.0, math.inf),
        ("d", -math.inf, -1.0),
    )
    assert Ranges().convert((("a", 0.0, 1.0),), None, None) == (("a", 0.0, 1.0),)
    assert Ranges().convert('"a, b:0:1",c::2', None, None)[0] == ("a, b", 0.0, 1.0)
    types = 'a:b:number,when:%H:%M,"c, d:s<m"'
    parsed = (("a:b", "number"), ("when", "%H:%M"), ("c, d", "s<m"))
    assert ColumnTypes().convert(types, None, None) == parsed
    for kind, text in (
        (ColumnTypes(), "a:words"),
        (Names(), "a,,b"),
        (Ranges(), "a"),
        (Ranges(), "a:x:1"),
        (Ranges(), "a:2:1"),
    ):
        with pytest.raises(click.BadParameter, match=text):
            kind.convert(text, None, None)


def test_paths_that_no_system_has_are_told() -> None:
    for path, part in (("a\0b", "zero byte"), ("\ud800", "characters that no path has")):
        with pytest.raises(click.BadParameter, match=part):
            FILE.convert(path, None, None)


def test_data_sets_and_networks_that_are_not_there_are_told_at_once(tmp_path: Path) -> None:
    table, network = tmp_path / "rows.csv", tmp_path / "network.pkl"
    assert "a table, or a zip or folder of images" in refusal(DATA_SET.convert, table, None, None)
    for path in (table, network):
        path.touch()
    with pytest.raises(DataError, match=r"dataset_tool\.py --source=.*rows\.csv"):
        DATA_SET.convert(table, None, None)
    assert DATA_SET.convert(tmp_path, None, None) == tmp_path
    with pytest.raises(click.BadParameter, match="it is empty"):
        NETWORK.convert("", None, None)
    for text in (str(network), "https://host/network.pkl"):
        assert NETWORK.convert(text, None, None) == text
    assert "cannot open the file" in refusal(NETWORK.convert, f"{network}.old", None, None)


def test_a_mask_of_many_names_is_not_taken_for_a_file() -> None:
    names = ",".join(f"a_long_name_of_column_{index}" for index in range(20))
    mask = LikelihoodOptions(likelihood="mask", mask=names, noise_std="0.5," * 99 + "0.5")
    assert not any(mask.files)
    assert "noise.npy" in LikelihoodOptions(noise_std="noise.npy").files
