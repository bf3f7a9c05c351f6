"""Programs printed as C++ with portable vector types: no intrinsics, no headers but ``stdint.h``.

A program becomes a function of one node or edge and one block of channels; around it stands a loop over blocks, groups and nodes,
or blocks and edges. Nothing of a user enters the source: it has names of tensors of this package, integers and constants.

Vectors hold the channels of a block. The last block of channels may be shorter: its rows are copied into buffers that are filled up
with zeros, and back.

Every kernel has the signature ``void eqmol_kernel(int64_t first, int64_t last, const int64_t* sizes, const void* const* in, void*
const* out)``: the parts of its work from ``first`` to ``last``, which are stretches of edges, groups of nodes, or blocks of
channels. No two write the same number, if no two stretches share a receiver that is written, or a sum over senders.
"""

from collections.abc import Sequence

from eqmol.ops.kernels.expressions import SLOPE, Product, Program, Scaled, Sum, Variable

#: Changes whenever the calling convention does.
ABI = 6

#: Nodes whose channels are read together.
TILE = 32
#: Statements up to which a program is not worth a call.
SHORT = 250

NODE_TENSORS = ("x", "y", "v")
GROUP_TENSORS = ("c", "w")
SENDER_TENSORS, RECEIVER_TENSORS, EDGE_TENSORS = ("x", "x0"), ("v",), ("w", "w0")

_SIGNATURE = """extern "C" __attribute__((visibility("default")))
void eqmol_kernel(int64_t first, int64_t last, const int64_t* sizes, const void* const* in, void* const* out) {
"""


def _bytes(scalar: str, width: int) -> int:
    return {"float": 4, "double": 8}[scalar] * width


def _has_many_registers(scalar: str, width: int) -> bool:
    """AVX-512 has twice as many as AVX2."""
    return _bytes(scalar, width) >= 64


def _head(scalar: str, width: int) -> str:
    size = _bytes(scalar, width)
    return f"""#include <stdint.h>
typedef {scalar} S;
typedef S V __attribute__((vector_size({size}), aligned(sizeof(S)), may_alias));
enum {{ W = {width} }};
static inline V load(const S* p) {{ return *(const V*)p; }}
static inline void store(S* p, V v) {{ *(V*)p = v; }}
// rows of n < W channels, a row every s numbers, into rows of W and back
static void pack(const S* from, int64_t s, int64_t n, int64_t rows, S* to) {{
  if (n == W) for (int64_t i = 0; i < rows; i++) store(to + i * W, load(from + i * s));
  else for (int64_t i = 0; i < rows; i++) for (int64_t c = 0; c < W; c++) to[i * W + c] = c < n ? from[i * s + c] : S(0);
}}
static void unpack(const S* from, int64_t s, int64_t n, int64_t rows, S* to) {{
  if (n == W) for (int64_t i = 0; i < rows; i++) store(to + i * s, load(from + i * W));
  else for (int64_t i = 0; i < rows; i++) for (int64_t c = 0; c < n; c++) to[i * s + c] = from[i * W + c];
}}
"""


