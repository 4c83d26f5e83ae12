"""Vector instructions that the compiler does not find by itself, for use in compiled loops.

`prefetch` asks memory for what is needed soon. `add_codes` adds the products of 32 codes' numbers with a query's
weights to 32 sums, by byte products where the processor has them (AVX2, AVX-512), otherwise by those of 16 bits, with
the same result. `reaching` says in one integer which of 32 scores are high enough. They read and write where they are
told and look at no bounds. They do not know what a code stands for.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 32
"""Codes, sums or scores that are worked on at once."""
BYTES_PER_CALL = 8
"""Bytes of a code that one `add_codes` adds up."""

_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_PAIRS = 2 * LANES
"""Bytes of two bytes of each lane."""

_FEATURES = str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")
"""Of the processor that loops are compiled for; what is compiled is kept apart by them."""
WIDTH = 64 if "+avx512bw" in _FEATURES else 32 if "+avx2" in _FEATURES else 0
"""Bytes that this processor multiplies at once; 0 where it cannot."""
_MULTIPLY = {64: "llvm.x86.avx512.pmaddubs.w.512", 32: "llvm.x86.avx2.pmadd.ub.sw"}


def _place(context: Any, builder: Any, signature: Any, arguments: Any, nth: int) -> Any:
    """Address of `array[index]`, given by the nth argument and the one behind it."""
    data = context.make_array(signature.args[nth])(context, builder, arguments[nth]).data
    return builder.gep(data, [arguments[nth + 1]])


def _read(builder: Any, address: Any, kind: Any, nth: int = 0) -> Any:
    """The nth vector of this kind from an address on, which may be any."""
    vector = builder.load(builder.gep(builder.bitcast(address, kind.as_pointer()), [ir.Constant(_WORD, nth)]))
    vector.align = 1
    return vector


def _repeated(builder: Any, number: Any, times: int) -> Any:
    """A vector of one number."""
    kind = ir.VectorType(number.type, times)
    nothing = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(nothing, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, nothing, ir.Constant(ir.VectorType(_WORD, times), [0] * times))


def _constant(kind: Any, number: int) -> Any:
    return ir.Constant(kind, [number] * kind.count)


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Ask memory for the cache line of `array[index]`, without waiting for it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.bitcast(_place(context, builder, signature, arguments, 0), _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        insert: Any = cgutils.get_or_insert_function
        call = insert(builder.module, kind, "llvm.prefetch.p0")
        to_read, keep_close, is_data = (ir.Constant(_WORD, number) for number in (0, 3, 1))
        builder.call(call, [address, to_read, keep_close, is_data])
        return context.get_dummy_value()

    return types.void(array, index), emit


def adding(width: int) -> Any:
    """`add_codes` by products of so many bytes at once; 0 is for any processor.

    `add_codes(codes, at, weights, first, sums, out)`: two bytes of each lane follow each other, low halves first and
    then high halves times the weights from `first` on, four for these two bytes; then the next two. `codes` uint8,
    `weights` int8, `sums` int16: products of two are added in 16 bits, which they must fit.
    """
    size = width or _PAIRS
    halves, bytes_ = ir.VectorType(_SHORT, size // 2), ir.VectorType(_BYTE, size)

    def products(builder: Any, numbers: Any, weights: Any) -> Any:
        """Of each pair of numbers with the pair of weights, added up."""
        if width:
            insert: Any = cgutils.get_or_insert_function
            multiply = insert(builder.module, ir.FunctionType(halves, [bytes_, bytes_]), _MULTIPLY[width])
            return builder.call(multiply, [numbers, builder.bitcast(_repeated(builder, weights, size // 2), bytes_)])
        eight = ir.Constant(_SHORT, 8)
        first, second = builder.ashr(builder.shl(weights, eight), eight), builder.ashr(weights, eight)
        pair = builder.bitcast(numbers, halves)
        low, high = builder.and_(pair, _constant(halves, 255)), builder.lshr(pair, _constant(halves, 8))
        return builder.add(
            builder.mul(low, _repeated(builder, first, size // 2)),
            builder.mul(high, _repeated(builder, second, size // 2)),
        )

    def add_codes(typing_context: Any, codes: Any, at: Any, weights: Any, first: Any, sums: Any, out: Any) -> Any:
        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            codes_at, weights_at, sums_at = (_place(context, builder, signature, arguments, nth) for nth in (0, 2, 4))
            parts = range(_PAIRS // size)
            total = [_read(builder, sums_at, halves, part) for part in parts]
            for pair in range(BYTES_PER_CALL // 2):
                low_weights, high_weights = (_read(builder, weights_at, _SHORT, 2 * pair + nth) for nth in (0, 1))
                for part in parts:
                    code = _read(builder, codes_at, bytes_, len(parts) * pair + part)
                    low = builder.and_(code, _constant(bytes_, 15))
                    shifted = builder.lshr(builder.bitcast(code, halves), _constant(halves, 4))
                    high = builder.and_(builder.bitcast(shifted, bytes_), _constant(bytes_, 15))
                    both = builder.add(products(builder, low, low_weights), products(builder, high, high_weights))
                    total[part] = builder.add(total[part], both)
            for part in parts:
                address = builder.bitcast(sums_at, halves.as_pointer())
                builder.store(total[part], builder.gep(address, [ir.Constant(_WORD, part)])).align = 1
            return context.get_dummy_value()

        return types.void(codes, at, weights, first, sums, out), emit

    return intrinsic(add_codes)


def _reaching(typing_context: Any, scores: Any, at: Any, least: Any) -> Any:
    """Which of the `LANES` scores from `scores[at]` on are at least this one, a bit each."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        score = _read(builder, _place(context, builder, signature, arguments, 0), ir.VectorType(_SHORT, LANES))
        reach = builder.icmp_signed(">=", score, _repeated(builder, arguments[2], LANES))
        return builder.bitcast(reach, _WORD)

    return types.uint32(scores, at, types.int16), emit


def _lowest_bit(typing_context: Any, bits: Any) -> Any:
    """Place of the lowest bit that is set; one must be."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), emit


prefetch: Any = intrinsic(_prefetch)
add_codes: Any = adding(WIDTH)
reaching: Any = intrinsic(_reaching)
lowest_bit: Any = intrinsic(_lowest_bit)
