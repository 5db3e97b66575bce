"""What several of the shipped benchmarks share: prompts, option letters, answer normalisation, groups, judge, files.

Task functions import from here by full path, and YAML files name functions here as
``!function lmms_eval_grpc.benchmarks._shared.documents.one_image``. What one benchmark alone needs lives beside its
YAML file. Standard library only, but for the judge and the place of media, which are the engine's.
"""
