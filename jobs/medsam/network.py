"""SAM 2 from the package's own classes: a small one, and real checkpoints by file and config.

Data:    checkpoints are read as tensors only: a pickle with code in it is refused.
Source:  Ravi et al., SAM 2, arXiv 2408.00714; Ryali et al., Hiera, ICML 2023; package sam2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.nn import Module

    from .predictor import Segmenter

SMALL = {
    "size": 256, "width": 32, "stages": (1, 1, 2, 1), "whole": (3,), "dim": 128, "memory": 32,
    "layers": 2,
}  # fmt: skip
"""Pixels of a side; Hiera's first width, blocks of its stages and which of them attend to the
whole picture; features at stride 16; features of a memory; layers of memory attention."""


def small(**settings: Any) -> Segmenter:
    """Return a small SAM 2 with fresh weights: 3.8 million of them. ``settings`` as in SMALL."""
    from sam2.modeling.memory_attention import MemoryAttention

    from .predictor import Segmenter

    chosen = SMALL | settings
    dim = chosen["dim"]
    attention = MemoryAttention(
        d_model=dim, pos_enc_at_input=True, num_layers=chosen["layers"],
        layer=attention_layer(dim, chosen["memory"]),
    )  # fmt: skip
    network = Segmenter(
        image_encoder=encoder(chosen), memory_attention=attention,
        memory_encoder=memory_encoder(dim, chosen["memory"]),
        num_maskmem=7, image_size=chosen["size"], sigmoid_scale_for_mem_enc=20.0,
        sigmoid_bias_for_mem_enc=-10.0, use_mask_input_as_output_without_sam=True,
        directly_add_no_mem_embed=True, no_obj_embed_spatial=True,
        use_high_res_features_in_sam=True, iou_prediction_use_sigmoid=True,
        use_obj_ptrs_in_encoder=True, add_tpos_enc_to_obj_ptrs=True,
        proj_tpos_enc_in_obj_ptrs=True, use_signed_tpos_enc_to_obj_ptrs=True,
        only_obj_ptrs_in_the_past_for_eval=True, pred_obj_scores=True, pred_obj_scores_mlp=True,
        fixed_no_obj_ptr=True, use_mlp_for_obj_ptr_proj=True,
    )  # fmt: skip
    network.settings = chosen
    return network.eval()


def encoder(chosen: dict[str, Any]) -> Module:
    """Return Hiera with its feature pyramid."""
    from sam2.modeling.backbones.hieradet import Hiera
    from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    trunk = Hiera(
        embed_dim=chosen["width"], num_heads=1, stages=chosen["stages"],
        global_att_blocks=chosen["whole"], window_pos_embed_bkg_spatial_size=(7, 7),
        window_spec=(8, 4, 8, 4),
    )  # fmt: skip
    neck = FpnNeck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=chosen["dim"]),
        d_model=chosen["dim"], backbone_channel_list=trunk.channel_list,
        fpn_top_down_levels=[2, 3], fpn_interp_model="nearest",
    )  # fmt: skip
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def attention_layer(dim: int, memory: int) -> Module:
    """Return one layer that looks at the slice itself and then at its memories."""
    from sam2.modeling.memory_attention import MemoryAttentionLayer
    from sam2.modeling.sam.transformer import RoPEAttention

    side = {"embedding_dim": dim, "num_heads": 1, "downsample_rate": 1, "feat_sizes": (16, 16)}
    return MemoryAttentionLayer(
        d_model=dim, activation="relu", dim_feedforward=4 * dim, dropout=0.0,
        pos_enc_at_attn=False, pos_enc_at_cross_attn_keys=True, pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**side),
        cross_attention=RoPEAttention(**side, rope_k_repeat=True, kv_in_dim=memory),
    )  # fmt: skip


def memory_encoder(dim: int, memory: int) -> Module:
    """Return what turns a slice and its mask into a memory."""
    from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
    from sam2.modeling.position_encoding import PositionEmbeddingSine

    return MemoryEncoder(
        out_dim=memory, in_dim=dim, fuser=Fuser(CXBlock(dim=dim), num_layers=2),
        mask_downsampler=MaskDownSampler(embed_dim=dim),
        position_encoding=PositionEmbeddingSine(num_pos_feats=memory),
    )  # fmt: skip
