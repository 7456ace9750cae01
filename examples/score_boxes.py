"""The share of phrases whose box is right (IoU of at least 0.5) on any parquet file of pictures, phrases and boxes.

    python examples/score_boxes.py demo-out/runs/s3-unified boxes.parquet

Columns: `picture` (a path or address), `phrase`, and `box`, a list of left, top, right, bottom in pixels.
"""

import argparse
from collections.abc import Sequence

import pyarrow.parquet as pq

import unmask


def overlap(one: Sequence[float], other: Sequence[float]) -> float:
    """Shared area over joint area of two boxes."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)]
    return shared / (sum(areas) - shared) if shared else 0.0


def main() -> None:
    """Find all, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint")
    parser.add_argument("boxes", help="parquet file")
    options = parser.parse_args()

    rows = pq.read_table(options.boxes, columns=["picture", "phrase", "box"]).to_pylist()
    model = unmask.load(options.checkpoint)
    found = model.ground([row["picture"] for row in rows], [[row["phrase"]] for row in rows])
    right = sum(overlap(boxes[0].box, row["box"]) >= 0.5 for boxes, row in zip(found, rows, strict=True))
    print(f"{right} of {len(rows)} right: {right / len(rows):.1%}")


if __name__ == "__main__":
    main()
