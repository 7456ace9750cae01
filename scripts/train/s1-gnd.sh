#!/usr/bin/env bash
# Stage 1: understanding and grounding.
# Before: unmask convert LAVIDA weights/start --stage1 --vq VQVAE
#   scripts/train/s1-gnd.sh data=config/data/mine.yaml init=weights/start
# Your machines: NUM_GPUS (default: all of this node), NUM_NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; your keys: HF_TOKEN, AWS_*.
# Arguments: a.b=c of config/stage/s1-gnd.yaml (batch.global_size, batch.per_device, steps, ...), profile=published-scripts,
# or --print to see what would run. `unmask stages` shows all stages, `unmask plan config/stage/s1-gnd.yaml --gpus 8` what they take.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" config/stage/s1-gnd.yaml "$@"
