"""The trained model that ships with the package, `builtin:demo`: how it is kept, and what each way of using it scores.

    python -m unmask.demo.stored demo-out/runs/s3-unified

takes the place of the one before with the last stage of a demo, and writes what it scores beside it. Tests ask the same again: a change in
decoding that makes a trained model worse shows, whatever its shapes and ids look like.
"""

import argparse
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import files
from itertools import permutations
from pathlib import Path

from rich.console import Console

from unmask.data.boxes import BINS
from unmask.demo.exam import ANSWERING, DRAWING, OVERLAP, Exam, sit
from unmask.demo.reading import overlap, relation_of, score
from unmask.demo.scenes import Scene, caption, split
from unmask.demo.story import EXAM_SEED, SEED, SIZE, TOLD
from unmask.infer.drawing import Drawing
from unmask.infer.pipelines import LoadedModel, load
from unmask.infer.planning import Plan
from unmask.infer.pointing import GroundingConfig
from unmask.infer.text import TextConfig
from unmask.model.weights import convert

NAME = "builtin:demo"
SCENES = 32
PLANNING = TextConfig(max_new_tokens=64, block_length=16, temperature=0.0)
TRIES = 2


def exam() -> Exam:
    """What the stored model is asked: the first scenes of the demo's exam."""
    return Exam.about(split(SEED, TOLD)[1][:SCENES], EXAM_SEED, SIZE)


def measure(model: LoadedModel, asked: Exam) -> dict[str, float]:
    """How much a model gets right, by the way it is used; each a share of `asked`.

    The tasks of the demo's exam; boxes in a single pass, and answers from kept prompts; captions that are planned, and that are drawn
    again after the model has judged its first picture.
    """
    sheet = sit(model, asked, SCENES, SCENES)
    pictures = [picture.image for picture in asked.pictures]
    found = model.ground(pictures, [[words for words, _ in pair] for pair in asked.sought], GroundingConfig(steps=1))
    boxes = [
        overlap(box, located.box)
        for pair, answers in zip(asked.sought, found, strict=True)
        for (_, box), located in zip(pair, answers, strict=True)
    ]
    captions = [caption(scene) for scene in asked.scenes]
    said = model.understand(
        [pictures[each.number] for each in asked.asked], [each.words for each in asked.asked], replace(ANSWERING, cache="dual")
    )
    plans = model.plan(captions, config=PLANNING)
    again = model.generate(captions, DRAWING, reflect=TRIES)
    return {
        **sheet.scores(),
        "grounding, one pass": _share([each >= OVERLAP for each in boxes]),
        "questions, kept prompt": _share(
            [each.text.strip() == wanted.right for each, wanted in zip(said, asked.asked, strict=True)]
        ),
        "plans": _share([is_plan_right(scene, plan) for scene, plan in zip(asked.scenes, plans, strict=True)]),
        "reflection": _share(_marks(asked.scenes, again)),
    }


def is_plan_right(scene: Scene, plan: Plan) -> bool:
    """Whether a plan has the two things of a scene, each with a box, which stand as the caption says."""
    wanted = [f"{thing.colour} {thing.shape}" for thing in (scene.first, scene.second)]
    return len(plan.boxes) == len(wanted) and any(
        [box.phrase for box in order] == wanted
        and relation_of(order[0].corners, order[1].corners, (BINS, BINS)) == scene.relation
        for order in permutations(plan.boxes)
    )


def stored_scores() -> Mapping[str, float]:
    """What the model scored when it was stored."""
    scores: dict[str, float] = json.loads(_scores_file().read_text(encoding="utf-8"))
    return scores


def keep(run: Path) -> dict[str, float]:
    """Store the last stage of a demo in place of the model that ships now, once it has been asked everything.

    Args:
        run: its folder.

    Raises:
        UnmaskError: there is no checkpoint in it.
    """
    options = convert.Options(dtype="fp16", licence="Apache-2.0", overwrite=True)
    with tempfile.TemporaryDirectory() as draft:
        convert.convert(str(run), Path(draft) / "model", options)
        scores = measure(load(Path(draft) / "model"), exam())
    convert.convert(str(run), _assets() / NAME.removeprefix("builtin:"), options)
    _scores_file().write_text(json.dumps(scores, indent=1) + "\n", encoding="utf-8")
    return scores


def _marks(scenes: Sequence[Scene], drawings: Sequence[Drawing]) -> list[bool]:
    return [score(scene, each.image).all_right for scene, each in zip(scenes, drawings, strict=True)]


def _share(marks: Sequence[bool]) -> float:
    return sum(marks) / len(marks)


def _assets() -> Path:
    return Path(str(files("unmask"))) / "assets"


def _scores_file() -> Path:
    return _assets() / "demo-scores.json"


def main() -> None:
    """Keep a run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of the demo's last stage")
    console = Console()
    for task, share in keep(parser.parse_args().run).items():
        console.print(f"{share:6.1%}  {task}")


if __name__ == "__main__":
    main()
