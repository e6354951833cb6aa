"""Settings of ``gen_fid_samples.py`` and ``fid.py``."""

from pathlib import Path
from typing import Any

from training.names import command_line
from training.settings import shared
from training.settings.declared import Declared, option, options_of
from training.settings.types import Whole


class GenerationSettings(
    Declared,
    example=f"{command_line('gen_fid_samples')} --network=digits.pkl --seeds=0-999 --save_dir=out",
    common="network save_dir seeds class_ bs solver n_iters device_name overwrite",
):
    """Options of ``gen_fid_samples.py``."""

    save_dir: Path = shared.save_dir("Folder of the images.")
    seeds: str = option(
        default="0-63", help="Random seeds of the images, one per image, for example 1,2,5-10."
    )
    bs: int = option(
        default=64, help="Number of images generated at a time, summed over all ranks."
    )
    subdirs: bool = option(is_flag=True, help="Make a subfolder for each thousand seeds.")
    eps: str | None = shared.eps()
    class_: int | None = option(
        "--class",
        type=Whole(min=0),
        unset="random, by seed",
        help="Class of the images, for class-conditional networks",
    )
    network: shared.ImageNetworkOptions = options_of(shared.ImageNetworkOptions)
    solver: shared.SolverOptions = options_of(shared.SolverOptions)
    times: shared.SampleTimeOptions = options_of(shared.SampleTimeOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)

    def image_settings(self, **resolved: Any) -> dict[str, Any]:
        """Return the values of all options, besides the seed, that determine an image.

        Args:
            **resolved: Final values of options such as ``end_time`` and ``batch_gpu``. The number
                of images per network evaluation affects the last bits of a result.
        """
        values = self.recorded(**resolved)
        names = (
            *("class", "calibration", "solver", "n_iters", "disc", "end_time", "end_vars"),
            *("precision", "batch_gpu"),
        )
        return {**{name: values[name] for name in names}, "vpode_disc_eps": self.times.first}


AT_LEAST_TWO, NOT_NEGATIVE = Whole(min=2), Whole(min=0)


class MeasuringOptions(Declared, section="Measuring"):
    """Options for measuring the features of images."""

    num: int | None = option(
        "--num",
        "--num_images",
        type=AT_LEAST_TWO,
        unset="all",
        help="Number of images to use, chosen at random. Some versions of torchrun intercept "
        "--num: then give --num_images instead",
    )
    seed: int = shared.seed()
    batch: int = option(default=64, help="Number of images per batch on each rank.")
    detector: str | None = option(
        unset="weights of torch-fidelity, downloaded once",
        help="Inception-v3 weights: a path or an https URL",
    )
    kid_features: int = option(
        type=NOT_NEGATIVE,
        default=5000,
        help="Number of images for the kernel Inception distance (KID); 0: no KID.",
    )
    workers: int = option(
        type=NOT_NEGATIVE, default=1, help="Number of processes per rank that load data."
    )


class RefSettings(
    Declared,
    example=f"{command_line('fid')} ref --data=digits.zip --dest=digits-ref.npz",
):
    """Measure a data set and write the reference for calc."""

    data: Path = option(required=True, help="Zip or folder of images.")
    dest: Path = option(required=True, help="Reference file to write (.npz).")
    measuring: MeasuringOptions = options_of(MeasuringOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)


class CalcSettings(
    Declared,
    example=f"{command_line('fid')} calc --images=out/samples --ref=digits-ref.npz",
):
    """Compare images with a reference and print FID and KID."""

    images: Path = option(required=True, help="Zip or folder of images.")
    reference: Path = option(
        "--ref", required=True, help="Reference file (.npz) written by fid ref."
    )
    dest: Path | None = option(
        unset="none; the result is only printed", help="JSON file for the result"
    )
    measuring: MeasuringOptions = options_of(MeasuringOptions)
    run: shared.DeviceOptions = options_of(shared.DeviceOptions)
