"""Every rule of the configuration files, by the text of its error; what is written is what is read, by random objects."""

import math
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unmask.config import (
    FieldError,
    Node,
    apply_overrides,
    build,
    diff,
    dump,
    flatten,
    load,
    located,
    locations,
    merge,
    parse_text,
    read_yaml,
    to_yaml,
)
from unmask.errors import ConfigError


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Optim:
    lr: float
    steps: int = 10
    betas: tuple[float, float] = (0.9, 0.95)
    warmup: int = 0

    def __post_init__(self) -> None:
        if self.lr <= 0:
            raise FieldError("lr", f"must be above 0, not {self.lr}", "take 1e-4")
        if self.warmup > self.steps:
            raise FieldError("warmup", f"{self.warmup} is more than the {self.steps} steps")
        if self.steps == 13:
            raise ValueError("13 steps bring bad luck")


@dataclass(frozen=True)
class Part:
    json_path: Path = field(metadata={"alias": ("path", "file")})
    weight: float = 1.0
    where: str = located()
    places: Mapping[str, str] = locations()


@dataclass(frozen=True)
class Stage:
    optim: Optim
    name: str = "stage"
    mode: Literal["fast", "slow", 3] = "fast"
    colour: Colour = Colour.RED
    limit: int | None = None
    size: int | Literal["auto"] = "auto"
    model: str | Part = "tiny"
    compile: bool = False
    parts: tuple[Part, ...] = ()
    tags: list[str] = field(default_factory=list)
    ratios: dict[str, float] = field(default_factory=dict)
    extra: Any = None

    def __post_init__(self) -> None:
        if any(part.weight < 0 for part in self.parts):
            index = next(i for i, part in enumerate(self.parts) if part.weight < 0)
            raise FieldError(f"parts.{index}.weight", "must not be negative")


@dataclass(frozen=True)
class Loose:
    a: Any = None
    b: Any = None


def message(text: str, cls: type[Any] = Stage, *overrides: str) -> str:
    """The one line that reading a text as `cls` fails with."""
    with pytest.raises(ConfigError) as caught:
        build(cls, apply_overrides(parse_text(text, "f.yaml"), overrides))
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


def build_text(text: str, *overrides: str) -> Stage:
    stage: Stage = build(Stage, apply_overrides(parse_text(text, "f.yaml"), overrides))
    return stage


SCALARS = [
    *[("1e-4", 1e-4), ("5e-6", 5e-6), ("1.0", 1.0), (".5", 0.5), ("1.", 1.0), ("+2.5E3", 2500.0), ("-1e+2", -100.0)],
    *[("12", 12), ("-3", -3), ("+4", 4), ("012", 12), ("0", 0), (".inf", math.inf), ("-.Inf", -math.inf)],
    *[("true", True), ("false", False), ("True", True), ("FALSE", False)],
    *[("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"), ("y", "y"), ("tRue", "tRue")],
    *[("null", None), ("~", None), ("", None), ("Null", None), ("nUll", "nUll"), ("none", "none")],
    *[("1_000", "1_000"), ("0x1F", "0x1F"), ("0o17", "0o17"), ("1:30", "1:30"), ("2024-01-31", "2024-01-31"), ("1.2.3", "1.2.3")],
    *[
        ("e5", "e5"),
        (".", "."),
        ("-", [None]),
        ("inf", "inf"),
        ("nan", "nan"),
        ("1e", "1e"),
        ("٣", "٣"),
        ("=", "="),
        ("<<", "<<"),
    ],
    *[("'12'", "12"), ('"true"', "true"), ("''", ""), ('"null"', "null"), ("'1e-4'", "1e-4"), ('"a\\nb"', "a\nb")],
    *[("|\n  12", "12"), ("s3://bucket/a#1", "s3://bucket/a#1"), ("[1, a]", [1, "a"]), ("{b: 1e3}", {"b": 1000.0})],
]


