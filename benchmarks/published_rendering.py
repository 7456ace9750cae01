"""How the published system computes a training step, in plain PyTorch, written from its description (docs: model.md 1.4, 1.6, 2.2, 4).

Samples are padded to the longest and at the right. Hidden states of both towers are as wide as the text tower's, gen tokens with zeros
behind. Tokens of a tower are found by boolean masks in every layer and put back by them. `attn_out`, the final norm and the text head run on
every position, the code head on every code. Samples without a picture to read send a black tile through the vision tower.

In one thing it is kinder than the published system: padding is masked out in joint layers, so that the losses of both can be compared.

Shapes: B samples of L positions, padding included; D text width, E gen width, H heads, K head width.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from unmask.model.transformer import Block, Tower
from unmask.model.unified import UnifiedModel

IGNORED = -100


@dataclass(frozen=True)
class PaddedBatch:
    """What the published system is given.

    Attributes:
        ids_BL: text ids, masks included; anything at gen tokens.
        is_gen_BL, is_real_BL: which tower, and what is no padding.
        labels_BL: text targets or -100.
        codes_BPQ, code_labels_BPQ: codes of the pictures with masks; targets or -100.
        tiles_NSS3: tiles of all samples, a black one for each sample that has none.
        feature_F, place_F: which feature (flat, one past the last is the newline) stands at which position (flat).
        compress: whether one gen token holds 2x2 codes.
    """

    ids_BL: Tensor
    is_gen_BL: Tensor
    is_real_BL: Tensor
    labels_BL: Tensor
    codes_BPQ: Tensor
    code_labels_BPQ: Tensor
    tiles_NSS3: Tensor
    feature_F: Tensor
    place_F: Tensor
    compress: bool


def norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def turn(x_BHLK: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    x = x_BHLK.float()
    first, second = x.chunk(2, dim=-1)
    return (x * cos + torch.cat([-second, first], dim=-1) * sin).to(x_BHLK.dtype)


class PublishedRendering:
    """Computes with the weights of a `UnifiedModel`."""

    def __init__(self, model: UnifiedModel) -> None:
        self.model, self.config = model, model.config

    def loss(self, batch: PaddedBatch) -> Tensor:
        """Mean text loss + mean code loss."""
        h = self.states(self._embed(batch), batch.is_gen_BL, batch.is_real_BL)
        logits = self.model.text_head(h)
        text = F.cross_entropy(logits.flatten(0, 1).float(), batch.labels_BL.flatten(), ignore_index=IGNORED)
        codes = self.code_logits(h[batch.is_gen_BL], batch.codes_BPQ.shape, batch.compress)
        return text + F.cross_entropy(codes.float(), batch.code_labels_BPQ.flatten(), ignore_index=IGNORED)

    def states(self, h: Tensor, is_gen_BL: Tensor, is_real_BL: Tensor | None = None) -> Tensor:
        """Final hidden states of all positions, from their embeddings; without `is_real_BL` there is no padding, and no mask."""
        inverse = self.config.rope_theta ** (
            -torch.arange(0, self.config.head_width, 2, device=h.device) / self.config.head_width
        )
        angle = torch.arange(h.shape[1], device=h.device)[:, None] * inverse[None]
        angle = torch.cat([angle, angle], dim=-1)
        table = (angle.cos(), angle.sin())
        for number, block in enumerate(self.model.transformer.blocks):
            assert isinstance(block, Block)
            h = self._block(block, h, (is_gen_BL, is_real_BL), table, joint=number < self.config.num_joint_layers)
        return norm(h, self.model.transformer.ln_f.weight, self.config.norm_eps)

    def code_logits(self, h_GD: Tensor, shape_BPQ: Sequence[int], compress: bool) -> Tensor:
        """Logits of every code of some pictures, from the final states of their tokens; codes square by square if they were compressed."""
        gen, head, (pictures, rows, columns) = h_GD[:, : self.config.gen_width], self.model.code_head, shape_BPQ
        if compress:
            squares = norm(gen, head.expander.norm.weight, 1e-6).view(pictures, rows // 2, columns // 2, -1).permute(0, 3, 1, 2)
            gen = F.conv_transpose2d(squares, head.expander.weight, stride=2).permute(0, 2, 3, 1).flatten(0, 2)
        gen = head.linear(head.linear_2(norm(gen, head.norm_2.weight, 1e-6)))
        logits: Tensor = head.output(norm(gen, head.norm.weight, 1e-6))
        return logits

    def codes(self, codes_BPQ: Tensor, compress: bool) -> Tensor:
        """Embeddings of the tokens of some pictures, as wide as the text tower's."""
        embedding = self.model.code_embedding
        x = embedding.linear(norm(embedding.table(codes_BPQ), embedding.norm.weight, 1e-6))
        if compress:
            squares = norm(x, embedding.compressor.norm.weight, 1e-6).permute(0, 3, 1, 2)
            x = F.conv2d(squares, embedding.compressor.weight, stride=2).permute(0, 2, 3, 1)
        gen = embedding.linear_2(norm(x, embedding.norm_2.weight, 1e-6)).flatten(0, 2)
        return F.pad(gen, (0, self.config.text_width - gen.shape[-1]))

    def _embed(self, batch: PaddedBatch) -> Tensor:
        model = self.model
        pixels = batch.tiles_NSS3.permute(0, 3, 1, 2).to(model.text_embedding.weight.dtype) / 127.5 - 1
        features = torch.cat([model.vision(pixels).flatten(0, 1), model.vision.newline[None]])
        h = model.text_embedding(batch.ids_BL)
        h = h.flatten(0, 1).index_copy(0, batch.place_F, features[batch.feature_F]).view_as(h) + 0 * features.sum()
        h = h.clone()
        h[batch.is_gen_BL] = self.codes(batch.codes_BPQ, batch.compress)
        return h

    def _block(
        self, block: Block, h: Tensor, rows_BL: tuple[Tensor, Tensor | None], table: tuple[Tensor, Tensor], joint: bool
    ) -> Tensor:
        (is_gen, is_real), gen_width = rows_BL, self.config.gen_width
        text = norm(h[~is_gen], block.text.attn_norm.weight, self.config.norm_eps)
        gen = norm(h[is_gen][:, :gen_width], block.gen.attn_norm.weight, self.config.norm_eps)
        q, k, v = (self._both(is_gen, *pair) for pair in zip(_qkv(block.text, text), _qkv(block.gen, gen), strict=True))
        q, k, v = (x.unflatten(-1, (-1, block.head_width)).transpose(1, 2) for x in (q, k, v))
        q, k = turn(q, *table), turn(k, *table)
        if joint:
            a = F.scaled_dot_product_attention(q, k, v, attn_mask=None if is_real is None else is_real[:, None, None])
        else:
            a = torch.zeros_like(q)
            for mine in (~is_gen if is_real is None else ~is_gen & is_real, is_gen):
                a = a + _compacted(q, k, v, mine)
        h = h + block.attn_out(a.transpose(1, 2).flatten(2))
        text, gen = h[~is_gen], h[is_gen][:, :gen_width]
        text, gen = self._mlp(block.text, text), self._mlp(block.gen, gen)
        return self._both(is_gen, text, F.pad(gen, (0, h.shape[-1] - gen_width)))

    def _mlp(self, tower: Tower, x: Tensor) -> Tensor:
        normed = norm(x, tower.ff_norm.weight, self.config.norm_eps)
        out: Tensor = x + tower.ff_out(F.silu(tower.ff_proj(normed)) * tower.up_proj(normed))
        return out

    @staticmethod
    def _both(is_gen_BL: Tensor, text: Tensor, gen: Tensor) -> Tensor:
        whole = text.new_zeros((*is_gen_BL.shape, text.shape[-1]))
        whole[~is_gen_BL] = text
        whole[is_gen_BL] = gen
        return whole


