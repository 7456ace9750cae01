"""The stages of the demo: the files of `config/stage/`, with what a model of 3 M parameters and minutes of time need otherwise.

Each course starts from the checkpoint of the one before, with what its stage file accepts, lets learn and asks of the text. The data files are
written beside the scenes, so that they can be read, changed and used again.
"""

from dataclasses import dataclass
from pathlib import Path

from unmask.train.config import config_file

READING = (
    "reading.yaml",
    """\
# Written by `unmask demo`: where things are, questions, captions, judgements; and plans in words, from which captions are understood.
# Things that stand alone come first, and first of all their names: which thing is the red one can only be learned by who knows red.
datasets:
  - {name: alone, json_path: alone.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: alone}
  - {name: alone-boxes, json_path: alone-boxes.parquet, preprocess_fn: preproces_refcoco_rec, length_group: alone-boxes}
  - {name: grounding, json_path: grounding.parquet, preprocess_fn: preproces_refcoco_rec, length_group: grounding}
  - {name: questions, json_path: questions.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: questions}
  - {name: judged, json_path: judged.parquet, preprocess_fn: preprocess_reflection_und, length_group: judged}
  - {name: dense, json_path: dense.parquet, preprocess_fn: preproces_grandf, length_group: dense}
  - {name: captions, json_path: captions.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: captions}
  - name: plans
    json_path: plans.parquet
    preprocess_fn: preproces_text_to_image_generation_s3_loc
    process_fn_kwargs: {plan_only: true}
    length_group: plans
weights:
  alone: {0.0: 600, 0.1: 300, 0.25: 20}
  alone-boxes: {0.0: 200, 0.15: 100, 0.3: 10}
  grounding: {0.0: 50, 0.15: 250}
  questions: {0.0: 150, 0.15: 500}
  judged: {0.0: 0, 0.6: 40}
  captions: 10
  dense: 60
  plans: 20
""",
)
SCENES = (
    "scenes.yaml",
    """\
# Written by `unmask demo`: captions with pictures to draw, half of the rows in each format.
datasets:
  - name: scenes-parquet
    json_path: rows.parquet
    preprocess_fn: preproces_text_to_image_generation_s3
    min_size: 64
  - name: scenes-csv
    json_path: rows.csv
    sampling_strategy: all
    preprocess_fn: preproces_text_to_image_generation_s3
    columns: [s3_path, caption, fltLaionAesthScore, intHeight, intWidth]
    aes_cutoff: 4.5
""",
)
EVERYTHING = (
    "everything.yaml",
    """\
# Written by `unmask demo`: everything together. All codes of an edit count the same: most mistakes are in what must stay as it is.
datasets:
  - {name: drawing-1, json_path: rows.parquet, preprocess_fn: preproces_text_to_image_generation_s3, length_group: drawing}
  - {name: drawing-2, json_path: rows.csv, preprocess_fn: preproces_text_to_image_generation_s3, length_group: drawing}
  - {name: planned, json_path: plans.parquet, preprocess_fn: preproces_text_to_image_generation_s3_loc, length_group: planned}
  - name: edits
    json_path: edits.parquet
    preprocess_fn: process_gpt_edit
    length_group: edits
  - {name: grounding, json_path: grounding.parquet, preprocess_fn: preproces_refcoco_rec, length_group: grounding}
  - {name: questions, json_path: questions.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: questions}
  - {name: judged, json_path: judged.parquet, preprocess_fn: preprocess_reflection_und, length_group: judged}
  - name: plans
    json_path: plans.parquet
    preprocess_fn: preproces_text_to_image_generation_s3_loc
    process_fn_kwargs: {plan_only: true}
    length_group: plans
weights: {drawing: 115, planned: 10, edits: 205, grounding: 50, questions: 120, judged: 5, plans: 5}
""",
)


@dataclass(frozen=True)
class Course:
    """One stage of the demo.

    Attributes:
        stage: the stage file's name.
        title: what is learned, for people.
        data: the name and the text of its data YAML.
        overrides: what the demo says otherwise, `a.b=c`, places and numbers of steps aside.
        draws: whether the model can draw after it.
        edits: whether it can edit.
    """

    stage: str
    title: str
    data: tuple[str, str]
    overrides: tuple[str, ...]
    draws: bool = True
    edits: bool = False


_COMMON = (
    "model=tiny", "optim.betas=[0.9, 0.98]", "image.condition_drop=1.0", "image.remember=20000", "loader.workers=1", "eos_targets=0",
    "compute.activation_checkpointing=none",
)  # fmt: skip
COURSES = (
    Course(
        "s1-gnd", "reading", READING,
        ("init=null", "trainable=[all]", "image.size=128", "optim.lr=1e-3", "optim.lr_by_part={vision_tower: 1e-4}"), draws=False,
    ),
    Course("s2-256", "drawing, 64 px", SCENES, ("image.size=64", "corruption.image_policy=cosine", "optim.lr=2e-3")),
    Course("s2-1024", "drawing, 128 px", SCENES, ("profile=published-scripts", "image.size=128", "optim.lr=1e-3")),
    Course(
        "s3-unified", "everything", EVERYTHING,
        (
            "image.size=128", "corruption.edit_image_shift=8", "corruption.reference_drop=0.05", "corruption.edit_prompt_drop=0.05",
            "optim.lr=8e-4", "optim.lr_by_part={vision_tower: 8e-5}", "optim.min_lr_ratio=0.0",
        ),
        edits=True,
    ),
)  # fmt: skip


def data_file(folder: Path, course: Course) -> Path:
    """Write a course's data YAML."""
    name, text = course.data
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def train_command(folder: Path, number: int, steps: int, batch: int) -> list[str]:
    """The command that trains course `number`.

    Args:
        folder: of the demo: `data`, `runs` and `cache` are in it.
        number: place in `COURSES`.
        steps: of training.
        batch: samples of a step.
    """
    course, runs = COURSES[number], folder / "runs"
    start = [] if number == 0 else [f"init={runs / COURSES[number - 1].stage}"]
    return [
        *("unmask", "train", str(config_file("stage", course.stage)), *_COMMON, *course.overrides, *start),
        *(f"data={folder / 'data' / course.data[0]}", f"out={runs / course.stage}", f"loader.cache={folder / 'cache'}"),
        *(f"steps={steps}", f"batch.global_size={batch}", f"batch.per_device={batch}", "checkpoint.every=200"),
    ]
