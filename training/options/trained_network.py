"""Which network ``train.py`` trains, and in what precision."""

from dataclasses import dataclass

import click

from training.names import (
    IMAGE_NETWORK_NAMES,
    IMAGES,
    MOST_BLOCKS,
    MOST_WAVES,
    NOISE_CONDITIONINGS,
    PRECISIONS,
    SPACES,
    TABLE_NETWORK,
)
from training.options.declared import Declared, option
from training.options.types import COUNT, MULTIPLIERS, FiniteFloat, choice
from training.recipes import PUBLISHED, PUBLISHED_ADM, told_of_tables


@dataclass(frozen=True, kw_only=True)
class NetworkOptions(Declared):
    """The network."""

    section = "Network"
    arch: str | None = option(
        type=choice((*IMAGE_NETWORK_NAMES, TABLE_NETWORK)),
        unset=f"ddpmpp; tables: {TABLE_NETWORK}",
        help="Kind of network.",
    )
    cbase: int | None = option(
        of=IMAGES,
        type=COUNT,
        unset="the preset's",
        help="Channels of the finest level, but for its factor.",
    )
    cres: tuple[int, ...] | None = option(
        of=IMAGES, type=MULTIPLIERS, unset="the preset's", help="Factor of each level's channels."
    )
    blocks: int | None = option(
        of=IMAGES,
        type=click.IntRange(0, MOST_BLOCKS),
        unset="the preset's",
        help="Residual blocks of each level of the encoder, one more in the decoder; 0 for as many "
        "as published, 4, or 3 of adm.",
    )
    dropout: float | None = option(
        type=FiniteFloat(min=0, max=1, max_open=True),
        unset=f"{PUBLISHED.dropout:g}; adm: {PUBLISHED_ADM['dropout']:g}; tables: "
        + told_of_tables("dropout"),
        help="Fraction of activations dropped.",
    )
    space: str = option(
        type=choice(SPACES),
        default="IS",
        help="Coordinates of the network: pixels (IS) or principal axes (ES).",
    )
    noise_cond: str | None = option(
        type=choice(NOISE_CONDITIONINGS),
        unset="log; vp: ddpm",
        help="How the network sees the time: as the log of the noise, or as 999 t (ddpm).",
    )
    output_gain: bool | None = option(
        "--output_gain/--no-output_gain",
        unset="of images, with precond=ifs",
        help="Multiply the network's output by a factor of each dimension and time, which is "
        "trained with it.",
    )
    pixel_waves: int | None = option(
        of=IMAGES,
        type=click.IntRange(0, MOST_WAVES),
        unset="the preset's",
        help="Show the network the noisy pixels too, and so many waves of them, from the whole "
        "range of gray levels down by halves; 0 for the whitened image alone.",
    )
    precision: str | None = option(
        of=IMAGES,
        type=choice(PRECISIONS),
        unset="the preset's; on a CPU, bf16 if a short trial finds it much faster",
        help="What the network computes in.",
    )
    compile: bool = option(
        free=True, of=IMAGES, is_flag=True, help="Compile the network with torch.compile."
    )
    bench: bool = option(
        "--bench/--no-bench",
        free=True,
        of=IMAGES,
        default=True,
        help="Let cuDNN look for its fastest kernels.",
    )
    transfer: str | None = option(
        of=IMAGES, help="Network file, path or https URL, whose weights to start from."
    )
