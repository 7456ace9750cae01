"""Named settings that travel with a checkpoint, as its `decode.yaml`: how it draws, edits, answers and points.

A preset says how some tasks are done; a task that it is silent about is done as `default` says. What a checkpoint does not say is taken from
`BUILTIN`, whose published presets are those of the published system (model.md 6.5), with scales named by what they amplify.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from unmask.config import FieldError, apply_overrides, build, parse_text, read_yaml, to_yaml
from unmask.diffusion.guidance import published_edit_scales
from unmask.errors import ConfigError, did_you_mean
from unmask.infer.editing import EditConfig
from unmask.infer.pointing import GroundingConfig
from unmask.infer.text import TextConfig
from unmask.infer.unmasking_config import DrawingConfig
from unmask.model.config import PictureConfig
from unmask.model.weights.native import DECODE

DEFAULT = "default"
T = TypeVar("T")
Task = Literal["generate", "edit", "text", "ground"]
KINDS: Mapping[Task, type] = {"generate": DrawingConfig, "edit": EditConfig, "text": TextConfig, "ground": GroundingConfig}
"""What a preset may say something about, and in which settings."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """How some tasks are done.

    Attributes:
        about: where the settings come from, in a sentence.
        generate: pictures from words; None: it says nothing about them, and so with the others.
        edit: pictures changed as told.
        text: answers in words.
        ground: boxes of phrases.
        score: aesthetic score that pictures from words ask for, if the model was told about scores.
    """

    about: str = ""
    generate: DrawingConfig | None = None
    edit: EditConfig | None = None
    text: TextConfig | None = None
    ground: GroundingConfig | None = None
    score: float | None = None


@dataclass(frozen=True, kw_only=True)
class Presets:
    """The presets of a checkpoint.

    Attributes:
        presets: by name; `default` says something about every task.
    """

    presets: dict[str, Preset] = field(default_factory=dict)

    def __post_init__(self) -> None:
        default = self.presets.get(DEFAULT)
        silent = [task for task in KINDS if default is None or getattr(default, task) is None]
        if silent:
            raise FieldError(
                "presets", f"'{DEFAULT}' says nothing about {', '.join(silent)}", fix="it is what all others fall back on"
            )

    @property
    def default(self) -> Preset:
        """What counts where nothing is asked for."""
        return self.presets[DEFAULT]

    def of(self, kind: type[T], name: str | None = None) -> T:
        """A preset's settings of one kind, such as `DrawingConfig`.

        Raises:
            ConfigError: there is no such preset, or it says nothing about what these settings are for.
        """
        task = next(task for task, each in KINDS.items() if each is kind)
        settings = getattr(self._find(name, task), task)
        assert isinstance(settings, kind)
        return settings

    def score(self, name: str | None = None) -> float | None:
        """The score that a preset asks for when it draws."""
        return self._find(name, "generate").score

    def over(self, others: "Presets") -> "Presets":
        """These, and of the others those with other names."""
        return Presets(presets={**others.presets, **self.presets})

    def _find(self, name: str | None, task: Task) -> Preset:
        preset = self.presets.get(name or DEFAULT)
        if preset is None:
            raise ConfigError(f"unknown preset '{name}'", fix=did_you_mean(str(name), self.presets))
        if getattr(preset, task) is None:
            others = [other for other, each in self.presets.items() if getattr(each, task) is not None]
            said = [other for other in KINDS if getattr(preset, other) is not None]
            raise ConfigError(
                f"preset '{name}' is for {' and '.join(said) or 'nothing'}, not for {task}",
                fix=f"take one of {', '.join(others)}",
            )
        return preset


def change(config: T, overrides: Sequence[str]) -> T:
    """Settings with some of them set anew, each as `key=value`.

    Raises:
        ConfigError: there is no such setting, or it does not take this value.
    """
    return build(type(config), apply_overrides(parse_text(to_yaml(config), "preset"), overrides))


def from_record(cls: type[T], record: Mapping[str, Any]) -> T:
    """The settings that an output was made with.

    Raises:
        ConfigError: it was made with settings that there are no more.
    """
    return build(cls, parse_text(json.dumps(record["settings"]), "its record"))


def read(folder: Path) -> Presets:
    """The presets of a checkpoint's folder, and the built-in ones that it does not name.

    Raises:
        ConfigError: its file breaks a rule.
    """
    path = folder / DECODE
    return read_file(path).over(BUILTIN) if path.is_file() else BUILTIN


def read_file(path: Path) -> Presets:
    """The presets of a file; a file of one's own need not name a default.

    Raises:
        ConfigError: it breaks a rule.
    """
    node = read_yaml(path)
    if isinstance(node.value, dict) and "presets" in node.value and isinstance(node.value["presets"].value, dict):
        named = node.value["presets"].value
        if DEFAULT not in named:
            named[DEFAULT] = parse_text(to_yaml(BUILTIN.default), str(path))
    return build(Presets, node)


def of_published(picture: PictureConfig | None) -> Presets:
    """Those of a converted LaViDa-O: by default it draws as was published for pictures of this size, and is asked in those words."""
    presets = {name: _in_published_words(preset) for name, preset in BUILTIN.presets.items() if name != DEFAULT}
    name = "published-256" if picture is not None and picture.size <= 256 else "published-1024"
    published, edit = presets[name], presets["published-edit"].edit
    about = f"as {name} and published-edit"
    default = replace(BUILTIN.default, about=about, generate=published.generate, score=published.score, edit=edit)
    return Presets(presets={DEFAULT: default, **presets})


def _in_published_words(preset: Preset) -> Preset:
    generate, edit = preset.generate, preset.edit
    return replace(
        preset,
        generate=generate and replace(generate, published_words=True),
        edit=edit and replace(edit, published_words=True),
    )


def as_file(presets: Presets) -> Mapping[str, str]:
    """File name -> text."""
    return {DECODE: to_yaml(presets)}


_PUBLISHED = DrawingConfig(steps=64, guidance=5.0, temperature=0.8, shift=5.0, order="stratified", order_seed=42)
_EDIT_TEXT, _EDIT_IMAGE = published_edit_scales(0, 1.2, 1.4)

BUILTIN = Presets(
    presets={
        DEFAULT: Preset(
            about="what the demo's model draws best with; text as the published model answers",
            generate=DrawingConfig(),
            edit=EditConfig(),
            text=TextConfig(),
            ground=GroundingConfig(),
        ),
        "published-256": Preset(
            about="256_eval of the published system",
            generate=DrawingConfig(steps=20, guidance=5.0, temperature=1.0, shift=5.0, order="confidence", order_temperature=1.0),
            score=6.75,
        ),
        "published-1024": Preset(about="1024_eval of the published system", generate=_PUBLISHED, score=7.11),
        "published-edit": Preset(
            about="1024_eval_edit of the published system: guidance_scale 1.2, guidance_scale_image 1.4, edit_mode 0",
            edit=EditConfig(
                steps=64, guidance_text=_EDIT_TEXT, guidance_image=_EDIT_IMAGE, temperature=0.8, shift=5.0, order_seed=42
            ),
        ),
    }
)
"""What every model can be used with; a checkpoint's own presets go before them."""
