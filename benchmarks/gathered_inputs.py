"""Whether dropping dead input dimensions of a layer is faster: a gathered smaller product.

    y = x W^T    against    y = x[:, live] W[:, live]^T

for the query, key and value layers together, and for the MLP's first layer, of a MiniLM and a
BERT-base shape, at several shares of live input dimensions. Both sides take turns. One RunRecord.

Usage: python benchmarks/gathered_inputs.py --threads 1
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from neuroprune.evaluation.speed import compare_steps
from neuroprune.record import RunRecord, environment

WIDTHS = {"minilm": (384, 1536), "bert-base": (768, 3072)}
LIVE = (0.9, 0.75, 0.5, 0.25)


def measure(repeats: int) -> dict[str, dict[str, Any]]:
    """Row title -> speed-up of the gathered product and its interval."""
    rows: dict[str, dict[str, Any]] = {}
    generator = torch.Generator().manual_seed(0)
    for shape, (width, hidden) in WIDTHS.items():
        for tokens in (128, 4096):
            x = torch.randn(tokens, width, generator=generator)
            for layer, outputs, reads in (("qkv", width, 3), ("up", hidden, 1)):
                weight = torch.randn(outputs, width, generator=generator)
                for share in LIVE:
                    live = torch.randperm(width, generator=generator)[: int(share * width)]
                    small = weight[:, live].contiguous()

                    def dense(x: Any = x, w: Any = weight, n: int = reads) -> None:
                        for _ in range(n):
                            torch.nn.functional.linear(x, w)

                    def gathered(
                        x: Any = x, w: Any = small, live: Any = live, n: int = reads
                    ) -> None:
                        picked = x.index_select(1, live)
                        for _ in range(n):
                            torch.nn.functional.linear(picked, w)

                    found = compare_steps({"dense": dense, "gathered": gathered}, repeats, 2)
                    ratio = found.speedups["gathered"]
                    rows[f"{shape} {layer} {tokens} tokens, {share:.0%} live"] = {
                        "speedup": ratio.value,
                        "low": ratio.low,
                        "high": ratio.high,
                    }
    return rows


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
