"""Pictures of coverage: the fractions inside boundaries, and where a flow carries these."""
