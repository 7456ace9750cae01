#!/usr/bin/env bash
# torchrun for this node: scripts/launch.sh STAGE_FILE [a.b=c ...] [--print]
# NUM_GPUS of this node (default: all there are; one process without any), NUM_NODES, NODE_RANK of this one, MASTER_ADDR and MASTER_PORT of
# node 0. HF_TOKEN, for gated repositories, and AWS_* are read by the downloads alone. Relative paths start at the repository's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
gpus=${NUM_GPUS:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)}
PATH="$PWD/.venv/bin:$PATH" exec torchrun --nnodes "${NUM_NODES:-1}" --nproc-per-node "$((gpus > 0 ? gpus : 1))" \
    --node-rank "${NODE_RANK:-0}" --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" -m unmask train "$@"