def node_source(program: Program, scalar: str, width: int) -> str:
    """A kernel over nodes sorted by stretch and group.

    ``sizes``: C, number of groups. ``in``: starts of the groups of all stretches among the sorted nodes [S G + 1], the sorted nodes
    [N], then what the program reads; ``out``: what it writes, or adds to in groups. Tensors of nodes are [N, rows, C], those of
    groups [G, rows, C]. Parts are groups of stretches; of a program that writes to groups there is one stretch, and parts are
    blocks of channels.
    """
    grouped = [name for name in (*program.reads, *program.writes) if _is(name, GROUP_TENSORS)]
    per_node = [name for name in (*program.reads, *program.writes) if name not in grouped]
    rows = program.sizes
    body = _body(program, {name: "+=" if name in grouped else "=" for name in program.writes}, grouped, scalar)
    lines = [_head(scalar, width), body, _SIGNATURE]
    lines.append("const int64_t C = sizes[0], G = sizes[1];\n")
    lines += _pointers(["begin", "order"], program.reads, program.writes)
    lines += [f"V buffer_{name}[{rows[name]}];\n" for name in (*program.reads, *program.writes)]
    is_sum = any(name in program.writes for name in grouped)
    groups, blocks = (("0", "G"), ("first", "last")) if is_sum else (("first", "last"), ("0", "(C + W - 1) / W"))
    lines.append(f"for (int64_t k = {groups[0]}; k < {groups[1]}; k++) {{\n")
    # all channels of a few nodes, which lie in one piece
    lines.append(f"for (int64_t from = begin[k]; from < begin[k + 1]; from += {TILE}) {{\n")
    lines.append(f"const int64_t stop = begin[k + 1] - from < {TILE} ? begin[k + 1] : from + {TILE};\n")
    lines.append(f"for (int64_t block = {blocks[0]}; block < {blocks[1]}; block++) {{\n")
    lines.append("const int64_t g = k - k / G * G, at = block * W, n = C - at < W ? C - at : W;\n")
    in_memory = {name: f"{name} + g * {rows[name]} * C + at" for name in grouped}
    lines += [f"pack({in_memory[name]}, C, n, {rows[name]}, (S*)buffer_{name});\n" for name in grouped]
    lines.append("for (int64_t i = from; i < stop; i++) {\nconst int64_t node = order[i];\n")
    direct = {name: f"{name} + node * {rows[name]} * C + at" for name in per_node}
    buffers = {name: f"(S*)buffer_{name}" for name in per_node}
    shared = {name: f"buffer_{name}" for name in grouped}
    lines.append(f"if (n == W) {_call(program, 'C', direct | shared)} else {{\n")
    lines += [
        f"pack({direct[name]}, C, n, {rows[name]}, {buffers[name]});\n" for name in per_node if name in program.reads
    ]
    lines.append(_call(program, "W", buffers | shared) + "\n")
    lines += [
        f"unpack({buffers[name]}, C, n, {rows[name]}, {direct[name]});\n" for name in per_node if name in program.writes
    ]
    lines.append("}\n}\n")
    lines += [
        f"unpack((S*)buffer_{name}, C, n, {rows[name]}, {in_memory[name]});\n"
        for name in grouped
        if name in program.writes
    ]
    lines.append("}\n}\n}\n}\n")
    return "".join(lines)


def edge_source(
    program: Program,
    harmonics: Sequence[Sequence[tuple[int, float]]],
    components: int,
    scalar: str,
    width: int,
    table: bool = False,
) -> str:
    """A kernel over edges.

    ``sizes``: C, number of senders, k, and s: 2^s edges side by side have the same weights. ``in``: starts of the stretches of
    edges [S + 1], senders [E], receivers [E], then what the program reads, with the harmonics ``y`` [E, components] in place of
    ``m``; ``out``: what it writes. ``x`` is [senders, rows, C], ``v`` [receivers, rows, C], ``w`` [E / 2^s, rows, C]. Derivatives
    by all of these are added to what is there, those by ``x`` to a sum of k stretches each, [S / k, senders, rows, C]; sums over
    channels, ``d_y`` [E, components], are written.

    Args:
        program: what to compute for one edge.
        harmonics: of every row of ``m``, (component, value) of the sum that it is.
        components: of the harmonics.
        scalar, width: number type and numbers of a vector.
        table: weights are read from a table, see :func:`table_source`.
    """
    rows = program.sizes
    tabulated = [name for name in ("w", SLOPE + "w") if table and name in (*program.reads, *program.writes)]
    matrices = [name for name in program.reads if name.startswith("m")]
    sums = [name for name in program.writes if name == SLOPE + "y"]
    others = [name for name in (*program.reads, *program.writes) if name not in matrices + sums + tabulated]
    added = [name for name in program.writes if name not in sums + tabulated]
    how = {name: "+=" if name in sums else "add" if name in added else "=" for name in program.writes}
    lines = [_head(scalar, width), _body(program, how, sums + tabulated, scalar, matrices)]
    if table:
        lines.append(_interpolation(rows["w"]))
    if matrices:
        lines.append(_matrix(harmonics, components, scalar))
    if sums:
        lines.append(_sum_lanes(rows[SLOPE + "y"], components, width))
    lines += [_SIGNATURE, "const int64_t C = sizes[0], senders = sizes[1], blocks = (C + W - 1) / W;\n"]
    if not table:
        lines.append("const int64_t shared = sizes[3];\n")
    indices = ["begin", "sender", "receiver", *(["row"] if table else [])]
    lines += _pointers(indices, *_arguments(program, table))
    lines += [f"V buffer_{name}[{rows[name]}];\n" for name in (*others, *matrices, *sums, *tabulated)]
    lines.append("for (int64_t part = first; part < last; part++) {\nconst int64_t stop = begin[part + 1];\n")
    own = {name: f"own_{name}" for name in added if _is(name, SENDER_TENSORS)}
    lines += [f"S* const {own[name]} = {name} + part / sizes[2] * senders * {rows[name]} * C;\n" for name in own]
    lines.append("for (int64_t e0 = begin[part]; e0 < stop; e0 += W) {\n")
    lines.append("const int64_t lanes = stop - e0 < W ? stop - e0 : W;\n")
    for name in matrices:
        lines.append(f"matrix({name} + e0 * {components}, lanes, buffer_{name});\n")
    lines.append("for (int64_t lane = 0; lane < lanes; lane++) {\nconst int64_t e = e0 + lane;\n")
    lines += [f"for (int i = 0; i < {rows[name]}; i++) buffer_{name}[i] = V{{}};\n" for name in sums]
    if tabulated:
        lines.append("S factors[6]; powers(fraction[e], factors);\n")
        lines.append("const int64_t next = row[e + 1 < stop ? e + 1 : e];\n")
    if SLOPE + "w" in tabulated:
        lines.append("S slopes[6]; slopes_of_powers(fraction[e], slopes);\nV along = {};\n")
        lines.append(f"V moved[{rows['w']}];\n")
    lines.append("for (int64_t block = 0; block < blocks; block++) {\n")
    lines.append("const int64_t at = block * W, n = C - at < W ? C - at : W;\n")
    if tabulated:
        lines.append("const S* const node = table + (row[e] * blocks + block) * (node_size * W);\n")
        lines.append("fetch(table + (next * blocks + block) * (node_size * W));\n")
    if SLOPE + "w" in tabulated:
        lines.append("interpolate_both(node, factors, slopes, buffer_w, moved);\n")
    elif tabulated:
        lines.append("interpolate(node, factors, buffer_w);\n")
    direct = {name: f"{own.get(name, name)} + {_edge_index(name)} * {rows[name]} * C + at" for name in others}
    buffers = {name: f"(S*)buffer_{name}" for name in others}
    shared = {name: f"(const S*)buffer_{name} + lane" for name in matrices} | {
        name: f"buffer_{name}" for name in sums + tabulated
    }
    lines.append(f"if (n == W) {_call(program, 'C', direct | shared)} else {{\n")
    lines += [
        f"pack({direct[name]}, C, n, {rows[name]}, {buffers[name]});\n"
        for name in others
        if name in program.reads or name in added
    ]
    lines.append(_call(program, "W", buffers | shared) + "\n")
    lines += [
        f"unpack({buffers[name]}, C, n, {rows[name]}, {direct[name]});\n" for name in others if name in program.writes
    ]
    lines.append("}\n")
    if SLOPE + "w" in tabulated:
        lines.append(f"for (int i = 0; i < {rows['w']}; i++) along += moved[i] * buffer_d_w[i];\n")
    lines.append("}\n")
    if SLOPE + "w" in tabulated:
        lines.append(f"{SLOPE}fraction[e] = {_over_lanes('along', width)};\n")
    for name in sums:
        lines.append(f"sum_lanes(buffer_{name}, {name} + e * {components});\n")
    lines.append("}\n}\n}\n}\n")
    return "".join(lines)


