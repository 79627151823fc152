"""Matrix products of any spelling, each as one product of rank 3 or one 1x1 convolution.

Every operator here is an Einstein sum: letters name the dimensions of two operands and of the result. `contract`
sorts the atoms of those dimensions into what both operands share (batch), what is summed (inner) and what each has
alone (rows, columns), and lays the operands out as `(batch, rows, inner)` and `(batch, inner, columns)` in whatever
order moves least. Batch dimensions that broadcast, repeated heads among them, count as rows or columns of the
operand that has them, so that no repetition is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.fx import Node
from torch.nn import functional as F

from export.lowering.alignment import solid, unified
from export.lowering.constants import Constant
from export.lowering.handlers.norms import combined
from export.lowering.handlers.reductions import squeezed, total
from export.lowering.handlers.registry import handles
from export.lowering.packed import MAX_RANK, Atom, Dim, Packed, Unrepresentable, size_of

if TYPE_CHECKING:
    from export.lowering.lower import Lowering

#: Operators that are one Einstein sum.
EQUATIONS = {
    "aten.mm.default": "mk,kn->mn",
    "aten.bmm.default": "bmk,bkn->bmn",
    "aten.mv.default": "mk,k->m",
    "aten.dot.default": "k,k->",
    "aten.vdot.default": "k,k->",
    "aten.outer.default": "m,n->mn",
}
#: Operators that add one Einstein sum to their first argument.
ADDED = {
    "aten.addmm.default": "mk,kn->mn",
    "aten.baddbmm.default": "bmk,bkn->bmn",
    "aten.addbmm.default": "bmk,bkn->mn",
    "aten.addmv.default": "mk,k->m",
    "aten.addr.default": "m,n->mn",
}

Letters = Sequence[str]


@dataclass(frozen=True)
class Roles:
    """What the atoms of two operands are to their product."""

    batch: Dim
    rows: Dim
    inner: Dim
    columns: Dim


@handles(*EQUATIONS)
def named(lowering: Lowering, node: Node, x: Packed, y: Packed) -> Packed:
    """Products that have a name of their own."""
    return summed(lowering, EQUATIONS[str(node.target)], [x, y])


@handles(*ADDED)
def added(
    lowering: Lowering, node: Node, x: Packed, left: Packed, right: Packed, beta: float = 1, alpha: float = 1
) -> Packed:
    """`beta * x + alpha * product`; a constant vector beside a constant matrix becomes the bias of one operator."""
    equation = ADDED[str(node.target)]
    if beta == alpha == 1:
        return summed(lowering, equation, [left, right], bias=x)
    product = summed(lowering, equation, [left, right]).mapped(lambda storage: storage * alpha)
    return product if beta == 0 else combined(torch.add, product, x.mapped(lambda storage: storage * beta))


@handles("aten.matmul.default")
def matmul(lowering: Lowering, _node: Node, x: Packed, y: Packed) -> Packed:
    """Over the last two dimensions of each, or the only one; those in front broadcast."""
    left = "...mk" if len(x.dims) > 1 else "k"
    right = "...kn" if len(y.dims) > 1 else "k"
    out = "..." + "m" * (len(x.dims) > 1) + "n" * (len(y.dims) > 1)
    return summed(lowering, f"{left},{right}->{out}", [x, y])


@handles("aten.linear.default")
def linear(lowering: Lowering, _node: Node, x: Packed, weight: Packed, bias: Packed | None = None) -> Packed:
    """A 1x1 convolution where channels lie before other axes, a linear layer where they lie last."""
    equation = "...k,nk->...n" if len(weight.dims) == 2 else "...k,k->..."
    return summed(lowering, equation, [x, weight], bias)


@handles("aten.tensordot.default")
def tensordot(
    lowering: Lowering, _node: Node, x: Packed, y: Packed, summed_x: Sequence[int], summed_y: Sequence[int]
) -> Packed:
    """Any dimensions of one operand against as many of the other."""
    left = [f"x{place}" for place in range(len(x.dims))]
    right = [f"y{place}" for place in range(len(y.dims))]
    for mine, yours in zip(summed_x, summed_y, strict=True):
        right[yours] = left[mine]
    out = [letter for letter in [*left, *right] if (letter in left) != (letter in right)]
    return contract(lowering, (x, left), (y, right), out)


@handles("aten.inner.default")
def inner(lowering: Lowering, node: Node, x: Packed, y: Packed) -> Packed:
    """The last dimension of one operand against that of the other."""
    return tensordot(lowering, node, x, y, [-1], [-1])


@handles("aten.linalg_vecdot.default")
def vecdot(lowering: Lowering, _node: Node, x: Packed, y: Packed, dim: int = -1) -> Packed:
    """A product and a sum along one dimension."""
    product = combined(torch.mul, x, y)
    marked = {dim % len(product.dims)}
    return squeezed(total(lowering, product, marked), marked)


@handles("aten.einsum.default")
def einsum(lowering: Lowering, _node: Node, equation: str, operands: Sequence[Packed], path: object = None) -> Packed:
    """Pairwise, from the left."""
    return summed(lowering, equation, operands)


def summed(
    lowering: Lowering,
    equation: str,
    operands: Sequence[Packed],
    bias: Packed | None = None,
    rows_first: bool = False,
) -> Packed:
    """An Einstein sum over any number of operands, plus `bias` where there is one."""
    words, out = parsed(equation, [len(operand.dims) for operand in operands])
    x, letters = operands[0], words[0]
    for place in range(1, len(operands)):
        later = {letter for word in words[place + 1 :] for letter in word} | set(out)
        last = place == len(operands) - 1
        kept = out if last else [name for name in dict.fromkeys([*letters, *words[place]]) if name in later]
        joint = bias if last else None
        x, letters = contract(lowering, (x, letters), (operands[place], words[place]), kept, joint, rows_first), kept
    if len(operands) == 1:
        marked = {place for place, letter in enumerate(letters) if letter not in out}
        x = total(lowering, x, marked) if marked else x
        x = x.permute([letters.index(letter) for letter in out] + sorted(marked))
        x = x.described(x.axes, x.dims[: len(out)])
    return x


def parsed(equation: str, ranks: Sequence[int]) -> tuple[list[list[str]], list[str]]:
    """The letters of each operand and of the result, with letters of their own for what an ellipsis stands for."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    words = [_spelled(term, rank - len(term.replace("...", ""))) for term, rank in zip(terms, ranks, strict=True)]
    if any(len(set(word)) < len(word) for word in words):
        raise Unrepresentable(f"a diagonal, in the equation '{equation}',")
    widest = max((rank - len(term) + 3 for term, rank in zip(terms, ranks, strict=True) if "..." in term), default=0)
    if not arrow:
        found = left.replace("...", "").replace(",", "")
        right = "..." + "".join(sorted(letter for letter in set(found) if found.count(letter) == 1))
    return words, _spelled(right, widest)


