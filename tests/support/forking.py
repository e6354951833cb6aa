"""Test files that one worker runs, since they start processes."""

FORKING = ("test_fuzz.py", "test_kills.py")
"""Files whose tests start processes from one that has imported all, beside those of two ranks."""