def table_source(
    program: Program, harmonics: Sequence[Sequence[tuple[int, float]]], components: int, scalar: str, width: int
) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A kernel over edges whose weights are polynomials of a table, see :mod:`eqmol.ops.radial_table`.

    As :func:`edge_source`, with the indices ``row`` [E] after ``receivers``, ``fraction`` [E] and ``table`` [R, blocks, 6, rows,
    W] in place of ``w``, and ``d_fraction`` [E] in place of ``d_w``.

    Returns:
        The source, and names of the tensors that it reads and writes.
    """
    return edge_source(program, harmonics, components, scalar, width, table=True), *_arguments(program, True)


def maps_source(scalar: str, width: int) -> str:
    """A kernel of linear maps between channels, one per group of nodes and degree.

    ``sizes``: C_out, C_in, number of groups G, of degrees L, rows of x, rows of y, rows to compute, and whether results are added.
    ``in``: starts of the groups of all stretches among the sorted nodes [S G + 1], the sorted nodes [N], the degree of every row;
    x [N, rows, C_in], w [G, L, blocks, C_in, W]; ``out``: y [N, rows, C_out].

    Parts are groups of stretches. Tiles of A nodes and B blocks are summed in registers.

    Args:
        scalar, width: number type and numbers of a vector.
    """
    tile = 4 if _has_many_registers(scalar, width) else 2
    return f"""{_head(scalar, width)}
