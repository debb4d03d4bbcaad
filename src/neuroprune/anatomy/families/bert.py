"""BERT and RoBERTa: one layout, two model types. Decoders with cross-attention included."""

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern
from neuroprune.anatomy.registry import register_family


def _family(model_type: str) -> Family:
    def attention(path: str, is_cross: bool) -> AttentionPattern:
        return AttentionPattern(
            path=path,
            q="self.query",
            k="self.key",
            v="self.value",
            o="output.dense",
            owner="self",
            head_dim="attention_head_size",
            head_attributes=("num_attention_heads",),
            width_attributes=("all_head_size",),
            is_cross=is_cross,
            optional=is_cross,
        )

    return Family(
        model_type=model_type,
        attention=(
            attention("encoder.layer.*.attention", is_cross=False),
            attention("encoder.layer.*.crossattention", is_cross=True),
        ),
        mlp=(
            MLPPattern(
                path="encoder.layer.*",
                up="intermediate.dense",
                down="output.dense",
                activation="intermediate.intermediate_act_fn",
                suffix=".mlp",
            ),
        ),
        heads_key="num_attention_heads",
        d_ff_key="intermediate_size",
    )


BERT = register_family(_family("bert"))
ROBERTA = register_family(_family("roberta"))
