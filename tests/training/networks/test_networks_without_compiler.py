"""Laying networks out without memory, as for a network file, imports no compiler."""

import subprocess
import sys

PROGRAM = """
import sys, torch
from training.networks import IMAGE_NETWORKS, TOY_NETWORKS
with torch.device('meta'):
    for network in TOY_NETWORKS.values():
        network(dim=2, noise_range=(-1.0, 1.0))
    for network in IMAGE_NETWORKS.values():
        network(image_shape=[1, 16, 16], model_channels=64)
assert 'torch._dynamo' not in sys.modules
"""


def test_building_on_the_meta_device_imports_no_compiler() -> None:
    # In a process of its own, since others may have imported it.
    subprocess.run([sys.executable, "-c", PROGRAM], check=True)
