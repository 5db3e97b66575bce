"""Tasks' own code comes from the tree of task files; only helpers that they share lie here."""
