"""Pictures of tables: data against generated rows, log densities, and roundtrip errors."""
