"""Tables of numbers: rows are points, columns their dimensions."""
