"""Images as data: files, sets of them, and batches."""
