"""Media that documents and messages name, decoded: ``images``."""
