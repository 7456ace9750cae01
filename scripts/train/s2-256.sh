#!/usr/bin/env bash
# Stage 2 at 256 px: drawing.
# Before: scripts/train/s1-gnd.sh
#   scripts/train/s2-256.sh data=config/data/mine.yaml init=runs/s1-gnd
# Your machines: NUM_GPUS (default: all of this node), NUM_NODES, NODE_RANK, MASTER_ADDR, MASTER_PORT; your keys: HF_TOKEN, AWS_*.
# Arguments: a.b=c of config/stage/s2-256.yaml (batch.global_size, batch.per_device, steps, ...), profile=published-scripts,
# or --print to see what would run. `unmask stages` shows all stages, `unmask plan config/stage/s2-256.yaml --gpus 8` what they take.
set -euo pipefail
exec "$(dirname "${BASH_SOURCE[0]}")/../launch.sh" config/stage/s2-256.yaml "$@"
