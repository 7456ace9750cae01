"""Where all data sets meet: slots, the published mapping, and text that only looks like a slot."""

from unmask.data.conversation import TASKS, Conversation, ImageSlot, Located, MicroConditions, Turn, Undrawn


def drawing(caption: str, conditions: MicroConditions | None = None) -> Conversation:
    ask = Turn("human", (f"Generate an image with the caption: {caption} ", conditions or MicroConditions()))
    return Conversation("name/3", (ask, Turn("gpt", ("Sure ", ImageSlot("image_gen", "s3://b/x.png")))))


def test_the_published_mapping() -> None:
    """Key by key and in this order, as the manual has it."""
    made = drawing("A cat.").to_llava()
    assert made == {
        "id": "name/3",
        "image_gen": "s3://b/x.png",
        "conversations": [
            {"from": "human", "value": "Generate an image with the caption: A cat."},
            {"from": "gpt", "value": "Sure <image_gen>"},
        ],
    }
    assert list(made) == ["id", "image_gen", "conversations"]
    assert all(list(turn) == ["from", "value"] for turn in made["conversations"])


def test_markers_and_scores() -> None:
    made = drawing("A cat.", MicroConditions(score=6.25, hps=0.3125)).to_llava(markers=True)
    assert made["conversations"][0]["value"] == "Generate an image with the caption: A cat. [[micro_conds_texts]]"
    assert (made["gen_score"], made["hpsv2"]) == ([6.25], [0.3125])
    assert "gen_score" not in drawing("A cat.").to_llava(markers=True)
    assert "gen_score" not in drawing("A cat.", MicroConditions(score=6.25)).to_llava()
    assert drawing("A cat.", MicroConditions(score=0.0)).to_llava(markers=True)["gen_score"] == [0.0]


def test_words_that_look_like_slots_are_text() -> None:
    caption = "a sign with <image>, <image_gen>, <image_gen_enc> and [[micro_conds_texts]]"
    made = drawing(caption)
    assert [slot.kind for slot in made.images()] == ["image_gen"]
    assert sum(isinstance(part, MicroConditions) for turn in made.turns for part in turn.parts) == 1
    assert made.to_llava()["conversations"][0]["value"] == f"Generate an image with the caption: {caption}"


def test_slots_come_in_the_order_of_their_places() -> None:
    read, reference, target = ImageSlot("image", "1.png"), ImageSlot("image_gen_enc", "2.png"), ImageSlot("image_gen", "3.png")
    second = ImageSlot("image", "4.png")
    made = Conversation("x/0", (Turn("human", (read, " ", reference, second, " Make it blue.")), Turn("gpt", ("Sure ", target))))
    assert list(made.images()) == [read, reference, second, target]
    assert list(made.images("image")) == [read, second]
    assert made.to_llava() == {
        "id": "x/0",
        "image": ["1.png", "4.png"],
        "image_gen_enc": "2.png",
        "image_gen": "3.png",
        "conversations": [
            {"from": "human", "value": "<image> <image_gen_enc><image> Make it blue."},
            {"from": "gpt", "value": "Sure <image_gen>"},
        ],
    }


def test_one_line_a_turn() -> None:
    assert drawing("A cat.").describe() == (
        "human: Generate an image with the caption: A cat. [[micro_conds_texts]]\ngpt: Sure <image_gen>"
    )


def test_marked_coordinates_are_written_as_text() -> None:
    """Their mark is for the tokenizer; the mapping is the one of plain text."""
    plan = "cat <LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END> "
    marked, plain = (Conversation("x/0", (Turn("gpt", ("Sure ", part, Undrawn())),)) for part in (Located(plan), plan))
    assert marked.to_llava() == plain.to_llava() and marked.describe() == plain.describe() == f"gpt: Sure {plan}<image_gen_fake>"


def test_what_a_conversation_asks_for() -> None:
    """By what it holds, whatever made it."""
    read, reference, draw = (ImageSlot(kind, "x.png") for kind in ("image", "image_gen_enc", "image_gen"))  # type: ignore[arg-type]
    box = Located("<LOC_BEGIN><LOC_1><LOC_2><LOC_3><LOC_4><LOC_END>")
    cases = {
        "text": ((" Hi",), ("Hello",)),
        "understanding": ((read, " What?"), ("A cat",)),
        "grounding": ((read, " Where?"), (box,)),
        "text_to_image": (("Draw it.",), ("Sure ", draw)),
        "editing": ((read, reference, " Turn it."), ("Sure ", draw)),
    }
    assert {task: Conversation("", (Turn("human", ask), Turn("gpt", say))).task for task, (ask, say) in cases.items()} == {
        task: task for task in cases
    }
    for ask, say in ((("Draw it.",), (box, draw)), ((reference, " Turn it."), (box, draw)), (("Plan it.",), (box, Undrawn()))):
        assert Conversation("", (Turn("human", ask), Turn("gpt", say))).task == "planning"
    assert set(TASKS) == {*cases, "planning"}
