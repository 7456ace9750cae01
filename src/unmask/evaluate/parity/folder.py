"""A folder of cases: its model, its ids, its files."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from unmask.data.tiles import TilingConfig
from unmask.errors import CheckpointError
from unmask.evaluate.parity.report import Cannot, Case
from unmask.model.config import ModelConfig
from unmask.model.image_tokenizer import ImageTokenizer
from unmask.model.unified import UnifiedModel
from unmask.model.weights import config_json
from unmask.model.weights.beside import match_image_tokenizer
from unmask.model.weights.lavida_o import IGNORED, VQ_PREFIX, our_names
from unmask.model.weights.shards import Stored, compare, read, scan_file
from unmask.model.weights.source import Hints, model_shapes, open_source, siglip_names
from unmask.vocab import PUBLISHED

IMAGE, DRAWN, IGNORED_ID = -200, -300, -100
"""What stands in the published ids for a picture to read, for a position of a picture to draw, and for nothing at all."""
IN_THE_TENSORS = {
    "prompt_drop_rate", "image_enc_drop_rate", "downsample", "tokenizer_model_max_length", "mm_edit_area_weight", "policy", "policy_args",
}  # fmt: skip
"""Settings whose effect a case's masks, positions, lengths and weights hold."""

FLAGS = {"skip_comp", "skip_complementary_masking", "ignore_text", "ignore_text_loss", "skip_down", "skip_down_sample"}
"""No complementary masking, image loss only, no compression; the first and the last show in a case's tensors, and are read from there."""
FLAGS_OF_DATA = {
    "select_all_index", "select_one_index", "always_has_cond", "max_cap_length", "is_infille_model", "debug_fix_padding",
    "not_alwasy_do_2dpool", "alwasy_do_2dpool", "enforce_num_itemin_batch", "log_batch_length", "do_debug", "debug_print_output",
    "debug_print_image_res",
}  # fmt: skip
"""Variables (model.md 9) whose effect is in the ids and pictures of a case, or that have none in one process."""


@dataclass(frozen=True)
class Ids:
    """Special ids of the cases: the published ones, all moved by the same number, so that a smaller vocabulary holds them."""

    mask: int
    eos: int
    end_turn: int
    drawn: int
    reference: int
    infill_marker: int
    location_first: int

    @classmethod
    def from_mask(cls, mask: int) -> "Ids":
        """From the id of the mask token, which `config.json` names."""
        moved = mask - PUBLISHED.mask
        return cls(
            mask,
            PUBLISHED.eos + moved,
            PUBLISHED.end_turn + moved,
            PUBLISHED.image_target + moved,
            PUBLISHED.image_reference + moved,
            PUBLISHED.infill_marker + moved,
            PUBLISHED.location_first + moved,
        )


@dataclass(frozen=True)
class System:
    """The model that a case is run with.

    Attributes:
        model, vq: in fp32, in eval mode.
        ids: special ids.
        tiling: how pictures to read are cut; None for a model that reads none.
        folder: of the cases, where pictures may lie.
    """

    model: UnifiedModel
    vq: ImageTokenizer
    ids: Ids
    tiling: TilingConfig | None
    folder: Path

    @property
    def config(self) -> ModelConfig:
        """Sizes."""
        return self.model.config

    @cached_property
    def pictures(self) -> dict[str, np.ndarray]:
        """The folder's pictures by file name, uint8 [H, W, 3]; other arrays are none."""
        arrays = {path.name: np.load(path, allow_pickle=False) for path in sorted(self.folder.glob("*.npy"))}
        return {name: array for name, array in arrays.items() if array.dtype == np.uint8 and array.shape[2:] == (3,)}