#define UNROLL _Pragma("GCC unroll 8")
template <int A, int B> static inline void tile(const int64_t* node, const S* x, int64_t xs, int64_t K, const S* w, S* y,
                                                int64_t ys, int64_t n, int64_t add) {{
  const S* p[A];
  UNROLL for (int a = 0; a < A; a++) p[a] = x + node[a] * xs;
  V s[A][B];
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int b = 0; b < B; b++) s[a][b] = V{{}};
  for (int64_t k = 0; k < K; k++) UNROLL for (int b = 0; b < B; b++) {{
    const V v = load(w + (b * K + k) * W);
    UNROLL for (int a = 0; a < A; a++) s[a][b] += p[a][k] * v;
  }}
  UNROLL for (int a = 0; a < A; a++) UNROLL for (int b = 0; b < B; b++) {{
    S* const q = y + node[a] * ys + b * W;
    const int64_t rest = n - b * W;
    if (rest >= W) store(q, add ? load(q) + s[a][b] : s[a][b]);
    else for (int64_t c = 0; c < rest; c++) q[c] = add ? q[c] + s[a][b][c] : s[a][b][c];
  }}
}}
template <int B> static __attribute__((noinline)) void strip(const int64_t* node, int64_t nodes, const S* x, int64_t xs, int64_t K,
                                                             const S* w, S* y, int64_t ys, int64_t n, int64_t add) {{
  int64_t i = 0;
  for (; i + 4 <= nodes; i += 4) tile<4, B>(node + i, x, xs, K, w, y, ys, n, add);
  if (i + 2 <= nodes) {{ tile<2, B>(node + i, x, xs, K, w, y, ys, n, add); i += 2; }}
  if (i < nodes) tile<1, B>(node + i, x, xs, K, w, y, ys, n, add);
}}
{_SIGNATURE}const int64_t C = sizes[0], K = sizes[1], G = sizes[2], L = sizes[3], xs = sizes[4] * K, ys = sizes[5] * C;
const int64_t rows = sizes[6], add = sizes[7], blocks = (C + W - 1) / W;
{"".join(_pointers(["begin", "order", "degree"], ["x", "w"], ["y"]))}
for (int64_t k = first; k < last; k++) for (int64_t m = 0; m < rows; m++) {{
  const int64_t nodes = begin[k + 1] - begin[k];
  const int64_t* const node = order + begin[k];
  const S* const map = w + (k % G * L + degree[m]) * blocks * K * W;
  int64_t block = 0;
  for (; block + {tile} <= blocks; block += {tile})
    strip<{tile}>(node, nodes, x + m * K, xs, K, map + block * K * W, y + m * C + block * W, ys, C - block * W, add);
  for (; block < blocks; block++)
    strip<1>(node, nodes, x + m * K, xs, K, map + block * K * W, y + m * C + block * W, ys, C - block * W, add);
}}
}}
"""


def two_steps_source(scalar: str, width: int) -> str:
    """A kernel of products of functions on the sphere that are sampled in two steps, see :mod:`eqmol.ops.kernels.two_steps`.

    ``sizes``: C, N, parts, components of x, f and v, whether derivatives by each are wanted, number of pairs, rows R, azimuths H,
    samples 2 R H, most numbers between the steps, most components of a transform, and numbers of a part's scratch. ``in``: for the
    projection and both transforms of every pair where its description begins, and these: orders, how many are odd, degrees of one
    order, components, beginnings of the three tables, components of every order, and which they are; tables, x, f, v; ``out``,
    added to: derivatives by x, f, v; and scratch.

    A point is two vectors of channels. Samples are those of the even part in φ, [R, H], then those of the odd one.

    Args:
        scalar, width: number type and numbers of a vector.
    """
    outputs = 8 if _has_many_registers(scalar, width) else 4  # that are summed at a time
    cases = " ".join(f"case {n}: sum<{n}>(t, ti, tj, in, si, n, out, so); break;" for n in range(1, outputs))
    return f"""{_head(scalar, width)}
