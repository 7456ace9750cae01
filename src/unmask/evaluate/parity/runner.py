"""Every case of a folder by its kind, which its tensors tell: the names of cases mean nothing."""

from collections.abc import Callable, Iterator
from pathlib import Path

from unmask.errors import CheckpointError
from unmask.evaluate.parity.drawings import run_drawing
from unmask.evaluate.parity.folder import Folder, System
from unmask.evaluate.parity.forwards import reads_pictures, run_codes, run_reading, run_text
from unmask.evaluate.parity.report import Cannot, Case, CaseReport
from unmask.evaluate.parity.texts import run_writing
from unmask.evaluate.parity.training import run_training

TOLERANCE = 2e-6
Runner = Callable[[Case, System], None]


def kind_of(case: Case) -> tuple[str, Runner]:
    """What a case is.

    Raises:
        Cannot: nothing that this program knows.
    """
    settings = case.settings.get("kw") or {}
    if "final_tokens" in case or "step0.xt_before" in case:
        return "drawing", run_drawing
    if "batch.input_ids" in case:
        return "training", run_training
    if "input_ids" in case:
        if "history" in case or "max_new_tokens" in settings or "block_length" in settings:
            return "writing", run_writing
        return ("reading", run_reading) if reads_pictures(case) or "hidden_0" not in case else ("text", run_text)
    if "tokens" in case and ("image" in case or "decoded_uint8" in case):
        return "codes", run_codes
    raise Cannot("its tensors are those of no known kind: text, reading, training, writing, drawing, codes")


def run_case(folder: Folder, name: str, tolerance: float = TOLERANCE) -> CaseReport:
    """Run one case; what cannot be run says why."""
    if not (folder.folder / f"{name}.safetensors").is_file():
        return CaseReport(name, "unknown", not_run=f"there is no {name}.safetensors")
    case = folder.case(name, tolerance)
    if name not in folder.cases:
        case.report.left_out["cases.json"] = "does not name the case: it runs without settings"
    try:
        case.report.kind, run = kind_of(case)
        run(case, folder.system(case))
    except Cannot as error:
        case.report.not_run = str(error)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
        case.report.not_run = f"its tensors do not fit each other or the model ({type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''})"
    return case.finish()


def run_folder(path: Path, weights: Path | None = None, tolerance: float = TOLERANCE) -> tuple[Folder, Iterator[CaseReport]]:
    """A folder, and the reports of its cases as they come.

    Raises:
        CheckpointError: the folder or its weights are incomplete or damaged.
    """
    if not path.is_dir():
        raise CheckpointError("is no folder", where=str(path), fix="give a folder of cases, with config.json and cases.json")
    folder = Folder(path, weights)
    return folder, (run_case(folder, name, tolerance) for name in folder.names())
