"""``dying_rank.py SCRIPT STEP ...``: a training script whose rank 1 is killed once, at a step."""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[2]))

from training.cli.script import run_script
from training.learning.trainer import Trainer

script, step = sys.argv[1], int(sys.argv[2])
sys.argv = [f"{script}.py", *sys.argv[3:]]
train_step = Trainer.train_step


def step_or_die(self, *arguments):
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    if first and os.environ["RANK"] == "1" and self.step == step:
        os.kill(os.getpid(), signal.SIGKILL)
    train_step(self, *arguments)


mock.patch.object(Trainer, "train_step", step_or_die).start()
run_script(import_module(script).main)