#define UNROLL _Pragma("GCC unroll 8")
enum {{ B = 2, J = {outputs} }};
struct P {{ V v[B]; }};
// out[j] = sum over i of t[i, j] in[i]
template <int M> static inline void sum(const S* t, int64_t ti, int64_t tj, const P* in, int64_t si, int64_t n, P* out,
                                        int64_t so) {{
  V s[M][B];
  UNROLL for (int j = 0; j < M; j++) UNROLL for (int b = 0; b < B; b++) s[j][b] = V{{}};
  for (int64_t i = 0; i < n; i++) {{
    V x[B];
    UNROLL for (int b = 0; b < B; b++) x[b] = in[i * si].v[b];
    UNROLL for (int j = 0; j < M; j++) UNROLL for (int b = 0; b < B; b++) s[j][b] += t[i * ti + j * tj] * x[b];
  }}
  UNROLL for (int j = 0; j < M; j++) UNROLL for (int b = 0; b < B; b++) out[j * so].v[b] = s[j][b];
}}
static __attribute__((noinline)) void sums(const S* t, int64_t ti, int64_t tj, const P* in, int64_t si, int64_t n, P* out,
                                           int64_t so, int64_t m) {{
  for (; m >= J; m -= J, t += J * tj, out += J * so) sum<J>(t, ti, tj, in, si, n, out, so);
  switch (m) {{ {cases} }}
}}
struct T {{ int64_t K, odd, D, components; const int64_t *count, *source; const S *polar, *cosine, *sine; }};
static T transform(const int64_t* numbers, int64_t k, const S* tables) {{
  const int64_t* const q = numbers + numbers[k];
  return {{q[0], q[1], q[2], q[3], q + 7, q + 7 + q[0], tables + q[4], tables + q[5], tables + q[6]}};
}}
// channels of components into points, and back
static void gather(const S* x, int64_t C, int64_t n, const T& t, P* to) {{
  for (int64_t i = 0; i < t.components; i++) {{
    const S* const p = x + t.source[i] * C;
    UNROLL for (int b = 0; b < B; b++) {{
      const int64_t rest = n - b * W;
      if (rest >= W) to[i].v[b] = load(p + b * W);
      else for (int64_t c = 0; c < W; c++) to[i].v[b][c] = c < rest ? p[b * W + c] : S(0);
    }}
  }}
}}
static void scatter(const P* from, int64_t C, int64_t n, const T& t, S* y) {{
  for (int64_t i = 0; i < t.components; i++) {{
    S* const p = y + t.source[i] * C;
    UNROLL for (int b = 0; b < B; b++) {{
      const int64_t rest = n - b * W;
      if (rest >= W) store(p + b * W, load(p + b * W) + from[i].v[b]);
      else for (int64_t c = 0; c < rest; c++) p[b * W + c] += from[i].v[b][c];
    }}
  }}
}}
static void sample(const S* x, int64_t C, int64_t n, const T& t, int64_t R, int64_t H, P* packed, P* middle, P* s) {{
  gather(x, C, n, t, packed);
  const P* p = packed;
  for (int64_t k = 0; k < t.K; p += t.count[k++]) sums(t.polar + k * t.D * R, R, 1, p, 1, t.count[k], middle + k, t.K, R);
  for (int64_t r = 0; r < R; r++) {{
    sums(t.cosine, 1, t.K - t.odd, middle + r * t.K + t.odd, 1, t.K - t.odd, s + r * H, 1, H);
    sums(t.sine, 1, t.odd, middle + r * t.K, 1, t.odd, s + (R + r) * H, 1, H);
  }}
}}
static void adjoint(const P* s, int64_t C, int64_t n, const T& t, int64_t R, int64_t H, P* packed, P* middle, S* y) {{
  for (int64_t r = 0; r < R; r++) {{
    sums(t.cosine, t.K - t.odd, 1, s + r * H, 1, H, middle + r * t.K + t.odd, 1, t.K - t.odd);
    sums(t.sine, t.odd, 1, s + (R + r) * H, 1, H, middle + r * t.K, 1, t.odd);
  }}
  P* p = packed;
  for (int64_t k = 0; k < t.K; p += t.count[k++]) sums(t.polar + k * t.D * R, 1, R, middle + k, t.K, R, p, 1, t.count[k]);
  scatter(packed, C, n, t, y);
}}
// twice the product: both azimuths of a pair
static void multiply(const P* a, const P* b, int64_t half, P* out, bool add) {{
  for (int64_t i = 0; i < half; i++) for (int c = 0; c < B; c++) {{
    const V even = a[i].v[c] * b[i].v[c] + a[half + i].v[c] * b[half + i].v[c];
    const V odd = a[i].v[c] * b[half + i].v[c] + a[half + i].v[c] * b[i].v[c];
    out[i].v[c] = add ? out[i].v[c] + S(2) * even : S(2) * even;
    out[half + i].v[c] = add ? out[half + i].v[c] + S(2) * odd : S(2) * odd;
  }}
}}
{_SIGNATURE}const int64_t C = sizes[0], N = sizes[1], parts = sizes[2], *const rows = sizes + 3, *const wants = sizes + 6;
const int64_t pairs = sizes[9], R = sizes[10], H = sizes[11], samples = sizes[12], between = sizes[13], components = sizes[14];
{"".join(_pointers(["numbers"], ["tables", "x", "f", "v"], ["by_x", "by_f", "by_v", "scratch"]))}
const uintptr_t begin = (uintptr_t)(scratch + first * sizes[15]), line = sizeof(P);
P* const a = (P*)((begin + line - 1) / line * line);
P *const b = a + samples, *const c = b + samples, *const product = c + samples, *const total = product + samples;
P *const middle = total + samples, *const packed = middle + between;
const T projection = transform(numbers, 0, tables);
for (int64_t i = N * first / parts; i < N * last / parts; i++) for (int64_t c0 = 0; c0 < C; c0 += B * W) {{
  const int64_t n = C - c0;
  const S *const xi = x + i * rows[0] * C + c0, *const fi = f + i * rows[1] * C + c0;
  S *const by_xi = by_x + i * rows[0] * C + c0, *const by_fi = by_f + i * rows[1] * C + c0;
  if (wants[0] || wants[1]) sample(v + i * rows[2] * C + c0, C, n, projection, R, H, packed, middle, c);
  for (int64_t k = 0; k < pairs; k++) {{
    const T one = transform(numbers, 2 * k + 1, tables), two = transform(numbers, 2 * k + 2, tables);
    if (wants[1] || wants[2]) sample(xi, C, n, one, R, H, packed, middle, a);
    if (wants[0] || wants[2]) sample(fi, C, n, two, R, H, packed, middle, b);
    if (wants[2]) multiply(a, b, R * H, total, k > 0);
    if (wants[0]) {{ multiply(b, c, R * H, product, false); adjoint(product, C, n, one, R, H, packed, middle, by_xi); }}
    if (wants[1]) {{ multiply(a, c, R * H, product, false); adjoint(product, C, n, two, R, H, packed, middle, by_fi); }}
  }}
  if (wants[2]) adjoint(total, C, n, projection, R, H, packed, middle, by_v + i * rows[2] * C + c0);
}}
}}
"""


def geometry_source(program: Program, scalar: str, width: int) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
    """A kernel of what edges are to a table: harmonics of their directions, row and fraction; or its derivative.

    ``sizes``: E, edges of a part, last row, number of nodes. ``in`` of the values: senders and receivers [E]; three that are
    written: the same again, and rows of the table [E]; vectors [E, 3] and constants: 1 / the first node, 1 / the step of the
    logarithm between nodes, cutoff, and cutoff / first node; ``out``: harmonics [E, lm], fractions [E], and how many edges of each
    part are shorter than the first node, and have ends that are no nodes [parts, 2]. ``in`` of the derivative: vectors, constants,
    those by harmonics and fractions; ``out``: those by the vectors [E, 3].

    Args:
        program: of :func:`eqmol.ops.kernels.programs.harmonics_program`, W edges at a time.
        scalar, width: number type and numbers of a vector.

    Returns:
        The source, and names of the tensors that it reads and writes.
    """
    rows, suffix = program.sizes["g"], "f" if scalar == "float" else ""
    is_slope = SLOPE + "u" in program.writes
    names = (*program.reads, *program.writes)
    body = _body(program, dict.fromkeys(program.writes, "="), names, scalar)
    call = _call(program, "W", {name: name for name in names})
    reads = ("vectors", "constants", *(("by_harmonics", "by_fraction") if is_slope else ()))
    writes = ("by_vectors",) if is_slope else ("harmonics", "fraction", "refused")
    if is_slope:
        work = f"""for (int64_t k = 0; k < {rows}; k++) for (int64_t i = 0; i < W; i++)
