"""Draw, judge, draw again: who sees what, when it stops, what is told of it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.models import micro_loaded
from unmask.data.conversation import Conversation, ImageSlot, MicroConditions
from unmask.data.preprocess import PREPROCESS_FUNCTIONS
from unmask.data.preprocess.planning import feedback, layout_turns
from unmask.data.tokenize import Role
from unmask.errors import ConfigError
from unmask.infer import reflecting
from unmask.infer.drawing import Drawing
from unmask.infer.pipelines import LoadedModel
from unmask.infer.reflecting import explain
from unmask.infer.unmasking_config import DrawingConfig

PLAN = "<box_p> cat </box_p><LOC_BEGIN><LOC_300><LOC_200><LOC_700><LOC_640><LOC_END>"


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return micro_loaded()


def scripted(monkeypatch: pytest.MonkeyPatch, **verdicts: list[str]) -> None:
    """A judge that says of each prompt's pictures what is written here, one after another."""
    left = {prompt: iter(said) for prompt, said in verdicts.items()}
    monkeypatch.setattr(reflecting, "judge", lambda _, drawings, __: [next(left[each.prompt]) for each in drawings])


def pixels(drawing: Drawing) -> bytes:
    return drawing.image.tobytes()


def test_tries_end_with_the_accepted_one(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each reason is shown once, by its newest picture; at most three; the first try is what is drawn without reflection."""
    config = DrawingConfig(steps=3, temperature=1.0)
    reasons = ["no cat", "two dogs", "no cat", "blue", "red", "this image is correct"]
    scripted(monkeypatch, cat=reasons, dog=["the picture is correct."], cow=["no"] * 6)
    progress: list[int] = []
    cat, dog, cow = model.generate(["cat", "dog", "cow"], config, reflect=6, progress=progress.append)
    plain = model.generate(["cat", "dog", "cow"], config)
    assert [len(each.tries) for each in (cat, dog, cow)] == [6, 1, 6] and progress == [1, 1, 1, 1, 1, 3]
    assert [pixels(each.tries[0].drawing) for each in (cat, dog, cow)] == [pixels(each) for each in plain]
    assert [made.shown for made in cat.tries] == [(), (0,), (0, 1), (1, 2), (1, 2, 3), (2, 3, 4)]
    assert [made.shown for made in cow.tries] == [(), (0,), (1,), (2,), (3,), (4,)]
    assert cat.tries[-1].accepted and not cow.tries[-1].accepted and pixels(cat) == pixels(cat.tries[-1].drawing)
    assert len({pixels(made.drawing) for made in cat.tries}) == 6
    assert cat.record["settings"]["seed"] == 0 and cat.record["reflect"] == 6
    assert [made["verdict"] for made in cat.record["tries"]] == reasons


def test_what_a_try_sees_is_what_training_shows(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """The words are those of `text_to_image_with_plan` with earlier attempts, with and without a plan."""
    seen, encode = list[Any](), model.chat.encode
    monkeypatch.setattr(model.chat, "encode", lambda *given, **more: seen.append(encode(*given, **more)) or seen[-1])
    scripted(monkeypatch, **{"A cat.": ["No cat.", "Two cats.", "Good, is correct"]})
    monkeypatch.setattr(reflecting.planning, "plan", lambda _, asked, *__, **___: [Planned for _ in asked])
    model.generate("A cat.", DrawingConfig(steps=1, guidance=1.0), reflect=3, plan=True)
    row = {
        "s3_path": "c.png",
        "caption": "A cat.",
        "grounding_text": PLAN,
        "negatives": "a;b",
        "negative_reasons": "No cat.;Two cats.",
    }
    found = PREPROCESS_FUNCTIONS.get("text_to_image_with_plan")
    for _ in range(20):  # until the attempts are drawn in this order
        rng = np.random.default_rng(_)
        conversation = found.function(row, rng, add_feedback=True)
        if [slot.url for slot in conversation.images("image")] == ["a", "b"]:
            break
    assert isinstance(conversation, Conversation)
    said = "ORIGINAL WIDTH : 16; ORIGINAL HEIGHT : 16; TOP : 0; LEFT : 0"
    ids, roles = encode(conversation.turns, [said], 16, 8192, [5, 5])
    assert np.array_equal(seen[-1][0], ids) and np.array_equal(seen[-1][1], roles)
    assert int((roles == Role.FEATURE).sum()) == 10
    parts = feedback([("a", "No cat."), ("b", "Two cats.")])
    slot = ImageSlot("image_gen", "")
    assert layout_turns("x", MicroConditions(), slot, None, parts)[1].parts == (slot,)


class Planned:
    layout = PLAN


def test_the_page_shows_every_try(model: LoadedModel, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    scripted(monkeypatch, **{"a <cat>": ["no <cat>", "is correct"], "b": ["no", "no"]})
    monkeypatch.setattr(reflecting.planning, "plan", lambda _, asked, *__, **___: [Planned for _ in asked])
    drawn = model.generate(["a <cat>", "b"], DrawingConfig(steps=1), reflect=2, plan=True)
    explain(drawn, tmp_path / "new" / "tries.html")
    page = (tmp_path / "new" / "tries.html").read_text()
    assert page.count("data:image/png") == 4 and page.count("<b>accepted</b>") == 1 and page.count("<b>refused</b>") == 3
    assert "no &lt;cat&gt;" in page and "drawn after try 1" in page and "&lt;LOC_300&gt;" in page and "<cat>" not in page
    assert drawn[0].record["planned"] is True and drawn[0].record["tries"][0]["plan"] == PLAN


def test_the_model_itself_judges_and_all_can_be_done_again(model: LoadedModel) -> None:
    """A random model says something, in any batch the same."""
    config = DrawingConfig(steps=2)
    together = model.generate(["a cat", "a dog"], config, reflect=2)
    alone = model.generate(["a dog"], config, reflect=2, numbers=[1])
    assert together[1].record == alone[0].record and pixels(together[1]) == pixels(alone[0])
    words = [each["verdict"] for each in together[1].record["tries"]]
    asked = model.understand(
        together[1].tries[0].drawing.image,
        "Please evaluate this generated image based on the following prompt: a dog Focus on text alignment and compositionality.",
        reflecting.JUDGE,
    )
    assert words[0] == asked[0].text


def test_plans_that_are_given(model: LoadedModel) -> None:
    """The same chance, so that only the plan makes the difference."""
    config = DrawingConfig(steps=4, temperature=1.0)
    with_plan, without = model.generate(["a cat", "a cat"], config, plan=[PLAN, None], numbers=[7, 7])
    assert with_plan.record["plan"] == PLAN and "plan" not in without.record
    assert pixels(without) == pixels(model.generate("a cat", config, numbers=[7])[0]) != pixels(with_plan)


def test_what_cannot_be_judged() -> None:
    with pytest.raises(
        ConfigError, match="reflection needs a model that reads pictures, and this one has no vision tower; leave"
    ):
        micro_loaded(vision=None).generate("a", reflect=2)
    with pytest.raises(ConfigError, match="reflect=-1: must be 1 or more; leave it out to draw without judging"):
        micro_loaded().generate("a", reflect=-1)
