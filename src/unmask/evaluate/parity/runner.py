"""Every case of a folder by its kind, which its tensors tell: the names of cases mean nothing."""

from collections.abc import Callable
from pathlib import Path

from unmask.errors import CheckpointError, UnmaskError
from unmask.evaluate.parity.drawings import run_drawing
from unmask.evaluate.parity.folder import Folder, System
from unmask.evaluate.parity.forwards import reads_pictures, run_codes, run_reading, run_text
from unmask.evaluate.parity.report import Ambiguous, Cannot, Case, CaseReport
from unmask.evaluate.parity.texts import run_writing
from unmask.evaluate.parity.training import run_training

TOLERANCE = 2e-6
Runner = Callable[[Case, System], None]
OF_DRAWINGS = {"n_steps", "confidence_policy", "sample_policy", "n_tokens", "edit_mode"}
OF_WRITING = {"max_new_tokens", "block_length", "prefix_lm", "use_fast_dlm", "remasking", "draft_tokens"}


def kind_of(case: Case) -> tuple[str, Runner]:
    """What a case is.

    Raises:
        Cannot: nothing that this program knows.
    """
    settings = case.settings.get("kw") or {}
    if {"final_tokens", "step0.xt_before", "step0.x0"} & case.tensors.keys() or settings.keys() & OF_DRAWINGS:
        return "drawing", run_drawing
    if any("likelihood" in name for name in (*case.tensors, *case.settings, *settings)):
        raise Cannot("it asks for a log-likelihood, at which the published code fails (model.md Q9)")
    if "batch.input_ids" in case:
        return "training", run_training
    if "input_ids" in case:
        if settings.keys() & OF_WRITING or ("history" in case and not settings.keys() & {"steps", "mode"}):
            return "writing", run_writing
        return ("reading", run_reading) if reads_pictures(case) or "merged_ids" in case else ("text", run_text)
    if ("embeddings" in case or "inputs_embeds" in case) and ("logits" in case or "hidden_0" in case):
        return "text", run_text
    if "tokens" in case and ("image" in case or "decoded_uint8" in case):
        return "codes", run_codes
    raise Cannot("its tensors are those of no known kind: text, reading, training, writing, drawing, codes")


def run_case(folder: Folder, name: str, tolerance: float = TOLERANCE) -> CaseReport:
    """Run one case; what cannot be run says why. Where nothing tells which picture it reads, it is the one that fits best."""
    if not (folder.folder / f"{name}.safetensors").is_file():
        return CaseReport(name, "unknown", not_run=f"there is no {name}.safetensors")
    try:
        return _run(folder, folder.case(name, tolerance))
    except CheckpointError as error:
        return CaseReport(name, "unknown", not_run=str(error))
    except Ambiguous as error:
        reports = []
        for picture in error.candidates:
            case = folder.case(name, tolerance)
            case.chosen_picture = picture
            reports.append(_run(folder, case))
            if reports[-1].holds:
                reports[-1].left_out[picture] = f"the one picture of {len(error.candidates)} that fits; nothing else tells"
                return reports[-1]
        run = [report for report in reports if report.not_run is None]
        return min(run or reports, key=lambda report: sum(not each.holds for each in report.comparisons))


def _run(folder: Folder, case: Case) -> CaseReport:
    """Run a case.

    Raises:
        Ambiguous: it may read any of several pictures.
    """
    try:
        case.report.kind, run = kind_of(case)
        run(case, folder.system(case))
    except Ambiguous:
        raise
    except (Cannot, UnmaskError) as error:
        case.report.not_run = str(error)
    except (RuntimeError, ValueError, IndexError, KeyError, TypeError, AssertionError) as error:
        said = (str(error).splitlines() or [""])[0]
        case.report.not_run = f"its tensors do not fit each other or the model ({type(error).__name__}: {said})"
    return case.finish()


def open_folder(path: Path, weights: Path | None = None) -> Folder:
    """A folder of cases.

    Raises:
        CheckpointError: the folder or its weights are incomplete or damaged.
    """
    if not path.is_dir():
        raise CheckpointError("is no folder", where=str(path), fix="give a folder of cases, with config.json and cases.json")
    return Folder(path, weights)