g[k][i] = i < lanes ? by_harmonics[(e0 + i) * {rows} + k] : S(0);
{call}
const V along = u[0] * d_u[0] + u[1] * d_u[1] + u[2] * d_u[2];
for (int64_t i = 0; i < lanes; i++) {{
  const S slope = r[i] <= constants[2] ? by_fraction[e0 + i] * constants[1] : S(0);
  for (int k = 0; k < 3; k++) by_vectors[3 * (e0 + i) + k] = (d_u[k][i] + u[k][i] * (slope - along[i])) / r[i];
}}
"""
    else:
        work = f"""{call}
for (int64_t i = 0; i < lanes; i++) {{
  const S scaled = r[i] * constants[0];
  const S place = __builtin_log{suffix}(scaled < constants[3] ? scaled : constants[3]) * constants[1];
  const int64_t whole = place < S(0) ? 0 : (int64_t)place;
  row[e0 + i] = whole < sizes[2] ? whole : sizes[2];
  fraction[e0 + i] = place - (S)row[e0 + i];
  if (!(place >= S(0))) refused[2 * part] += S(1);
  const int64_t a = sender[e0 + i], b = receiver[e0 + i];
  if (a < 0 || a >= sizes[3] || b < 0 || b >= sizes[3]) refused[2 * part + 1] += S(1);
  own_sender[e0 + i] = a; own_receiver[e0 + i] = b;
  harmonics[(e0 + i) * {rows}] = S(1);
  for (int64_t k = 1; k < {rows}; k++) harmonics[(e0 + i) * {rows} + k] = d_g[k][i];
}}
"""
    indices = () if is_slope else ("sender", "receiver", "own_sender", "own_receiver", "row")
    pointers = "".join(_pointers(indices, reads, writes))
    for name in indices[2:]:
        pointers = pointers.replace(
            f"const int64_t* const {name} = (const int64_t*)", f"int64_t* const {name} = (int64_t*)"
        )
    start = "" if is_slope else "refused[2 * part] = refused[2 * part + 1] = S(0);\n"
    source = f"""{_head(scalar, width)}{body}{_SIGNATURE}const int64_t E = sizes[0];
{pointers}
for (int64_t part = first; part < last; part++) {{
const int64_t begin = part * sizes[1], stop = begin + sizes[1] < E ? begin + sizes[1] : E;
{start}for (int64_t e0 = begin; e0 < stop; e0 += W) {{
const int64_t lanes = stop - e0 < W ? stop - e0 : W;
V u[3], g[{rows}], d_u[3], d_g[{rows}], r;
for (int64_t i = 0; i < W; i++) {{
  const S* const v = vectors + 3 * (i < lanes ? e0 + i : e0);
  r[i] = __builtin_sqrt{suffix}(v[0] * v[0] + v[1] * v[1] + v[2] * v[2]);
  for (int k = 0; k < 3; k++) u[k][i] = v[k] / r[i];
}}
{work}}}
}}
}}
"""
    return source, reads, writes


def _arguments(program: Program, table: bool) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of the tensors that a kernel over edges reads and writes."""
    if not table:
        return program.reads, program.writes
    reads = ("fraction", "table", *(name for name in program.reads if name != "w"))
    return reads, tuple(SLOPE + "fraction" if name == SLOPE + "w" else name for name in program.writes)


