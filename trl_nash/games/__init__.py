# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""
Games with a known answer: matrix games and their equilibria, every algorithm in exact arithmetic, and language models
small enough to be read out, on which the real trainers are checked.
"""

import importlib
from typing import TYPE_CHECKING


# Imported on first use: matrix games need NumPy and SciPy only, language games need torch and transformers.
_EXPORTS = {
    "matrix": ["MatrixGame", "kl_divergence"],
    "named": ["GAMES", "load_game"],
    "equilibria": ["nash_equilibrium", "nash_md_fixed_point", "regularized_equilibrium"],
    "dialogues.game": ["DialogueGame"],
    "dialogues.language": ["DialogueLanguageGame"],
    "dialogues.named": ["DIALOGUES"],
    "dialogues.fits": ["dialogue_pairs", "state_pairs"],
    "stability": ["rotation_rate"],
    ".algorithms.stability": ["contraction", "largest_stable_step", "minimum_reference_rounds"],
    "settings": ["check_stability"],
    "history": ["History"],
    "solvers": ["SOLVERS"],
    "sampled": ["SampledPairs"],
    "plots": ["gap_figure", "save_report", "simplex_figure"],
    "language": ["GameJudge", "LanguageGame"],
    "callback": ["GameCallback"],
    "players": ["PLAYERS", "play"],
}
_MODULE_OF = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = sorted(_MODULE_OF)

if TYPE_CHECKING:
    from ..algorithms.stability import contraction, largest_stable_step, minimum_reference_rounds
    from .callback import GameCallback
    from .dialogues.fits import dialogue_pairs, state_pairs
    from .dialogues.game import DialogueGame
    from .dialogues.language import DialogueLanguageGame
    from .dialogues.named import DIALOGUES
    from .equilibria import nash_equilibrium, nash_md_fixed_point, regularized_equilibrium
    from .history import History
    from .language import GameJudge, LanguageGame
    from .matrix import MatrixGame, kl_divergence
    from .named import GAMES, load_game
    from .players import PLAYERS, play
    from .plots import gap_figure, save_report, simplex_figure
    from .sampled import SampledPairs
    from .settings import check_stability
    from .solvers import SOLVERS
    from .stability import rotation_rate


def __getattr__(name: str):
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f".{_MODULE_OF[name]}", __name__), name)


def __dir__() -> list[str]:
    return __all__
