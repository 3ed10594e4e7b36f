# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

import json

import numpy as np
import pytest
from anything import NUMBERS, SCALARS, TEXTS, VALUES, complaints
from hypothesis import given
from hypothesis import strategies as st

from trl_nash.games import MatrixGame, load_game, nash_equilibrium, regularized_equilibrium


@st.composite
def matrices(draw):
    """P + Pᵀ = 1, or nearly so, or with one entry that is anything."""
    size = draw(st.integers(2, 5))
    entries = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.5, 1.0, 0.5 + 1e-7, 1e-300]))
    matrix = [[0.5] * size for _ in range(size)]
    for i in range(size):
        for j in range(i):
            matrix[i][j] = draw(entries)
            matrix[j][i] = 1 - matrix[i][j]
    if draw(st.integers(0, 3)) == 0:
        row = draw(st.integers(0, size - 1))
        matrix[row][draw(st.integers(0, size - 1))] = draw(SCALARS)
    return matrix


def check(game: MatrixGame) -> None:
    assert np.isfinite(game.preferences).all() and game.preferences.min() >= 0 and game.preferences.max() <= 1
    np.testing.assert_array_equal(game.preferences + game.preferences.T, 1.0)


@given(st.one_of(matrices(), VALUES), st.one_of(st.none(), VALUES))
def test_matrices(matrix, actions):
    with complaints(ValueError):
        check(MatrixGame(matrix, actions))


@given(
    matrices(), st.one_of(NUMBERS, st.floats(1e-3, 10)), st.one_of(st.none(), st.lists(NUMBERS, max_size=5), VALUES)
)
def test_equilibria_are_equilibria(matrix, beta, reference):
    with complaints(ValueError):
        game = MatrixGame(matrix)
        with complaints(ValueError):
            policy = nash_equilibrium(game)
            assert policy.min() >= 0 and policy.sum() == pytest.approx(1) and game.duality_gap(policy) <= 1e-12
        reference = np.full(len(game), 1 / len(game)) if reference is None else reference
        policy = regularized_equilibrium(game, reference, beta).policy
        assert policy.min() >= 0 and policy.sum() == pytest.approx(1)
        # Of a sum that β multiplies, rounding leaves more.
        assert abs(game.regularized_duality_gap(policy, reference, beta)) < 0.01 + 1e-14 * beta


@given(st.one_of(TEXTS, st.from_regex(r"(random|dice)(:[0-9²٣]{0,3}){0,3}", fullmatch=True)))
def test_names(spec):
    with complaints(ValueError):
        check(load_game(spec))


@given(
    st.sampled_from([".csv", ".tsv", ".json", ".npy"]),
    st.one_of(
        st.binary(max_size=60),
        st.one_of(matrices(), VALUES).map(lambda value: json.dumps(value).encode()),
        st.one_of(matrices(), VALUES).map(lambda value: json.dumps({"preferences": value}).encode()),
        matrices().map(lambda rows: "\n".join(",".join(map(str, row)) for row in rows).encode(errors="replace")),
        st.tuples(st.integers(0, 200), st.binary(max_size=3)).map(lambda change: spoiled(*change)),
    ),
)
def test_files(tmp_path, suffix, content):
    path = tmp_path / f"game{suffix}"
    path.write_bytes(content)
    with complaints(ValueError):
        check(load_game(str(path)))


def spoiled(place: int, change: bytes) -> bytes:
    """A game in NumPy's format with other bytes at a place."""
    import io

    file = io.BytesIO()
    np.save(file, np.full((2, 2), 0.5))
    content = file.getvalue()
    return content[:place] + change + content[place + len(change) :]


# What was found.


@pytest.mark.parametrize(
    "matrix", [[[10**400, 0], [0, 0.5]], np.full((2, 2), 0.5 + 1j), [["a", "b"], ["c", "d"]], 1, None]
)
def test_found_matrices(matrix):
    with pytest.raises(ValueError, match="A game is a square matrix"):
        MatrixGame(matrix)


@pytest.mark.parametrize("actions", [5, [["a"], ["b"]], [{}, {}], [1, 2], [None, None]])
def test_found_actions(actions):
    with pytest.raises(ValueError, match="must name the 2 answers"):
        MatrixGame([[0.5, 0.5], [0.5, 0.5]], actions)


@pytest.mark.parametrize("beta", [None, "1", 10**400, 1j, [1], 5e-324, float("nan")])
def test_found_betas(beta):
    """5e-324 made the best response nan: its inverse is infinite."""
    game = load_game("comal-cycle")
    for call in (game.regularized_best_response, game.regularized_duality_gap):
        with pytest.raises(ValueError, match="must be a positive number"):
            call([1, 0, 0], [1, 0, 0], beta)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("field.csv", b"x" * 200_000),
        ("deep.json", b"[" * 100_000),
        ("large.json", b"[[1" + b"0" * 400 + b", 0], [0, 0.5]]"),
        ("empty.npy", b""),
        ("archive.npy", b"PK\x03\x04"),
        ("header.npy", spoiled(50, b"(**(")),
        ("huge.npy", spoiled(0, b"").replace(b"(2, 2), }" + b" " * 12, b"(99999999, 9999999), }")),
    ],
)
def test_found_files(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match="The game file .* cannot be used"):
        load_game(tmp_path / name)


def test_pickles_are_not_loaded(tmp_path):
    np.save(tmp_path / "game.npy", np.array([[0.5, object()], [0.5, 0.5]], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="allow_pickle=False"):
        load_game(str(tmp_path / "game.npy"))


@pytest.mark.parametrize("spec", ["random:1000000", "random:3:" + "9" * 5000])
def test_random_games_that_no_machine_holds(spec):
    with pytest.raises(ValueError, match="at most"):
        load_game(spec)
