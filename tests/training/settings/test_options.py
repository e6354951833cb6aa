"""Options by either spelling, declared once; scripts end with one line and the right code."""

import errno
import json
import math
import os
import signal
from dataclasses import FrozenInstanceError, replace
from pathlib import Path

import click
import numpy as np
import pytest

import toy_pfODE_int
import toy_train
from dnnlib.errors import DataError, TrainingError, UsageError, agree
from dnnlib.files import atomic_path
from tests.support.running import parsed, refusal, run_script
from training.cli.click_options import takes
from training.cli.script import command, group
from training.cli.shared import last_time, steps_and_end
from training.models.integration_settings import LatentChoice, latent_choice, recorded_eps
from training.models.training import resumed_options, training_on_toy, tries_precisions
from training.names import DEFAULT_STEPS, OTHERS, RANKS
from training.recipes import AVERAGED_PLANE, AVERAGED_SPACE, AVERAGED_TOY, TOY
from training.settings import types
from training.settings.declared import Declared, argument, option, options_of
from training.settings.inference import LikelihoodOptions
from training.settings.shared import ImageTimeOptions
from training.settings.train import TrainSettings
from training.settings.training import ToyTrainSettings, as_typed
from training.settings.types import COUNT, DATA_SET, FILE, POSITIVE, Names, Ranges, Real

PRR = "--dims_to_keep=1"


class Flags(Declared):
    some_flag: bool = option(is_flag=True)
    both: bool = option("--both/--no-both", default=True)
    text: str | None = option()


