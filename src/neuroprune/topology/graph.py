"""The graph of every layer: degrees, tails, communities, small worlds, effective rank."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from neuroprune.anatomy import Anatomy, AttentionBlock, MLPBlock
from neuroprune.choices import check_finite
from neuroprune.core.graphs import effective_rank, gini, unit_degrees
from neuroprune.errors import ConfigError
from neuroprune.settings import Config
from neuroprune.topology.networks import SmallWorld, backbone, modularity, random_twin, small_world
from neuroprune.topology.structure import hidden_places, widened
from neuroprune.topology.tails import TailFit, fit_tail


@dataclass(frozen=True, kw_only=True)
class GraphSettings(Config):
    """How a graph report is made. Equal settings make two reports comparable.

    Args:
        density: share of the possible connections that the backbone keeps, in (0, 1].
        max_units: most units among which communities are sought; evenly spaced ones stand for all.
        sources: nodes from which shortest paths are followed.
        twins: random graphs that modularity and small-worldness are compared with.
        seed: of the random graphs, the sources and the communities.

    Raises:
        ConfigError: a value is outside its range.
    """

    density: float = 0.05
    max_units: int = 256
    sources: int = 128
    twins: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        check_finite(self, "density", 0.0, 1.0)
        if self.density == 0.0:
            raise ConfigError("GraphSettings.density must be above 0: a graph without edges.")
        for name, low in (("max_units", 1), ("sources", 1), ("twins", 1), ("seed", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise ConfigError(
                    f"GraphSettings.{name} must be an integer >= {low}, got {value!r}."
                )


@dataclass(frozen=True)
class Degrees:
    """How connections are shared out among the units of a block.

    Args:
        units: all units that are counted; removed ones have degree 0.
        living: units with at least one connection.
        mean: mean degree over all units.
        sd: standard deviation over all units.
        gini: inequality over all units, 0 (equal) to nearly 1.
        gini_living: inequality among the living alone: without the effect of removed units.
        tail: the heavy-tail fit, or why there is none.
    """

    units: int
    living: int
    mean: float
    sd: float
    gini: float
    gini_living: float
    tail: TailFit


@dataclass(frozen=True)
class Backbone:
    """The graph of a block's strongest connections.

    Args:
        units: units that are its nodes.
        density: edges over possible edges.
        degrees: of those units in this graph.
        modularity: Q of the communities found.
        modularity_random: mean Q of the random graphs.
        small_world: clustering and paths against the random graphs.
    """

    units: int
    density: float
    degrees: Degrees
    modularity: float
    modularity_random: float
    small_world: SmallWorld


@dataclass(frozen=True)
class EffectiveRank:
    """Directions a matrix uses, of those it has room for.

    Args:
        value: the effective rank.
        side: smaller side of the matrix, rows and columns without a connection left out.
        share: value / side; 0 for an empty matrix.
    """

    value: float
    side: int
    share: float


@dataclass(frozen=True)
class BlockGraph:
    """One block.

    Args:
        name: the block's name.
        kind: "attention" or "mlp".
        degrees: of its units in the graph of all connections.
        backbone: the graph of its strongest connections.
        effective_rank: role ("q", "k", "v", "o", or "up", "gate", "down") -> effective rank.
    """

    name: str
    kind: str
    degrees: Degrees
    backbone: Backbone
    effective_rank: dict[str, EffectiveRank]


@dataclass(frozen=True)
class GraphReport:
    """The graphs of a model's blocks.

    Args:
        eps: entries up to it in absolute value are no connection.
        settings: how the report was made.
        blocks: one entry per block, in the order of the anatomy.
    """

    eps: float
    settings: GraphSettings
    blocks: tuple[BlockGraph, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form: the fields of the data classes by their names, floats to 6 digits.

            {"eps": 0.0,
             "settings": {"density", "max_units", "sources", "twins", "seed"},
             "blocks": [{
               "name", "kind": "attention" | "mlp",
               "degrees": DEGREES,
               "backbone": {"units", "density", "degrees": DEGREES,
                            "modularity", "modularity_random",
                            "small_world": {"sigma": number | null, "clustering",
                              "clustering_random", "path", "path_random", "reachable",
                              "reason": text | null}},
               "effective_rank": {ROLE: {"value", "side", "share"}}}]}

            DEGREES = {"units", "living", "mean", "sd", "gini", "gini_living",
                       "tail": {"alpha", "xmin", "distance", "tail",
                                "exponential": {"ratio", "p"} | null,
                                "lognormal": {"ratio", "p"} | null,
                                "reason": text | null}}

        Where "reason" is a text, it says why the numbers beside it are null.
        """
        out = dataclasses.asdict(self)
        rounded: dict[str, Any] = _rounded(out)
        return rounded