class Folder:
    """A folder laid out like the published system's numbers: configurations, weights, `cases.json`, a safetensors file for each case.

    Args:
        folder: the cases and, unless `weights` says otherwise, the weights.
        weights: a safetensors file, or the folder of a checkpoint, of published names or of ours.

    Raises:
        CheckpointError: something is missing, damaged, or of a shape that is not supported.
    """

    def __init__(self, folder: Path, weights: Path | None = None) -> None:
        self.folder = folder
        self.published = config_json.read_json(folder / "config.json")
        self.cases: Mapping[str, Any] = config_json.read_json(folder / "cases.json")
        if not self.cases:
            raise CheckpointError("names no case", where=str(folder / "cases.json"), fix="give a folder of cases")
        mask = self.published.get("mask_token_id")
        if type(mask) is not int:
            raise CheckpointError(
                f"mask_token_id is {mask!r}, not an id", where=str(folder / "config.json"), fix="use the published file"
            )
        self.ids = Ids.from_mask(mask)
        self.where = weights or folder
        self.unused: tuple[str, ...] = ()
        if weights is None and not any(folder.glob("weights.safetensors")) and not any(folder.glob("model*.safetensors")):
            raise CheckpointError("there is no weights.safetensors", where=str(folder), fix="give --weights FILE")
        if weights is not None and not weights.is_dir():
            self.config, self._weights, self._vq = self._open_file(weights)
        else:
            opened = open_source(str(self.where), Hints(tokenizer="none"))
            if opened.config is None:
                raise CheckpointError(
                    f"holds a {opened.kind} checkpoint, not a whole model",
                    where=str(self.where),
                    fix="give a LaViDa-O checkpoint",
                )
            self.config, self._weights, self._vq = opened.config, dict(opened.weights), dict(opened.image_tokenizer)
            self.unused = tuple(each.name for each in opened.left_out)
        self._systems: dict[ModelConfig, System] = {}

    def _open_file(self, file: Path) -> tuple[ModelConfig, dict[str, Stored], dict[str, Stored]]:
        """One safetensors file, with the configurations of the folder."""
        where, stored = str(self.folder / "config.json"), scan_file(file)
        config_json.check("lavida-o", self.published, where)
        self.unused = tuple(sorted(name for name in stored if name.endswith(IGNORED)))
        vq = {name.removeprefix(VQ_PREFIX): each for name, each in stored.items() if name.startswith(VQ_PREFIX)}
        rest = {name: each for name, each in stored.items() if not name.startswith(VQ_PREFIX) and name not in self.unused}
        siglip = {name: each for name, each in rest.items() if name.startswith("vision.siglip.")} or siglip_names(rest)
        vision = None
        if siglip:
            file_of_vision = self.folder / "siglip_config.json"
            given = config_json.read_json(file_of_vision) if file_of_vision.is_file() else {}
            vision = config_json.vision_config(self.published, siglip, given, where)
        image_tokenizer = config_json.image_tokenizer_config(self.folder / "vqvae_config.json")
        config = config_json.lavida_o_config(self.published, self.folder.name, vision, image_tokenizer)
        shapes = model_shapes(config)
        names = {name: name for name in shapes} if "text_embedding.weight" in rest else our_names(shapes)
        told = compare(
            {name: each.shape for name, each in rest.items()}, {theirs: shapes[ours] for theirs, ours in names.items()}
        )
        if told:
            raise CheckpointError(f"{told}", where=str(file), fix="use the weights that the cases were made with")
        match_image_tokenizer(vq, config, file)
        return config, {ours: rest[theirs] for theirs, ours in names.items()}, vq

    @property
    def names(self) -> list[str]:
        """The cases."""
        return sorted(self.cases)

    @property
    def unnamed(self) -> list[str]:
        """Files that look like cases and that `cases.json` does not name."""
        known = {*self.cases, "weights", "model", self.where.stem}
        stems = {path.stem for path in self.folder.glob("*.safetensors")}
        return sorted(stem for stem in stems - known if not stem.startswith(("weights-", "model-")))

    def case(self, name: str, tolerance: float) -> Case:
        """The tensors of a case.

        Raises:
            CheckpointError: its file is missing or damaged.
        """
        path = self.folder / f"{name}.safetensors"
        try:
            tensors = load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"is no whole safetensors file ({error})", where=str(path), fix="copy it again") from None
        settings = self.cases.get(name)
        return Case(name, settings if isinstance(settings, dict) else {}, tensors, tolerance)

    def system(self, case: Case) -> System:
        """The model of a case, with what its settings change.

        Raises:
            Cannot: the settings change something that this program does not render.
        """
        config, changed = self.config, dict(case.settings.get("config_over") or {})
        for key in IN_THE_TENSORS:
            changed.pop(key, None)
        if "dual_tower_layers" in changed:
            config = replace(config, num_joint_layers=min(changed.pop("dual_tower_layers") + 1, config.num_layers))
        if "rope_theta" in changed:
            config = replace(config, rope_theta=float(changed.pop("rope_theta")))
        if "rms_norm_eps" in changed:
            config = replace(config, norm_eps=float(changed.pop("rms_norm_eps")))
        flags = [
            name for name, on in (case.settings.get("flags") or {}).items() if on and name.lower() not in FLAGS | FLAGS_OF_DATA
        ]
        if flags:
            raise Cannot(f"flags sets {', '.join(sorted(flags))}")
        different = sorted(key for key, value in changed.items() if self.published.get(key) != value)
        if different:
            raise Cannot(f"config_over changes {', '.join(different)}")
        if config not in self._systems:
            self._systems = {config: self._build(config)}
        return self._systems[config]

    def _build(self, config: ModelConfig) -> System:
        model, vq = UnifiedModel(config), ImageTokenizer(config.image_tokenizer)
        _fill(model, self._weights)
        _fill(vq.vq, self._vq)
        tiling = None
        if config.vision is not None:
            side = config.vision.image_size
            pinpoints = tuple((w // side, h // side) for w, h in self.published.get("image_grid_pinpoints") or [])
            tiling = TilingConfig(tile=side, pooled=config.vision.pooled, **({"pinpoints": pinpoints} if pinpoints else {}))
        return System(model.eval(), vq.eval(), self.ids, tiling, self.folder)


@torch.no_grad()
def _fill(module: torch.nn.Module, stored: Mapping[str, Stored]) -> None:
    """Whatever the type of the file, fp32."""
    state, ours = module.state_dict(), {}
    for name, each in stored.items():
        ours[(each.file, each.name)] = name
    for each, value in _tensors(stored):
        state[ours[(each.file, each.name)]].copy_(value)


def _tensors(stored: Mapping[str, Stored]) -> Iterator[tuple[Stored, Tensor]]:
    return read(stored.values())