def statements(program: Program) -> int:
    """Length of the printed program, which bounds the time to compile it."""
    return len(program.steps)


def _is(name: str, tensors: Sequence[str]) -> bool:
    return name.removeprefix(SLOPE) in tensors


def _edge_index(name: str) -> str:
    return (
        "sender[e]" if _is(name, SENDER_TENSORS) else "receiver[e]" if _is(name, RECEIVER_TENSORS) else "(e >> shared)"
    )


def _pointers(indices: Sequence[str], reads: Sequence[str], writes: Sequence[str]) -> list[str]:
    lines = [f"const int64_t* const {name} = (const int64_t*)in[{i}];\n" for i, name in enumerate(indices)]
    lines += [f"const S* const {name} = (const S*)in[{i}];\n" for i, name in enumerate(reads, len(indices))]
    return lines + [f"S* const {name} = (S*)out[{i}];\n" for i, name in enumerate(writes)]


def _call(program: Program, stride: str, arguments: dict[str, str]) -> str:
    return f"body({stride}, {', '.join(arguments[name] for name in (*program.reads, *program.writes))});"


def _body(
    program: Program, how: dict[str, str], vectors: Sequence[str], scalar: str, broadcast: Sequence[str] = ()
) -> str:
    """The program as a function of rows a stride apart.

    Args:
        program: what to print.
        how: results are stored ("="), added to rows ("add") or added to vectors ("+=").
        vectors: tensors that are arrays of vectors.
        scalar: number type.
        broadcast: tensors that have one number, every W numbers, for all channels.
    """
    results: dict[int, list[Variable]] = {}
    for variable, n in program.results.items():
        results.setdefault(n, []).append(variable)
    arguments = [f"const {'V' if name in vectors else 'S'}* {name}" for name in program.reads]
    arguments += [f"{'V' if name in vectors else 'S'}* {name}" for name in program.writes]
    how_called = "inline" if len(program.steps) <= SHORT else "__attribute__((noinline))"
    lines = [f"static {how_called} void body(int64_t s, {', '.join(arguments)}) {{\n"]
    for n, node in program.steps:
        if isinstance(node, Variable):
            if node.tensor in broadcast:
                lines.append(f"const S t{n} = {node.tensor}[{node.row} * W];\n")
            elif node.tensor in vectors:
                lines.append(f"const V t{n} = {node.tensor}[{node.row}];\n")
            else:
                lines.append(f"const V t{n} = load({node.tensor} + {node.row} * s);\n")
        elif isinstance(node, Product):
            lines.append(f"const V t{n} = t{node.left} * t{node.right};\n")
        elif isinstance(node, Sum):
            lines.append(f"const V t{n} = t{node.left} + t{node.right};\n")
        elif isinstance(node, Scaled):
            lines.append(f"const V t{n} = {_constant(node.factor, scalar)} * t{node.node};\n")
        for name, row in results.get(n, ()):
            if how[name] == "+=":
                lines.append(f"{name}[{row}] += t{n};\n")
            elif name in vectors:
                lines.append(f"{name}[{row}] = t{n};\n")
            elif how[name] == "add":
                lines.append(f"store({name} + {row} * s, load({name} + {row} * s) + t{n});\n")
            else:
                lines.append(f"store({name} + {row} * s, t{n});\n")
    for name in program.writes:
        if how[name] == "=":
            for row in range(program.sizes[name]):
                if Variable(name, row) not in program.results:
                    lines.append(
                        f"{name}[{row}] = V{{}};\n" if name in vectors else f"store({name} + {row} * s, V{{}});\n"
                    )
    return "".join(lines) + "}\n"


