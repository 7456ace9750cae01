"""`published_words`: the prompts of the published system's own cases, and what its conditions lack; recorded, and saved by converting."""

import json
import re

import numpy as np
import pytest
import torch

from tests.golden_folder import FOLDER, needs_golden
from tests.helpers import png
from tests.models import micro_loaded
from unmask.data.conversation import ImageSlot, MicroConditions
from unmask.data.images import decode
from unmask.data.preprocess.editing import edit_turns
from unmask.data.preprocess.planning import layout_turns
from unmask.data.preprocess.text_to_image import caption_turns
from unmask.data.tokenize import Role
from unmask.infer.answering import Question
from unmask.infer.editing import EditConfig
from unmask.infer.inputs import Prompt, PromptBuilder
from unmask.infer.pipelines import LoadedModel
from unmask.infer.planning import plan
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig

DRAWN, SOURCE = ImageSlot("image_gen", ""), {"source 1": decode(png(1, 40, 30), target=None)}
CONDITIONS = "ORIGINAL WIDTH : 1024; ORIGINAL HEIGHT : 1024; TOP : 0; LEFT : 0; SCORE : 6.500"
HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return micro_loaded()


def text(model: LoadedModel, prompt: Prompt, chosen_L: torch.Tensor | None = None) -> str:
    """A prompt, or some positions of it, as text, with a token for each picture."""
    ids = prompt.ids_L if chosen_L is None else prompt.ids_L[chosen_L.numpy()]
    return short(str(model.chat.tokenizer.decode(ids.tolist(), skip_special_tokens=False)))


def short(words: str) -> str:
    return re.sub(r"(<\|reserved_token_\d\|>)\1+", r"\1", words.replace("<image>", "<|reserved_token_9|>"))


@needs_golden
@pytest.mark.parametrize("name", ["d8_t2i_argmax_stratified_cfg", "d12_edit_mode0"])
def test_prompts_are_those_of_the_published_cases(model: LoadedModel, name: str) -> None:
    builder = PromptBuilder(model, published_words=True)
    if name.startswith("d8"):
        turns = caption_turns("a red cat on a green chair", DRAWN, MicroConditions())
        prompt = builder.build(turns, {}, conditions=[CONDITIONS])
    else:
        prompt = builder.build(edit_turns(["source 1"], "make it blue", ""), SOURCE)
    cases = json.loads((FOLDER / "tiny" / "cases.json").read_text())
    found = cases.get(name) or next(each[name] for each in cases.values() if isinstance(each, dict) and name in each)
    assert text(model, prompt) == short(found["prompt"])


def test_the_empty_condition_keeps_headers_and_loses_the_plan(model: LoadedModel) -> None:
    layout = "<LOC_BEGIN><LOC_3><LOC_2><LOC_7><LOC_6><LOC_END>"
    for planned in (None, layout):
        turns = (
            caption_turns("a cat", DRAWN, MicroConditions())
            if planned is None
            else layout_turns("a cat", MicroConditions(), DRAWN, planned)
        )
        prompt = PromptBuilder(model, published_words=True).build(turns, {}, conditions=[""])
        kept = text(model, prompt, ~prompt.places.prompt_L)
        assert kept == f"{HEADER}<|reserved_token_5|><|eot_id|>{HEADER}"
        ours = PromptBuilder(model).build(turns, {}, conditions=[""])
        assert HEADER not in text(model, ours, ~ours.places.prompt_L)


def test_the_second_condition_of_an_edit_keeps_no_header(model: LoadedModel) -> None:
    prompt = PromptBuilder(model, published_words=True).build(edit_turns(["source 1"], "make it blue", ""), SOURCE)
    assert text(model, prompt, ~prompt.places.second(0)) == "<|reserved_token_6|><|reserved_token_5|>"
    assert text(model, prompt, ~prompt.places.prompt_L) == f"{HEADER}<|reserved_token_5|><|eot_id|>{HEADER}"
    assert not bool((prompt.places.words_L & torch.from_numpy(np.isin(prompt.roles_L, [Role.FEATURE, Role.REFERENCE]))).any())


def test_settings_ask_so_and_say_so(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures, edits and plans of edits ask in other words, which their records name; without the setting nothing changes."""
    asked = []
    encode = model.chat.encode

    def noted(*given: object, **more: object) -> object:
        ids, roles = encode(*given, **more)  # type: ignore[arg-type]
        asked.append(short(str(model.chat.tokenizer.decode(ids.tolist(), skip_special_tokens=False))))
        return ids, roles

    monkeypatch.setattr(model.chat, "encode", noted)
    picture = SOURCE["source 1"]
    for published in (False, True):
        config = DrawingConfig(steps=1, published_words=published)
        (drawn,) = model.generate(["a cat"], config)
        (edited,) = model.edit([picture], ["make it blue"], EditConfig(steps=1, published_words=published))
        assert drawn.record["settings"]["published_words"] is edited.record["settings"]["published_words"] is published
        short_text = TextConfig(max_new_tokens=4, block_length=4, published_words=published)
        plan(model, [Question((picture,), "make it blue", 0)], short_text, "")
    drawing, editing, planning, *published_asked = [each.partition("user<|end_header_id|>\n\n")[2] for each in asked]
    assert drawing.startswith("Generate an image with the caption: a cat") and "\n\nSure <|reserved_token_5|>" in drawing
    assert editing.startswith("<|reserved_token_9|> <|reserved_token_6|>  make it blue<|eot_id|>")
    assert planning.startswith("<|reserved_token_9|> <|reserved_token_6|>  make it blue. Please first")
    drawing, editing, planning = published_asked
    assert drawing.startswith("Generate an image with the caption:\n a cat") and f"{HEADER}<|reserved_token_5|>" in drawing
    assert editing.startswith("<|reserved_token_9|> <|reserved_token_6|>\n make it blue<|eot_id|>")
    assert planning.startswith("<|reserved_token_9|>\nmake it blue. Please first")


def test_a_model_of_the_published_strings_is_asked_without_them(model: LoadedModel) -> None:
    """Two words stand around a picture in training, and none in a request (Q6)."""
    trained = micro_loaded()
    trained.chat.published_strings = True
    turns = caption_turns("a cat", DRAWN, MicroConditions())
    said = [text(each, PromptBuilder(each, True).build(turns, {}, conditions=[""])) for each in (model, trained)]
    assert said[0] == said[1] and "126095" not in said[0]
    assert "126095" in text(trained, PromptBuilder(trained).build(turns, {}, conditions=[""]))
