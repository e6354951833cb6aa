"""Laying networks out without memory, as for a network file, imports no compiler."""

import subprocess
import sys

import pytest

CASES = {
    "toys": "for name in ('mlp', 'ToyConvUNet', 'ToySongUNet'): "
    "NETWORKS[name](dim=2, noise_range=(-1.0, 1.0))",
    "images": "for name in ('ddpmpp', 'ncsnpp', 'adm'): "
    "NETWORKS[name](image_shape=[1, 16, 16], model_channels=64)",
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_building_on_the_meta_device_imports_no_compiler(case: str) -> None:
    # In a process of its own, since others may have imported it.
    program = (
        "import sys, torch\n"
        "from training.networks import NETWORKS\n"
        f"with torch.device('meta'):\n    {case}\n"
        "assert 'torch._dynamo' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
