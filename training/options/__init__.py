"""The command line: declared options, and how a script is run. The only room that knows click."""
