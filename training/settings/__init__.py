"""The command line: declared options, and how scripts run. Only this package imports click."""
