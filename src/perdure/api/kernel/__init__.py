"""HTTP underneath the routes: routing, decoding, problems, entity tags, streams."""
