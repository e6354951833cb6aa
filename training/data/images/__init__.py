"""Images as data: files, data sets, and batches."""
