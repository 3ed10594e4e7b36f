# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Libraries' warnings of what will change, which would come back in every round."""

import warnings
from contextlib import contextmanager


_warned: set[str] = set()  # in this process


@contextmanager
def warned_once():
    """
    Within it a FutureWarning of a text is shown once in a process. Python forgets which it has shown whenever anybody
    changes the filters, as `warnings.catch_warnings` does.
    """
    with warnings.catch_warnings():
        show = warnings.showwarning

        def show_once(message, category, *args, **kwargs):
            if issubclass(category, FutureWarning):
                if str(message) in _warned:
                    return
                _warned.add(str(message))
            show(message, category, *args, **kwargs)

        warnings.showwarning = show_once
        yield
