"""The `README.md` of a converted folder: what it is, where it comes from, under which licence, how to use it."""

from unmask.model.config import ModelConfig, PictureConfig
from unmask.model.weights.report import Report

UNKNOWN = "unknown"


def model_card(report: Report, config: ModelConfig, picture: PictureConfig | None, licence: str, stage: str) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        report: of the conversion that made the folder.
        config: sizes.
        picture: what the model was trained to draw, if anything.
        licence: of the weights that it was made from; `UNKNOWN` until somebody looked it up.
        stage: training that it has seen, in a sentence.
    """
    identifier = "other" if licence == UNKNOWN else licence.lower()
    legal = (
        "The licence of the weights that this was made from is **unknown**. Look it up where they came from, write it here and in the first "
        "lines of this file, and do not publish before: the licence of Unmask's code says nothing about weights."
        if licence == UNKNOWN
        else f"{licence}, as that of the weights that this was made from; check that it allows what you do."
    )
    seen = ["text"] + (["pictures"] if config.vision is not None and "the vision encoder" not in report.lacks else [])
    towers = "a text tower" if "the gen tower" in report.lacks else "a text tower and a gen tower"
    lines = [
        "---",
        f"license: {identifier}",
        "library_name: unmask",
        "tags: [masked-diffusion, text-to-image, image-to-text]",
        "---",
        f"# {config.name}",
        "",
        f"A masked-diffusion model with {towers}, {report.parameters:,} parameters, that reads {' and '.join(seen)}. Architecture: LaViDa-O "
        "(arXiv 2509.19244), as computed by Unmask.",
        "",
        "## Licence",
        "",
        legal,
        "",
        "## Where it comes from",
        "",
        f"Converted from `{report.source}` ({report.kind}) to {report.target}. {stage} `conversion.json` tells of every tensor.",
        "",
        "## Use",
        "",
        *_use(report, picture),
    ]
    return "\n".join([*lines, ""])


def _use(report: Report, picture: PictureConfig | None) -> list[str]:
    if report.lacks:
        vision = " --vision SIGLIP" if "the vision encoder" in report.lacks else ""
        told = f"This is a part of a model, without {' and '.join(report.lacks)}. To make it whole, untrained there:"
        return [told, "", "```sh", f"unmask convert FOLDER NEW --stage1 --vq VQVAE{vision}", "```"]
    lines = []
    if report.target != "native":
        lines = ["The layout is the published one. With Unmask:", "", "```sh", "unmask convert FOLDER NATIVE", "```", ""]
    lines += ["```sh", "unmask train STAGE.yaml model=FOLDER init=FOLDER"]
    if picture is None:
        return [*lines, "```"]
    side = picture.size
    return [
        *lines,
        'unmask generate FOLDER "a red circle left of a blue square"',
        "```",
        "",
        f"Pictures of {side}x{side} px; {'2x2 codes' if picture.compress else 'one code'} a token; prompts "
        f"{'with' if picture.conditions else 'without'} micro-conditions. How it draws: `decode.yaml`.",
    ]
