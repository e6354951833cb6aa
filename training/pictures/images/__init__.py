"""Pictures of images: their paths through time, samples, roundtrips, and folders of them."""
