"""Seeded runs of whole clusters whose engines are killed while they work: every result comes, and comes once."""
