# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Values of every kind that a file, a dataset or a judge may hold, and what may be raised about them."""

import contextlib

from hypothesis import strategies as st


CHARACTERS = st.one_of(
    st.characters(),  # no surrogates
    st.sampled_from("\ud800\udfff\x00\x1b\u202e\ufeff\n\r\t \u2028{}[]<>|"),
)
MARKS = ["<|im_start|>", "<eos>", "<bos>", "{{ 7*7 }}", "{% for x in [] %}", "[bold red]", "\x1b[31m", "[RESPONSE B]"]
TEXTS = st.one_of(
    st.text(CHARACTERS, max_size=20),
    st.lists(st.sampled_from([*MARKS, "a", "b c"]), max_size=5).map(" ".join),
    st.sampled_from(["", " ", "\x00", "\ud800", "a " * 3000]),
)
NUMBERS = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.sampled_from([10**400, -(10**400), 5e-324, 1e-300, 1e300, -0.0]),
)
SCALARS = st.one_of(st.none(), NUMBERS, TEXTS)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=8,
)


@contextlib.contextmanager
def complaints(*kinds: type[Exception]):
    """Failures in here are of these kinds, and say something on one line."""
    try:
        yield
    except kinds as error:
        assert str(error).strip(), "an error without a message"
