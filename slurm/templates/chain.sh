#!/bin/bash
# Jobs of which each starts when the one before has succeeded; when one fails, the rest is cancelled.
#
#   ./chain.sh                  # on the login node
#
set -euo pipefail

template=$(dirname "$0")/batch-srun.sbatch      # or another one; partition and account stand there
programs=(                      # yours, with their arguments
    "examples/pi.py 100000"
    "examples/pi.py 200000"
    "examples/pi.py 400000"
)

options=()
for program in "${programs[@]}"; do
    read -ra words <<<"$program"
    job=$(sbatch --parsable "${options[@]}" "$template" "${words[@]}")
    echo "job $job: $program"
    options=(--dependency="afterok:$job" --kill-on-invalid-dep=yes)
done
