"""Published payloads, rows that are refused, and conversations in LLaVA form."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.golden_folder import FOLDER, needs_golden
from unmask.data.conversation import Conversation, ImageSlot, Located, MicroConditions, Turn, Undrawn
from unmask.data.preprocess import PREPROCESS_FUNCTIONS, from_llava
from unmask.errors import RowError
from unmask.randomness import keyed_generator

TURNS = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]
GPT = {"input_paths": "in.jpg", "output_paths": "out.jpg", "instruction": "Make it blue."}
PLANNED = {"s3_path": "a.jpg", "caption": "A cat.", "grounding_text": "cat <LOC_1>"}
NAN = float("nan")


def golden_rows() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((FOLDER / "payloads.json").read_text())["rows"] if FOLDER.is_dir() else []
    return rows


def made(name: str, row: dict[str, Any], seed: int = 0, **kwargs: Any) -> Conversation:
    return PREPROCESS_FUNCTIONS.get(name)(row, keyed_generator(seed), kwargs)


def refused(name: str, row: dict[str, Any], **kwargs: Any) -> str:
    with pytest.raises(RowError) as caught:
        made(name, row, **kwargs)
    return str(caught.value)


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]


@needs_golden
def test_there_are_published_payloads() -> None:
    assert len({row["preprocess_fn"] for row in golden_rows()}) >= 7


@pytest.mark.parametrize("golden", golden_rows(), ids=lambda golden: golden["name"])
def test_the_published_payload(golden: dict[str, Any]) -> None:
    """All but the id, which is ours."""
    ours = made(golden["preprocess_fn"], golden["row"], **golden["kwargs"]).to_llava(markers=True)
    assert {**ours, "id": None} == {**golden["payload"], "id": None}


@pytest.mark.parametrize("path", [None, "", " ", NAN, 5, []])
@pytest.mark.parametrize("column", ["input_paths", "output_paths"])
def test_an_edit_without_a_picture(column: str, path: object) -> None:
    assert f"column '{column}' holds" in refused("edit_gpt", {**GPT, column: path})


def test_one_picture_is_drawn() -> None:
    said = refused("process_gpt_edit", {**GPT, "output_paths": ["out.jpg"]})
    assert said == "column 'output_paths' holds a list of 1, not the path of one picture"


def test_a_hole_in_a_list_of_pictures() -> None:
    said = refused("process_gpt_edit", {**GPT, "input_paths": ["a.jpg", None]})
    assert said == "part 2 of column 'input_paths' is None, not a text"


@pytest.mark.parametrize("value", [None, NAN, "", 7])
@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("preproces_grandf", {"s3_path": "a.jpg", "loc_caption": "x"}),
        ("preproces_refcoco_rec", {"s3_path": "a.jpg", "label": "x", "loc_string": "y"}),
        ("preprocess_reflection_und", {"image": "a.jpg", "prompts": "x", "results": "y"}),
        ("process_sharegpt_4o_edit", {"input_image": "a.jpg", "output_image": "b.jpg", "input_prompt": "x"}),
        ("process_gpt_edit_loc_gnd", {**GPT, "grounding_text": "x"}),
        ("preproces_text_to_image_generation_s3_loc", PLANNED),
    ],
)
def test_each_needed_cell(name: str, row: dict[str, Any], value: object) -> None:
    """A row is good; with any one of its cells null, NaN, blank or a number it is refused by that column's name."""
    made(name, row)
    for column in row:
        assert f"column '{column}' holds {value!r}, not a text" in refused(name, {**row, column: value})


