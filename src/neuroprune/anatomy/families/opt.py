"""OPT."""

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern
from neuroprune.anatomy.registry import register_family

OPT = register_family(
    Family(
        model_type="opt",
        attention=(
            AttentionPattern(
                path="decoder.layers.*.self_attn",
                q="q_proj",
                k="k_proj",
                v="v_proj",
                o="out_proj",
                head_dim="head_dim",
                head_attributes=("num_heads",),
            ),
        ),
        mlp=(
            MLPPattern(
                path="decoder.layers.*",
                up="fc1",
                down="fc2",
                activation="activation_fn",
                suffix=".mlp",
            ),
        ),
        heads_key="num_attention_heads",
        d_ff_key="ffn_dim",
    )
)
