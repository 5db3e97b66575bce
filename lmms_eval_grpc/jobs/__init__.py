"""What a job is: its states, its specification, its events, its results and what can go wrong with it.

Pure data and rules. Nothing here does I/O, knows gRPC, protobuf, the store or the engine; only the standard library is
imported, so every other package may depend on this one.
"""
