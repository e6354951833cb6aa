"""Settings of commands and of calls from Python: each option with its type, default and help."""
