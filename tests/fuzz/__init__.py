"""Broken and hostile files for every reader: each ends in an error of one line, or is read.

``.venv/bin/python tests/fuzz`` runs all cases and prints a table; see ``harness`` for what is asked
of a reader, ``readers`` for which there are, ``mutations``, ``structures`` and ``hostile_...`` for
the files.
"""
