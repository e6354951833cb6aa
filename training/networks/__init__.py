"""Networks, by the names that options and network files use."""

from collections.abc import Callable
from functools import partial

from torch import nn

from training.networks.mlp import ToyMLP
from training.networks.questions import QuestionNetwork, TrialNetwork
from training.networks.toy_unet import (
    OriginalToyConvUNet,
    OriginalToySongUNet,
    ToyConvUNet,
    ToySongUNet,
)
from training.networks.unet import ADMUNet, DDPMpp, NCSNpp

TOY_NETWORKS: dict[str, type[nn.Module]] = {
    "mlp": ToyMLP,
    "ToyConvUNet": ToyConvUNet,
    "ToySongUNet": ToySongUNet,
}
"""Networks for points ``[B, D]``, constructed from ``dim`` and ``noise_range``."""

IMAGE_NETWORKS: dict[str, type[nn.Module]] = {"ddpmpp": DDPMpp, "ncsnpp": NCSNpp, "adm": ADMUNet}
"""Networks for flat images ``[B, C H W]``, constructed from ``image_shape``."""

QUESTION_NETWORKS: dict[str, type[nn.Module]] = {
    "questions": QuestionNetwork,
    "trials": TrialNetwork,
}
"""Networks for rows with given or missing cells, constructed from ``dim`` and ``noise_range``."""

NETWORKS: dict[str, type[nn.Module]] = {
    **TOY_NETWORKS,
    **IMAGE_NETWORKS,
    # These networks are imported from other code, not trained here.
    "OriginalToyConvUNet": OriginalToyConvUNet,
    "OriginalToySongUNet": OriginalToySongUNet,
    **QUESTION_NETWORKS,
}
"""The fixed registry: network files can name these classes and no others."""


def networks_with(module: nn.Module | None) -> dict[str, Callable[..., nn.Module]]:
    """Return the registry, whose network of tables embeds conditions by a module of the user's."""
    return {**NETWORKS} if module is None else {**NETWORKS, "mlp": partial(ToyMLP, module=module)}
