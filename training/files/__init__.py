"""One module a file format: its keys, how it is written, read and checked."""
