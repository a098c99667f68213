"""The architecture of the bundled models: a class token that joins in the last block only.

A ViT whose class token is present in every block has usually collected its answer before the
last one, and CDAM, which differentiates only the last block, then explains a small correction.
Here the patch tokens run through a frozen pretrained backbone alone (with the backbone's own
class token, as it was trained); a new class token meets them once, in the last block, as in CaiT
(Touvron et al. 2021). Everything the classifier knows about the image therefore passes through
the tokens that CDAM explains.
"""

from functools import partial

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

PATCH_SIZE = 14
EMBED_DIM = 384
NUM_HEADS = 6
BACKBONE_DEPTH = 9
BACKBONE_IMG_SIZE = 518  # side at which the backbone's position embeddings were learned


class LateClassTokenViT(VisionTransformer):
    """ViT-S/14 (DINOv2 layout) with frozen early blocks and a late class token.

    ``blocks[:backbone_depth]`` are the pretrained ones; the blocks after them are trained here,
    and the late class token takes part only in ``blocks[-1]``. Parameter names are timm's, plus
    ``late_cls_token`` (1, 1, d) and ``late_norm`` (LayerNorm on the patch tokens where the class
    token joins).

    Args:
        num_classes: outputs of the linear head.
        trained_blocks: number of blocks after the backbone, the last one included; at least 1.
        backbone_depth: number of pretrained blocks.
    """

    def __init__(
        self,
        num_classes: int,
        trained_blocks: int = 1,
        backbone_depth: int = BACKBONE_DEPTH,
        **architecture,
    ):
        architecture = (
            dict(
                img_size=BACKBONE_IMG_SIZE,
                patch_size=PATCH_SIZE,
                embed_dim=EMBED_DIM,
                num_heads=NUM_HEADS,
            )
            | architecture
        )
        super().__init__(
            num_classes=num_classes,
            depth=backbone_depth,
            init_values=1e-5,
            dynamic_img_size=True,
            **architecture,
        )
        self.backbone_depth = backbone_depth
        dim, heads = architecture["embed_dim"], architecture["num_heads"]
        norm_layer = partial(nn.LayerNorm, eps=1e-6)
        for _ in range(trained_blocks):
            self.blocks.append(Block(dim, heads, qkv_bias=True, norm_layer=norm_layer))
        self.late_cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.late_norm = norm_layer(dim)

    def join_class_token(self, tokens: Tensor) -> Tensor:
        """Swap the backbone's class token for the late one.

        Args:
            tokens: (B, 1 + N, d) tokens that left ``blocks[-2]``, row 0 the backbone's class token.

        Returns:
            (B, 1 + N, d) tokens entering ``blocks[-1]``, row 0 the late class token.
        """
        patches = self.late_norm(tokens[:, 1:])
        return torch.cat([self.late_cls_token.expand(len(tokens), -1, -1), patches], dim=1)

    def backbone_tokens(self, pixels: Tensor) -> Tensor:
        """What the frozen part makes of the image.

        Args:
            pixels: (B, 3, H, W) normalised; H and W multiples of the patch size.

        Returns:
            (B, 1 + N, d) tokens leaving the backbone, row 0 the backbone's class token.
        """
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(pixels))))
        for block in self.blocks[: self.backbone_depth]:
            tokens = block(tokens)
        return tokens

    def forward_features(
        self, x: Tensor, attn_mask: Tensor | None = None, is_causal: bool = False
    ) -> Tensor:
        """(B, 3, H, W) pixels to (B, 1 + N, d) normalised tokens of the last block."""
        x = self.backbone_tokens(x)
        for block in self.blocks[self.backbone_depth : -1]:
            x = block(x)
        return self.norm(self.blocks[-1](self.join_class_token(x)))

    def late_tokens(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, d) tokens leaving the backbone to those leaving ``blocks[-2]``."""
        for block in self.blocks[self.backbone_depth:-1]:
            tokens = block(tokens)
        return tokens

    def class_row(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Logits and what the class token attends to, at a fraction of the last block's cost.

        The head reads the class row only, and its query does not depend on the image. So neither
        keys nor values of the patches are formed: per head, W_K^T q scores the rows (the key bias
        cancels in the softmax) and W_V meets only the attention-weighted mean of the rows. Equal
        to the full block; for training.

        Args:
            tokens: (B, 1 + N, d) as ``backbone_tokens`` gives them; patch rows may be left out.

        Returns:
            (B, classes) logits, and (B, M, heads) attention logits of the class token over all
            rows, without the constant that the key bias adds to all of them.
        """
        block = self.blocks[-1]
        attention, joined = block.attn, self.join_class_token(self.late_tokens(tokens))
        rows = block.norm1(joined)
        batch, _, dim = rows.shape
        heads = (attention.num_heads, dim // attention.num_heads)
        w_query, w_key, w_value = attention.qkv.weight.chunk(3)
        b_query, _, b_value = attention.qkv.bias.chunk(3)
        query = (F.linear(rows[:1, 0], w_query, b_query) * attention.scale).view(*heads)
        probe = torch.einsum("he,hed->hd", query, w_key.view(*heads, dim))
        attention_logits = rows @ probe.T
        weights = attention_logits.softmax(1).transpose(1, 2)
        values = torch.einsum("bhd,hed->bhe", weights @ rows, w_value.view(*heads, dim))
        mixed = values.reshape(batch, 1, dim) + b_value
        row = joined[:, :1] + attention.proj(mixed)
        row = row + block.mlp(block.norm2(row))
        return self.forward_head(self.norm(row)), attention_logits

    def backbone_state(self) -> dict[str, Tensor]:
        """The frozen parameters, by name: patch embedding, positions, backbone blocks."""
        return {name: value for name, value in self.state_dict().items() if self._is_backbone(name)}

    def trained_state(self) -> dict[str, Tensor]:
        """The trained parameters, by name: everything a model of its own has to store."""
        return {
            name: value for name, value in self.state_dict().items() if not self._is_backbone(name)
        }

    def _is_backbone(self, name: str) -> bool:
        part, _, rest = name.partition(".")
        if part == "blocks":
            return int(rest.split(".")[0]) < self.backbone_depth
        return part in ("cls_token", "pos_embed", "patch_embed", "norm_pre")


class OwnClassTokenViT(LateClassTokenViT):
    """The same network with the backbone's own class token in the last block, for comparison.

    Its class row has looked at the image in every frozen block, as an ordinary ViT's has;
    ``late_cls_token`` is not used.
    """

    def join_class_token(self, tokens: Tensor) -> Tensor:
        """(B, 1 + N, d) tokens entering ``blocks[-1]``, row 0 the backbone's class token."""
        return self.late_norm(tokens)

    def class_row(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """As for a late class token; the query is each image's own, so nothing is saved there."""
        block, joined = self.blocks[-1], self.join_class_token(self.late_tokens(tokens))
        attention, rows = block.attn, block.norm1(joined)
        batch, _, dim = rows.shape
        heads = (attention.num_heads, dim // attention.num_heads)
        w_query, w_key, w_value = attention.qkv.weight.chunk(3)
        b_query, _, b_value = attention.qkv.bias.chunk(3)
        query = F.linear(rows[:, 0], w_query, b_query) * attention.scale
        probe = torch.einsum("bhe,hed->bhd", query.view(batch, *heads), w_key.view(*heads, dim))
        attention_logits = rows @ probe.transpose(1, 2)
        weights = attention_logits.softmax(1).transpose(1, 2)
        values = torch.einsum("bhd,hed->bhe", weights @ rows, w_value.view(*heads, dim))
        row = joined[:, :1] + attention.proj(values.reshape(batch, 1, dim) + b_value)
        row = row + block.mlp(block.norm2(row))
        return self.forward_head(self.norm(row)), attention_logits
