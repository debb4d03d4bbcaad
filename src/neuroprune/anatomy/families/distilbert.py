"""DistilBERT."""

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern, StreamPattern
from neuroprune.anatomy.registry import register_family

DISTILBERT = register_family(
    Family(
        model_type="distilbert",
        attention=(
            AttentionPattern(
                path="transformer.layer.*.attention",
                q="q_lin",
                k="k_lin",
                v="v_lin",
                o="out_lin",
                head_dim="attention_head_size",
                head_attributes=("n_heads",),
            ),
        ),
        mlp=(
            MLPPattern(
                path="transformer.layer.*.ffn", up="lin1", down="lin2", activation="activation"
            ),
        ),
        heads_key="n_heads",
        d_ff_key="hidden_dim",
        stream=StreamPattern(
            embeddings=("embeddings.word_embeddings", "embeddings.position_embeddings"),
            norms=(
                "embeddings.LayerNorm",
                "transformer.layer.*.sa_layer_norm",
                "transformer.layer.*.output_layer_norm",
            ),
            width_key="dim",
            heads={
                "DistilBertModel": (),
                "DistilBertForSequenceClassification": ("pre_classifier",),
                "DistilBertForMultipleChoice": ("pre_classifier",),
                "DistilBertForTokenClassification": ("classifier",),
                "DistilBertForQuestionAnswering": ("qa_outputs",),
            },
        ),
    )
)
