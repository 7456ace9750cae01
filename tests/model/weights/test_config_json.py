"""The published configuration, as its notebook prints it, is the model file that we ship."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.published import VISION, config
from unmask.config import diff
from unmask.errors import CheckpointError
from unmask.model.weights import config_json
from unmask.model.weights.lavida_o import published_name
from unmask.model.weights.shards import Stored
from unmask.model.weights.source import model_shapes, siglip_names
from unmask.train.config import load_model_config

PUBLISHED: dict[str, Any] = {
    "model_type": "llada", "d_model": 4096, "n_layers": 32, "n_heads": 32, "n_kv_heads": 32, "effective_n_kv_heads": 32,
    "mlp_hidden_size": 12288, "mlp_ratio": 4, "activation_type": "silu", "block_type": "llama", "layer_norm_type": "rms",
    "rms_norm_eps": 1e-5, "layer_norm_with_affine": True, "bias_for_layer_norm": False, "include_bias": False,
    "include_qkv_bias": False, "attention_layer_norm": False, "rope": True, "rope_full_precision": True, "rope_theta": 500000.0,
    "max_sequence_length": 4096, "alibi": False, "vocab_size": 127378, "embedding_size": 127378, "weight_tying": False,
    "tie_word_embeddings": False, "mask_token_id": 126336, "eos_token_id": 126081, "pad_token_id": 126081,
    "attention_dropout": 0.0, "residual_dropout": 0.0, "embedding_dropout": 0.0, "scale_logits": False, "input_emb_norm": False,
    "init_fn": "mitchell", "init_std": 0.02, "precision": "amp_bf16", "torch_dtype": "bfloat16", "dual_tower": True,
    "dual_tower_layers": 16, "d_model_gen": 2048, "mlp_hidden_size_gen": 8192, "downsample": True, "gen_mlp_type": "dit2",
    "enc_use_image_branch": True, "image_enc_drop_rate": 0.5, "prompt_drop_rate": 0.1, "mm_vqvae": "jacklishufan/LaViDa-O-v1.0",
    "mm_vision_tower": "google/siglip-so400m-patch14-384", "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch",
    "mm_hidden_size": 1152, "mm_projector_type": "mlp2x_gelu", "mm_resampler_type": "spatial_pool",
    "mm_spatial_pool_mode": "conv", "mm_spatial_pool_stride": 2, "mm_spatial_pool_out_channels": 1152,
    "mm_patch_merge_type": "spatial_unpad", "image_aspect_ratio": "anyres",
    "image_grid_pinpoints": [[384, 768], [768, 384], [768, 768], [1152, 384], [384, 1152]], "mm_newline_position": "grid",
    "mm_use_im_start_end": False, "mm_use_im_patch_token": False, "tokenizer_model_max_length": 8192,
    "tokenizer_padding_side": "right", "use_pos_skipping": False, "pos_skipping_range": 4096,
}  # fmt: skip


def stored(shapes: dict[str, tuple[int, ...]]) -> dict[str, Stored]:
    return {name: Stored(Path("shard"), name, shape, torch.bfloat16) for name, shape in shapes.items()}


def test_the_published_file_is_our_model_file() -> None:
    ours = load_model_config("lavida-o-8b")
    config_json.check("lavida-o", PUBLISHED, "")
    siglip = siglip_names(stored({published_name(name): shape for name, shape in model_shapes(ours).items()}))
    vision = config_json.vision_config(PUBLISHED, siglip, {}, "")
    made = config_json.lavida_o_config(PUBLISHED, ours.name, vision, ours.image_tokenizer)
    assert diff(replace(made, tokenizer=ours.tokenizer), ours) == []


def test_what_export_says_of_the_8b_model_is_what_the_published_file_says() -> None:
    made = config_json.published_json("lavida-o", load_model_config("lavida-o-8b"), {})
    differing = {key for key in PUBLISHED.keys() & made.keys() if made[key] != PUBLISHED[key]}
    assert differing == {"model_type"}, "the printed config says llava_llada where the file says llada"
    unsaid = PUBLISHED.keys() - made.keys()
    assert not unsaid & {key for rules in config_json.RULES.values() for key in rules}


def test_kinds() -> None:
    assert config_json.kind_of_config(PUBLISHED) == "lavida-o"
    assert config_json.kind_of_config({**PUBLISHED, "dual_tower": False}) == "lavida"
    assert config_json.kind_of_config({"d_model": 1, "n_layers": 1, "n_heads": 1}) == "llada"
    assert config_json.kind_of_config({"hidden_size": 1}) is None


@pytest.mark.parametrize("key", sorted({key for rules in config_json.RULES.values() for key in rules}))
def test_every_rule_refuses_by_name(key: str) -> None:
    with pytest.raises(
        CheckpointError, match=f'^config.json: {key} is "other", and only .* is supported; convert a checkpoint of the'
    ):
        config_json.check("lavida-o", {**PUBLISHED, key: "other"}, "config.json")


def test_dropout_and_kinds_of_truth() -> None:
    for change, says in (
        ({"attention_dropout": 0.1}, "attention_dropout is 0.1, and only 0.0 is supported"),
        ({"dual_tower": 1}, "dual_tower is 1, and only true is supported"),
        ({"n_layers": True}, "n_layers is true, not a size"),
        ({"multi_query_attention": True}, "multi_query_attention is true, and only null or false is supported"),
    ):
        with pytest.raises(CheckpointError) as caught:
            config_json.check("lavida-o", {**PUBLISHED, **change}, "")
        assert says in str(caught.value)
    config_json.check("lavida-o", {**PUBLISHED, "n_kv_heads": None, "unified_gen_enc": False}, "")


def test_joint_layers_are_one_more_than_the_file_says() -> None:
    """model.md Q5: the published code compares with `>`; a file without the key means all layers."""
    vq = config().image_tokenizer
    for said, meant in ((16, 17), (0, 1), (31, 32), (9999, 32)):
        assert config_json.lavida_o_config({**PUBLISHED, "dual_tower_layers": said}, "x", None, vq).num_joint_layers == meant
    silent = {
        key: value for key, value in PUBLISHED.items() if key not in ("dual_tower_layers", "d_model_gen", "mlp_hidden_size_gen")
    }
    made = config_json.lavida_o_config(silent, "x", None, vq)
    assert (made.num_joint_layers, made.gen_width, made.gen_mlp_width) == (32, 4096, 12288)


def test_vision_sizes_come_from_the_weights() -> None:
    siglip = stored({name: shape for name, shape in model_shapes(config()).items() if name.startswith("vision.siglip.")})
    pinned = {"mm_vision_tower": "x", "image_grid_pinpoints": [[28, 56], [56, 28]]}
    assert config_json.vision_config(pinned, siglip, {"num_attention_heads": 2}, "") == VISION
    assert config_json.vision_config({}, siglip, {"vision_config": {"num_attention_heads": 2, "image_size": 28}}, "") == VISION
    with pytest.raises(
        CheckpointError, match="pictures of 56 px are 16 patches, the weights have 4 places; give --vision FOLDER"
    ):
        config_json.vision_config({"image_grid_pinpoints": [[56, 112]]}, siglip, {"num_attention_heads": 2}, "")
    with pytest.raises(CheckpointError, match="the weights hold no whole SigLIP encoder"):
        config_json.vision_config({}, {}, {"num_attention_heads": 2}, "")


def test_the_image_tokenizers_file_goes_round(tmp_path: Path) -> None:
    import json

    sizes = load_model_config("lavida-o-8b").image_tokenizer
    (tmp_path / "config.json").write_text(json.dumps(config_json.image_tokenizer_json(sizes)))
    assert config_json.image_tokenizer_config(tmp_path / "config.json") == replace(sizes, weights="./vqvae")