COMMANDS = {
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


def test_every_promised_option_is_there_with_its_choices():
    above = toy_pfODE_int.main.make_context("group", ["net"])
    for script, names in CONTRACT.items():
        params = {param.name: param for param in COMMANDS[script].params}
        for name in names.split():
            param = params[name.replace("-", "_")]
            for choice in CHOICES.get(name, "").split():
                options = {"parent": above, "resilient_parsing": True}
                got = COMMANDS[script].make_context("script", [f"--{name}", choice], **options)
                assert got.params[param.name] == choice


def test_flags_take_truth_values_and_commands_of_a_group_either_spelling():
    seen = []

    @command()
    @takes(Flags)
    def script(settings):
        seen.append(settings)

    main = group(commands={"a_script": script})
    for arguments, given, flag, both in (
        ([], set(), False, True),
        (["--some-flag"], {"some_flag"}, True, True),
        (["--some-flag=True", "--both=1"], {"some_flag", "both"}, True, True),
        (["--some_flag=no", "--both=False"], {"some_flag", "both"}, False, False),
        (["--no-both"], {"both"}, False, False),
    ):
        main.main(["a-script", *arguments], standalone_mode=False)
        assert seen.pop() == Flags(given=frozenset(given), some_flag=flag, both=both)
    with pytest.raises(click.BadParameter, match="not a valid boolean"):
        main.main(["a_script", "--some_flag=maybe"], standalone_mode=False)


def test_only_finite_numbers_are_numbers_and_positive_ones_above_zero():
    bad = [(POSITIVE, text) for text in ("0", "-1", "-0.0")]
    for text in ("nan", "inf", "-inf", "NaN", "1e999", "abc", ""):
        bad += [(kind, text) for kind in (Real(), POSITIVE, Real(max=1))]
    for kind, text in bad:
        with pytest.raises(ValueError, match="is not a"):
            kind.parse(text)
    for text, number in (("0.5", 0.5), ("1e-3", 1e-3), ("2", 2.0)):
        value = POSITIVE.parse(text)
        assert value == number
        assert isinstance(value, float)


def test_agreeing_values_give_the_known_one_and_others_are_a_contradiction():
    assert agree("rho", None, 2.0, "the network") == 2.0
    assert agree("rho", 2, 2.0, "the network") == 2.0
    assert agree("rho", None, None, "the network") is None
    for given, known in ((3, 2), ("moons", "circles"), (0, 2), (0.5, None)):
        error = refusal(agree, "some_option", given, known, "the file x.pkl", kind=UsageError)
        for part in ("--some_option", str(given), str(known), "the file x.pkl", "leave it out"):
            assert part in error


def resume(given, **parsed):
    saved = {"lr": 0.1, "outdir": "out", "tick": 5, "seed": None}
    return resumed_options(parsed, given, saved, {"tick", "resume"}, "the run")


def test_a_resumed_run_has_its_own_options_which_others_must_not_contradict():
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


def ending(outcome):
    @command()
    @click.option("--count", type=int)
    def main(**options):
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    return main


def test_an_expected_error_is_one_line_and_a_code_and_another_keeps_its_traceback():
    for outcome, code, message in (
        (UsageError("no such toy"), 2, "no such toy"),
        (DataError("broken file"), 1, "broken file"),
        (TrainingError("not finite"), 1, "not finite"),
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
        assert result.error.startswith("script.py: error: ")
        assert message in result.error
    for typed, part in (("--nothing", "--nothing"), ("--count", "--count"), ("--count=x", "'x'")):
        result = run_script(ending(None), typed)
        assert (result.code, result.out) == (2, "")
        assert part in result.error
    for outcome in (None, 0, "text"):
        result = run_script(ending(outcome))
        assert (result.code, result.out, result.err) == (0, "", "")
    for error in (RuntimeError, KeyError, AssertionError):
        with pytest.raises(error, match="a bug"):
            run_script(ending(error("a bug")))


def test_sigterm_leaves_nothing_half_done_and_is_one_line(tmp_path):
    @click.command()
    def script():
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


def test_who_handles_sigterm_keeps_it():
    came = []

    @click.command()
    def script():
        signal.raise_signal(signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        result = run_script(script)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert (result.code, came) == (0, [signal.SIGTERM])


def test_lists_of_names_and_ranges_are_taken_or_told():
    assert Names().parse("a, b c") == ("a", "b c")
    assert Names().parse('a, "price, EUR"') == ("a", "price, EUR")
    assert Names().parse(("a",)) == ("a",)
    ranges = Ranges().parse("a:0:1,b:c:2:,d::-1")
    assert ranges == (("a", 0.0, 1.0), ("b:c", 2.0, math.inf), ("d", -math.inf, -1.0))
    assert Ranges().parse((("a", 0.0, 1.0),)) == (("a", 0.0, 1.0),)
    assert Ranges().parse('"a, b:0:1",c::2')[0] == ("a, b", 0.0, 1.0)
    columns = 'a:b:number,when:%H:%M,"c, d:s<m"'
    parsed = (("a:b", "number"), ("when", "%H:%M"), ("c, d", "s<m"))
    assert types.ColumnTypes().parse(columns) == parsed
    for kind, text in (
        (types.ColumnTypes(), "a:words"),
        (Names(), "a,,b"),
        (Ranges(), "a"),
        (Ranges(), "a:x:1"),
        (Ranges(), "a:2:1"),
        (Ranges(), "a:0:1,a:2:3"),
        (types.ColumnTypes(), "a:number,a:date"),
    ):
        with pytest.raises(ValueError, match=text):
            kind.parse(text)


def test_paths_that_are_not_there_or_on_no_system_are_told(tmp_path):
    for path, part in (("a\0b", "zero byte"), ("\ud800", "characters that a path cannot have")):
        with pytest.raises(ValueError, match=part):
            FILE.parse(path)
    table, network = tmp_path / "rows.csv", tmp_path / "network.pkl"
    assert "a table, or a zip or folder of images" in refusal(DATA_SET.parse, table)
    for path in (table, network):
        path.touch()
    with pytest.raises(DataError, match=r"dataset_tool\.py --source=.*rows\.csv"):
        DATA_SET.parse(table)
    assert DATA_SET.parse(tmp_path) == tmp_path
    with pytest.raises(ValueError, match="the value is empty"):
        types.NETWORK.parse("")
    for text in (str(network), "https://host/network.pkl"):
        assert types.NETWORK.parse(text) == text
    assert "cannot open the file" in refusal(types.NETWORK.parse, f"{network}.old")


def test_a_mask_of_many_names_is_not_taken_for_a_file():
    names = ",".join(f"a_long_name_of_column_{index}" for index in range(20))
    mask = LikelihoodOptions(likelihood="mask", mask=names, noise_std="0.5," * 99 + "0.5")
    assert not any(mask.files)
    assert "noise.npy" in LikelihoodOptions(noise_std="noise.npy").files


class Shared(Declared, section="How many"):
    count: int = option(type=COUNT, default=3, help="Number of things.")
    rate: float | None = option(unset="1", help="Things a second.")


class Whole(Declared):
    paths: tuple[str, ...] = argument(metavar="PATH...")
    name: str = option(required=True, help="What it is called.")
    class_: int | None = option("--class", help="A word that Python keeps for itself.")
    batch: int = option("--batch-gpu", type=COUNT, default=1, help="Two spellings.")
    fast: bool = option(is_flag=True, help="A flag.")
    paired: bool | None = option("--paired/--no-paired", help="One way, the other, or neither.")
    shared: Shared = options_of(Shared, unset="{}, or the file's")


def test_settings_hold_and_record_what_was_typed_and_the_defaults_of_python():
    settings = parsed(Whole, "a", "--name=x", "--batch_gpu=4", "--rate=2", "--no-paired", "b")
    assert settings.paths == ("a", "b")
    assert (settings.name, settings.batch, settings.fast, settings.paired) == ("x", 4, False, False)
    assert (settings.shared.count, settings.shared.rate) == (3, 2.0)
    assert settings.given == settings.shared.given == {"name", "batch", "rate", "paired", "paths"}
    with pytest.raises(FrozenInstanceError):
        settings.name = "y"
    assert parsed(Whole, "--name=x", "a").recorded() == Whole(name="x", paths=("a",)).recorded()
    settings = Whole(name="x", paths=(), class_=2)
    assert settings.recorded(rate=7.0) == {
        **{"paths": (), "name": "x", "class": 2, "batch": 1, "fast": False, "paired": None},
        **{"count": 3, "rate": 7.0},
    }
    with pytest.raises(KeyError, match="speed"):
        settings.recorded(speed=1)


def test_the_help_has_sections_defaults_and_what_is_required():
    @command()
    @takes(Whole)
    def main(settings):
        pass

    text = " ".join(run_script(main, "--help").out.split())
    assert "--name TEXT What it is called. [required]" in text
    assert text.index("Options:") < text.index("--class") < text.index("How many:")
    assert "Number of things. [default: 3]" in text
    assert "Things a second. [default: 1, or the file's]" in text


def test_an_end_may_be_asked_for_and_is_by_default_the_networks():
    for steps, h, *expected in (
        (None, None, DEFAULT_STEPS, 7.01),
        (20, None, 20, 7.01),
        (701, 0.01, 701, 7.01),
        (100, 0.02, 100, 2.0),
        (10, 1.0, 10, 10.0),
        (None, 0.01, 701, 7.01),
    ):
        count, end = steps_and_end(steps, h, 7.01)
        assert [count, end] == [expected[0], pytest.approx(expected[1], rel=1e-12)]
    # An end equal up to rounding is the network's, to the last digit.
    assert 3 * 0.1 != 0.3
    assert steps_and_end(3, 0.1, 0.3) == (3, 0.3)
    with pytest.raises(UsageError, match=r"--h=3 .* T = 7\.01: add --steps=2 to end at T = 6"):
        steps_and_end(None, 3.0, 7.01)
    assert last_time(ImageTimeOptions(end_time=2.5), 6.0, "n") == 2.5
    assert last_time(ImageTimeOptions(end_time=6 * (1 + 1e-12)), 6.0, "n") == 6.0
    with pytest.raises(UsageError, match=r"--end_time is 6\.01, but n was trained up to T = 6"):
        last_time(ImageTimeOptions(end_time=6.01), 6.0, "n")


def test_eps_is_a_name_or_a_number_and_what_is_recorded_was_used():
    for text, choice in (
        ("auto", LatentChoice()),
        ("empirical", LatentChoice(empirical=True)),
        ("2.5e-3", LatentChoice(2.5e-3)),
        ("paper", LatentChoice(paper=True)),
        ("paper:1e-2", LatentChoice(1e-2, paper=True)),
    ):
        assert latent_choice(text) == choice
        assert recorded_eps(text, choice) == text
    assert recorded_eps("1e-2", LatentChoice()) == "auto"
    for text in ("0", "-1", "nan", "inf", "small", "", "paper:0", "auto:1"):
        assert "auto, empirical or a positive" in refusal(latent_choice, text, kind=UsageError)


def test_targets_of_toys_are_averaged_where_it_pays():
    for dim, given, others, recipe in (
        (2, (), OTHERS, AVERAGED_PLANE),
        (2, (PRR,), OTHERS, AVERAGED_PLANE),
        (2, ("--arch=ToySongUNet",), OTHERS, AVERAGED_TOY),
        (3, (), OTHERS, AVERAGED_SPACE),
        (3, (PRR,), OTHERS, AVERAGED_SPACE),
        (9, (), 0, TOY),
        (2, ("--others=0",), 0, replace(TOY, antithetic=False)),
        (9, (PRR, "--others=7"), 7, AVERAGED_SPACE),
    ):
        settings = parsed(ToyTrainSettings, "--data_name=circles", f"--augment_to={dim}", *given)
        training = training_on_toy(settings)
        assert training.averaged_over == others
        assert training.recipe == recipe
        # A run that continues has what it began with, whose number is then given.
        again = replace(training, others=others).with_choices({"antithetic": recipe.antithetic})
        assert again.recipe == recipe


def test_a_trial_decides_precision_if_nothing_else():
    assert tries_precisions(parsed(TrainSettings, "--data=."))
    for given in ("--precision=fp32", "--preset=published", "--dry-run"):
        assert not tries_precisions(parsed(TrainSettings, "--data=.", given))


def test_what_a_run_records_is_taken_again_by_one_that_goes_on():
    options = [f"--marginals={name}" for name in ("auto", "none", RANKS)]
    options += ['--ask=a,"b, c"', "--cres=1,2", "--cond_shape=set:2", "--dims_to_keep=auto"]
    for text in options:
        recorded = parsed(TrainSettings, "--data=.", text).recorded()
        as_file = json.loads(json.dumps(recorded, default=str))
        assert as_typed(TrainSettings, as_file, Path("options.json")) == recorded


def test_arrays_and_lists_of_python_become_text_and_other_objects_stay():
    kind = types.TextOrObject()
    names, places = [np.str_("a"), "b, c"], np.array([2, 0])
    assert [kind.parse(each) for each in (names, places, list(places))] == [
        'a,"b, c"',
        "2,0",
        "2,0",
    ]
    assert kind.parse(np.array([0.1, 0.2])) == "0.1,0.2"
    assert kind.parse(np.array([True, False])) == [True, False]
    matrix = np.eye(2)
    assert kind.parse(matrix) is matrix