def _qkv(tower: Tower, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return tower.q_proj(x), tower.k_proj(x), tower.v_proj(x)


def _compacted(q_BHLK: Tensor, k_BHLK: Tensor, v_BHLK: Tensor, mine_BL: Tensor) -> Tensor:
    """Attention among some positions of each sample, moved to the left and back; zeros elsewhere."""
    lengths = mine_BL.sum(1)
    slots = torch.arange(int(lengths.max()), device=mine_BL.device)[None] < lengths[:, None]
    rows = []
    for x in (q_BHLK, k_BHLK, v_BHLK):
        packed = x.new_zeros((*slots.shape, x.shape[1], x.shape[3]))
        packed[slots] = x.transpose(1, 2)[mine_BL]
        rows.append(packed.transpose(1, 2))
    seen = None if bool(slots.all()) else (slots | (lengths == 0)[:, None])[:, None, None]
    a = F.scaled_dot_product_attention(*rows, attn_mask=seen)
    out = torch.zeros_like(q_BHLK.transpose(1, 2))
    out[mine_BL] = a.transpose(1, 2)[slots]
    return out.transpose(1, 2)


def eager_vision(vision: nn.Module) -> None:
    """Attention of the vision tower as two products with a softmax between."""
    vision.siglip.set_attn_implementation("eager")  # type: ignore[union-attr, operator]
