"""The command line: options, and one function per command.

Only the scripts import this package. Commands are imported when they run, so that ``--help`` is
fast.
"""