@pytest.mark.parametrize(
    ("negatives", "reasons", "says"),
    [
        ("a.jpg;b.jpg", "One.", "column 'negatives' holds 2 pictures, and 'negative_reasons' 1 texts"),
        ("a.jpg", "One; two.", "column 'negatives' holds 1 pictures, and 'negative_reasons' 2 texts"),
        ("a.jpg;", "One.;Two.", "part 2 of column 'negatives' is '', not a text"),
        ("a.jpg;b.jpg", "One.; ", "part 2 of column 'negative_reasons' is ' ', not a text"),
        (None, "One.", "column 'negatives' holds None, not a text"),
        ([], [], "column 'negatives' holds an empty list"),
    ],
)
def test_attempts_and_reasons_that_do_not_match(negatives: object, reasons: object, says: str) -> None:
    row = {**PLANNED, "negatives": negatives, "negative_reasons": reasons}
    assert says in refused("text_to_image_with_plan", row, add_feedback=True)


def test_a_list_of_reasons_may_hold_semicolons() -> None:
    row = {**PLANNED, "negatives": ["a.jpg"], "negative_reasons": ["No cat; no mat."]}
    assert "Feedback 1: No cat; no mat." in made("text_to_image_with_plan", row, add_feedback=True).describe()


def test_the_number_of_attempts() -> None:
    """1 to 5, each as often as the others, and some attempt twice."""
    row = {**PLANNED, "negatives": ";".join("abcdefg"), "negative_reasons": ";".join("ABCDEFG")}
    shown = [
        [slot.url for slot in made("text_to_image_with_plan", row, seed, add_feedback=True).images("image")]
        for seed in range(2000)
    ]
    counts = [sum(len(each) == count for each in shown) / 2000 for count in range(1, 6)]
    assert sum(counts) == 1 and all(abs(share - 0.2) < 0.04 for share in counts)
    assert any(len(set(each)) < len(each) for each in shown) and {url for each in shown for url in each} == set("abcdefg")


def test_the_choices_about_regions() -> None:
    said = [made("text_to_image_with_region_plan", PLANNED, seed).describe() for seed in range(2000)]
    assert abs(sum("Please plan each region" in each for each in said) / 2000 - 0.4) < 0.04
    assert abs(sum("an image with region captions." in each for each in said) / 2000 - 0.1) < 0.03


def test_which_samples_keep_their_plan_visible() -> None:
    rates = {
        option: made("text_to_image_with_plan", PLANNED, **({option: True} if option else {})).visible_text_rate
        for option in ("", "plan_only", "no_plan")
    }
    assert rates == {"": 0.8, "plan_only": 0.0, "no_plan": 0.0}
    assert made("edit_with_plan", {**GPT, "grounding_text": "x"}).visible_text_rate == 0.8


def test_a_row_without_any_caption() -> None:
    assert refused("text_to_image_by_hash", {"strImagehash": "0f", "caption": None}) == (
        "none of the columns longLLA_captions, llava_next_caption, caption holds a caption"
    )


WORDS = "a <image> <image_gen> <image_gen_enc> <image_gen_fake> [[micro_conds_texts]] sign"


