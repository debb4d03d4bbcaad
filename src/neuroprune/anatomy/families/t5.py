"""T5 and mT5, plain and gated MLPs, encoder only or encoder-decoder.

`n_heads` of a T5 attention is the width of the position bias that block 0 computes for its whole
stack, so it keeps the dense number; the ragged attention function picks each block's heads.
"""

from dataclasses import replace

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern
from neuroprune.anatomy.registry import register_family


def _attention(path: str, stack_is_optional: bool, is_cross: bool = False) -> AttentionPattern:
    return AttentionPattern(
        path=path,
        q="q",
        k="k",
        v="v",
        o="o",
        head_dim="key_value_proj_dim",
        width_attributes=("inner_dim",),
        is_cross=is_cross,
        optional=stack_is_optional,
        shares_position_bias=True,
    )


def _mlp(path: str, gated: bool) -> MLPPattern:
    return MLPPattern(
        path=path,
        up="wi_1" if gated else "wi",
        gate="wi_0" if gated else None,
        down="wo",
        activation="act",
        optional=True,
    )


T5 = register_family(
    Family(
        model_type="t5",
        attention=(
            _attention("encoder.block.*.layer.0.SelfAttention", stack_is_optional=False),
            _attention("decoder.block.*.layer.0.SelfAttention", stack_is_optional=True),
            _attention(
                "decoder.block.*.layer.1.EncDecAttention", stack_is_optional=True, is_cross=True
            ),
        ),
        mlp=tuple(
            _mlp(path, gated)
            for path in (
                "encoder.block.*.layer.1.DenseReluDense",
                "decoder.block.*.layer.2.DenseReluDense",
            )
            for gated in (False, True)
        ),
        heads_key="num_heads",
        d_ff_key="d_ff",
        fixed_head_dim=False,
        position_bias=(
            "encoder.block.0.layer.0.SelfAttention.relative_attention_bias",
            "decoder.block.0.layer.0.SelfAttention.relative_attention_bias",
        ),
        single_stack=False,
    )
)
MT5 = register_family(replace(T5, model_type="mt5"))
