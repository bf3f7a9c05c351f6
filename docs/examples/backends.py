"""One tensor product by five algorithms: the same numbers at different speeds."""

import time

import torch

from eqmol import Spec, convolution
from eqmol.ops import RadialWeight

nodes, edges, channels = 100, 2000, 32
generator = torch.Generator().manual_seed(0)
vectors = torch.randn(edges, 3, generator=generator)  # Å, from receivers to senders
senders, receivers = torch.randint(nodes, (2, edges), generator=generator)
receivers = receivers.sort().values

# what is computed: features of degrees 0 to 3, multiplied by harmonics of the edges of degrees 0 to 3, in the gaunt family
spec = Spec("convolution", "gaunt", "o3", degree_in=3, degree_filter=3, degree_out=3)
x = torch.randn(nodes, (3 + 1) ** 2, channels, generator=generator)
weight = RadialWeight(  # what a radial network returns: hidden features of every edge and its last matrix
    torch.randn(edges, 8, generator=generator), torch.randn(8, spec.num_weights, channels, generator=generator)
)

results = {}
for backend in ("cg", "escn", "gaunt", "gaunt_fft", "grid"):  # how
    op = convolution(spec, backend)
    arguments = (x, op.geometry(vectors), weight, senders, receivers, nodes)
    op(*arguments)  # warm up
    start = time.perf_counter()
    results[backend] = op(*arguments)
    took = 1e3 * (time.perf_counter() - start)
    difference = (results[backend] - results["cg"]).abs().max() / results["cg"].abs().max()
    print(f"{backend:9} {took:6.1f} ms, differs from cg by {difference:.0e}, {type(op).__name__}")