@pytest.mark.parametrize(
    ("name", "row", "kinds"),
    [
        ("text_to_image", {**PLANNED, "caption": WORDS}, ["image_gen"]),
        ("text_to_image_with_plan", {**PLANNED, "caption": WORDS, "grounding_text": WORDS}, ["image_gen"]),
        ("edit_gpt", {**GPT, "instruction": WORDS}, ["image", "image_gen_enc", "image_gen"]),
        ("referring_expression", {"s3_path": "a.jpg", "label": WORDS, "loc_string": WORDS}, ["image"]),
        ("judge", {"image": "a.jpg", "prompts": WORDS, "results": WORDS}, ["image"]),
    ],
)
def test_words_that_look_like_slots_are_text(name: str, row: dict[str, Any], kinds: list[str]) -> None:
    conversation = made(name, row)
    assert [slot.kind for slot in conversation.images()] == kinds and WORDS in conversation.describe()
    assert not any(isinstance(part, Undrawn) for turn in conversation.turns for part in turn.parts)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"conversations": None}, "column 'conversations' holds None, not a list of turns"),
        ({"conversations": []}, "holds [], not a list of turns"),
        ({"conversations": "{"}, "holds a text that is not JSON"),
        ({"conversations": '{"from": "human"}'}, "holds {'from': 'human'}, not a list of turns"),
        ({"conversations": [5]}, "turn 1 is 5, not a mapping of 'from' and 'value'"),
        ({"conversations": [{"from": "human"}]}, "turn 1 is {'from': 'human'}, not a mapping"),
        ({"conversations": [{"from": "user", "value": "x"}]}, "turn 1 is from 'user'; turns are from 'human' or 'gpt'"),
        ({"conversations": [{"from": "gpt", "value": "x"}]}, "turn 1 is from 'gpt'; human and gpt take turns, and human begins"),
        ({"conversations": turns("x", "y", "z")}, "turn 3, the last, is from 'human'; nothing answers it"),
        ({"conversations": turns("x", " ")}, "turn 2 is empty"),
        ({"conversations": turns("<image>", "y")}, "the turns have 1 <image>, and column 'image' has 0 pictures"),
        ({"conversations": turns("<image>", "y"), "image": NAN}, "the turns have 1 <image>, and column 'image' has 0 pictures"),
        ({"conversations": turns("<image><image>", "y"), "image": "a"}, "have 2 <image>, and column 'image' has 1 pictures"),
        ({"conversations": turns("x", "y"), "image": ["a", "b"]}, "have 1 <image>, and column 'image' has 2 pictures"),
        ({"conversations": turns("x", "<image_gen>")}, "have 1 <image_gen>, and column 'image_gen' has 0 pictures"),
        ({"conversations": turns("x", "y"), "image_gen": "a"}, "have 0 <image_gen>, and column 'image_gen' has 1 pictures"),
        ({"conversations": TURNS, "image": ""}, "column 'image' holds '', not the path of a picture"),
        ({"conversations": TURNS, "image": [None]}, "column 'image' holds None, not the path of a picture"),
        ({"conversations": TURNS, "image": "a", "reweight": "yes"}, "column 'reweight' holds 'yes', not true or false"),
        ({"conversations": TURNS, "image": "a", "hpsv2": "high"}, "column 'hpsv2' holds 'high', not a number"),
    ],
)
def test_a_conversation_that_is_none(row: dict[str, Any], says: str) -> None:
    assert says in refused("llava", row)


def test_a_picture_in_a_later_turn_needs_none_before() -> None:
    conversation = made("llava", {"image": "a.jpg", "conversations": turns("Hi.", "Hello.", "<image>\nWhat?", "A cat.")})
    assert conversation.turns[0].parts == ("Hi.",)
    assert conversation.turns[2].parts == (ImageSlot("image", "a.jpg"), "\nWhat?")


def test_places_of_paths() -> None:
    pictures = ["b.jpg", "/abs/c.jpg", "s3://x/d.jpg"]
    row = {"image": pictures, "conversations": turns("<image><image><image>", "y")}
    assert [slot.url for slot in made("llava", row, s3_prefix="s3://p/").images()] == [
        "s3://p/b.jpg",
        "/abs/c.jpg",
        "s3://x/d.jpg",
    ]


plain = st.text("abc <>[]_\n", min_size=1).filter(str.strip)
slots = st.builds(ImageSlot, st.sampled_from(["image", "image_gen_enc", "image_gen"]), st.sampled_from(["a.jpg", "s3://b/c.png"]))


