"""One suite for two packages: what ipyparallel does, pxcluster does, or docs/ipyparallel-compat.md has a row for it."""
