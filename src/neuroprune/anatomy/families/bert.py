"""BERT, RoBERTa and their kin: one layout. Decoders with cross-attention included."""

from dataclasses import replace

from neuroprune.anatomy.patterns import AttentionPattern, Family, MLPPattern, StreamPattern
from neuroprune.anatomy.registry import register_family


def _family(model_type: str, name: str, classifier: tuple[str, ...] = ()) -> Family:
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
        stream=StreamPattern(
            embeddings=(
                "embeddings.word_embeddings",
                "embeddings.position_embeddings",
                "embeddings.token_type_embeddings",
            ),
            norms=(
                "embeddings.LayerNorm",
                "encoder.layer.*.attention.output.LayerNorm",
                "encoder.layer.*.output.LayerNorm",
            ),
            width_key="hidden_size",
            # The pooler reads the stream, and what stands on it does not. Language models are
            # missing: their output embedding both writes and reads the stream.
            readers=("pooler.dense",),
            heads={
                f"{name}Model": (),
                f"{name}ForSequenceClassification": classifier,
                f"{name}ForMultipleChoice": (),
                f"{name}ForTokenClassification": ("classifier",),
                f"{name}ForQuestionAnswering": ("qa_outputs",),
            },
        ),
    )


BERT = register_family(_family("bert", "Bert"))
ROBERTA = register_family(_family("roberta", "Roberta", classifier=("classifier.dense",)))
XLM_ROBERTA = register_family(
    _family("xlm-roberta", "XLMRoberta", classifier=("classifier.dense",))
)
CAMEMBERT = register_family(_family("camembert", "Camembert", classifier=("classifier.dense",)))
# Its embeddings may be narrower than its stream, and a layer beside the blocks widens them.
ELECTRA = register_family(replace(BERT, model_type="electra", stream=None))