def graph_report(
    anatomy: Anatomy,
    eps: float = 0.0,
    settings: GraphSettings | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> GraphReport:
    """Describe the graph of every block of a model.

    A connection is an entry with |w| > eps of a unit that was not removed. The units of an MLP are
    its neurons; its graph joins input dimensions, neurons and output dimensions. The units of an
    attention are the features of its heads: feature f reads through row f of q, k and v, and is
    read through column f of o. Heads that share keys and values share their connections.

    A masked model and its shrunk twin have the same report.

    Args:
        anatomy: the model's blocks, dense, masked or shrunk.
        eps: entries up to it in absolute value are no connection.
        settings: how; the default takes well under a minute for a model of six layers.
        progress: is told the number of blocks that are done, and of all.

    Returns:
        The report.

    Raises:
        MissingPackageError: networkx or powerlaw is not installed.
        ConfigError: eps is negative or not finite.
    """
    if not 0.0 <= eps < float("inf"):
        raise ConfigError(f"eps must be a finite number >= 0, got {eps!r}.")
    settings = settings or GraphSettings()
    blocks, reports = list(anatomy.blocks()), []
    for block in blocks:
        reports.append(_block_graph(anatomy, block, eps, settings))
        if progress is not None:
            progress(len(reports), len(blocks))
    return GraphReport(eps, settings, tuple(reports))


@torch.no_grad()
def _block_graph(
    anatomy: Anatomy, block: AttentionBlock | MLPBlock, eps: float, settings: GraphSettings
) -> BlockGraph:
    lineage, name = anatomy.lineage, block.name
    roles: tuple[str, ...]
    if isinstance(block, AttentionBlock):
        kind, roles = "attention", ("q", "k", "v", "o")
        dense_units = lineage.heads[name] * block.head_dim
    else:
        kind, dense_units = "mlp", lineage.neurons[name]
        roles = ("up", "down") if block.gate_proj is None else ("up", "gate", "down")
    hidden = hidden_places(anatomy)
    weights = [
        widened(_connections(matrix, eps), role in ("o", "down"), hidden)
        for role, matrix in zip(roles, block.matrices(), strict=True)
    ]
    ranks = {role: _rank(weight) for role, weight in zip(roles, weights, strict=True)}
    *reads, fan_out = weights
    if isinstance(block, AttentionBlock):
        reads = [_per_query_head(weight, block) for weight in reads]
    degrees = unit_degrees([weight != 0 for weight in reads], fan_out != 0)
    return BlockGraph(
        name,
        kind,
        _degrees(degrees, dense_units),
        _backbone(_read_strength(block, reads), fan_out.abs().T, settings),
        ranks,
    )


def _connections(matrix: Tensor, eps: float) -> Tensor:
    """The weight, zero where there is no connection; float32 on the CPU."""
    weight = matrix.detach().float().cpu()
    return torch.where(weight.abs() > eps, weight, 0.0)


def _per_query_head(weight: Tensor, block: AttentionBlock) -> Tensor:
    """Rows of q, k or v, those of a shared key or value once for each head that uses it."""
    rows = block.num_heads * block.head_dim
    if weight.shape[0] == rows:
        return weight
    heads = weight.reshape(block.num_kv_heads, block.head_dim, weight.shape[1])
    repeated = heads.repeat_interleave(block.group_size, dim=0)
    return repeated.reshape(rows, weight.shape[1])


def _read_strength(block: AttentionBlock | MLPBlock, reads: list[Tensor]) -> Tensor:
    """Sum of |w| between units and input dimensions, (units, inputs).

    In cross-attention the queries read another space than keys and values: twice the dimensions.
    """
    sizes = [weight.abs() for weight in reads]
    if isinstance(block, AttentionBlock) and block.is_cross:
        return torch.cat([sizes[0], sizes[1] + sizes[2]], dim=1)
    return torch.stack(sizes).sum(dim=0)


def _degrees(degrees: Tensor, units: int) -> Degrees:
    """Of the units that are left, and `units` less them with degree 0."""
    every = torch.cat([degrees, degrees.new_zeros(units - len(degrees))])
    living = degrees[degrees > 0]
    wide = every.double()
    return Degrees(
        units,
        len(living),
        float(wide.mean()) if units else 0.0,
        float(wide.std(correction=0)) if units else 0.0,
        gini(every),
        gini(living),
        fit_tail(living),
    )


def _backbone(fan_in: Tensor, fan_out: Tensor, settings: GraphSettings) -> Backbone:
    network = backbone(fan_in, fan_out, settings.density)
    generator = torch.Generator().manual_seed(settings.seed)
    twins = [random_twin(network, generator) for _ in range(settings.twins)]
    units, seed, most = len(network.fan_in), settings.seed, settings.max_units
    return Backbone(
        units,
        network.density,
        _degrees(network.edges.sum(dim=1), units),
        modularity(network, seed, most),
        sum(modularity(twin, seed, most) for twin in twins) / len(twins),
        small_world(network, twins, settings.sources, seed),
    )


def _rank(weight: Tensor) -> EffectiveRank:
    left = weight[weight.any(dim=1)][:, weight.any(dim=0)]
    side = min(left.shape)
    value = effective_rank(left)
    return EffectiveRank(value, side, value / side if side else 0.0)


def _rounded(value: Any) -> Any:
    """Floats to 6 significant digits, all the way down; tuples become lists."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(entry) for entry in value]
    return value
