"""Tables: their reading, their columns, and their rows to train on."""