@pytest.mark.parametrize(("text", "value"), SCALARS)
def test_scalars_follow_yaml_1_2(text: str, value: object) -> None:
    separator = "\n" if text == "-" else " "
    got = parse_text(f"a:{separator}{text}", "f.yaml").plain()["a"]
    assert got == value and type(got) is type(value)


def test_nan_is_a_float() -> None:
    assert math.isnan(parse_text("[.nan]", "f").plain()[0])


def test_nodes_know_their_lines() -> None:
    node = parse_text("# note\na: 1\nb:\n  - x\n  - c: 2\n", "f.yaml")
    assert node.where == "f.yaml:2" and node.key_where == {"a": "f.yaml:2", "b": "f.yaml:3"}
    assert isinstance(node.value, dict) and isinstance(node.value["b"].value, list)
    assert [entry.where for entry in node.value["b"].value] == ["f.yaml:4", "f.yaml:5"]
    assert node.plain() == {"a": 1, "b": ["x", {"c": 2}]}


def test_anchors_comments_and_a_byte_order_mark_are_fine() -> None:
    assert parse_text("\ufeffa: &x [1]\nb: *x\n", "f").plain() == {"a": [1], "b": [1]}
    assert parse_text("# nothing\n", "f.yaml") == Node(None, "f.yaml:1")
    assert parse_text("--- \na: 1\n", "f").plain() == {"a": 1}
    assert parse_text("1: x\nnull: y\n'': z\n", "f").plain() == {"1": "x", "null": "y", "": "z"}


