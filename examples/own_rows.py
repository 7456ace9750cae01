"""Rows of your own: a CSV, a function that makes each row a conversation, a data YAML that names both, and a look at what a model would see.

    python examples/own_rows.py FOLDER        writes FOLDER/{pictures,ratings.csv,ratings.yaml,own_functions.py} and prints two rows

Afterwards all commands work on it: `unmask data show FOLDER/ratings.yaml --row 0`, or a stage with `data=FOLDER/ratings.yaml`.
"""

import argparse
import csv
from pathlib import Path

from PIL import Image

from unmask.data.records import Mixture
from unmask.data.spec import load_mixture

FUNCTION = '''\
"""Rows of ratings.csv as conversations in LLaVA form; `<image>` is where the picture is read."""


def rate(row, rng):
    """`row` holds the columns that the data YAML names; what is random must come from `rng`, so that a run can be resumed."""
    words = ["bad", "fair", "good"][int(row["stars"]) - 1]
    return {
        "image": row["picture"],
        "conversations": [
            {"from": "human", "value": f"<image>\\nHow good is this picture of {row['subject']}?"},
            {"from": "gpt", "value": f"It is {words}."},
        ],
    }
'''

DATA = """\
datasets:
  - name: ratings
    json_path: ratings.csv
    image_root: pictures          # an s3:// address does as well
    columns: [picture, subject, stars]
    preprocess_fn: own_functions:rate
    sampling_strategy: dup:2      # every row twice an epoch
"""

ROWS = [("red.png", "a wall", 2, (200, 40, 40)), ("sea.png", "the sea", 3, (30, 90, 200)), ("fog.png", "fog", 1, (200, 200, 205))]


def write(folder: Path) -> Path:
    """Write everything; the data YAML."""
    (folder / "pictures").mkdir(parents=True, exist_ok=True)
    for name, _, _, colour in ROWS:
        Image.new("RGB", (640, 480), colour).save(folder / "pictures" / name)
    with open(folder / "ratings.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["picture", "subject", "stars"])
        writer.writerows(row[:3] for row in ROWS)
    (folder / "own_functions.py").write_text(FUNCTION, encoding="utf-8")
    (folder / "ratings.yaml").write_text(DATA, encoding="utf-8")
    return folder / "ratings.yaml"


def main() -> None:
    """Write, open, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    file = write(parser.parse_args().folder)
    mixture = Mixture(load_mixture(file), file.parent, file.parent / "cache", seed=0)
    draws, _ = mixture.order.step(mixture.order.start(), 2)
    for draw in draws:
        dataset, record = mixture.record(draw)
        print(record.describe())
        print(dataset.conversation(record, mixture.generator(draw, "row")).describe(), end="\n\n")


if __name__ == "__main__":
    main()
