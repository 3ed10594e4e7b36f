# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Named games against closed forms, and files that hold games or do not."""

import json
import re

import numpy as np
import pytest

from trl_nash.games.equilibria import nash_equilibrium
from trl_nash.games.named import (
    GAMES,
    bradley_terry,
    condorcet,
    dice,
    load_game,
    random_game,
    raters,
    rock_paper_scissors,
    weak_edge,
)


CYCLE = [[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]]


@pytest.mark.parametrize("name", GAMES)
def test_every_name_loads(name):
    game = load_game(name)
    assert len(game) >= 3
    np.testing.assert_array_equal(game.preferences, GAMES[name]().preferences)


def test_comal_cycle_is_the_papers():
    np.testing.assert_allclose(load_game("comal-cycle").preferences, CYCLE, atol=1e-16)


def test_rock_paper_scissors():
    game = rock_paper_scissors()
    rock, paper, scissors = (game.actions.index(name) for name in ("rock", "paper", "scissors"))
    assert game.preferences[rock, scissors] == game.preferences[scissors, paper] == game.preferences[paper, rock] == 1
    assert rock_paper_scissors(0.8).preferences[rock, scissors] == pytest.approx(0.8)


def test_dice_by_enumeration():
    p = dice().preferences
    assert p[0, 1] == p[1, 2] == p[2, 0] == pytest.approx(5 / 9)
    ties = dice([(1, 2), (2, 3), (1, 3)]).preferences  # 1 tie and 3 losses among 4 throws
    assert ties[0, 1] == pytest.approx(0.125)
    with pytest.raises(ValueError, match="at least one face"):
        dice([(1, 2), (), (3,)])


def test_raters_by_majority():
    shares = {"abc": 0.4, "bca": 0.35, "cab": 0.25}
    game = raters(list(shares.values()))
    for i, first in enumerate("abc"):
        for j, second in enumerate("abc"):
            if i != j:
                expected = sum(s for order, s in shares.items() if order.index(first) < order.index(second))
                assert game.preferences[i, j] == pytest.approx(expected)


@pytest.mark.parametrize("shares", [[0.5, 0.5], [0.5, 0.6, 0.2], [1.2, -0.2, 0], [np.nan, 0.5, 0.5]])
def test_bad_shares(shares):
    with pytest.raises(ValueError, match="`shares` must be three numbers"):
        raters(shares)


def test_weak_edge_is_a_cycle_with_a_near_tie():
    p = weak_edge().preferences
    assert (p[0, 1], p[1, 2], p[2, 0]) == pytest.approx((0.9, 0.9, 0.51))
    # The weight of an answer is in proportion to the edge between the other two.
    np.testing.assert_allclose(nash_equilibrium(weak_edge()), np.array([0.4, 0.01, 0.4]) / 0.81, atol=1e-15)


def test_condorcet_has_a_winner_and_a_cycle():
    game = condorcet()
    assert (game.advantage[0, 1:] > 0).all()
    a = game.advantage[1:, 1:]
    assert a[0, 1] > 0 and a[1, 2] > 0 and a[2, 0] > 0
    assert nash_equilibrium(game).tolist() == [1, 0, 0, 0]


def test_bradley_terry():
    p = bradley_terry([0, 1, 3]).preferences
    assert p[2, 1] == pytest.approx(1 / (1 + np.exp(-2)))
    with pytest.raises(ValueError, match="`rewards` must be a list"):
        bradley_terry([[0, 1], [1, 2]])


@pytest.mark.parametrize("size", [3, 4, 5, 8, 20])
def test_random_games_have_no_condorcet_winner(size):
    for seed in range(20):
        game = random_game(size, seed)
        assert len(game) == size
        assert not any((np.delete(row, i) > 0).all() for i, row in enumerate(game.advantage))
    np.testing.assert_array_equal(random_game(size, 3).preferences, random_game(size, 3).preferences)
    assert (random_game(size, 3).preferences != random_game(size, 4).preferences).any()