BAD_YAML = [
    ("a: 1\nb: 2\na: 3\n", "f.yaml:3: key 'a' is given twice, first on line 1; keep one of the two"),
    ("a: &x {}\nb:\n  <<: *x\n", "f.yaml:3: merge keys (<<) are not read; write the keys out, or put them into a 'base:' file"),
    ("a: 1\n---\nb: 2\n", "f.yaml:3: a second document starts here; one file holds one document: remove the '---'"),
    (
        "a: 1\nb: [1, 2\n",
        "f.yaml:3: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow sequence from line 2)",
    ),
    ("a: b: c\n", "f.yaml:1: not valid YAML: mapping values are not allowed here"),
    ("a: *x\n", "f.yaml:1: not valid YAML: found undefined alias 'x'"),
    ("a: 1\nb: \x07\n", "f.yaml:2: not valid YAML: the character U+0007 may not stand here"),
    ('a: "\\UFFFFFFFF"\n', "f.yaml:1: not valid YAML: "),
    ('a:\n  "\\ud83d"\n', "f.yaml:2: half a character (a surrogate escape); write the character itself"),
    ("a: 1\nb: !!python/name:os.system x\n", "f.yaml:2: the tag !!python/name:os.system is not read; leave it out; quote what"),
    ("a: !!int '1'\n", "f.yaml:1: the tag !!int is not read; leave it out; quote what should be text"),
    ("? [a]\n: 1\n", "f.yaml:1: a key must be a word, not a list"),
    ("a: 1\n?\n: 2\n", "f.yaml:2: a key must be a word, not null"),
    ("a: 1e999\n", "f.yaml:1: the number '1e999' is too large; write .inf for infinity"),
    ("a: &a [*a]\n", "f.yaml:1: nested deeper than 64 levels; does an alias contain itself?"),
    ("a: " + "[" * 5000 + "]" * 5000, "f.yaml:1: nested deeper than 64 levels"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_YAML)
def test_what_yaml_leaves_open_is_refused(text: str, expected: str) -> None:
    assert message(text, Loose).startswith(expected)


def test_aliases_that_explode_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("unmask.config.nodes.MAX_VALUES", 1000)
    lines = ["a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    assert message("\n".join(lines)) == "f.yaml:1: aliases expand to more than 1000 values"


OK = "optim: {lr: 1}\n"
BAD_VALUES = [
    ("optim: {lr: 1, stesp: 2}", "f.yaml:1: unknown key 'optim.stesp'; did you mean 'steps'?"),
    (OK + "parts:\n- path: a\n  zzz: 1", "f.yaml:4: unknown key 'parts.0.zzz'; known: file, json_path, path, weight"),
    (OK + "parts: [{path: a, where: x}]", "f.yaml:2: unknown key 'parts.0.where'; known: file, json_path, path, weight"),
    (
        OK + "parts:\n- path: a\n  file: b",
        "f.yaml:4: 'parts.0.file' and 'path' (f.yaml:3) are two spellings of one key; keep one",
    ),
    ("name: x", "f.yaml:1: missing key 'optim' (a mapping)"),
    ("name: x\noptim:\n  steps: 2", "f.yaml:3: missing key 'optim.lr' (a number)"),
    ("- 1", "f.yaml:1: expected a mapping, got a list"),
    ("", "f.yaml:1: expected a mapping, got null"),
    ("optim:\n  lr: fast", "f.yaml:2: optim.lr: expected a number, got 'fast'"),
    ("optim:\n  lr: '1e-4'", "f.yaml:2: optim.lr: expected a number, got '1e-4'; write 1e-4 without quotes"),
    ("optim: {lr: true}", "f.yaml:1: optim.lr: expected a number, got true"),
    ("optim: {lr: 1, steps: true}", "f.yaml:1: optim.steps: expected a whole number, got true"),
    ("optim: {lr: 1, steps: 1.5}", "f.yaml:1: optim.steps: expected a whole number, got 1.5"),
    ("optim: {lr: 1, steps: .inf}", "f.yaml:1: optim.steps: expected a whole number, got .inf"),
    ("optim: {lr: 1, steps: 1_000}", "f.yaml:1: optim.steps: expected a whole number, got '1_000'; write 1000"),
    ("optim: {lr: 1, betas: [1]}", "f.yaml:1: optim.betas: expected a list of 2 values, got 1 values"),
    ("optim: {lr: 1, betas: [1, x]}", "f.yaml:1: optim.betas.1: expected a number, got 'x'"),
    (f"optim: {{lr: {10**400}}}", "f.yaml:1: optim.lr: expected a number, got 1000"),
    (OK + "name: 12", "f.yaml:2: name: expected text, got 12; put it in quotes"),
    (OK + "name: false", "f.yaml:2: name: expected text, got false; put it in quotes"),
    (OK + "name:", "f.yaml:2: name: expected text, got null"),
    (OK + "compile: no", "f.yaml:2: compile: expected true or false, got 'no'"),
    (OK + "compile: 1", "f.yaml:2: compile: expected true or false, got 1"),
    (OK + "mode: fsat", "f.yaml:2: mode: expected 'fast', 'slow' or 3, got 'fsat'; did you mean 'fast'?"),
    (OK + "mode: true", "f.yaml:2: mode: expected 'fast', 'slow' or 3, got true"),
    (OK + "colour: blu", "f.yaml:2: colour: expected 'red' or 'blue', got 'blu'; did you mean 'blue'?"),
    (OK + "limit: x", "f.yaml:2: limit: expected a whole number or null, got 'x'"),
    (OK + "size: atuo", "f.yaml:2: size: expected a whole number or 'auto', got 'atuo'; did you mean 'auto'?"),
    (OK + "model: 3", "f.yaml:2: model: expected text or a mapping, got 3; put it in quotes"),
    (OK + "model:\n  weigth: 1", "f.yaml:3: unknown key 'model.weigth'; did you mean 'weight'?"),
    (OK + "tags: a", "f.yaml:2: tags: expected a list, got 'a'"),
    (OK + "tags: 3", "f.yaml:2: tags: expected a list, got 3; put it in brackets [ ]"),
    (OK + "tags: [a,\n 3]", "f.yaml:3: tags.1: expected text, got 3; put it in quotes"),
    (OK + "ratios: [1]", "f.yaml:2: ratios: expected a mapping, got a list"),
    (OK + "ratios:\n  a: x", "f.yaml:3: ratios.a: expected a number, got 'x'"),
    (OK + "parts: [{path: ''}]", "f.yaml:2: parts.0.path: expected a path, got ''"),
    (OK + 'name: ["a\\nb"]', "f.yaml:2: name: expected text, got a list"),
    (OK + 'compile: "a\\nb\\u2028"', r"f.yaml:2: compile: expected true or false, got 'a\nb\u2028'"),
    (OK + '"a\\nb": 1', "f.yaml:2: unknown key 'a b'; known: colour,"),
    ("optim:\n  steps: 2\n  lr: 0", "f.yaml:3: optim.lr: must be above 0, not 0.0; take 1e-4"),
    ("optim:\n  lr: 1\n  steps: -1", "f.yaml:2: optim.warmup (left at its default): 0 is more than the -1 steps"),
    ("name: x\noptim:\n  lr: 1\n  steps: 13", "f.yaml:3: optim: 13 steps bring bad luck"),
    (OK + "parts:\n- path: a\n- path: b\n  weight: -1", "f.yaml:5: parts.1.weight: must not be negative"),
]


@pytest.mark.parametrize(("text", "expected"), BAD_VALUES)
def test_a_wrong_value_is_located_and_explained(text: str, expected: str) -> None:
    got = message(text)
    assert got == expected or (got.startswith(expected) and len(expected) > 40)


def test_values_become_what_the_annotations_say() -> None:
    stage = build_text(
        "optim: {lr: 1, steps: 1e3, betas: [0, .5]}\nmode: 3\ncolour: blue\nlimit: null\nsize: 4\nmodel: {file: m}\n"
        "parts: [{path: a/b, weight: 2}]\ntags: ['1', x]\nratios: {a: 1}\nextra: {k: [1, null]}\n"
    )
    assert stage.optim == Optim(1.0, 1000, (0.0, 0.5)) and type(stage.optim.lr) is float and type(stage.optim.steps) is int
    assert (stage.mode, stage.colour, stage.limit, stage.size) == (3, Colour.BLUE, None, 4)
    assert stage.model == Part(Path("m")) and stage.parts == (Part(Path("a/b"), 2.0),)
    assert (stage.tags, stage.ratios, stage.extra) == (["1", "x"], {"a": 1.0}, {"k": [1, None]})
    assert build_text(OK + "model: big").model == "big"


def test_located_and_locations_point_at_the_entry_and_stay_out_of_the_dump() -> None:
    part = build_text(OK + "parts:\n  - path: a\n    weight: 2\n").parts[0]
    assert part.where == "f.yaml:3" and part.places == {"json_path": "f.yaml:3", "weight": "f.yaml:4"}
    assert part == Part(Path("a"), 2.0) and hash(part) == hash(Part(Path("a"), 2.0))
    assert dump(part) == {"json_path": "a", "weight": 2.0}


def test_unions_of_shapes_take_the_first_that_accepts_all() -> None:
    @dataclass(frozen=True)
    class Circle:
        radius: float

    @dataclass(frozen=True)
    class Square:
        side: float

    @dataclass(frozen=True)
    class Drawing:
        shape: Circle | Square
        number: int | float = 0
        loose: float | str = 0.0

    assert build(Drawing, parse_text("shape: {side: 2}", "f")).shape == Square(2.0)
    drawing = build(Drawing, parse_text("{shape: {radius: 1}, number: 2.0, loose: 3}", "f"))
    assert type(drawing.number) is float and type(drawing.loose) is float
    assert message("shape: {side: x}", Drawing) == (
        "f.yaml:1: shape: no reading fits (as Circle: f.yaml:1: unknown key 'shape.side'; known: radius | "
        "as Square: f.yaml:1: shape.side: expected a number, got 'x')"
    )


def test_an_annotation_yaml_cannot_express_is_the_programmers_mistake() -> None:
    @dataclass(frozen=True)
    class Odd:
        a: complex

    with pytest.raises(TypeError, match="cannot be annotated"):
        build(Odd, parse_text("a: 1", "f"))
    with pytest.raises(TypeError, match="cannot hold"):
        dump(Odd(1j))


def test_field_error_reads_well_without_a_file() -> None:
    with pytest.raises(FieldError, match="^lr: must be above 0, not -1; take 1e-4$"):
        Optim(-1)
    assert str(FieldError("a", "is odd")) == "a: is odd"


def test_merge_is_deep_for_mappings_only() -> None:
    base = parse_text("a: {x: 1, y: [1, 2]}\nb: 1\nc: {z: 1}", "base")
    merged = merge(base, parse_text("a: {y: [3]}\nc: null", "over"))
    assert merged.plain() == {"a": {"x": 1, "y": [3]}, "b": 1, "c": None}
    assert merged.key_where == {"a": "over:1", "b": "base:2", "c": "over:2"} and merged.where == "over:1"


def test_overrides_set_values_of_every_kind() -> None:
    node = parse_text("a: {b: 1}\nlist: [{k: 1}, 2]\nnothing:\n", "f")
    new = [
        "a.b=1e-4",
        "a.c=[x, '1']",
        "list.0.k=null",
        "list.1=''",
        "nothing.deep.er=yes",
        "new.key={p: q}",
        "a.b=2",
        "url=s3://b/c=d#1",
    ]
    assert apply_overrides(node, new).plain() == {
        "a": {"b": 2, "c": ["x", "1"]},
        "list": [{"k": None}, ""],
        "nothing": {"deep": {"er": "yes"}},
        "new": {"key": {"p": "q"}},
        "url": "s3://b/c=d#1",
    }
    assert node.plain() == {"a": {"b": 1}, "list": [{"k": 1}, 2], "nothing": None}
    assert apply_overrides(Node(None, "f:1"), ["a=1"]).key_where == {"a": "command line: a=1"}


QUOTE = """put text in quotes that reach the program: "name='...'\""""
BAD_OVERRIDES = [
    ("optim.lr", "command line: override 'optim.lr' has no '='; write key=value, such as optim.lr=1e-4"),
    ("=1", "command line: override '=1' has an empty key; write key=value, such as optim.lr=1e-4"),
    ("a..b=1", "command line: override 'a..b=1' has an empty key; write key=value, such as optim.lr=1e-4"),
    ("name=", "command line: name=: the value is empty; write name=null or name='' (in a shell: \"name=''\")"),
    ("name=a #b", f"command line: name=a #b: 'a #b' is not one value; {QUOTE}; write a mapping as name={{a: b}}"),
    ("name=a: b", f"command line: name=a: b: 'a: b' is not one value; {QUOTE}; write a mapping as name={{a: b}}"),
    ("name=*.parquet", "command line: name=*.parquet: not valid YAML: "),
    ("name=[a", "command line: name=[a: not valid YAML: expected ',' or ']', but got '<stream end>' (while parsing a flow"),
    ("optim.lrr=1", "command line: optim.lrr=1: unknown key 'optim.lrr'; did you mean 'lr'?"),
    ("optim.lr=x\ny", "command line: optim.lr=x y: optim.lr: expected a number, got 'x y'"),
    ("optim.lr=-1", "command line: optim.lr=-1: optim.lr: must be above 0, not -1.0; take 1e-4"),
    (
        "parts.2.weight=1",
        "command line: parts.2.weight=1: parts is a list (f.yaml:2) and has no entry '2'; its entries are parts.0 to parts.0",
    ),
    ("parts.x=1", "command line: parts.x=1: parts is a list (f.yaml:2) and has no entry 'x'; its entries are parts.0 to parts.0"),
    ("tags.0=1", "command line: tags.0=1: tags is a list (f.yaml:3) and has no entry '0'; the list is empty"),
    ("optim.lr.x=1", "command line: optim.lr.x=1: optim.lr is 1 (f.yaml:1) and has no key 'x'; override optim.lr as a whole"),
    ("a" + ".a" * 99 + "=1", "command line: a.a.a"),
]


@pytest.mark.parametrize(("override", "expected"), BAD_OVERRIDES)
def test_a_wrong_override_is_explained(override: str, expected: str) -> None:
    assert message(OK + "parts: [{path: a}]\ntags: []\n", Stage, override).startswith(expected)


def test_load_lays_base_file_and_overrides_over_each_other(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "base.yaml").write_text("optim: {lr: 1e-4, steps: 5}\nname: base\ntags: [a]\n")
    file = tmp_path / "sub" / "stage.yaml"
    file.write_text("base: ../base.yaml\noptim:\n  steps: 7\nname: mine\n")
    assert load(Stage, file, ["name=last"]) == Stage(Optim(1e-4, 7), name="last", tags=["a"])
    assert load(Stage, str(tmp_path / "base.yaml")).name == "base"
    (tmp_path / "empty.yaml").write_text("")
    assert load(Loose, tmp_path / "empty.yaml", ["a=1"]) == Loose(1)


def test_base_errors_say_who_asked(tmp_path: Path) -> None:
    def fail(text: str) -> str:
        (tmp_path / "stage.yaml").write_text(text)
        with pytest.raises(ConfigError) as caught:
            load(Stage, tmp_path / "stage.yaml")
        return str(caught.value).replace(f"{tmp_path}/", "")

    (tmp_path / "common.yaml").write_text("name: x\nbase: other.yaml\n")
    (tmp_path / "list.yaml").write_text("- 1\n")
    (tmp_path / "typed.yaml").write_text("optim: {lr: 1}\nname: 3\n")
    one_level = "common.yaml:2: this file is the base of stage.yaml:2 and has a base itself; only one level is read"
    assert fail("name: y\nbase: common.yaml\n") == one_level
    assert fail("name: y\nbase: comon.yaml\n") == "stage.yaml:2: no file 'comon.yaml'; did you mean 'common.yaml'?"
    assert fail("base: list.yaml\n") == "list.yaml:1: the base of stage.yaml:1 holds a list, not a mapping"
    assert fail("base: 3\n") == "stage.yaml:1: base: expected the path of a YAML file, got 3"
    assert fail("base: typed.yaml\nsize: 3\n") == "typed.yaml:2: name: expected text, got 3; put it in quotes"


def test_files_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    def fail(name: str) -> str:
        with pytest.raises(ConfigError) as caught:
            read_yaml(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1
        return str(caught.value).replace(f"{tmp_path}/", "").replace(str(tmp_path), "TMP")

    (tmp_path / "s1-gnd.yaml").write_text("a: 1")
    (tmp_path / "bad.yaml").write_bytes(b"a: 1\nb: \xff\n")
    (tmp_path / "empty").mkdir()
    assert fail("s1-gnd.yml") == "no file 's1-gnd.yml'; did you mean 's1-gnd.yaml'?"
    assert fail("quite-different") == "no file 'quite-different'; check the path"
    assert fail("no/x.yaml") == "no file 'no/x.yaml'; the folder 'no' does not exist either"
    assert fail(".") == "'TMP' is a folder; name one file of it: bad.yaml, s1-gnd.yaml"
    assert fail("empty") == "'empty' is a folder; name one file of it: it holds no YAML file"
    assert fail("bad.yaml") == "bad.yaml:2: byte 0xff is not UTF-8; save the file as UTF-8"
    assert fail("s1-gnd.yaml/x").startswith("cannot read 's1-gnd.yaml/x': Not a directory;")
    assert fail("a\0b").startswith("cannot read 'a b': embedded null byte;")


def test_to_yaml_is_readable_and_quotes_what_would_change() -> None:
    stage = Stage(
        Optim(1e-05), name="1e-4", model=Part(Path("a b")), tags=["no", "null", "", "x: y", "é"], ratios={"<<": 2.0, "3": 1e22}
    )
    assert to_yaml(stage) == (
        "optim:\n  lr: 1e-05\n  steps: 10\n  betas: [0.9, 0.95]\n  warmup: 0\nname: '1e-4'\nmode: fast\ncolour: red\n"
        "limit: null\nsize: auto\nmodel:\n  json_path: a b\n  weight: 1.0\ncompile: false\nparts: []\n"
        "tags: [no, 'null', '', 'x: y', é]\nratios:\n  '<<': 2.0\n  '3': 1e+22\nextra: null\n"
    )


def test_flatten_and_diff_name_settings_by_dotted_keys() -> None:
    old = Stage(Optim(1e-4), tags=["a", "b"], extra=math.nan)
    new = Stage(Optim(2e-4), name="null", tags=["a"], ratios={"r": 1.0}, limit=3, extra=math.nan)
    assert flatten(old)["optim.betas.1"] == 0.95 and flatten(old)["ratios"] == "{}" and flatten(old)["parts"] == "[]"
    assert diff(old, new) == [
        "optim.lr: 0.0001 -> 0.0002",
        "name: stage -> 'null'",
        "limit: null -> 3",
        "tags.1: b -> (absent)",
        "ratios: {} -> (absent)",
        "ratios.r: (absent) -> 1.0",
    ]
    assert diff(old, dump(old)) == []
    assert diff({"a": 1}, {"a": True}) == ["a: 1 -> true"] and diff({"a": 1}, {"a": 1.0}) == []


# --- random objects and random text -----------------------------------------------------------------------------------

QUICK = settings(max_examples=150, deadline=None, database=None)
WORDS = st.text(st.characters(codec="utf-8")) | st.sampled_from([text for text, _ in SCALARS])
FLOATS = st.floats(allow_nan=False)
PATHS = st.text(st.characters(codec="utf-8"), min_size=1).map(Path)
PARTS = st.builds(Part, json_path=PATHS, weight=st.floats(min_value=0, allow_nan=False))
OPTIMS = st.builds(
    Optim, lr=st.floats(min_value=0, exclude_min=True), steps=st.integers(min_value=14), betas=st.tuples(FLOATS, FLOATS)
)
ANY = st.recursive(st.none() | st.booleans() | st.integers() | FLOATS | WORDS, lambda x: st.lists(x) | st.dictionaries(WORDS, x))
STAGES = st.builds(
    Stage,
    optim=OPTIMS,
    name=WORDS,
    mode=st.sampled_from(["fast", "slow", 3]),
    colour=st.sampled_from(Colour),
    limit=st.none() | st.integers(),
    size=st.integers() | st.just("auto"),
    model=WORDS | PARTS,
    compile=st.booleans(),
    parts=st.lists(PARTS, max_size=3).map(tuple),
    tags=st.lists(WORDS),
    ratios=st.dictionaries(WORDS, FLOATS),
    extra=ANY,
)


@QUICK
@given(STAGES)
def test_what_is_written_is_what_is_read(stage: Stage) -> None:
    again = build(Stage, parse_text(to_yaml(stage), "f"))
    assert again == stage and dump(again) == dump(stage) and diff(again, stage) == []
    assert type(again.limit) is type(stage.limit) and again.parts == stage.parts


def never_anything_but_config_error(text: str, *overrides: str) -> None:
    for cls in (Stage, Loose):
        try:
            build(cls, apply_overrides(parse_text(text, "f.yaml"), overrides))
        except ConfigError as error:
            assert len(str(error).splitlines()) == 1


@QUICK
@given(st.text() | st.text("ab:-[]{}#&*!|>'\"%@,? \n\t0.1e<~\\uU\x85"))
def test_any_text_is_read_or_refused(text: str) -> None:
    never_anything_but_config_error(text)
    never_anything_but_config_error("optim: {lr: 1}", text, f"name={text}", f"optim.{text}=1")


GOOD = OK + "parts:\n- path: &p a\n  weight: 2\n- path: *p\nmodel: {file: 'x y'}\nextra: |\n  text\n  more\nratios: {a: 1e-4}\n"


@QUICK
@given(st.integers(0, len(GOOD)), st.integers(0, 4), st.text("ab:-[]{}#&*!|>'\"%@,? \n\t0.1e<~", max_size=4))
def test_damaged_yaml_is_read_or_refused(at: int, cut: int, insert: str) -> None:
    never_anything_but_config_error(GOOD[:at] + insert + GOOD[at + cut :])


def test_importing_stays_light() -> None:
    code = "import sys, unmask.config; sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'numpy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
