"""Small stages for tests of the spine: a source, a filter, a merge by key."""
