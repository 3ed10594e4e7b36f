# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
With this folder in PYTHONPATH no Python that is started can import `trl.experimental`: a TRL as it may be one day.

Python imports a module of this name when it starts.
"""

import sys
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType


EXPERIMENTAL = "trl.experimental"
ALIASING = "trl.models.utils"  # offers a function of `trl.experimental.utils` under its old name, until TRL ends that


class WithoutExperimental(MetaPathFinder):
    """Finds nothing of `trl.experimental`. While the alias is imported, there is what it asks for, and no more."""

    def find_spec(self, name, path=None, target=None):
        if name == EXPERIMENTAL or name.startswith(f"{EXPERIMENTAL}."):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        if name != ALIASING:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            utils = ModuleType(f"{EXPERIMENTAL}.utils")
            utils.create_reference_model = None
            sys.modules.update({EXPERIMENTAL: ModuleType(EXPERIMENTAL), utils.__name__: utils})
            try:
                execute(module)
            finally:
                del sys.modules[EXPERIMENTAL], sys.modules[utils.__name__]

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, WithoutExperimental())
