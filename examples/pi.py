"""An estimate of pi by random points, on whichever engine is idle: ``pxcluster run pi.py [points]``."""

import sys

import pxcluster as ipp

PORTION = 10_000


def inside(seed: int, points: int) -> int:
    """How many random points of the unit square lie in the quarter circle."""
    import random  # on the engine

    draw = random.Random(seed).random
    return sum(draw() ** 2 + draw() ** 2 <= 1 for _ in range(points))


def main() -> None:
    """Asks the cluster, and prints."""
    portions = max(1, int(sys.argv[1]) // PORTION) if len(sys.argv) > 1 else 100
    rc = ipp.Client()
    counts = rc.load_balanced_view().map(inside, range(portions), [PORTION] * portions, ordered=False)
    points = portions * PORTION
    print(f"pi is about {4 * sum(counts) / points:.4f}: {points} points, {len(rc)} engines")


if __name__ == "__main__":
    main()
