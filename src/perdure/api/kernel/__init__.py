"""HTTP below the routes: routing, decoding, problem documents, entity tags, streams."""
