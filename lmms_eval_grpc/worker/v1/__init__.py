"""Generated messages of the frames between server and workers. Regenerate with ``scripts/generate``."""
