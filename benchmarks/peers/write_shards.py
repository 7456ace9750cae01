"""Writes the shards of one peer: `write_shards.py PEER PHOTOS OUT`."""

import csv
import importlib
import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    peer, photos, out = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    with (photos / "rows.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    out.mkdir(parents=True, exist_ok=True)
    kind = "webdataset" if peer == "energon" else peer
    module = importlib.import_module(f"{kind}_case")
    module.write([photos / "jpg" / row["s3_path"] for row in rows], [row["caption"] for row in rows], out)
    if peer == "energon":
        energon = str(Path(sys.executable).with_name("energon"))
        command = [
            energon,
            "prepare",
            str(out),
            "--non-interactive",
            "--split-ratio",
            "1,0,0",
            "--sample-type",
            "CrudeWebdataset",
        ]
        subprocess.run([*command, "--num-workers", "1", "--force-overwrite"], check=True, stdin=subprocess.DEVNULL)
