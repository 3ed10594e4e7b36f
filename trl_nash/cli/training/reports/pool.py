# Copyright 2026 The trl-nash authors. Licensed under the Apache License, Version 2.0.
# SPDX-License-Identifier: Apache-2.0

"""The opponent pool at the end of a training command: its table, its files, and how to play on with it."""

from pathlib import Path
from typing import TYPE_CHECKING

from ....figures.style import figures_missing


if TYPE_CHECKING:
    from ....trainers.run.pool import OpponentPoolCallback


def print_pool(pool: "OpponentPoolCallback", output_dir: str) -> None:
    """
    Writes the report of a pool, and prints its table.

    Args:
        pool ([`OpponentPoolCallback`]): of a run that is over, on the main process.
        output_dir (`str`): of the run.
    """
    from rich.console import Console

    from ....evaluation.arena.report import print_standings
    from ....evaluation.frozen import POOL_FOLDER

    folder, console = Path(output_dir) / POOL_FOLDER, Console(highlight=False)
    reports = pool.save_report()
    for page, standings in reports.items():
        inside = page.parent.relative_to(folder)
        of = "" if inside == Path() else f" on {inside}"
        console.print(f"\nThe opponent pool{of}, with the policy that was evaluated last:", markup=False)
        print_standings(console, standings)
    missing = figures_missing()
    written = (
        f"{', '.join(map(str, reports))}, with the tables{'' if missing else ' and figures'} beside it. "
        if reports
        else "Nobody to compare: there is one policy, or one prompt. "
    )
    console.print(
        f"\n{written}{f'{missing} ' if missing else ''}`trl-nash arena {folder}` plays its policies on other prompts.",
        soft_wrap=True,
        markup=False,
    )
