"""Engines die while they work, and every result comes once. More seeds: `scripts/test --chaos 200`."""

from __future__ import annotations

import pytest

from .driver import LIMIT, run_seed


@pytest.mark.slow
@pytest.mark.timeout(2 * LIMIT)
@pytest.mark.parametrize("seed", range(20))
def test_every_result_comes_once(seed: int) -> None:
    outcome = run_seed(seed)
    assert outcome.ok, outcome.failure()
