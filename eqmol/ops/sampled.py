"""The gaunt family on sampled functions, for any rule of points on the sphere.

Features are sampled, multiplied point by point, and projected back; edges are summed on the samples, so that a convolution
projects once per node. Under ``so3`` the curl pairing r·(∇f × ∇g) = f_θ g_φ - f_φ g_θ of the same two functions is added
before the projection; its gradients are divided by √(l(l+1)) per degree.

Shapes: N nodes, E edges, G points, C channels, W own weights, lm components.
"""

from abc import abstractmethod
from collections.abc import Hashable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from eqmol.ops.contract import Convolution, Power, Product, RadialWeight, sum_edges
from eqmol.ops.spec import Spec
from eqmol.so3.layout import degrees
from eqmol.so3.quadrature import Rule


class SampledGeometry(NamedTuple):
    """Harmonics of every edge, summed over orders against those of every point: [E, G, filter degrees].

    The filter of an edge is zonal about it: with weights w its samples are Σ_l w_l · value_l. ``south`` and ``east`` are its
    derivatives along θ and φ for the degrees from 1 on, absent without a curl pairing.
    """

    value: Tensor
    south: Tensor | None
    east: Tensor | None


def weights_of(spec: Spec, curl: int) -> slice:
    """Where the own weights of the product (curl 0) or of the curl pairing (curl 1) lie."""
    chosen = [i for i, (kind, _) in enumerate(spec.own_weights) if kind == curl]
    return slice(chosen[0], chosen[-1] + 1) if chosen else slice(0, 0)


def filter_degrees(spec: Spec, curl: int) -> list[int]:
    """Filter degrees that have an own weight for the product or the curl pairing."""
    return [l for kind, l in spec.own_weights if kind == curl]


class SampledConvolution(Convolution):
    """Zonal filters on samples; a subclass names its rule and evaluates the filters its own way."""

    to_samples: Tensor
    to_south: Tensor
    to_east: Tensor
    projection: Tensor

    @staticmethod
    @abstractmethod
    def rule(band: int, degree_out: int) -> Rule:
        """The smallest rule that is exact for functions of degree ``band`` projected on degrees up to ``degree_out``."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rule = type(self).rule(spec.degree_in + spec.degree_filter, spec.degree_out)
        self.plain = weights_of(spec, 0)
        self.curl = weights_of(spec, 1)
        self.has_curl = self.curl.stop > 0
        self.add_table("to_samples", rule.sample(spec.degree_in))
        self.add_table("projection", rule.projection * spec.gaunt_scale[degrees(spec.degree_out)])
        if self.has_curl:
            south, east = rule.gradient(spec.degree_in)
            self.add_table("to_south", south)
            self.add_table("to_east", east)
        self.add_filter_tables(rule)

    @abstractmethod
    def add_filter_tables(self, rule: Rule) -> None:
        """Register what :meth:`geometry` needs."""

    @property
    def geometry_key(self) -> Hashable:
        s = self.spec
        return type(self), s.parity, s.degree_filter, self.plain.stop, s.degree_in + s.degree_filter, s.degree_out

    def forward(
        self,
        x: Tensor,
        geometry: SampledGeometry,
        weight: RadialWeight,
        senders: Tensor,
        receivers: Tensor,
        num_receivers: int,
    ) -> Tensor:
        dense = weight.dense()
        product = (self.to_samples @ x).index_select(0, senders) * (geometry.value @ dense[:, self.plain])
        if geometry.south is not None and geometry.east is not None:
            curl = dense[:, self.curl]
            product = product + (self.to_south @ x).index_select(0, senders) * (geometry.east @ curl)
            product = product - (self.to_east @ x).index_select(0, senders) * (geometry.south @ curl)
        return self.projection.T @ sum_edges(product, receivers, num_receivers)


class SampledProduct(Product):
    """Point-by-point product of two sampled features."""

    x_value: Tensor
    x_south: Tensor
    x_east: Tensor
    y_value: Tensor
    y_south: Tensor
    y_east: Tensor
    projection: Tensor
    plain_of: Tensor
    curl_of: Tensor

    @staticmethod
    @abstractmethod
    def rule(band: int, degree_out: int) -> Rule:
        """The smallest rule that is exact for functions of degree ``band`` projected on degrees up to ``degree_out``."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rule = type(self).rule(spec.degree_in + spec.degree_filter, spec.degree_out)
        self.plain = weights_of(spec, 0)
        self.curl = weights_of(spec, 1)
        self.has_curl = self.curl.stop > 0
        self.add_table("x_value", rule.sample(spec.degree_in))
        self.add_table("projection", rule.projection * spec.gaunt_scale[degrees(spec.degree_out)])
        self.add_table("y_value", rule.sample(spec.degree_filter))
        self.add_table("plain_of", _weight_index(spec, 0))
        if self.has_curl:
            for name, degree in (("x", spec.degree_in), ("y", spec.degree_filter)):
                south, east = rule.gradient(degree)
                self.add_table(f"{name}_south", south)
                self.add_table(f"{name}_east", east)
            self.add_table("curl_of", _weight_index(spec, 1))

    def forward(self, x: Tensor, y: Tensor, weight: Tensor) -> Tensor:
        # degrees without an own weight get the appended zero
        padded = torch.cat([weight, torch.zeros_like(weight[..., :1, :])], dim=-2)
        plain = y * padded.index_select(-2, self.plain_of)
        product = (self.x_value @ x) * (self.y_value @ plain)
        if self.has_curl:
            curl = y * padded.index_select(-2, self.curl_of)
            product = product + (self.x_south @ x) * (self.y_east @ curl)
            product = product - (self.x_east @ x) * (self.y_south @ curl)
        return self.projection.T @ product


