"""Settings of ``calc_net_residuals_autocorrelations.py``."""

from pathlib import Path
from typing import Any

from training.names import NOISES, TOY_NAMES, command_line
from training.settings import shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import DATA_SET, Whole, choice

TIMES = Whole(min=2, max=shared.MAX_STEPS)
IMAGES = 50_000


class NoiseOptions(Declared, section="Noise"):
    """Options for the noise on the samples."""

    noise: str = option(
        type=choice(NOISES),
        default="independent",
        help="Noise on the samples. independent: fresh noise at each time, as in the paper; "
        "path: the samples move along paths of the flow.",
    )
    seed: int = shared.seed()


class _Extracting(Declared):
    """Options of both extractions."""

    save_dir: Path = shared.save_dir()
    network: str = shared.network()
    noise: NoiseOptions = options_of(NoiseOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def matters(self) -> dict[str, Any]:
        """Return the options that affect results, by name."""
        values = self.recorded()
        return {name: values.get(name) for name in ("network", "data_root", "n_samples", "seed")}


class ExtractToysSettings(
    _Extracting,
    example=f"{command_line('calc_net_residuals_autocorrelations')} extracttoys "
    "--network=circles.pkl --save_dir=out",
    common="network save_dir n_time_pts n_samples noise seed device_name overwrite",
):
    """Write outputs and residuals of a toy network.

    \b
    Files: {toy}_{schedule}_toy_net_outputs_residuals.npz and .json
    """

    data_name: str | None = option(
        type=choice(TOY_NAMES),
        unset=shared.KNOWN,
        help="Expected name of the toy; the network file must agree",
    )
    data_dim: int | None = option(
        unset=shared.KNOWN, help="Expected dimension of the toy; the network file must agree"
    )
    dims_to_keep: int | None = option(
        unset=shared.KNOWN,
        help="Expected number of dimensions that are not compressed; the network file must agree",
    )
    n_time_pts: int = option(type=TIMES, default=701, help="Number of time points.")
    h: float | None = option(
        unset="end time of the flow / (n_time_pts - 1)", help="Step between time points"
    )
    n_samples: int = option(default=10_000, help="Number of samples, the same at all times.")


class ExtractSettings(
    _Extracting,
    example=f"{command_line('calc_net_residuals_autocorrelations')} extract "
    "--network=digits.pkl --data_root=digits.zip --save_dir=out",
    common="network save_dir data_root n_time_pts n_samples noise bs seed device_name overwrite",
):
    """Write outputs and residuals of an image or table network, one file per time.

    \b
    Files: {data}_{schedule}_net_outputs_residuals_time{t}.npz of each time
           {data}_{schedule}_net_outputs_residuals.json
    """

    data_root: Path = option(
        type=DATA_SET,
        required=True,
        help="Data set: a zip or folder of images, or the .npz of a table.",
    )
    data_name: str | None = option(
        unset="the name in the network file",
        help="Name of the data, used in the names of output files",
    )
    dims_to_keep: int | None = option(
        unset=shared.KNOWN,
        help="Expected number of dimensions that are not compressed; the network file must agree",
    )
    n_time_pts: int = option(type=TIMES, default=256, help="Number of time points.")
    n_samples: int | None = option(
        unset=f"{IMAGES} images, or all if there are fewer; tables: all validation rows",
        help="Number of images or rows, the same at all times.",
    )
    bs: int = option(
        default=1000, help="Number of images or rows per batch, summed over all ranks."
    )
    batch_gpu: int | None = shared.batch_gpu()


class _Correlating(Declared):
    """Options of both calculations; properties of the data are compared with the file."""

    save_dir: Path = shared.save_dir()
    data_name: str | None = option(
        unset="as in --res_root", help="Expected name of the data; --res_root must agree"
    )
    dims_to_keep: int | None = option(
        unset="as in --res_root",
        help="Expected number of dimensions that are not compressed; --res_root must agree",
    )
    n_time_pts: int | None = option(
        type=TIMES,
        unset="as in --res_root",
        help="Expected number of time points; --res_root must agree",
    )
    n_samples: int | None = option(
        unset="as in --res_root", help="Expected number of samples; --res_root must agree"
    )
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def expected(self) -> dict[str, Any]:
        names = ("data_name", "data_dim", "dims_to_keep", "n_time_pts", "n_samples")
        return {name: getattr(self, name) for name in names if hasattr(self, name)}


class CalcToysSettings(
    _Correlating,
    example=f"{command_line('calc_net_residuals_autocorrelations')} calctoys "
    "--res_root=out/circles_PRP_toy_net_outputs_residuals.npz --save_dir=out",
):
    """Correlate residuals at the first time and at each time, for a toy network.

    \b
    Files: {toy}_{schedule}_toy_autocorrelations.npz
           {toy}_{schedule}_toy_autocorrelations_summary.npz and .json
    """

    res_root: Path = option(required=True, help="File written by the command extracttoys.")
    data_dim: int | None = option(
        unset="as in --res_root", help="Expected dimension of the toy; --res_root must agree"
    )


class CalcSettings(
    _Correlating,
    example=f"{command_line('calc_net_residuals_autocorrelations')} calc --res_root=out "
    "--save_dir=out/correlations",
):
    """Correlate residuals at the first time and at each time, for an image or table network.

    \b
    Files: {data}_{schedule}_autocorrelations_times0_{t}.npz of each time
           {data}_{schedule}_autocorrelations_summary.npz and .json
    """

    res_root: Path = option(required=True, help="Folder written by the command extract.")
    bs: int = option(default=500, help="Number of samples read at a time.")