def test_random_by_spec():
    np.testing.assert_array_equal(load_game("random:8").preferences, random_game(8, 0).preferences)
    np.testing.assert_array_equal(load_game("random:8:3").preferences, random_game(8, 3).preferences)


@pytest.mark.parametrize(
    "spec, message",
    [
        ("comal-cycel", "There is no game 'comal-cycel': did you mean 'comal-cycle'? There are comal-cycle, "),
        ("zzz", "There is no game 'zzz': there are comal-cycle, rock-paper-scissors"),
        ("", "There is no game ''"),
        ("dice:3", "There is no game 'dice:3'"),
        ("random:x", "write random:SIZE or random:SIZE:SEED"),
        ("random:8:3:1", "write random:SIZE or random:SIZE:SEED"),
        ("random:-3", "write random:SIZE or random:SIZE:SEED"),
        ("random:2", "`size` must be at least 3, got 2"),
        ("preferences.pkl", "There is no game 'preferences.pkl'"),
    ],
)
def test_unknown_games(spec, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        load_game(spec)


def write(path, content):
    if isinstance(content, np.ndarray):
        np.save(path, content)
    else:
        path.write_text(content, encoding="utf-8")
    return str(path)


ROWS = [[str(value) for value in row] for row in CYCLE]


@pytest.mark.parametrize(
    "name, content, actions",
    [
        ("g.csv", "\n".join(map(",".join, ROWS)), "abc"),
        ("g.CSV", "\r\n".join(map(", ".join, [["x", "y", "z"], *ROWS])) + "\r\n\r\n", "xyz"),
        ("g.csv", "\ufeff" + "\n".join(map(",".join, ROWS)), "abc"),
        ("g.tsv", "\n".join(map("\t".join, [["x", "y", "z"], *ROWS])), "xyz"),
        ("g.json", json.dumps(CYCLE), "abc"),
        ("g.json", json.dumps({"preferences": CYCLE}), "abc"),
        ("g.json", json.dumps({"preferences": CYCLE, "actions": ["x", "y", "z"]}), "xyz"),
        ("g.npy", np.array(CYCLE), "abc"),
    ],
)
def test_files(tmp_path, name, content, actions):
    game = load_game(write(tmp_path / name, content))
    np.testing.assert_allclose(game.preferences, CYCLE, atol=1e-16)
    assert game.actions == tuple(actions)


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("g.csv", "", "it is empty"),
        ("g.csv", "0.5,0.1\n0.9", "rows have from 1 to 2 cells"),
        ("g.csv", "0.5,x\n0.9,0.5", "could not convert string to float: 'x'"),
        ("g.csv", "0.5,0.1,0.2\n0.9,0.5,0.3", "got shape (2, 3)"),
        ("g.csv", "x,y\n0.5,0.3\n0.6,0.5", "P[0, 1] + P[1, 0] = 0.9 must be 1"),
        ("g.csv", "x,y,z\n0.5,0.3\n0.7,0.5", "`actions` must name the 2 answers"),
        ("g.csv", "0.5,nan\n0.5,0.5", "P[0, 1] is nan"),
        ("g.json", "{", "cannot be used: Expecting property name"),
        ("g.json", '{"matrix": []}', 'must have "preferences"'),
        ("g.json", '"text"', "square matrix of numbers"),
        ("g.json", '{"preferences": [[0.5, 0.5], [0.5, 0.5]], "actions": 3}', '"actions" must be a list of names'),
        ("g.npy", np.array([{}, {}], dtype=object), "allow_pickle=False"),
        ("g.npy", "no array", "cannot be used"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    path = write(tmp_path / name, content)
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        load_game(path)
    assert str(caught.value).startswith(f"The game file {path} cannot be used: ")
    assert ".." not in str(caught.value).replace(path, "")


def test_missing_file_and_directory(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: No such file or directory"):
        load_game(str(tmp_path / "none.csv"))
    (tmp_path / "folder.json").mkdir()
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        load_game(str(tmp_path / "folder.json"))


def test_binary_text_file(tmp_path):
    (tmp_path / "g.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="cannot be used"):
        load_game(str(tmp_path / "g.csv"))
