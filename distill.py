"""Teaches a student: a network that carries points along the flow of another in a few calls.

--network is the teacher, of a toy or a table. --dest gets a network file that has both: samples,
densities and posteriors go by the student where no steps are asked for, and --solver takes the
teacher's way. The student learns from paths of its teacher alone, and its errors beside these are
measured on others, and stored.
"""

from training.options.networks import DistillSettings
from training.options.script import run_script, runs

main = runs("networks.teach", DistillSettings, __doc__)

if __name__ == "__main__":
    run_script(main)
