#!/usr/bin/env bash
# torchrun for this node: scripts/launch.sh STAGE_FILE [a.b=c ...] [--print]
# NUM_GPUS of this node (default: all there are; one process without any), NUM_NODES, NODE_RANK of this one, MASTER_ADDR and MASTER_PORT of
# node 0. HF_TOKEN, for gated repositories, and AWS_* are read by the downloads alone. Relative paths start at the repository's folder.
# NUM_NODES=2:4 trains with 2 to 4 nodes: when one is lost or comes, all start again from the last checkpoint (NODE_ADDR of this one,
# RDZV_CONF: how patient they are, see torchrun --rdzv-conf). The node at MASTER_ADDR must stay.
# batch.global_size must be a multiple of what each number of nodes takes at a time.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
gpus=${NUM_GPUS:-$(nvidia-smi -L 2>/dev/null | grep -c '^GPU ' || true)}
nodes=${NUM_NODES:-1} address=${MASTER_ADDR:-127.0.0.1} port=${MASTER_PORT:-29500}
meet=(--node-rank "${NODE_RANK:-0}" --master-addr "$address" --master-port "$port")
if [[ $nodes == *:* ]]; then
    export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 # every start gets a store of its own, without what the last one left in it
    meet=(--rdzv-backend c10d --rdzv-endpoint "$address:$port" --rdzv-id unmask --max-restarts 100)
    meet+=(${NODE_ADDR:+--local-addr "$NODE_ADDR"} ${RDZV_CONF:+--rdzv-conf "$RDZV_CONF"})
fi
PATH="$PWD/.venv/bin:$PATH" exec torchrun --nnodes "$nodes" --nproc-per-node "$((gpus > 0 ? gpus : 1))" "${meet[@]}" -m unmask train "$@"
