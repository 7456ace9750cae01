"""Plans: asked as in training, read as boxes, for captions and edits together."""

from dataclasses import replace

import numpy as np
import pytest

from tests.helpers import png
from tests.infer.test_inputs import BOX, of_row, trained
from tests.models import micro_loaded
from unmask.data.boxes import Box
from unmask.data.tokenize import Role
from unmask.errors import ConfigError
from unmask.infer import planning
from unmask.infer.answering import Question
from unmask.infer.inputs import PromptBuilder
from unmask.infer.planning import CONFIG

SOURCE = png(1, 40, 30)
SMALL = replace(CONFIG, max_new_tokens=8, block_length=4)


@pytest.mark.parametrize("kind", ["caption", "edit"])
def test_plans_are_asked_as_in_training(kind: str) -> None:
    if kind == "caption":
        row = {"caption": "A cat on a mat.", "grounding_text": BOX}
        conversation = of_row("text_to_image_with_plan", row, plan_only=True)
        asked = Question((), "A cat on a mat.", 0)
    else:
        row = {"input_paths": "a.png", "instruction": "Make it blue", "grounding_text": BOX}
        conversation = of_row("edit_with_plan", row, plan_only=True)
        asked = Question((SOURCE,), "Make it blue", 0)
    ids, roles = trained(conversation, [SOURCE] * len(list(conversation.images())))
    prompt = planning._prompt(PromptBuilder(micro_loaded()), asked, "")
    first = np.flatnonzero(roles == Role.ANSWER)[0]
    assert np.array_equal(prompt.ids_L, ids[:first]) and np.array_equal(prompt.roles_L, roles[:first])


def test_captions_and_edits_together() -> None:
    model, seen = micro_loaded(), dict[int, str]()
    prompts, images = ["a red circle", "make it blue", "a dog"], [None, SOURCE, None]
    together = model.plan(prompts, images, SMALL, on_text=lambda number, text: seen.update({number: text}))
    assert [each.prompt for each in together] == prompts and [seen[number] for number in range(3)] == [p.text for p in together]
    assert model.plan(prompts, images, SMALL, batch_size=1) == together
    assert model.plan("make it blue", SOURCE, SMALL, numbers=[1]) == together[1:2]
    assert model.plan("a dog", config=SMALL, numbers=[2]) == together[2:]
    told = model.plan("a dog", config=replace(SMALL, temperature=0), score=6.5, numbers=[2])
    assert told != model.plan("a dog", config=replace(SMALL, temperature=0), numbers=[2])


def test_edits_take_the_likeliest_words(monkeypatch: pytest.MonkeyPatch) -> None:
    temperatures: list[float] = []
    monkeypatch.setattr(
        planning, "say", lambda _, prompts, config, *__: temperatures.append(config.temperature) or [("", True, 1)]
    )
    micro_loaded().plan(["a dog", "make it blue"], [None, SOURCE])
    assert temperatures == [0.5, 0.0]


def test_what_is_said_is_read() -> None:
    said = f"Sure I should place the objects in the following manner <box_p> a cat </box_p>{BOX} and a mat {BOX}"
    plan = planning._read("a cat on a mat", said)
    corners = (300, 200, 700, 640)
    assert plan.boxes == (Box(corners, "a cat"), Box(corners, ""))
    assert plan.layout == f"<box_p> a cat </box_p>{BOX} and a mat {BOX}"
    assert planning._read("a cat", "I cannot.") == planning.Plan("a cat", "I cannot.", "", ())


def test_errors() -> None:
    model = micro_loaded()
    with pytest.raises(ConfigError, match="prompt 1 is blank"):
        model.plan(" ")
    with pytest.raises(ConfigError, match="prompt 1 has a picture to read, and the model reads none"):
        micro_loaded(vision=None).plan("make it blue", SOURCE)
    with pytest.raises(ConfigError, match="score 6 means nothing to this model"):
        replace(model, picture=replace(model.picture, conditions=False)).plan("a cat", score=6)
    with pytest.raises(ConfigError, match=r"prompt 1 takes \d+ tokens, and its answer 64 more; the model has room for 100"):
        replace(model, max_length=100).plan("a cat on a mat that is long " * 2)
