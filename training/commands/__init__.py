"""What each script does once its options are read. Only the scripts import it, when they run, so
that ``--help`` and mistakes in the command line need not wait for PyTorch."""
