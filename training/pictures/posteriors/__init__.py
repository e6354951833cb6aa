"""Pictures of posteriors: of points, columns and images, of chains, and of checks."""
