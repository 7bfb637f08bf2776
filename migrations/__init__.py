"""Changes of the schema, each only expanding or only contracting."""
