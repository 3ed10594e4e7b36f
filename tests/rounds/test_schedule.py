# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""Where in a run a micro-step is: the loops of the papers, written out."""

from hypothesis import given
from hypothesis import strategies as st

from trl_nash.rounds.schedule import Place, Schedule


COUNTS = st.integers(1, 5)


@given(steps=COUNTS, iterations=COUNTS, fits=st.integers(1, 3), rounds=COUNTS)
def test_places_are_those_of_the_loops(steps, iterations, fits, rounds):
    """Round by round, fit by fit, pass by pass, step by step: each place once and in this order."""
    schedule = Schedule(steps, iterations, fits)
    looped = [
        Place(round, fit, iteration, step)
        for round in range(rounds)
        for fit in range(fits)
        for iteration in range(iterations)
        for step in range(steps)
    ]
    assert [schedule.place(number) for number in range(len(looped))] == looped
    assert len(looped) == rounds * schedule.micro_steps_per_round
    assert schedule.micro_steps_per_round == fits * schedule.micro_steps_per_fit


@given(steps=COUNTS, iterations=COUNTS, fits=st.integers(1, 3), number=st.integers(0, 10**6))
def test_a_place_says_what_begins(steps, iterations, fits, number):
    """A fit begins where the one before has had its passes, a round where the one before has had its fits."""
    schedule = Schedule(steps, iterations, fits)
    place = schedule.place(number)
    assert place.begins_fit == (number % schedule.micro_steps_per_fit == 0)
    assert place.begins_round == (number % schedule.micro_steps_per_round == 0)
    assert place.round == number // schedule.micro_steps_per_round


@given(optimizer_steps=COUNTS, accumulation=COUNTS, round=COUNTS)
def test_the_second_half_of_a_fit_is_counted_in_optimizer_steps(optimizer_steps, accumulation, round):
    """So that it holds the same pairs whether micro-batches follow each other or lie on several processes."""
    schedule = Schedule(optimizer_steps * accumulation, accumulation=accumulation)
    places = [Place(round, 0, 0, step) for step in range(schedule.steps)]
    ends = [schedule.in_second_half(place) for place in places[::accumulation]]
    assert ends == [step >= optimizer_steps // 2 for step in range(optimizer_steps)]
    assert all(schedule.in_second_half(place) == ends[place.step // accumulation] for place in places)


@given(steps=COUNTS, iterations=COUNTS, fits=st.integers(1, 3), accumulation=COUNTS, number=st.integers(0, 10**3))
def test_a_policy_is_as_sampled_until_a_round_has_had_a_step(steps, iterations, fits, accumulation, number):
    """A round of `steps` micro-batches knows each of them once before it knows their policy no more."""
    schedule = Schedule(steps, iterations, fits, accumulation)
    within = number % schedule.micro_steps_per_round
    assert schedule.is_as_sampled(schedule.place(number)) == (within < accumulation and within < steps)
