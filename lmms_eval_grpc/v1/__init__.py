"""Generated messages and stubs of the public contract. Made from ``protos/`` by ``scripts/generate``."""
