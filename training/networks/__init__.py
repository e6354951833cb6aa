"""Networks, by the names that options and network files use."""

from torch import nn

from training.networks.mlp import ToyMLP
from training.networks.toy_unet import ToyConvUNet

NETWORKS: dict[str, type[nn.Module]] = {"mlp": ToyMLP, "ToyConvUNet": ToyConvUNet}
"""The fixed registry: a network file can name these classes and no others."""
