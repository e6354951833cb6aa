"""The paper's claims, each shown by one command: ``python experiments/NAME.py --scale=cpu``."""
