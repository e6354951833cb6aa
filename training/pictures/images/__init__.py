"""Pictures of images: paths through time, samples, roundtrips, and folders of images."""
