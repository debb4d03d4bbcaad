"""Llama and its kin: gated MLPs, and query heads that may share keys and values."""

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern
from neuroprune.anatomy.registry import register_family


def _family(model_type: str, stores_head_dim: bool) -> Family:
    return Family(
        model_type=model_type,
        attention=(
            AttentionPattern(
                path="layers.*.self_attn",
                q="q_proj",
                k="k_proj",
                v="v_proj",
                o="o_proj",
                head_dim="head_dim",
                is_rotary=True,
                group_attribute="num_key_value_groups",
            ),
        ),
        mlp=(
            MLPPattern(
                path="layers.*.mlp",
                up="up_proj",
                down="down_proj",
                gate="gate_proj",
                activation="act_fn",
            ),
        ),
        heads_key="num_attention_heads",
        kv_heads_key="num_key_value_heads",
        d_ff_key="intermediate_size",
        fixed_head_dim=not stores_head_dim,
    )


LLAMA = register_family(_family("llama", stores_head_dim=True))
MISTRAL = register_family(_family("mistral", stores_head_dim=True))
QWEN2 = register_family(_family("qwen2", stores_head_dim=False))
QWEN3 = register_family(_family("qwen3", stores_head_dim=True))
SMOLLM3 = register_family(_family("smollm3", stores_head_dim=False))
