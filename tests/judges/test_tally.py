# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""What a judge's tally counts, worked out by hand."""

import copy
import math
import pickle
from collections import Counter

import pytest

from trl_nash.judges import PairwiseJudge
from trl_nash.judges.base import Abstained, Tally


class TableJudge(PairwiseJudge):
    def __init__(self, table, order="both", symmetric=False):
        self.table = table
        self.order = order
        self.symmetric = symmetric

    def judge(self, prompts, first, second):
        return [self.table.get(pair, 0.5) for pair in zip(first, second, strict=True)]


# P(a>b) + P(b>a) - 1 = .2 (and the first position wins twice), -.5, 0 and 0
TABLE = {
    **{("a", "b"): 0.6, ("b", "a"): 0.6},
    **{("a", "c"): 0.5, ("c", "a"): 0.0},
    **{("a", "d"): 1.0, ("d", "a"): 0.0},
    **{("a", "e"): 0.5, ("e", "a"): 0.5},
}


def test_orders():
    judge = TableJudge(TABLE)
    judge(["x"] * 6, ["a", "a", "d", "a", "a", "b"], ["b", "c", "a", "e", "a", "a"])
    tally = judge.tally
    assert (tally.asked, tally.cached, tally.both_orders, tally.flips) == (8, 0, 4, 1)
    assert tally.disagreement == pytest.approx(0.7)
    assert tally.position_bias == pytest.approx(0.175)
    assert tally.ties == 3  # a = e, and both rows of a and b: .6 in both orders is .5
    assert tally.abstained == {}


@pytest.mark.parametrize("options", [{"order": "fixed"}, {"order": "random"}, {"symmetric": True}], ids=str)
def test_one_order_says_nothing_of_position(options):
    judge = TableJudge(TABLE, **options)
    judge(["x"] * 2, ["a", "a"], ["b", "c"])
    assert (judge.tally.asked, judge.tally.both_orders) == (2, 0)
    assert math.isnan(judge.tally.position_bias)


def test_abstentions_by_reason():
    """Rows are counted; a pair that failed in one order has that order's reason, in both the first's."""
    judge = TableJudge(
        {
            **{("a", "b"): Abstained("server"), ("b", "a"): 0.9},
            **{("a", "c"): 0.9, ("c", "a"): Abstained("too long")},
            **{("a", "d"): Abstained("refused"), ("d", "a"): Abstained("unparsable")},
            **{("a", "e"): None, ("e", "a"): 0.5},
            **{("a", "f"): math.nan, ("f", "a"): 0.5},
        }
    )
    verdicts = judge(["x"] * 6, ["a", "a", "a", "a", "a", "b"], ["b", "c", "d", "e", "f", "a"])
    assert all(math.isnan(verdict) for verdict in verdicts)
    assert [getattr(verdict, "reason", None) for verdict in verdicts] == [
        *["server", "too long", "refused", None, None, "server"]
    ]
    assert judge.tally.abstained == {"server": 2, "too long": 1, "refused": 1, "no opinion": 2}
    assert judge.tally.both_orders == 0


def test_take_starts_anew():
    judge = TableJudge(TABLE)
    judge(["x"], ["a"], ["b"])
    assert judge.tally.take().asked == 2
    assert judge.tally == Tally()
    judge(["x"], ["a"], ["b"])
    assert judge.tally.asked == 2


def test_tallies_add_up():
    total = Tally(asked=1, disagreement=0.5, both_orders=1, abstained=Counter(server=1))
    total.add(Tally(asked=2, cached=3, disagreement=0.25, both_orders=2, abstained=Counter(server=1, refused=1)))
    assert total == Tally(asked=3, cached=3, both_orders=3, disagreement=0.75, abstained=Counter(server=2, refused=1))


def test_judges_have_their_own_tallies():
    one, other = TableJudge(TABLE), TableJudge(TABLE)
    one(["x"], ["a"], ["b"])
    assert (one.tally.asked, other.tally.asked) == (2, 0)


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda value: pickle.loads(pickle.dumps(value))])
def test_reasons_survive_copies(clone):
    silence = clone(Abstained("too long"))
    assert math.isnan(silence) and isinstance(silence, float)
    assert silence.reason == "too long" and repr(silence) == "Abstained('too long')"
    assert Abstained().reason == "no opinion"
