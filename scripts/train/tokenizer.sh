#!/usr/bin/env bash
# An image tokenizer: pictures as codes. Before: nothing.
#   scripts/train/tokenizer.sh data=config/data/mine.yaml
# Your machines: NUM_GPUS (default: all of this node), NUM_NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; your keys: HF_TOKEN, AWS_*.
# Arguments: a.b=c of config/stage/tokenizer.yaml (batch.global_size, batch.per_device, steps, ...), or --print to see what would run.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" config/stage/tokenizer.yaml "$@"
