"""Counts the samples that a model of lmms-eval answers, in a process that has this folder on its path.

lmms-eval is not changed: ``generate`` of transformers notes the rows of each of its batches in the file that the
environment variable COUNT_ANSWERS names.
"""

import importlib.abc
import importlib.util
import os
import pathlib
import sys

_TARGET = "transformers.generation.utils"


class _Counting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(self, name, path=None, target=None):
        if name != _TARGET:
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        self._loader, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        self._loader.exec_module(module)
        generate = module.GenerationMixin.generate

        def counted(self, *arguments, **options):
            output = generate(self, *arguments, **options)
            with pathlib.Path(os.environ["COUNT_ANSWERS"]).open("a") as counter:
                counter.write("answered\n" * len(output))
            return output

        module.GenerationMixin.generate = counted


if "COUNT_ANSWERS" in os.environ:
    sys.meta_path.insert(0, _Counting())
