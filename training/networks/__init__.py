"""Networks, by the names that options and network files use."""

from torch import nn

from training.networks.mlp import ToyMLP
from training.networks.questions import QuestionNetwork
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

QUESTION_NETWORKS: dict[str, type[nn.Module]] = {"questions": QuestionNetwork}
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