def _spelled(term: str, hidden: int) -> list[str]:
    """One term's letters; an ellipsis over `hidden` dimensions is `...1`, nearest to the letters behind it."""
    before, dots, after = term.partition("...")
    return [*before, *(f"...{number}" for number in range(hidden, 0, -1) if dots), *after]


def contract(
    lowering: Lowering,
    left: tuple[Packed, Letters],
    right: tuple[Packed, Letters],
    out: Letters,
    bias: Packed | None = None,
    rows_first: bool = False,
) -> Packed:
    """The sum over all letters that are not in `out` of the product of two tensors, plus `bias`.

    With `rows_first`, the left operand's own dimensions come before the right one's in storage too.
    """
    if isinstance(left[0], Constant) and not rows_first:
        left, right = right, left
    letters = list(dict.fromkeys([*left[1], *right[1]]))
    x, y = _worded(*left, letters), _worded(_renewed(right[0]), right[1], letters)
    gone = [place for place, letter in enumerate(letters) if letter not in out]
    x = _without(lowering, x, {place for place in gone if x.dims[place] and not y.dims[place]})
    y = _without(lowering, y, {place for place in gone if y.dims[place] and not x.dims[place]})
    x, y = unified([x, y])
    x, y = _written(x, y, gone), _written(y, x, gone)
    roles = _roles(x, y, gone)
    if not roles.inner:
        product = combined(torch.mul, x, y)
    elif not roles.rows and not roles.columns:
        product = total(lowering, combined(torch.mul, x, y), set(gone))
    elif isinstance(y, Constant) and not roles.batch and not rows_first:
        joint = bias if isinstance(bias, Constant) and len(bias.dims) == 1 else None
        product = _by_weight(x, y, roles, joint)
        bias = bias if joint is None else None
    else:
        product = _batched(x, y, roles, rows_first)
    result = product.described(product.axes, [product.dims[letters.index(letter)] for letter in out])
    return result if bias is None else combined(torch.add, result, bias)


def _worded(x: Packed, own: Letters, letters: Letters) -> Packed:
    """`x` with a dimension for each of `letters`, of size 1 where it has none."""
    return x.described(x.axes, [x.dims[own.index(letter)] if letter in own else () for letter in letters])


def _renewed(x: Packed) -> Packed:
    """`x` with atoms of its own, since a product of a tensor with itself has some under two letters."""
    return x.refined({atom: (Atom(atom.size),) for dim in x.dims for atom in dim})


def _without(lowering: Lowering, x: Packed, marked: set[int]) -> Packed:
    """`x` summed over what the other operand does not have."""
    return total(lowering, x, marked) if marked else x


