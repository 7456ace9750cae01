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
# Things that stand alone come first: what a red circle is can be learned from them before it has to be told from another thing.
datasets:
  - {name: alone, json_path: alone.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: alone}
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
  alone: {0.0: 400, 0.15: 300, 0.3: 30}
  grounding: 150
  questions: 200
  judged: {0.0: 0, 0.4: 40, 1.0: 80}
  captions: 30
  dense: 30
  plans: {0.0: 60, 0.3: 20}
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
# Written by `unmask demo`: everything together. Codes that an edit changes weigh more.
datasets:
  - {name: drawing-1, json_path: rows.parquet, preprocess_fn: preproces_text_to_image_generation_s3, length_group: drawing}
  - {name: drawing-2, json_path: rows.csv, preprocess_fn: preproces_text_to_image_generation_s3, length_group: drawing}
  - {name: planned, json_path: plans.parquet, preprocess_fn: preproces_text_to_image_generation_s3_loc, length_group: planned}
  - name: edits
    json_path: edits.parquet
    preprocess_fn: process_gpt_edit
    process_fn_kwargs: {reweight: true}
    length_group: edits
  - {name: grounding, json_path: grounding.parquet, preprocess_fn: preproces_refcoco_rec, length_group: grounding}
  - {name: questions, json_path: questions.parquet, preprocess_fn: preproces_und_mammoth_si_10M, length_group: questions}
  - {name: judged, json_path: judged.parquet, preprocess_fn: preprocess_reflection_und, length_group: judged}
  - name: plans
    json_path: plans.parquet
    preprocess_fn: preproces_text_to_image_generation_s3_loc
    process_fn_kwargs: {plan_only: true}
    length_group: plans
weights: {drawing: 60, planned: 20, edits: 130, grounding: 40, questions: 60, judged: 20, plans: 10}
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
        ("init=null", "trainable=[all]", "image.size=128", "optim.lr=2e-3", "optim.lr_by_part={vision_tower: 1e-4}"), draws=False,
    ),
    Course("s2-256", "drawing, 64 px", SCENES, ("image.size=64", "corruption.image_policy=cosine", "optim.lr=2e-3")),
    Course("s2-1024", "drawing, 128 px", SCENES, ("profile=published-scripts", "image.size=128", "optim.lr=1e-3")),
    Course("s3-unified", "everything", EVERYTHING, ("image.size=128", "optim.lr=1e-3", "optim.lr_by_part={vision_tower: 1e-4}"), edits=True),
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
