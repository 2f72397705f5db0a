"""The networks a job's model can be, each made from settings that JSON can hold.

Imported by functions that need PyTorch, never at the top of another module. `Small` is put together
from the package's classes; `Configured` is one of the package's own configurations.

Source:  Ravi et al., SAM 2, arXiv 2408.00714; Ryali et al., Hiera, ICML 2023; package sam2.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from omegaconf import OmegaConf
from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from .brats import REGIONS
from .predictor import Segmenter

WAVES = 100.0
"""Theta of the rotary places in memory attention: 10,000 is for pictures, and 8 x 8 or 16 x 16
places would differ in few of its waves."""
TIE = 2.0
"""What both questions and answers of memory attention start with; see `tied`."""


class Small(Segmenter):
    """A SAM 2 of 3.8 million weights that learns and answers on a CPU.

    ``size`` pixels of a side; ``width`` of Hiera's first stage, blocks of its ``stages`` and which
    of them see the ``whole`` picture; ``dim`` features at stride 16; ``memory`` features of a
    remembered slice; ``layers`` of memory attention. A mask does not say whether the core is meant
    or all of the tumour, and so small a network seldom sees it from the mask's edge: where the
    region was named, each slice's features get a learned vector for it, as the decoder's dense
    prompt is one. Without a name nothing is added.
    """

    def __init__(
        self, size: int = 256, width: int = 32, stages: Sequence[int] = (1, 1, 2, 1),
        whole: Sequence[int] = (3,), dim: int = 128, memory: int = 32, layers: int = 2,
        name: str = "small SAM 2, untrained",
    ) -> None:  # fmt: skip
        super().__init__(
            image_encoder=encoder(width, stages, whole, dim),
            memory_attention=MemoryAttention(
                d_model=dim, pos_enc_at_input=True, num_layers=layers,
                layer=attention_layer(dim, memory),
            ),
            memory_encoder=memory_encoder(dim, memory),
            num_maskmem=7, image_size=size, sigmoid_scale_for_mem_enc=20.0,
            sigmoid_bias_for_mem_enc=-10.0, use_mask_input_as_output_without_sam=True,
            directly_add_no_mem_embed=True, no_obj_embed_spatial=True,
            use_high_res_features_in_sam=True, iou_prediction_use_sigmoid=True,
            use_obj_ptrs_in_encoder=True, add_tpos_enc_to_obj_ptrs=True,
            proj_tpos_enc_in_obj_ptrs=True, use_signed_tpos_enc_to_obj_ptrs=True,
            only_obj_ptrs_in_the_past_for_eval=True, pred_obj_scores=True,
            pred_obj_scores_mlp=True, fixed_no_obj_ptr=True, use_mlp_for_obj_ptr_proj=True,
        )  # fmt: skip
        tied(self.memory_attention.layers[0].cross_attn_image)
        self.regions = nn.Embedding(len(REGIONS), dim)
        nn.init.zeros_(self.regions.weight)
        self.settings = {
            "size": size, "width": width, "stages": [*stages], "whole": [*whole], "dim": dim,
            "memory": memory, "layers": layers, "name": name,
        }  # fmt: skip


class Configured(Segmenter):
    """A SAM 2 as one of the package's configurations has it, of ``size`` pixels a side.

    Points and boxes go in as they are, and slices as photographs: its weights come from those.
    """

    native = natural = True

    def __init__(self, config: str, size: int, name: str) -> None:
        from hydra.utils import instantiate

        path = files("sam2") / "configs" / f"{config}.yaml"
        made = OmegaConf.create(path.read_text("utf-8")).model
        del made["_target_"]
        made.image_size, made.compile_image_encoder = size, False
        super().__init__(**{name: instantiate(part) if OmegaConf.is_config(part) else part
                            for name, part in made.items()})  # fmt: skip
        self.settings = {"config": config, "size": size, "name": name}


class Neck(FpnNeck):
    """The package's feature pyramid whose last level is normalised, each feature over a slice.

    Without it features grow in a fast training until the mask in a memory, which is added to them,
    cannot be seen any more.
    """

    def __init__(self, d_model: int, **rest: Any) -> None:
        super().__init__(d_model=d_model, **rest)
        self.norm = nn.InstanceNorm2d(d_model, affine=True)

    def forward(self, xs: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Return features and places of each level, the finest first."""
        features, places = super().forward(xs)
        features[2] = self.norm(features[2])
        return features, places


def encoder(width: int, stages: Sequence[int], whole: Sequence[int], dim: int) -> ImageEncoder:
    """Return Hiera with its feature pyramid."""
    trunk = Hiera(
        embed_dim=width, num_heads=1, stages=tuple(stages), global_att_blocks=tuple(whole),
        window_pos_embed_bkg_spatial_size=(7, 7), window_spec=(8, 4, 8, 4),
    )  # fmt: skip
    neck = Neck(
        position_encoding=PositionEmbeddingSine(num_pos_feats=dim), d_model=dim,
        backbone_channel_list=trunk.channel_list, fpn_top_down_levels=[2, 3],
        fpn_interp_model="nearest",
    )  # fmt: skip
    return ImageEncoder(trunk=trunk, neck=neck, scalp=1)


def attention_layer(dim: int, memory: int) -> MemoryAttentionLayer:
    """Return one layer that looks at the slice itself and then at its memories."""
    side: dict[str, Any] = {
        "embedding_dim": dim, "num_heads": 1, "downsample_rate": 1, "feat_sizes": (16, 16),
    }  # fmt: skip
    return MemoryAttentionLayer(
        d_model=dim, activation="relu", dim_feedforward=4 * dim, dropout=0.0,
        pos_enc_at_attn=False, pos_enc_at_cross_attn_keys=True, pos_enc_at_cross_attn_queries=False,
        self_attention=RoPEAttention(**side),
        cross_attention=RoPEAttention(
            **side, rope_theta=WAVES, rope_k_repeat=True, kv_in_dim=memory
        ),
    )  # fmt: skip


def tied(attention: RoPEAttention) -> None:
    """Let a fresh layer look at the same place of a memory, and learn from there.

    With one constant in questions and keys alike, what rotary places add is largest where they
    agree. Without it attention starts out the same everywhere, where the mask was is averaged away,
    and a short training never finds out that there are prompts: it paints whatever is brightest.
    One layer is enough; the next is free for the object pointers, which have no place.
    """
    for part in (attention.q_proj, attention.k_proj):
        nn.init.constant_(part.bias, TIE)


def memory_encoder(dim: int, memory: int) -> MemoryEncoder:
    """Return what turns a slice and its mask into a memory."""
    return MemoryEncoder(
        out_dim=memory, in_dim=dim, fuser=Fuser(CXBlock(dim=dim), num_layers=2),
        mask_downsampler=MaskDownSampler(embed_dim=dim),
        position_encoding=PositionEmbeddingSine(num_pos_feats=memory),
    )  # fmt: skip
