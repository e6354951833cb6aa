"""Pictures of tables: rows of data against generated ones, their densities, and the way back."""
