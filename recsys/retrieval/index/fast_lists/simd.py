"""Vector instructions for compiled loops that the compiler does not generate by itself.

- `prefetch` loads a cache line ahead of its use.
- `add_codes` multiplies the nibbles of 32 codes by a query's weights and adds them to 32 sums. It uses byte products
  where the processor has them (AVX2, AVX-512), otherwise 16-bit products with the same result.
- `at_least_mask` compares 32 scores with a threshold and gives a bit mask.
- `lowest_bit` gives the index of the lowest set bit.

None of them checks bounds. This module does not know what a code means.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic

LANES = 32
"""Codes, sums or scores processed at once."""
BYTES_PER_CALL = 8
"""Bytes of each code that one call of `add_codes` processes."""

_BYTE, _SHORT, _WORD = ir.IntType(8), ir.IntType(16), ir.IntType(32)
_PAIRS = 2 * LANES
"""Bytes that hold two bytes of every lane."""

_FEATURES = str(cpu_target.target_context.codegen().magic_tuple()[2]).split(",")
"""Features of the processor that loops are compiled for. Numba's cache keeps one version for each set of them."""
WIDTH = 64 if "+avx512bw" in _FEATURES else 32 if "+avx2" in _FEATURES else 0
"""Bytes that this processor multiplies at once; 0 if it has no byte products."""
_MULTIPLY = {64: "llvm.x86.avx512.pmaddubs.w.512", 32: "llvm.x86.avx2.pmadd.ub.sw"}


def _address(context: Any, builder: Any, signature: Any, arguments: Any, nth: int) -> Any:
    """Address of `array[index]`, where the array is argument `nth` and the index the one after it."""
    data = context.make_array(signature.args[nth])(context, builder, arguments[nth]).data
    return builder.gep(data, [arguments[nth + 1]])


def _read(builder: Any, address: Any, kind: Any, nth: int = 0) -> Any:
    """Load the nth vector of this type after an address, which need not be aligned."""
    vector = builder.load(builder.gep(builder.bitcast(address, kind.as_pointer()), [ir.Constant(_WORD, nth)]))
    vector.align = 1
    return vector


def _repeated(builder: Any, number: Any, times: int) -> Any:
    """A vector that repeats one number."""
    kind = ir.VectorType(number.type, times)
    undefined = ir.Constant(kind, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(_WORD, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_WORD, times), [0] * times))


def _constant(kind: Any, number: int) -> Any:
    """A constant vector that repeats one number."""
    return ir.Constant(kind, [number] * kind.count)


def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Start to load the cache line of `array[index]`, without waiting for it."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        address = builder.bitcast(_address(context, builder, signature, arguments, 0), _BYTE.as_pointer())
        kind = ir.FunctionType(ir.VoidType(), [_BYTE.as_pointer(), _WORD, _WORD, _WORD])
        insert: Any = cgutils.get_or_insert_function
        call = insert(builder.module, kind, "llvm.prefetch.p0")
        to_read, keep_close, is_data = (ir.Constant(_WORD, number) for number in (0, 3, 1))
        builder.call(call, [address, to_read, keep_close, is_data])
        return context.get_dummy_value()

    return types.void(array, index), emit


def make_add_codes(width: int) -> Any:
    """Make `add_codes` for products of `width` bytes at once (64 or 32); 0 gives a version for any processor.

    `add_codes(codes, at, weights, first, sums, out)` adds to `sums[out:out + LANES]` (int16) the products of the
    nibbles in `codes[at:]` (uint8) with `weights[first:]` (int8).

    Layout: `codes` holds two bytes of every lane, then the next two, and so on. Each pair of bytes takes four weights:
    two for the low halves, then two for the high halves. Sums of two products must fit into 16 bits.
    """
    size = width or _PAIRS
    halves, bytes_ = ir.VectorType(_SHORT, size // 2), ir.VectorType(_BYTE, size)

    def products(builder: Any, numbers: Any, weights: Any) -> Any:
        """Multiply pairs of nibbles by a pair of weights and add the two products: bytes to 16-bit sums."""
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
            codes_at, weights_at, sums_at = (_address(context, builder, signature, arguments, nth) for nth in (0, 2, 4))
            # 1. Load the LANES sums, in as many vectors as the width needs.
            parts = range(_PAIRS // size)
            total = [_read(builder, sums_at, halves, part) for part in parts]
            # 2. For each pair of bytes: split it into low and high halves, multiply, add.
            for pair in range(BYTES_PER_CALL // 2):
                low_weights, high_weights = (_read(builder, weights_at, _SHORT, 2 * pair + nth) for nth in (0, 1))
                for part in parts:
                    code = _read(builder, codes_at, bytes_, len(parts) * pair + part)
                    low = builder.and_(code, _constant(bytes_, 15))
                    shifted = builder.lshr(builder.bitcast(code, halves), _constant(halves, 4))
                    high = builder.and_(builder.bitcast(shifted, bytes_), _constant(bytes_, 15))
                    both = builder.add(products(builder, low, low_weights), products(builder, high, high_weights))
                    total[part] = builder.add(total[part], both)
            # 3. Store the sums.
            for part in parts:
                address = builder.bitcast(sums_at, halves.as_pointer())
                builder.store(total[part], builder.gep(address, [ir.Constant(_WORD, part)])).align = 1
            return context.get_dummy_value()

        return types.void(codes, at, weights, first, sums, out), emit

    return intrinsic(add_codes)


def _at_least_mask(typing_context: Any, scores: Any, at: Any, least: Any) -> Any:
    """Bit mask of the scores in `scores[at:at + LANES]` that are at least `least`: bit i for score i."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        score = _read(builder, _address(context, builder, signature, arguments, 0), ir.VectorType(_SHORT, LANES))
        reach = builder.icmp_signed(">=", score, _repeated(builder, arguments[2], LANES))
        return builder.bitcast(reach, _WORD)

    return types.uint32(scores, at, types.int16), emit


def _lowest_bit(typing_context: Any, bits: Any) -> Any:
    """Index of the lowest set bit of a number that is not 0."""

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

    return types.uint32(types.uint32), emit


prefetch: Any = intrinsic(_prefetch)
add_codes: Any = make_add_codes(WIDTH)
at_least_mask: Any = intrinsic(_at_least_mask)
lowest_bit: Any = intrinsic(_lowest_bit)
