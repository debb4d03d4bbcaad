"""A layer as a graph of its strongest connections: communities and small worlds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from neuroprune.core.graphs import bipartite_clustering, mean_path_length, strongest
from neuroprune.topology.optional import MissingPackageError

MIN_REACHABLE = 0.9  # share of pairs; below it, path lengths of the pieces are not comparable


@dataclass(frozen=True)
class Network:
    """A layer's strongest connections as a bipartite graph: units against input and output
    dimensions.

    Args:
        fan_in: edges between units and input dimensions, boolean, (units, inputs).
        fan_out: edges between units and output dimensions, boolean, (units, outputs).
    """

    fan_in: Tensor
    fan_out: Tensor

    @property
    def edges(self) -> Tensor:
        """Both, side by side, (units, inputs + outputs)."""
        return torch.cat([self.fan_in, self.fan_out], dim=1)

    @property
    def density(self) -> float:
        """Edges over possible edges; 0 for a graph without nodes."""
        edges = self.edges
        return float(edges.float().mean()) if edges.numel() else 0.0


@dataclass(frozen=True)
class SmallWorld:
    """Clustering and path length, beside those of random graphs of the same size.

        sigma = (C / C_random) / (L / L_random)

    Args:
        sigma: above 1 where the graph is clustered and yet short; None where it is not defined.
        clustering: C, how often units that share a neighbour share another.
        clustering_random: its mean over the random graphs.
        path: L, mean shortest path between nodes, sampled.
        path_random: its mean over the random graphs.
        reachable: share of the sampled pairs that a path joins.
        reason: why there is no sigma; None where there is one.
    """

    sigma: float | None
    clustering: float
    clustering_random: float
    path: float
    path_random: float
    reachable: float
    reason: str | None = None


def backbone(fan_in: Tensor, fan_out: Tensor, density: float) -> Network:
    """The strongest connections of a layer, at a given density of what is left of it.

    Nodes are the units, input and output dimensions that have any connection. Of each side's
    possible connections between these nodes the strongest share `density` become edges (all that
    are left, where they are fewer).

    Why a threshold: without one, a dense layer is a complete bipartite graph, and so is what is
    left of a layer that lost whole units; every measure of a complete graph is trivial. Why a
    share and not a magnitude: graphs of one density can be compared before and after, and weights
    shrink in training.

    Args:
        fan_in: |w| between units and inputs, zero where there is no connection, (units, inputs).
        fan_out: likewise, units and outputs, (units, outputs).
        density: share of possible connections that become edges, in (0, 1].

    Reference: van den Heuvel et al. (2017), "Proportional thresholding in resting-state fMRI
    functional connectivity networks" (graphs of equal density).
    """
    living = fan_in.any(dim=1) | fan_out.any(dim=1)
    sides = []
    for weight in (fan_in, fan_out):
        left = weight[:, weight.any(dim=0)][living]
        sides.append(strongest(left, round(density * left.numel())))
    return Network(*sides)


def random_twin(network: Network, generator: torch.Generator) -> Network:
    """A graph of the same nodes and as many edges on each side, placed at random.

    Args:
        network: the graph.
        generator: draws the places.
    """
    sides = []
    for edges in (network.fan_in, network.fan_out):
        places = torch.randperm(edges.numel(), generator=generator)[: int(edges.sum())]
        mask = torch.zeros(edges.numel(), dtype=torch.bool)
        mask[places] = True
        sides.append(mask.reshape(edges.shape))
    return Network(*sides)


def small_world(network: Network, twins: list[Network], sources: int, seed: int) -> SmallWorld:
    """How small-worlded a graph is, against random graphs.

    Clustering is exact and of the bipartite kind (a bipartite graph has no triangles). Paths are
    those from `sources` nodes drawn by the seed, the same ones in all graphs.

    Args:
        network: the graph.
        twins: random graphs of the same nodes.
        sources: nodes from which paths are followed.
        seed: draws them.

    Reference: Watts and Strogatz (1998), Nature 393; Humphries and Gurney (2008), PLoS ONE 3(4),
    equation 3.
    """
    edges = network.edges
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randperm(sum(edges.shape), generator=generator)[:sources]
    clustering = bipartite_clustering(edges)
    path, reachable = mean_path_length(edges, chosen)
    clusterings = [bipartite_clustering(twin.edges) for twin in twins]
    paths = [mean_path_length(twin.edges, chosen)[0] for twin in twins]
    c_random, l_random = _mean(clusterings), _mean(paths)
    reason = None
    if not edges.any():
        reason = "no connections are left"
    elif bool(edges.all()):
        reason = "every possible connection is there: all such graphs are equal"
    elif c_random == 0.0 or l_random == 0.0:
        reason = "random graphs as sparse as this one have no clustering"
    elif reachable < MIN_REACHABLE:
        reason = f"the graph falls into pieces: {reachable:.0%} of the pairs are joined by a path"
    sigma = None if reason else (clustering / c_random) / (path / l_random)
    return SmallWorld(sigma, clustering, c_random, path, l_random, reachable, reason)


def modularity(network: Network, seed: int, max_units: int) -> float:
    """How well a graph divides into communities.

        Q = sum over communities c of [ E_c / E - ( D_c / (2 E) )^2 ]

    E_c edges inside c, D_c the sum of its nodes' degrees; the communities are those that the
    Louvain method finds. Compare with the Q of a random graph, which is well above 0 if sparse.
    The search takes seconds in large graphs: where there are more than `max_units` units, evenly
    spaced ones stand for all.

    Args:
        network: the graph.
        seed: of the order in which nodes are visited.
        max_units: most units.

    Returns:
        Q in [-1/2, 1]; 0 for a graph without edges.

    Raises:
        MissingPackageError: networkx is not installed.

    Reference: Newman (2006), PNAS 103(23); Blondel et al. (2008), arXiv 0803.0476 (Louvain).
    """
    try:
        import networkx
    except ImportError as error:
        raise MissingPackageError("modularity", "networkx") from error
    edges = network.edges
    if len(edges) > max_units:
        edges = edges[torch.arange(max_units) * len(edges) // max_units]
    if not edges.any():
        return 0.0
    graph = networkx.Graph()
    places = edges.nonzero()
    places[:, 1] += edges.shape[0]
    graph.add_edges_from(places.tolist())
    communities = networkx.community.louvain_communities(graph, seed=seed)
    return float(networkx.community.modularity(graph, communities))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