def _matrix(harmonics: Sequence[Sequence[tuple[int, float]]], components: int, scalar: str) -> str:
    """Elements of the matrices of W edges, an edge per lane."""
    used = sorted({component for element in harmonics for component, _ in element})
    lines = ["static __attribute__((noinline)) void matrix(const S* y, int64_t lanes, V* m) {\n"]
    lines.append(f"V t[{components}];\n")
    lines.append(f"for (int k = 0; k < {components}; k++) for (int64_t i = 0; i < W; i++)\n")
    lines.append(f"t[k][i] = i < lanes ? y[i * {components} + k] : S(0);\n")
    lines += [f"const V t{component} = t[{component}];\n" for component in used]
    for row, element in enumerate(harmonics):
        total = " + ".join(f"{_constant(value, scalar)} * t{component}" for component, value in element)
        lines.append(f"m[{row}] = {total};\n")
    return "".join(lines) + "}\n"


def _sum_lanes(rows: int, components: int, width: int) -> str:
    """Slopes of an edge's harmonics, summed over the channels of a vector; those that nothing depends on are zero."""
    return f"""static __attribute__((noinline)) void sum_lanes(const V* a, S* d) {{
  for (int i = 0; i < {rows}; i++) d[i] = {_over_lanes("a[i]", width)};
  for (int i = {rows}; i < {components}; i++) d[i] = S(0);
}}
"""


def _over_lanes(vector: str, width: int) -> str:
    """Sum of a vector's numbers."""
    terms = [f"{vector}[{i}]" for i in range(width)]
    while len(terms) > 1:
        terms = [f"({a} + {b})" for a, b in zip(terms[::2], terms[1::2], strict=True)]
    return terms[0]


def _interpolation(rows: int) -> str:
    """Powers of a fraction and their slopes, and polynomials of a table by them, alone and both."""
    return f"""enum {{ node_size = {6 * rows} }};
static inline void powers(S t, S* h) {{
  h[0] = S(1); h[1] = t; h[2] = t * t; h[3] = h[2] * t; h[4] = h[3] * t; h[5] = h[4] * t;
}}
static inline void slopes_of_powers(S t, S* h) {{
  const S t2 = t * t;
  h[0] = S(0); h[1] = S(1); h[2] = S(2) * t; h[3] = S(3) * t2; h[4] = S(4) * t2 * t; h[5] = S(5) * t2 * t2;
}}
static __attribute__((noinline)) void interpolate(const S* node, const S* h, V* w) {{
  for (int i = 0; i < {rows}; i++) {{
    const S* p = node + i * W;
    w[i] = h[5] * load(p + {5 * rows} * W) + h[4] * load(p + {4 * rows} * W) + h[3] * load(p + {3 * rows} * W)
         + h[2] * load(p + {2 * rows} * W) + h[1] * load(p + {rows} * W) + h[0] * load(p);
  }}
}}
static __attribute__((noinline)) void interpolate_both(const S* node, const S* h, const S* k, V* w, V* d) {{
  for (int i = 0; i < {rows}; i++) {{
    const S* p = node + i * W;
    const V c5 = load(p + {5 * rows} * W), c4 = load(p + {4 * rows} * W), c3 = load(p + {3 * rows} * W);
    const V c2 = load(p + {2 * rows} * W), c1 = load(p + {rows} * W);
    w[i] = h[5] * c5 + h[4] * c4 + h[3] * c3 + h[2] * c2 + h[1] * c1 + h[0] * load(p);
    d[i] = k[5] * c5 + k[4] * c4 + k[3] * c3 + k[2] * c2 + k[1] * c1;
  }}
}}
// the next edge's row lies anywhere in the table: 64 bytes at a time into the cache
static inline void fetch(const S* node) {{
  for (int i = 0; i < node_size * W; i += 64 / (int)sizeof(S)) __builtin_prefetch(node + i);
}}
"""


def _constant(value: float, scalar: str) -> str:
    return f"S({value!r})" if scalar == "double" else f"{value!r}f"
