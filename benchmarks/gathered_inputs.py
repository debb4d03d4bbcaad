"""Whether dropping dead input dimensions of a layer is faster, with the layers that surgery makes.

    y = x W^T    against    y = x[..., live] W[:, live]^T

for the query, key and value layers together (each gathers for itself), and for the MLP's first
layer, of a MiniLM and a BERT-base shape, at several shares of live input dimensions. And why they
gather from a flattened input: that alone, against gathering from batch, length and features. Both
sides take turns. One RunRecord.

Usage: python benchmarks/gathered_inputs.py --threads 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from neuroprune.evaluation.speed import compare_steps
from neuroprune.record import RunRecord, environment
from neuroprune.surgery.inputs import read_
from neuroprune.surgery.linear import keep_inputs_

WIDTHS = {"minilm": (384, 1536), "bert-base": (768, 3072)}
LIVE = (0.9, 0.75, 0.5, 0.25)
SENTENCES = {128: (1, 128), 4096: (32, 128)}  # tokens -> batch and length


def measure(repeats: int) -> dict[str, dict[str, Any]]:
    """Row title -> speed-up of the gathered layers and its interval."""
    rows: dict[str, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(0)
    for shape, (width, hidden) in WIDTHS.items():
        for tokens, batch in SENTENCES.items():
            x = torch.randn(*batch, width, generator=generator)
            for name, outputs, reads in (("qkv", width, 3), ("up", hidden, 1)):
                for share in LIVE:
                    live = torch.randperm(width, generator=generator)[: int(share * width)]
                    dense = [nn.Linear(width, outputs) for _ in range(reads)]
                    small = [_smaller(layer, live.sort().values) for layer in dense]
                    steps = {"dense": _step(dense, x), "gathered": _step(small, x)}
                    title = f"{shape} {name} {tokens} tokens, {share:.0%} live"
                    rows[title] = _speedup(steps, repeats)
            quarter = torch.randperm(width, generator=generator)[: int(0.75 * width)]
            rows[f"{shape} gather {tokens} tokens, 75% live"] = _speedup(
                _gathers(x, quarter), repeats
            )
    return rows


def _speedup(steps: dict[str, Any], repeats: int) -> dict[str, Any]:
    ratio = compare_steps(steps, repeats, 2).speedups["gathered"]
    return {"speedup": ratio.value, "low": ratio.low, "high": ratio.high}


def _gathers(x: Tensor, live: Tensor) -> dict[str, Any]:
    rows = x.reshape(-1, x.shape[-1])
    return {
        "dense": lambda: x.index_select(-1, live),
        "gathered": lambda: rows.index_select(1, live),
    }


def _smaller(layer: nn.Linear, live: Tensor) -> nn.Linear:
    small = nn.Linear(layer.in_features, layer.out_features)
    small.load_state_dict(layer.state_dict())
    keep_inputs_(small, live)
    read_(small, live)
    return small


def _step(layers: list[nn.Linear], x: Tensor) -> Any:
    @torch.no_grad()
    def step() -> None:
        for layer in layers:
            layer(x)

    return step


def main() -> None:
    """Read the command line, measure, write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument(
        "--out", type=Path, default=Path("benchmarks/results/gathered_inputs/cpu/seed-0.json")
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(options.repeats)
    RunRecord(
        config={"widths": {k: list(v) for k, v in WIDTHS.items()}, "live": list(LIVE)},
        method="neuroprune",
        task="gathered_inputs",
        seed=0,
        speeds=rows,
        environment=environment(options.threads),
    ).save(options.out)
    for name, row in rows.items():
        print(f"{name}: {row['speedup']:.2f}x ({row['low']:.2f} to {row['high']:.2f})")


if __name__ == "__main__":
    main()
