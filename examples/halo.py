"""Heat in a plate, its rows shared among the engines, which exchange their edges by MPI: Jacobi's method.

Run it with `pxcluster run -n 4 examples/halo.py`. The engines hold the data; the client sees what it asks for.
"""

import pxcluster as ipp

ROWS, COLUMNS, STEPS = 96, 64, 200

rc = ipp.Client()
engines = rc[:]
engines.push({"rows": ROWS, "columns": COLUMNS, "steps": STEPS}, block=True)

solve = """
import numpy as np
from mpi4py import MPI

world = MPI.COMM_WORLD  # the engines; the rank is the engine's id
above = world.rank - 1 if world.rank > 0 else MPI.PROC_NULL
below = world.rank + 1 if world.rank < world.size - 1 else MPI.PROC_NULL
first, last = (rows * part // world.size for part in (world.rank, world.rank + 1))
plate = np.zeros((last - first + 2, columns))  # with an edge of each neighbour
if above == MPI.PROC_NULL:
    plate[0] = 100.0

for step in range(steps):
    world.Sendrecv(plate[1], above, recvbuf=plate[-1], source=below)
    world.Sendrecv(plate[-2], below, recvbuf=plate[0], source=above)
    inner = (plate[:-2, 1:-1] + plate[2:, 1:-1] + plate[1:-1, :-2] + plate[1:-1, 2:]) / 4
    change = world.allreduce(abs(inner - plate[1:-1, 1:-1]).max(), MPI.MAX)
    plate[1:-1, 1:-1] = inner

mine = plate[1:-1]
"""
engines.execute(solve, block=True)
heat = engines.gather("mine", block=True)
print(f"{len(rc)} engines, {STEPS} steps: {heat.mean():.6f} degrees on average, last change {engines['change'][0]:.2e}")
