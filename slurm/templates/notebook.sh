#!/bin/bash
# A notebook here, on the login node, with a cluster in an allocation; both end together. For Open MPI.
#
#   ./notebook.sh               # in the notebook: rc = ipp.Client()
#
set -euo pipefail

program=(jupyter lab --no-browser)
options=(
    --job-name=pxcluster
    --ntasks=5                  # 4 engines; rank 0 is the controller
    --cpus-per-task=1           # cores for each of them
    --time=02:00:00
    # --partition=compute
    # --account=project
)
# Without an allocation: wait for one, and begin again in it.
[ -n "${SLURM_JOB_ID:-}" ] || exec salloc "${options[@]}" "$0"

# module load openmpi
# shellcheck source=/dev/null
. ~/venv/bin/activate           # on a file system that all nodes and the login node share

export OMP_NUM_THREADS=$SLURM_CPUS_PER_TASK PXCLUSTER_CLUSTER_ID=job-$SLURM_JOB_ID

srun --mpi=pmix --cpus-per-task="$SLURM_CPUS_PER_TASK" --kill-on-bad-exit=0 pxcluster &
cluster=$!
until [ -e "${PXCLUSTER_DIR:-$HOME/.pxcluster}/$PXCLUSTER_CLUSTER_ID/connection.json" ]; do
    kill -0 "$cluster" 2>/dev/null || exit 1    # srun has said why
    sleep 1
done
trap 'pxcluster stop || kill "$cluster"; wait "$cluster"' EXIT
pxcluster status                # fails, and says so, when this host cannot reach the cluster
"${program[@]}"
