"""Golden files: other projects' answers for weights that are made from names."""
