"""Pictures of posteriors: points, columns, images, chains, and checks."""
