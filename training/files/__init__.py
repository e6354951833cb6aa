"""File formats, one module each: its keys, how it is written, read and checked."""