@given(
    st.lists(st.lists(st.one_of(slots, plain), min_size=1, max_size=4), min_size=2, max_size=4).filter(
        lambda each: len(each) % 2 == 0
    ),
    st.sampled_from([0.0, 0.8]),
)
def test_a_mapping_and_back(spoken: list[list[ImageSlot | str]], rate: float) -> None:
    """Pictures and texts in any order come back from the published mapping as they were, neighbouring texts as one."""
    texts = turns(*("".join(part if isinstance(part, str) else f"<{part.kind}>" for part in each) for each in spoken))
    urls = {kind: [p.url for e in spoken for p in e if isinstance(p, ImageSlot) and p.kind == kind] for kind in KINDS}
    if urls["image"] and "<image>" not in texts[0]["value"] and not any("<image>" in each["value"] for each in texts):
        return
    mapping = {"conversations": texts, **{kind: found or None for kind, found in urls.items()}, "do_not_mask_text": rate > 0}
    once = from_llava(mapping)
    assert once.visible_text_rate == rate
    assert [slot.url for slot in once.images("image_gen")] == urls["image_gen"]
    assert from_llava(once.to_llava(markers=True)).turns == once.turns


KINDS = ("image", "image_gen_enc", "image_gen")


def test_micro_conditions_of_a_stored_drawing() -> None:
    stored = {"image_gen": "a.jpg", "gen_score": [6.5], "conversations": turns("Draw. [[micro_conds_texts]]", "Sure <image_gen>")}
    assert from_llava(stored).turns[0] == Turn("human", ("Draw. ", MicroConditions(6.5)))
    assert from_llava({"conversations": turns("Draw. [[micro_conds_texts]]", "No.")}).turns[0].parts == (
        "Draw. [[micro_conds_texts]]",
    )


@pytest.mark.parametrize(
    ("name", "row"),
    [
        ("text_to_image_with_plan", {**PLANNED, "grounding_text": "at <LOC_5>"}),
        ("edit_with_plan", {**GPT, "grounding_text": "at <LOC_5>"}),
        ("dense_grounding", {"s3_path": "a.jpg", "loc_caption": "at <LOC_5>"}),
        ("referring_expression", {"s3_path": "a.jpg", "label": "x", "loc_string": "at <LOC_5>"}),
        ("llava", {"conversations": turns("Where?", "at <LOC_5>")}),
    ],
)
def test_where_coordinates_are_tokens(name: str, row: dict[str, Any]) -> None:
    located = [part for turn in made(name, row).turns for part in turn.parts if isinstance(part, Located)]
    assert located == [Located("at <LOC_5>")]


def test_where_coordinates_are_words() -> None:
    assert made("understanding", {"conversations": turns("Where?", "at <LOC_5>")}).turns[1].parts == ("at <LOC_5>",)
    assert isinstance(made("text_to_image", {**PLANNED, "caption": "<LOC_5>"}).turns[0].parts[0], str)


cells = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.binary(max_size=3),
    st.lists(st.one_of(st.none(), st.text(max_size=3), st.dictionaries(st.sampled_from(["from", "value"]), st.text()))),
    st.sampled_from(["a.jpg", "a;b", "<image>", json.dumps(TURNS), [TURNS], {}]),
)


@pytest.mark.parametrize("name", sorted({PREPROCESS_FUNCTIONS.get(name).names[0] for name in PREPROCESS_FUNCTIONS}))
@given(data=st.data())
def test_any_row_is_a_conversation_or_refused(name: str, data: st.DataObject) -> None:
    """Whatever stands in one or two of the cells of a good row, and whichever switches are on."""
    function = PREPROCESS_FUNCTIONS.get(name)
    about = function.describe()
    switches = [argument for argument, default in function.arguments({}).items() if isinstance(default, bool)]
    kwargs = {argument: data.draw(st.booleans(), argument) for argument in switches}
    columns = sorted({*(about.row or {}), *function.optional})
    changed = data.draw(st.dictionaries(st.sampled_from(columns), cells, min_size=1, max_size=2))
    try:
        conversation = function({**(about.row or {}), **changed}, keyed_generator(data.draw(st.integers(0, 20))), kwargs)
    except RowError as error:
        assert "\n" not in str(error) or "\n" in repr(changed)
        return
    assert conversation.turns and json.dumps(conversation.to_llava(markers=True))
    assert all(slot.url.strip() for slot in conversation.images())