def _written(x: Packed, other: Packed, gone: Sequence[int]) -> Packed:
    """`x` with repetitions written out where they are summed, and ahead of the graph wherever only `x` has them."""
    own = range(len(x.dims)) if isinstance(x, Constant) else ()
    return solid(x, [*gone, *(place for place in own if not other.dims[place])])


def _roles(x: Packed, y: Packed, gone: Sequence[int]) -> Roles:
    """Which atoms are batch, rows, inner and columns, in the order in which the larger operand has them."""
    summed_up = {atom for place in gone for atom in x.dims[place]}
    computed = [operand for operand in (x, y) if not isinstance(operand, Constant)] or [x]
    lead = max(computed, key=lambda operand: size_of(list(operand.stored)))

    def ordered(atoms: set[Atom], operand: Packed) -> Dim:
        return tuple(atom for axis in operand.axes for atom in axis if atom in atoms)

    both = x.stored & y.stored
    return Roles(
        batch=ordered(both - summed_up, lead),
        rows=ordered(x.stored - both, x),
        inner=ordered(both & summed_up, lead),
        columns=ordered(y.stored - both, y),
    )


def _by_weight(x: Packed, y: Packed, roles: Roles, bias: Packed | None) -> Packed:
    """A product with a constant matrix, which is laid out ahead of the graph.

    What lies last goes into a linear layer; what lies before other axes into a 1x1 convolution, or with patches of
    height and width into one whose stride is its kernel.
    """
    inner, columns = roles.inner, roles.columns
    shift = None if bias is None else bias.arranged([bias.dims[0]]).storage
    axes = _around(x.axes, inner)
    dims = _product_dims(x, y, inner)
    storage = x.arranged(axes).storage
    patch = _patch(axes, inner)
    if patch is None:
        weight = y.arranged([columns, inner]).storage
        return Packed(F.linear(storage, weight, shift), [*axes[:-1], columns], dims)
    weight = y.arranged([columns, axes[1], *patch]).storage
    space = [axis[: len(axis) - len(part)] for axis, part in zip(axes[2:], patch, strict=True)]
    result = F.conv2d(storage, weight, shift, stride=weight.shape[2:])
    return Packed(result, [axes[0], columns, *space], dims)


def _around(axes: Sequence[Dim], inner: Dim) -> list[Dim]:
    """Axes of which `inner` is the last or can be convolved over: as they are, or nearest to that."""
    if axes[-1] == inner or _patch(axes, inner) is not None:
        return list(axes)
    flat = [atom for axis in axes for atom in axis]
    start = flat.index(inner[0])
    before, after = tuple(flat[:start]), tuple(atom for atom in flat[start:] if atom not in inner)
    return [before, inner, after, ()] if after else [before, inner]


def _patch(axes: Sequence[Dim], inner: Dim) -> list[Dim] | None:
    """The inner ends of height and width, where `inner` is these and all channels of `(T, C, H, W)`; or None."""
    if axes[-1] == inner or len(axes) != MAX_RANK:
        return None
    parts = [tuple(atom for atom in axis if atom in inner) for axis in axes]
    ends = [axis[len(axis) - len(part) :] for axis, part in zip(axes, parts, strict=True)]
    return parts[2:] if not parts[0] and parts[1] == tuple(axes[1]) and ends[2:] == parts[2:] else None


def _batched(x: Packed, y: Packed, roles: Roles, rows_first: bool) -> Packed:
    """One batched product of rank 3, or that of the transposed matrices in the other order where this moves less."""
    batch, rows, inner, columns = roles.batch, roles.rows, roles.inner, roles.columns
    dims = _product_dims(x, y, inner)
    plain = _moved(x, [batch, rows, inner]) + _moved(y, [batch, inner, columns])
    turned = _moved(x, [batch, inner, rows]) + _moved(y, [batch, columns, inner])
    if turned < plain and not rows_first:
        x, y, rows, columns = y, x, columns, rows
    product = torch.bmm(x.arranged([batch, rows, inner]).storage, y.arranged([batch, inner, columns]).storage)
    return Packed(product, [batch, rows, columns], dims)


def _product_dims(x: Packed, y: Packed, inner: Dim) -> list[Dim]:
    """The dimensions of both operands, without those that are summed."""
    summed_up = set(inner)
    both = [mine or yours for mine, yours in zip(x.dims, y.dims, strict=True)]
    return [() if summed_up & set(dim) else dim for dim in both]


def _moved(x: Packed, axes: Sequence[Dim]) -> int:
    """How many elements a layout moves."""
    have, want = ([atom for axis in layout for atom in axis] for layout in (x.axes, axes))
    return 0 if isinstance(x, Constant) or have == want else size_of(have)
