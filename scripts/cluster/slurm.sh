#!/usr/bin/env bash
# A stage on Slurm, one launcher a node:
#   sbatch --nodes 8 scripts/cluster/slurm.sh scripts/train/s1-gnd.sh data=config/data/mine.yaml out=/shared/runs/s1-gnd
# The repository, the records and `out` must be on a file system that all nodes see. A job that is stopped and submitted again goes on.
#SBATCH --job-name=unmask
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=64
#SBATCH --exclusive
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
set -euo pipefail
cd "$SLURM_SUBMIT_DIR"
NUM_NODES=$SLURM_JOB_NUM_NODES
NUM_GPUS=${SLURM_GPUS_ON_NODE:-}
hosts=$(scontrol show hostnames "$SLURM_JOB_NODELIST")
MASTER_ADDR=${hosts%%$'\n'*}
MASTER_PORT=$((20000 + SLURM_JOB_ID % 20000))
export NUM_NODES NUM_GPUS MASTER_ADDR MASTER_PORT
# shellcheck disable=SC2016  # SLURM_NODEID differs from task to task, so it is read there
exec srun --kill-on-bad-exit=1 bash -c 'NODE_RANK=$SLURM_NODEID exec "$@"' launch "$@"
