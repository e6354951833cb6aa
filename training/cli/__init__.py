"""Functions of the scripts, called once options are parsed.

Only the scripts import them, when they run, so that ``--help`` is fast.
"""
