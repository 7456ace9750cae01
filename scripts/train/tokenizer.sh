#!/usr/bin/env bash
# An image tokenizer, from any folder:  scripts/train/tokenizer.sh data=config/data/mine.yaml
# Before: `export HF_TOKEN=...` for gated tokenizers and weights; `export AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_REGION=...`
# for pictures in S3. For your machines: NUM_GPUS on this node, NUM_NODES, NODE_RANK of this one, MASTER_ADDR of node 0; and, as arguments,
# batch.global_size, batch.per_device (what fits one GPU), loader.workers, steps. Arguments are `a.b=c` of config/stage/tokenizer.yaml, or
# --print to see what would run. Relative paths start at the repository's folder.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH="$PWD/.venv/bin:$PATH" exec torchrun --nnodes "${NUM_NODES:-1}" --nproc-per-node "${NUM_GPUS:-1}" --node-rank "${NODE_RANK:-0}" \
    --master-addr "${MASTER_ADDR:-127.0.0.1}" --master-port "${MASTER_PORT:-29500}" -m unmask train config/stage/tokenizer.yaml "$@"
