"""A map that is cut short and goes on: ``pxcluster run resumable.py checkpoint [items]``.

Results are in the file named ``checkpoint`` within a second, and a start computes what the file does not have. In a
batch job ``pxcluster run --requeue`` puts the job back into the queue when its time is over; see
``slurm/templates/requeue.sbatch``.
"""

import sys

import pxcluster as ipp


def work(item: int) -> int:
    """Yours."""
    return item * item


def main() -> None:
    """Computes what is missing, and prints how much that was."""
    path, items = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 100
    results = ipp.Client().load_balanced_view().map_async(work, range(items), checkpoint=path)
    finished = results.tries.count(0)
    print(f"{finished} items are finished, {items - finished} are missing", flush=True)
    print(f"all {items} items are finished, their sum is {sum(results.get())}")


if __name__ == "__main__":
    main()
