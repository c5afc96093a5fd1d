"""Public repositories and web crawls in, tokenized training shards out. See DESIGN in README.md."""