def _weight_index(spec: Spec, curl: int) -> np.ndarray:
    """Component of the second factor -> its own weight; num_weights where it has none."""
    index = {l: i for i, (kind, l) in enumerate(spec.own_weights) if kind == curl}
    return np.array([index.get(int(l), spec.num_weights) for l in degrees(spec.degree_filter)])


class SampledPower(Power):
    """Powers of one sampled field."""

    to_samples: Tensor
    projection: Tensor
    weight_of1: Tensor
    scale: Tensor

    @staticmethod
    @abstractmethod
    def rule(band: int, degree_out: int) -> Rule:
        """The smallest rule that is exact for functions of degree ``band`` projected on degrees up to ``degree_out``."""

    def __init__(self, spec: Spec) -> None:
        super().__init__(spec)
        rule = type(self).rule(spec.order * spec.degree_in, spec.degree_out)
        self.add_table("to_samples", rule.sample(spec.degree_in))
        self.add_table("projection", rule.projection)
        # own weight of every (order, component); degrees that the order does not reach take the appended zero
        index = {own: i for i, own in enumerate(spec.own_weights)}
        reach = degrees(spec.degree_out)
        for order in range(1, spec.order + 1):
            own = [index.get((order, int(l)), spec.num_weights) for l in reach]
            self.add_table(f"weight_of{order}", np.array(own))
        self.add_table("scale", np.append(spec.gaunt_scale, 0.0))

    def forward(self, x: Tensor, weight: Tensor, group: Tensor) -> Tensor:
        padded = torch.cat([weight, torch.zeros_like(weight[:, :1])], dim=1) * self.scale.unsqueeze(-1)
        own = padded.index_select(0, group)
        samples = self.to_samples @ x
        power = samples
        total = (self.projection.T @ power) * own.index_select(1, self.weight_of1)
        for order in range(2, self.spec.order + 1):
            power = power * samples
            total = total + (self.projection.T @ power) * own.index_select(1, self.get_buffer(f"weight_of{order}"))
        return total
